"""Vectors of parts of a text that know their surroundings: one pass over the text, then one pooling for each part.

Embedded by itself, a passage does not know what "it" and "the city" stand for. Here the transformer reads the whole
text, and each part's token vectors are averaged afterwards, which is known as late chunking (Günther et al. 2024,
arXiv:2409.04701).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import InputError, InvalidPreferenceError, Problem

if TYPE_CHECKING:
    from embedprefs.engine.backend import Backend
    from embedprefs.engine.tokenising import TextTokenizer

__all__ = ["PooledSpans", "checked_call", "checked_spans", "no_spans", "pool_spans", "require_mean"]

Span = tuple[int, int]

_ADVICE = "Embed the passages as texts of their own, with encode_document."
#: Wrong spans that an error names; all are counted.
_NAMED_SPANS = 5
#: Neighbouring windows of an over-long text share at least a window's fourth, so that every token is read with an
#: eighth of a window to either side.
_SHARED_PART = 4


@dataclass(frozen=True)
class PooledSpans:
    """Averaged token vectors of spans, and what was read for them."""

    vectors: NDArray[np.float32]
    """Shape (spans, hidden size)."""
    tokens: int
    """Tokens that the model read, special tokens and repeated ones included."""
    windows: int
    """Windows that the text was read in; 1 where it is no longer than the model reads."""


@dataclass(frozen=True)
class _Window:
    """One stretch of the text's tokens that is read at once, and the part of it whose vectors are taken from it."""

    start: int
    end: int
    first: int
    last: int


def checked_call(text: object, spans: Iterable[Sequence[int]], role: str) -> list[Span]:
    """Return the spans of a call as pairs of whole numbers.

    Args:
        text: What is to be one text.
        spans: As for `checked_spans`.
        role: What is to be "query" or "document".

    Raises:
        InputError: text or role are none, or as `checked_spans`.
    """
    if role not in ("query", "document"):
        raise InputError(f'role is {role!r}.\n  Give "query" or "document".')
    if not isinstance(text, str):
        raise InputError(
            f"embed_spans takes one text, and was given a {type(text).__name__}.\n  Call it for each text."
        )
    return checked_spans(text, spans)


def no_spans(reason: str) -> InputError:
    """Return the error for a model whose parts of texts have no vectors; the reason is a clause."""
    return InputError(f"embed_spans averages the token vectors of a transformer, and {reason}.\n  {_ADVICE}")


def require_mean(poolings: Sequence[str]) -> None:
    """Refuse poolings other than the mean: of these a part of a text has none.

    Args:
        poolings: The host's names of the poolings that are on.

    Raises:
        InputError: they are not the mean alone.
    """
    if list(poolings) != ["mean"]:
        named = ", ".join(poolings)
        raise InputError(f'embed_spans works with the pooling "mean", and this model\'s is "{named}".\n  {_ADVICE}')


def checked_spans(text: str, spans: Iterable[Sequence[int]]) -> list[Span]:
    """Return the spans as pairs of whole numbers.

    Args:
        text: The text.
        spans: Pairs of the first character and the one behind the last, from 0.

    Raises:
        InputError: spans are no such pairs, are empty, or reach beyond the text; they are named.
    """
    found: list[Span] = []
    wrong: list[str] = []
    for place, span in enumerate(spans):
        if not isinstance(span, (Sequence, np.ndarray)) or len(span) != 2 or not all(map(_is_whole, span)):
            wrong.append(f"span {place} is {span!r}, and no pair of whole numbers")
            continue
        start, end = int(span[0]), int(span[1])
        if start >= end:
            wrong.append(f"span {place} is ({start}, {end}), which holds no character")
        elif start < 0 or end > len(text):
            wrong.append(f"span {place} is ({start}, {end}), which is not within the text")
        found.append((start, end))
    _refuse(
        wrong,
        f"Give (start, end) in characters, with 0 <= start < end <= {len(text)}, which is the text's length.",
    )
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _refuse(wrong: Sequence[str], advice: str) -> None:
    if wrong:
        more = f"\n  ... and {len(wrong) - _NAMED_SPANS} more." if len(wrong) > _NAMED_SPANS else ""
        listed = "\n  ".join(line[0].upper() + line[1:] + "." for line in wrong[:_NAMED_SPANS])
        raise InputError(f"{listed}{more}\n  {advice}")


