"""Texts become token ids: once, unpadded, with their true lengths, cut exactly as the host cuts them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextTokenizer", "TokenisedTexts"]

#: Characters of a text that are tokenised first, for each token that is read; beyond that a text counts as huge.
#: English has about five characters a token, code and most scripts fewer.
_PREFIX_CHARACTERS = 12
#: And at least so many, however few tokens are read.
_LEAST_PREFIX = 4096
#: A text is tokenised whole unless it is at least so many times longer than that: its true length is worth more than
#: the milliseconds.
_HUGE = 4

#: Steps that see no further than the next blank: each word between blanks gives the same tokens whatever stands behind
#: the blank. Steps not listed may look further, and their texts are always tokenised whole.
_LOCAL_NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "StripAccents"}
)
_LOCAL_PRE_TOKENIZERS = frozenset({"BertPreTokenizer", "ByteLevel", "Whitespace", "WhitespaceSplit"})


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of several texts."""

    ids: list[NDArray[np.int32]]
    """What the model reads of each text: special tokens included, cut at the limit, not padded."""
    lengths: NDArray[np.int64]
    """Tokens of each text before it was cut, prompt and special tokens included."""
    prompt_tokens: int = 0
    """Tokens of the prompt at the beginning of each text, its special tokens in front included."""
    at_least: frozenset[int] = field(default_factory=frozenset)
    """Positions of huge texts that were not tokenised to their end: they have at least as many tokens as said."""


