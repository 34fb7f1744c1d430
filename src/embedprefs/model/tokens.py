"""True lengths of texts in tokens, and the windows that over-long ones become."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embedprefs.errors import InvalidPreferenceError, Problem

__all__ = ["TokenCounter", "TokenWindow", "token_windows"]

#: Characters that are tokenised at a time, so that counting holds little memory.
_CHUNK_CHARACTERS = 2_000_000
#: A tokenizer may put a space before a text, and a prefix before that.
_ADDED_CHARACTERS = 4


@dataclass(frozen=True)
class TokenWindow:
    """One window of an over-long text, as the tokens the model reads."""

    ids: tuple[int, ...]
    """Special tokens, prompt and the window's own tokens."""
    content: int
    """How many of them are the text's own."""

    def __len__(self) -> int:
        return len(self.ids)


def token_windows(content: Sequence[int], size: int, overlap: int) -> list[Sequence[int]]:
    """Cut tokens into windows of `size` that share `overlap` tokens with their neighbours; the last may be shorter."""
    step = size - overlap
    starts = range(0, max(len(content) - overlap, 1), step)
    return [content[start : start + size] for start in starts]


class TokenCounter:
    """Counts tokens on a tokenizer of its own, which never pads and never cuts.

    The model's tokenizer is left alone: padding and truncation are settings of the object, so that counting on it
    would disturb another thread that tokenises.
    """

    def __init__(self, tokenizer: Any, *, add_special_tokens: bool = True) -> None:
        """Copy a tokenizer.

        Args:
            tokenizer: A `tokenizers.Tokenizer`.
            add_special_tokens: Whether the model's texts get special tokens; False for static models.
        """
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._add_special_tokens = add_special_tokens
        self._lock = threading.Lock()
        self.before, self.after = self._special_ids()
        self._may_expand = _may_expand(self._tokenizer.normalizer)

    def _special_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the special tokens put before and behind every text."""
        if not self._add_special_tokens:
            return (), ()
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        ids = self._tokenizer.encode("a", add_special_tokens=True).ids
        start = next((at for at in range(len(ids) - len(plain) + 1) if ids[at : at + len(plain)] == plain), len(ids))
        return tuple(ids[:start]), tuple(ids[start + len(plain) :])

    @property
    def specials(self) -> int:
        """Special tokens that every text gets."""
        return len(self.before) + len(self.after)

    def at_most(self, text: str) -> int:
        """Return a number of tokens that the text does not exceed, without tokenising it.

        A token holds at least one byte of the normalised text. Texts beyond ASCII are measured in the longest of the
        Unicode normal forms, lower-cased, since a normaliser may lengthen them.
        """
        if self._may_expand:
            return _UNBOUNDED
        if text.isascii():
            return len(text) + self.specials + _ADDED_CHARACTERS
        longest = unicodedata.normalize("NFKD", text.lower())
        return max(len(longest.encode()), len(text.encode())) + self.specials + _ADDED_CHARACTERS

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included."""
        found: list[int] = []
        for chunk in _chunks(texts):
            with self._lock:
                encodings = self._tokenizer.encode_batch_fast(chunk, add_special_tokens=self._add_special_tokens)
            found.extend(len(encoding) for encoding in encodings)
        return found

    def longer_than(self, texts: Sequence[str], limit: int, prompt: str = "") -> dict[int, int]:
        """Return position -> tokens for the texts that, behind the prompt, have more tokens than `limit`.

        Texts that are too short to reach the limit are not tokenised.
        """
        candidates = [position for position, text in enumerate(texts) if self.at_most(prompt + text) > limit]
        lengths = self.lengths([prompt + texts[position] for position in candidates])
        return {position: length for position, length in zip(candidates, lengths, strict=True) if length > limit}

    def windows(self, text: str, limit: int, *, overlap: int, prompt: str = "") -> list[TokenWindow]:
        """Cut a text into windows, each with special tokens and prompt, none longer than `limit`.

        Prompt and text are tokenised together, as the host does, so that the first window is what the host would read
        of the text. Tokens that lie within the prompt altogether are repeated in every window.

        Raises:
            InvalidPreferenceError: prompt and overlap leave no room.
        """
        with self._lock:
            encoding = self._tokenizer.encode(prompt + text, add_special_tokens=False)
        ids = encoding.ids
        shared = 0
        while shared < len(ids) and prompt and encoding.offsets[shared][1] <= len(prompt):
            shared += 1
        size = limit - self.specials - shared
        if size <= overlap:
            raise InvalidPreferenceError(
                Problem(
                    f"windows of {limit} tokens hold {self.specials} special tokens and {shared} of the prompt; "
                    f"{max(size, 0)} are left for the text, and neighbours are to share {overlap}.",
                    key="tokenizer.window_overlap",
                    value=overlap,
                    allowed=f"less than {max(size, 0)}",
                    fix="Lower tokenizer.window_overlap, raise tokenizer.max_seq_length, or shorten the prompt.",
                )
            )
        return [
            TokenWindow((*self.before, *ids[:shared], *content, *self.after), len(content))
            for content in token_windows(ids[shared:], size, overlap)
        ]


_UNBOUNDED = 2**62


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _may_expand(normalizer: Any) -> bool:
    """Tell whether a normaliser can make a text longer than its Unicode normal forms: one that replaces patterns."""
    if normalizer is None:
        return False
    description = json.loads(normalizer.__getstate__())
    pending = [description]
    while pending:
        step = pending.pop()
        pending.extend(step.get("normalizers", ()))
        pattern = step.get("pattern")
        if step.get("type") == "Replace":
            replaced = pattern.get("String") if isinstance(pattern, dict) else None
            if replaced is None or len(step.get("content", "").encode()) > max(len(replaced.encode()), 3):
                return True
    return False