def pool_spans(
    text: str,
    spans: Sequence[Span],
    *,
    tokenizer: TextTokenizer,
    backend: Backend,
    prompt: str = "",
    includes_prompt: bool = True,
    overlap: int = 0,
) -> PooledSpans:
    """Read a text once and average the token vectors of each span.

    A span has the tokens from the first to the last that holds one of its characters; blanks in front of a token's
    first other character do not count. Special tokens and prompt belong to no part of the text. They are read in every
    window, and averaged only for a span that holds everything but blanks, which so becomes the text's own vector.

    A text longer than the tokenizer's limit is read in overlapping windows, each token's vector being taken from the
    window in whose middle it lies more.

    Args:
        text: The text.
        spans: What `checked_spans` returned.
        tokenizer: The model's, with its limit.
        backend: Computes token vectors.
        prompt: Put before the text.
        includes_prompt: Whether the model's mean counts the tokens of the prompt.
        overlap: Tokens that windows share, at least.

    Raises:
        InputError: spans hold no token, blanks alone for example; they are named.
        InvalidPreferenceError: prompt and overlap leave no room in a window.
    """
    ids, offsets = tokenizer.places(text, prompt)
    shared = int(np.searchsorted(offsets[:, 1], len(prompt), side="right")) if prompt else 0
    own = np.maximum(offsets[shared:] - len(prompt), 0)
    ranges = _token_ranges(text, spans, own)
    if not spans:
        return PooledSpans(np.empty((0, 0), dtype=np.float32), 0, 0)
    before = np.concatenate((tokenizer.before, ids[:shared]))
    windows = list(_windows(len(own), tokenizer.limit, len(before) + len(tokenizer.after), shared, overlap))
    sums: NDArray[np.float64] | None = None
    bounds = np.array(ranges, dtype=np.int64)
    counts = (bounds[:, 1] - bounds[:, 0]).astype(np.float64)
    read = 0
    for window in windows:
        row = np.concatenate((before, ids[shared + window.start : shared + window.end], tokenizer.after))
        read += len(row)
        states = backend.token_vectors(row[None].astype(np.int64), np.ones((1, len(row)), dtype=np.int64))[0]
        if sums is None:
            sums = np.zeros((len(spans), states.shape[1]))
        # A long text has many spans and many windows, and each span stands in few of these.
        for place in np.flatnonzero((bounds[:, 0] < window.last) & (bounds[:, 1] > window.first)):
            start, end = ranges[place]
            if len(windows) == 1 and end - start == len(own):
                left_out = tokenizer.prompt_tokens(prompt) if prompt and not includes_prompt else 0
                sums[place] = states[left_out:].sum(axis=0, dtype=np.float64)
                counts[place] = len(states) - left_out
                continue
            first, last = max(start, window.first), min(end, window.last)
            at = len(before) - window.start
            sums[place] += states[at + first : at + last].sum(axis=0, dtype=np.float64)
    assert sums is not None  # noqa: S101 - there is a span, so there are tokens and a window
    return PooledSpans((sums / counts[:, None]).astype(np.float32), read, len(windows))


def _token_ranges(text: str, spans: Sequence[Span], own: NDArray[np.int64]) -> list[Span]:
    """Return the first token of each span and the one behind its last.

    Args:
        text: The text.
        spans: Spans in characters.
        own: Shape (tokens, 2): where the text's tokens begin and end in it, in order.
    """
    starts = np.fromiter((_without_blanks(text, int(start), int(end)) for start, end in own), np.int64, len(own))
    # Some tokenizers say of tokens of blanks that they stand nowhere.
    standing = np.flatnonzero(own[:, 1] > own[:, 0])
    starts, ends = starts[standing], own[standing, 1]
    ranges, wrong = [], []
    for place, (start, end) in enumerate(spans):
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(starts, end, side="left"))
        if first >= last:
            wrong.append(f"span {place} is ({start}, {end}), {text[start:end][:40]!r}, which holds no token")
        elif not text[:start].strip() and not text[end:].strip():
            ranges.append((0, len(own)))
        else:
            ranges.append((int(standing[first]), int(standing[last - 1]) + 1))
    _refuse(wrong, "Leave out spans of blanks, and of characters that the tokenizer drops.")
    return ranges


def _without_blanks(text: str, start: int, end: int) -> int:
    """Return where a token's first character that is no blank stands; its start where there is none."""
    at = start
    while at < end and text[at].isspace():
        at += 1
    return at if at < end else start


def _windows(tokens: int, limit: int | None, added: int, shared: int, overlap: int) -> Iterator[_Window]:
    """Cut tokens into windows that all have the full size, the last one too."""
    if limit is None or tokens + added <= limit:
        yield _Window(0, tokens, 0, tokens)
        return
    size = limit - added
    overlap = max(overlap, size // _SHARED_PART)
    if size <= overlap:
        raise InvalidPreferenceError(
            Problem(
                f"windows of {limit} tokens hold {added - shared} special tokens and {shared} of the prompt; "
                f"{max(size, 0)} are left for the text, and neighbours are to share {overlap}.",
                key="tokenizer.window_overlap",
                value=overlap,
                allowed=f"less than {max(size, 0)}",
                fix="Lower tokenizer.window_overlap, raise tokenizer.max_seq_length, or shorten the prompt.",
            )
        )
    starts = [*range(0, tokens - size, size - overlap), tokens - size]
    # Where two windows meet, each has the tokens that are nearer to its middle.
    borders = [0, *((left + size + right) // 2 for left, right in pairwise(starts)), tokens]
    for place, start in enumerate(starts):
        yield _Window(start, start + size, borders[place], borders[place + 1])
