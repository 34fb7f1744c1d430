"""Counting tokens: by the model's fast tokenizer where there is one, else by a function of the caller's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

__all__ = ["FastTokenCounter", "FunctionTokenCounter", "TokenCounter", "token_counter"]

#: Characters tokenised in one piece. It bounds the memory a long document takes; the pieces end at white space.
_PIECE = 32_768
_PIECES_AT_ONCE = 8
_SPACE = re.compile(r"\s")
_WORD = re.compile(r"\w+|[^\w\s]")


class TokenCounter(Protocol):
    """What the chunker needs to know of a tokenizer."""

    identity: str | None
    """A hash of the tokenizer, or None where it cannot be known."""
    is_additive: bool
    """Whether texts that are joined by white space have together exactly the tokens that each has alone."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens that the model reads for each text, special tokens included."""
        ...

    def starts(self, texts: Sequence[str]) -> list[list[int]]:
        """The offset of each token in each text, ascending, special tokens left out.

        Exact for a text as a whole; for a part of it the count may be off by the tokens at its ends.
        """
        ...


class FastTokenCounter:
    """Counts with a `tokenizers.Tokenizer`: many texts at once, with each token's place."""

    def __init__(self, tokenizer: Any) -> None:
        # A copy, because the model's own truncates, and switching that off would change what it reads.
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        definition: str = self._tokenizer.to_str()
        self.identity: str | None = hashlib.sha256(definition.encode()).hexdigest()
        self.is_additive = _is_additive(json.loads(definition))

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens that the model reads for each text, special tokens included."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def starts(self, texts: Sequence[str]) -> list[list[int]]:
        """The offset of each token in each text, ascending, special tokens left out."""
        starts: list[list[int]] = [[] for _ in texts]
        pieces = [(number, *bounds) for number, text in enumerate(texts) for bounds in _pieces(text)]
        # A few at a time: an encoding holds far more than the offsets.
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            some = pieces[first : first + _PIECES_AT_ONCE]
            encodings = self._tokenizer.encode_batch(
                [texts[number][start:end] for number, start, end in some], add_special_tokens=False
            )
            for (number, shift, _), encoding in zip(some, encodings, strict=True):
                starts[number] += [shift + start for start, _ in encoding.offsets]
        # Normalisers that reorder characters can give offsets that step back.
        return [list(accumulate(each, max)) for each in starts]


class FunctionTokenCounter:
    """Counts with a function, word by word: for tokenizers that do not tell where their tokens are."""

    identity: str | None = None
    is_additive = False

    def __init__(self, count_tokens: Callable[[Sequence[str]], Sequence[int]]) -> None:
        self._count_tokens = count_tokens
        self._special = int(count_tokens([""])[0])

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens that the model reads for each text, special tokens included."""
        return [int(count) for count in self._count_tokens(texts)]

    def starts(self, texts: Sequence[str]) -> list[list[int]]:
        """Each word's offset, as often as the word has tokens, spread over its characters."""
        words = [list(_WORD.finditer(text)) for text in texts]
        distinct = list(dict.fromkeys(match[0] for each in words for match in each))
        known = dict(zip(distinct, self.count(distinct), strict=True)) if distinct else {}
        return [[start for match in each for start in self._spread(match, known[match[0]])] for each in words]

    def _spread(self, match: re.Match[str], count: int) -> Iterator[int]:
        tokens = max(count - self._special, 1)
        length = match.end() - match.start()
        for token in range(tokens):
            yield match.start() + length * token // tokens


def token_counter(tokenizer: Any) -> TokenCounter:
    """The counter for a tokenizer.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, a fast tokenizer of transformers (which holds one as `backend_tokenizer`),
            or a function from texts to their token counts, special tokens included.

    Raises:
        TypeError: It is none of these.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "encode_batch_fast") and hasattr(backend, "to_str"):
        return FastTokenCounter(backend)
    if callable(tokenizer) and not hasattr(tokenizer, "convert_ids_to_tokens"):
        return FunctionTokenCounter(tokenizer)
    raise TypeError(
        f"A {type(tokenizer).__name__} does not tell where its tokens are. Allowed: a tokenizers.Tokenizer, a fast "
        "tokenizer of transformers, or a function from a list of texts to their token counts, special tokens included."
    )


def _is_additive(definition: dict[str, Any]) -> bool:
    """Whether this tokenizer splits at white space, drops it, and treats each word for itself, as those of BERT do."""
    splitter = (definition.get("pre_tokenizer") or {}).get("type")
    model = (definition.get("model") or {}).get("type")
    normalizer = (definition.get("normalizer") or {}).get("type")
    return (
        model in {"WordPiece", "WordLevel"}
        and splitter in {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
        and normalizer in {None, "BertNormalizer", "Lowercase"}
        and not any(_SPACE.search(token["content"]) for token in definition.get("added_tokens") or ())
    )


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > _PIECE:
        end = start + _PIECE
        cut = text.rfind("\n", start + _PIECE // 2, end)
        if cut < 0:
            cut = text.rfind(" ", start + _PIECE // 2, end)
        end = cut if cut > 0 else end
        yield start, end
        start = end
    yield start, len(text)
