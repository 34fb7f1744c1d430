"""Texts in, vectors out: tokenised once and ahead, in batches of a token budget, each result in its place."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.backend import Backend, Codes, Finish, Overlapping
from embedprefs.engine.batching import padded, plan_batches
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.tokenising import TextTokenizer, TokenisedTexts
from embedprefs.errors import ResourceError

if TYPE_CHECKING:
    from embedprefs.engine.flight import Flight

__all__ = ["Counts", "Settings", "embed", "embed_rows", "finished", "reduce_batches"]

logger = logging.getLogger("embedprefs.engine")

#: Texts, and characters, that are tokenised at a time. Lengths are sorted within such a group; the first one is
#: smaller, so that computing begins at once.
_GROUP_TEXTS = 4096
_GROUP_CHARACTERS = 4_000_000
_FIRST_GROUP_TEXTS = 1024


class Counts(Protocol):
    """What the pipeline counts into; `EncodeReport` is one."""

    tokens: int
    padding: int
    batches: int
    reduced: int


@dataclass
class Settings:
    """How many texts go through a backend at a time, and what becomes of each vector."""

    batch_tokens: int | None
    """Tokens of a batch, padding included; None bounds the number of texts alone. It shrinks where memory runs out."""
    max_batch_size: int
    """Texts of a batch, at most."""
    truncate_dim: int | None = None
    """Keep the first dimensions only."""
    normalize: bool = False
    """Scale vectors to length 1, after cutting."""
    leaves_prompt_out: bool = False
    """Whether pooling leaves the prompt's tokens out (`include_prompt=False`)."""
    codes: Codes | None = None
    """What vectors are turned into, after scaling, by a backend that takes batches ahead; others give floats."""
    clipped: int = 0
    """Values that lay outside the ranges of the codes so far."""

    @property
    def finish(self) -> Finish:
        """What becomes of vectors on the device."""
        return Finish(self.truncate_dim, self.normalize, self.codes)


