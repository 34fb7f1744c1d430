"""Texts to measure with: those of the user, or a mix of our own whose lengths are spread like those of real pages."""

from __future__ import annotations

import functools
import importlib.resources
import math
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from embedprefs.errors import InputError

__all__ = ["built_in_questions", "built_in_texts", "read_some", "short_texts"]

#: Sentences of a text, and how many texts in a hundred have that many: many short ones, a long tail.
_LENGTHS: tuple[tuple[int, int], ...] = ((1, 26), (2, 20), (3, 14), (5, 14), (8, 12), (12, 8), (18, 4), (28, 2))


@functools.cache
def _written() -> Mapping[str, Sequence[str]]:
    """Return the sentences and parts of sentences that stand in texts.toml."""
    file = importlib.resources.files("embedprefs.benchmarking").joinpath("texts.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def built_in_questions() -> tuple[str, ...]:
    """Return questions as people ask them, of some ten words each: what a single query is timed with."""
    return tuple(_written()["questions"])


def built_in_texts(count: int) -> list[str]:
    """Return distinct English texts of one sentence to some thirty, most of them short; the same ones every time.

    Args:
        count: How many, at most 10,000.

    Raises:
        InputError: it is none, or more than the mix has.
    """
    if not 1 <= count <= 10_000:
        raise InputError(f"{count:,} texts of the built-in mix are asked for.\n  Allowed: 1 to 10,000.")
    chance = random.Random(0)  # noqa: S311 - the same texts every time, nothing secret
    sentences = _written()["sentences"]
    sizes, shares = zip(*_LENGTHS, strict=True)
    made: dict[str, None] = {}
    for size in chance.choices(sizes, shares, k=count):
        text = " ".join(chance.sample(sentences, size))
        while text in made:  # there are few single sentences
            text = f"{chance.choice(sentences)} {text}"
        made[text] = None
    return list(made)


def short_texts(count: int) -> Iterator[str]:
    """Yield distinct English sentences of some nine words: for what a text costs beside its tokens.

    Args:
        count: How many, at most 160,000.

    Raises:
        InputError: more are asked for than there are.
    """
    parts = [_written()[name] for name in ("who", "does", "what", "where")]
    most = math.prod(len(part) for part in parts)
    if not 0 <= count <= most:
        raise InputError(f"{count:,} short texts are asked for.\n  Allowed: up to {most:,}.")
    return (_sentence(number * 7_919 % most, parts) for number in range(count))  # a prime, so that all numbers come up


def _sentence(number: int, parts: Sequence[Sequence[str]]) -> str:
    words = []
    for part in parts:
        number, at = divmod(number, len(part))
        words.append(part[at])
    return f"{' '.join(words)}.".capitalize()


def read_some(path: Path, limit: int, *, input_format: str | None = None, text_field: str = "text") -> list[str]:
    """Return texts of a file that are not empty: all of them, or `limit` of them spread evenly over the file.

    Args:
        path: .txt (a text a line), .jsonl, .csv or .parquet.
        limit: The most texts to return; 0 for all.
        input_format: How the texts lie in the file, if its name does not say it.
        text_field: Field or column with the text.

    Raises:
        InputError: the file cannot be read as asked, or holds no text.
        MissingExtraError: Parquet without pyarrow.
    """
    from embedprefs.embedding import open_texts

    def texts() -> Iterator[str]:
        found = open_texts(path, input_format=input_format, text_field=text_field)
        return (text for text in found if text.strip())

    count = sum(1 for _ in texts())
    if count == 0:
        raise InputError(
            f"{path}: holds no text to measure with.\n"
            "  Name a file with texts like those that you embed, or none: then texts of our own are measured.",
            file=path,
        )
    if limit < 0:
        raise InputError(f"At most {limit} texts are to be measured.\n  Allowed: a whole number from 1, or 0 for all.")
    if limit in (0, count) or limit > count:
        return list(texts())
    wanted = {number * count // limit for number in range(limit)}
    return list(islice((text for at, text in enumerate(texts()) if at in wanted), limit))