class TextTokenizer:
    """Tokenises texts on a tokenizer of its own, which never pads; safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        limit: int | None,
        truncation_side: str = "right",
        add_special_tokens: bool = True,
        pad_id: int = 0,
        special_ids: frozenset[int] | None = None,
        encode_special_tokens: bool = False,
        copy: bool = True,
    ) -> None:
        """Take a tokenizer.

        Args:
            tokenizer: The tokenizer.
            limit: Tokens that are read of a text, special tokens included; None reads all.
            truncation_side: Where over-long texts are cut: "left" or "right".
            add_special_tokens: Whether texts get special tokens.
            pad_id: The id that stands for padding; some models compute positions from it.
            special_ids: Ids of special tokens, for telling where a prompt ends; the tokenizer's own if not given.
            encode_special_tokens: Whether special tokens that stand in a text are read as text. It is a setting of the
                object that a copy would lose.
            copy: Work on a copy, so that the tokenizer is left as it is; False takes it for good, which saves reading
                its vocabulary once more.
        """
        taken = type(tokenizer).from_str(tokenizer.to_str()) if copy else tokenizer
        self._take(taken, limit, truncation_side, pad_id, add_special_tokens=add_special_tokens)
        self._tokenizer.encode_special_tokens = encode_special_tokens
        if special_ids is None:
            added = self._tokenizer.get_added_tokens_decoder()
            special_ids = frozenset(number for number, token in added.items() if token.special)
        self._special_ids = special_ids

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        limit: int | None,
        truncation_side: str = "right",
        add_special_tokens: bool = True,
        pad_id: int | None = None,
    ) -> Self:
        """Read a `tokenizer.json`.

        Args:
            path: The file.
            limit: As in the constructor.
            truncation_side: As in the constructor.
            add_special_tokens: As in the constructor.
            pad_id: As in the constructor; what the file says of padding if not given, else 0.
        """
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        if pad_id is None:
            padding = tokenizer.padding or {}
            pad_id = int(padding.get("pad_id", 0))
        return cls(
            tokenizer,
            limit=limit,
            truncation_side=truncation_side,
            add_special_tokens=add_special_tokens,
            pad_id=pad_id,
        )

    def with_limit(self, limit: int | None) -> TextTokenizer:
        """Return the same tokenizer with another limit; the vocabulary is shared."""
        if limit == self.limit:
            return self
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.limit = limit
        return other

    def _take(
        self, tokenizer: Any, limit: int | None, truncation_side: str, pad_id: int, *, add_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.limit = limit
        self.truncation_side = truncation_side
        self.pad_id = pad_id
        self._add_special_tokens = add_special_tokens
        self.before, self.after, self.type_ids = self._special_tokens()
        self._prompts: dict[tuple[str, int | None], int] = {}

    def _special_tokens(self) -> tuple[NDArray[np.int32], NDArray[np.int32], frozenset[int]]:
        """Return the special tokens put before and behind every text, and the segment ids that texts get."""
        nothing = np.empty(0, dtype=np.int32)
        if not self._add_special_tokens:
            return nothing, nothing, frozenset({0})
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a", add_special_tokens=True)
        ids = whole.ids
        start = next((at for at in range(len(ids) - len(plain) + 1) if ids[at : at + len(plain)] == plain), len(ids))
        before = np.array(ids[:start], dtype=np.int32)
        return before, np.array(ids[start + len(plain) :], dtype=np.int32), frozenset(whole.type_ids)

    @property
    def specials(self) -> int:
        """Special tokens that every text gets."""
        return len(self.before) + len(self.after)

    def tokenise(self, texts: Sequence[str], prompt: str = "") -> TokenisedTexts:
        """Tokenise texts, each behind the prompt.

        A huge text is tokenised only as far as is needed, where what stands further back cannot change it: its
        tokenizer reads word by word, and it is cut at a blank behind the last token that is read.

        Args:
            texts: The texts.
            prompt: Put before each text.
        """
        inputs = [prompt + text for text in texts] if prompt else list(texts)
        prefixes = self._prefixes(inputs)
        for position, prefix in prefixes.items():
            inputs[position] = prefix
        encodings = self._encoded(inputs)
        lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
        limit = self.limit
        if prefixes:
            # A prefix that does not fill the limit proves nothing.
            unproved = [position for position in prefixes if limit is None or lengths[position] <= limit]
            again = self._encoded([prompt + texts[position] for position in unproved])
            for position, encoding in zip(unproved, again, strict=True):
                encodings[position], lengths[position] = encoding, len(encoding)
                del prefixes[position]
        if limit is None or not len(lengths) or int(lengths.max()) <= limit:
            ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        else:
            ids = [self._cut(np.array(encoding.ids, dtype=np.int32), limit) for encoding in encodings]
        return TokenisedTexts(ids, lengths, self.prompt_tokens(prompt) if prompt else 0, frozenset(prefixes))

    def prompt_tokens(self, prompt: str) -> int:
        """Return how many tokens at the beginning of a text are the prompt's, as the host counts them.

        The prompt is tokenised alone, as a text; a special token at its end is not counted.
        """
        key = (prompt, self.limit)
        if key not in self._prompts:
            ids = self._encoded([prompt])[0].ids
            ids = list(self._cut(np.array(ids, dtype=np.int32), self.limit)) if self.limit is not None else ids
            self._prompts[key] = len(ids) - (1 if ids and int(ids[-1]) in self._special_ids else 0)
        return self._prompts[key]

    def places(self, text: str, prompt: str = "") -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens of prompt and text, and where they stand; whole, and without special tokens around them.

        Args:
            text: The text.
            prompt: Put before it.

        Returns:
            Token ids, shape (tokens,), and the character at which each begins and the one behind its last, in prompt
            and text joined, shape (tokens, 2).
        """
        encoding = self._tokenizer.encode(prompt + text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int32), offsets

    def _encoded(self, inputs: list[str]) -> list[Any]:
        if len(inputs) == 1:
            return [self._tokenizer.encode(inputs[0], add_special_tokens=self._add_special_tokens)]
        return list(self._tokenizer.encode_batch_fast(inputs, add_special_tokens=self._add_special_tokens))

    def _cut(self, ids: NDArray[np.int32], limit: int) -> NDArray[np.int32]:
        """Cut the text's own tokens, so that with special tokens there are `limit`."""
        if len(ids) <= limit:
            return ids
        own = ids[len(self.before) : len(ids) - len(self.after)]
        room = max(0, limit - self.specials)
        kept = own[len(own) - room :] if self.truncation_side == "left" else own[:room]
        return np.concatenate((self.before, kept, self.after))

    @cached_property
    def _reads_locally(self) -> bool:
        return _reads_locally(self._tokenizer)

    def _prefixes(self, inputs: Sequence[str]) -> dict[int, str]:
        """Return position -> beginning for huge texts that may be cut before they are tokenised."""
        if self.limit is None or self.truncation_side != "right":
            return {}
        enough = max(_LEAST_PREFIX, self.limit * _PREFIX_CHARACTERS)
        if all(len(text) <= enough * _HUGE for text in inputs) or not self._reads_locally:
            return {}
        found = {}
        for position, text in enumerate(inputs):
            if len(text) > enough * _HUGE:
                # The blank must follow a letter: a run of blanks may be read as one.
                end = text.rfind(" ", enough // 2, enough)
                while end > 0 and text[end - 1].isspace():
                    end -= 1
                if end > 0:
                    found[position] = text[:end]
        return found


def _reads_locally(tokenizer: Any) -> bool:
    """Tell whether the tokens of a word never depend on what stands behind the blank that follows it."""
    description: dict[str, Any] = json.loads(tokenizer.to_str())
    normalizers = _steps(description.get("normalizer"), "normalizers")
    splitters = _steps(description.get("pre_tokenizer"), "pretokenizers")
    if any(step["type"] not in _LOCAL_NORMALIZERS for step in normalizers):
        return False
    if any(" " in token["content"] for token in description.get("added_tokens") or ()):
        return False
    return bool(splitters) and _splits_at_blanks(splitters[0])


def _splits_at_blanks(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return bool(step.get("use_regex", True))
    if step["type"] == "Metaspace":
        return bool(step.get("split", True))
    return step["type"] in _LOCAL_PRE_TOKENIZERS


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [part for member in step[inner] for part in _steps(member, inner)]
    return [step]