def embed(
    texts: Sequence[str],
    *,
    tokenizer: TextTokenizer,
    backend: Backend,
    settings: Settings | None = None,
    batch_tokens: int | None = None,
    max_batch_size: int = 32,
    prompt: str = "",
    out: NDArray[np.float32] | None = None,
    report: Counts | None = None,
    on_tokenised: Callable[[int, TokenisedTexts], None] | None = None,
    on_computed: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed texts.

    While one group of texts is computed, the next is tokenised on a thread of its own. Within a group, batches are made
    of texts of similar length. Where memory runs out, the batch is halved and the run goes on with the smaller budget.

    Args:
        texts: The texts; identical ones are computed as often as they stand there.
        tokenizer: Cuts texts at its limit.
        backend: Computes the vectors.
        settings: Batches and what becomes of each vector. Its budget shrinks where memory runs out.
        batch_tokens: Tokens of a batch, for a call without `settings`.
        max_batch_size: Texts of a batch, for a call without `settings`.
        prompt: Put before each text.
        out: Where vectors are written: shape (texts, dimension) of the finished vectors, float32.
        report: Counts tokens, padding and batches.
        on_tokenised: Called with the position of a group's first text and the group, before it is computed.
        on_computed: Called with the number of texts of each finished batch.

    Returns:
        Shape (texts, dimension), float32: `out`, if given.

    Raises:
        ResourceError: one text alone does not fit into memory.
    """
    if settings is None:
        settings = Settings(batch_tokens, max_batch_size)
    out = _output(out, len(texts), backend, settings)
    if len(texts) == 1 and settings.codes is None:
        tokenised = tokenizer.tokenise(texts, prompt)
        if on_tokenised is not None:
            on_tokenised(0, tokenised)
        _one(tokenised, tokenizer.pad_id, backend, settings, out, report)
        if on_computed is not None:
            on_computed(1)
        return out
    ahead = backend.groups_ahead if isinstance(backend, Overlapping) else 1
    with _flight(backend, settings, report, on_computed) as flight:
        for start, tokenised in _tokenised_ahead(texts, tokenizer, prompt, ahead):
            if on_tokenised is not None:
                on_tokenised(start, tokenised)
            place = out[start : start + len(tokenised.ids)]
            if flight is not None:
                flight.add(tokenised.ids, out=place, prompt_tokens=tokenised.prompt_tokens)
                continue
            embed_rows(
                tokenised.ids,
                pad_id=tokenizer.pad_id,
                backend=backend,
                settings=settings,
                prompt_tokens=tokenised.prompt_tokens,
                out=place,
                report=report,
                on_computed=on_computed,
            )
    return out


@contextmanager
def _flight(
    backend: Backend, settings: Settings, report: Counts | None, on_computed: Callable[[int], None] | None
) -> Iterator[Flight | None]:
    """Give what keeps several batches under way, and end with none; None for a backend that computes one at a time."""
    if not isinstance(backend, Overlapping):
        yield None
        return
    from embedprefs.engine.flight import Flight

    flight = Flight(backend, settings, report=report, on_computed=on_computed)
    try:
        yield flight
        flight.land()
    except BaseException:
        flight.abandon()
        raise


def embed_rows(
    rows: Sequence[NDArray[np.int32]],
    *,
    pad_id: int,
    backend: Backend,
    settings: Settings,
    prompt_tokens: int = 0,
    out: NDArray[np.float32] | None = None,
    report: Counts | None = None,
    on_computed: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed texts that are tokenised already.

    Args:
        rows: Token ids of each text, special tokens included.
        pad_id: The id that stands for padding.
        backend: As for `embed`.
        settings: As for `embed`.
        prompt_tokens: Tokens at the beginning of each row that are the prompt's.
        out: As for `embed`.
        report: As for `embed`.
        on_computed: As for `embed`.

    Raises:
        ResourceError: one text alone does not fit into memory.
    """
    out = _output(out, len(rows), backend, settings)
    with _flight(backend, settings, report, on_computed) as flight:
        if flight is not None:
            flight.add(rows, out=out, prompt_tokens=prompt_tokens)
            return out  # whole once the flight has ended
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    left_out = prompt_tokens if settings.leaves_prompt_out else 0
    waiting = deque(plan_batches(lengths, batch_tokens=settings.batch_tokens, max_batch_size=settings.max_batch_size))
    while waiting:
        batch = waiting.popleft()
        ids, mask = padded([rows[at] for at in batch], pad_id)
        vectors = _computed(backend, ids, mask, left_out)
        if vectors is None:
            reduce_batches(settings, len(batch), ids.shape[1], ids.size, report)
            # What is left is planned anew, so that the longest still come first.
            left = np.concatenate([batch, *waiting])
            plan = plan_batches(
                lengths[left], batch_tokens=settings.batch_tokens, max_batch_size=settings.max_batch_size
            )
            waiting = deque(left[positions] for positions in plan)
            continue
        out[batch] = finished(vectors, settings)
        _count(report, backend, ids.size, int(lengths[batch].sum()))
        if on_computed is not None:
            on_computed(len(batch))
    return out


def finished(vectors: NDArray[np.float32], settings: Settings) -> NDArray[np.float32]:
    """Cut vectors and scale them to length 1, where that is asked for; a vector of zeros stays one."""
    if settings.truncate_dim is not None:
        vectors = vectors[:, : settings.truncate_dim]
    if settings.normalize:
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        vectors = vectors / np.maximum(lengths, 1e-12)[:, None].astype(np.float32)
    return vectors


def _one(
    tokenised: TokenisedTexts,
    pad_id: int,
    backend: Backend,
    settings: Settings,
    out: NDArray[np.float32],
    report: Counts | None,
) -> None:
    """Compute one text, with no machinery around it."""
    ids, mask = padded(tokenised.ids, pad_id)
    vectors = _computed(backend, ids, mask, tokenised.prompt_tokens if settings.leaves_prompt_out else 0)
    if vectors is None:
        raise _too_little_memory(ids.shape[1])
    out[:] = finished(vectors, settings)
    _count(report, backend, ids.size, ids.size)


def _computed(
    backend: Backend, ids: NDArray[np.int64], mask: NDArray[np.int64], prompt_tokens: int
) -> NDArray[np.float32] | None:
    """Return the vectors; None where memory ran out. The error, and with it what was computed so far, is let go."""
    try:
        return backend.vectors(ids, mask, prompt_tokens=prompt_tokens)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.info("out of memory with %d texts of %d tokens: %s", *ids.shape, error)
    return None


def reduce_batches(settings: Settings, count: int, longest: int, computed: int, report: Counts | None) -> None:
    """Halve the batches that follow one for which memory did not suffice.

    Args:
        settings: Changed in place.
        count: Texts of that batch.
        longest: Tokens of its longest text.
        computed: Tokens of all, padding included where there is any.
        report: Counts it.

    Raises:
        ResourceError: the batch held one text alone.
    """
    if count == 1:
        raise _too_little_memory(longest)
    if settings.batch_tokens is None:
        settings.max_batch_size = min(settings.max_batch_size, count // 2)
    else:
        settings.batch_tokens = min(settings.batch_tokens, max(longest, computed // 2))
    if report is not None:
        report.reduced += 1
    logger.warning(
        "Memory does not suffice for %d texts of %d tokens; going on with batches of half the size.", count, longest
    )


def _too_little_memory(tokens: int) -> ResourceError:
    return ResourceError(
        f"Memory does not suffice for one text of {tokens} tokens.\n"
        "  Lower tokenizer.max_seq_length, free memory, or use a machine with more of it."
    )


def _output(out: NDArray[np.float32] | None, count: int, backend: Backend, settings: Settings) -> NDArray[np.float32]:
    dimension = min(settings.truncate_dim or backend.dimension, backend.dimension)
    if settings.codes is not None and isinstance(backend, Overlapping):
        codes = settings.codes
        return np.empty((count, codes.width(dimension)), dtype=codes.dtype)
    if out is None:
        return np.empty((count, dimension), dtype=np.float32)
    if out.shape != (count, dimension) or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}, and has to be float32 of ({count}, {dimension}).")
    return out


def _count(report: Counts | None, backend: Backend, computed: int, tokens: int) -> None:
    if report is not None:
        report.batches += 1
        report.tokens += tokens
        if not getattr(backend, "padding_free", False):
            report.padding += computed - tokens


def _groups(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the position of the first text and the texts of each group."""
    start = characters = 0
    most = _FIRST_GROUP_TEXTS
    for position, text in enumerate(texts):
        if position > start and (position - start >= most or characters + len(text) > _GROUP_CHARACTERS):
            yield start, texts[start:position]
            start, characters, most = position, 0, _GROUP_TEXTS
        characters += len(text)
    if start < len(texts):
        yield start, texts[start:]


def _tokenised_ahead(
    texts: Sequence[str], tokenizer: TextTokenizer, prompt: str, ahead: int = 1
) -> Iterator[tuple[int, TokenisedTexts]]:
    """Yield groups with their token ids; the next ones are tokenised while the caller works on this one.

    Args:
        texts: The texts.
        tokenizer: Cuts them at its limit.
        prompt: Put before each.
        ahead: Groups that are tokenised at a time, each on a thread.
    """
    groups = _groups(texts)
    first = next(groups, None)
    if first is None:
        return
    start, group = first
    tokenised = tokenizer.tokenise(group, prompt)
    upcoming = next(groups, None)
    if upcoming is None:
        yield start, tokenised
        return
    # The tokenizers library lets go of Python's lock, so that a thread is enough.
    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="embedprefs-tokenise") as threads:
        under_way: deque[tuple[int, Future[TokenisedTexts]]] = deque()
        while upcoming is not None or under_way:
            while upcoming is not None and len(under_way) < ahead:
                under_way.append((upcoming[0], threads.submit(tokenizer.tokenise, upcoming[1], prompt)))
                upcoming = next(groups, None)
            yield start, tokenised
            start, future = under_way.popleft()
            tokenised = future.result()
        yield start, tokenised
