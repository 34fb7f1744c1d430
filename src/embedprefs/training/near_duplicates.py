"""Texts that are nearly the same: MinHash over word shingles, with candidates checked by their exact overlap.

The estimate and the banding are those of Broder ("On the resemblance and containment of documents", 1997) and of
locality-sensitive hashing as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3. Candidates
are compared exactly, so that chance can only miss a pair, never make one up: with 16 bands of 4 rows a pair of Jaccard
similarity 0.8 is missed in 2 of 10,000 cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

__all__ = ["SIMILAR", "Clusters", "near_duplicates", "shingles"]

#: From this Jaccard similarity of their shingles on, two texts are nearly the same.
SIMILAR = 0.8
_SHINGLE_WORDS = 3
_BANDS, _ROWS = 16, 4
_WORD = re.compile(r"\w+", re.UNICODE)
#: Texts of one band's bucket that are compared with each other; of larger buckets each is compared with the first.
_LARGEST_BUCKET = 50


class Clusters:
    """What belongs together, by joining pairs (union-find)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def root(self, item: int) -> int:
        """Return what stands for an item's cluster."""
        while self._parents[item] != item:
            self._parents[item] = self._parents[self._parents[item]]
            item = self._parents[item]
        return item

    def join(self, first: int, second: int) -> None:
        """Put two items into one cluster; the smaller number stands for it."""
        low, high = sorted((self.root(first), self.root(second)))
        self._parents[high] = low


def shingles(text: str) -> frozenset[int]:
    """Return numbers for each run of three words, in lower case; for fewer words, for all of them."""
    words = _WORD.findall(text.casefold())
    runs = max(1, len(words) - _SHINGLE_WORDS + 1)
    return (
        frozenset(
            crc32(" ".join(words[at : at + _SHINGLE_WORDS]).encode("utf-8", "surrogatepass")) for at in range(runs)
        )
        if words
        else frozenset()
    )


def _signature(found: frozenset[int], factors: npt.NDArray[np.uint64], shifts: npt.NDArray[np.uint64]) -> bytes:
    values = np.fromiter(found, dtype=np.uint64, count=len(found))
    hashed = (values[:, None] * factors[None, :] + shifts[None, :]) >> np.uint64(32)
    least: npt.NDArray[np.uint32] = hashed.min(axis=0).astype(np.uint32)
    return least.tobytes()


def near_duplicates(texts: Sequence[str], *, similar: float = SIMILAR) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions whose texts are nearly the same, each pair once, the smaller position first.

    Equal texts count too. Texts without words are like nothing.

    Args:
        texts: The texts.
        similar: From which Jaccard similarity of their shingles on.
    """
    generator = np.random.default_rng(0)
    hashes = _BANDS * _ROWS
    # Multiply-shift hashing: odd factors of 64 bits, the upper half of the product.
    factors = generator.integers(1 << 62, dtype=np.uint64, size=hashes) * np.uint64(2) + np.uint64(1)
    shifts = generator.integers(1 << 62, dtype=np.uint64, size=hashes)
    found = [shingles(text) for text in texts]
    buckets: dict[tuple[int, bytes], list[int]] = {}
    width = 4 * _ROWS
    for position, own in enumerate(found):
        if not own:
            continue
        signature = _signature(own, factors, shifts)
        for band in range(_BANDS):
            buckets.setdefault((band, signature[band * width : (band + 1) * width]), []).append(position)
    seen: set[tuple[int, int]] = set()
    for members in buckets.values():
        for pair in _pairs(members):
            if pair in seen:
                continue
            seen.add(pair)
            first, second = found[pair[0]], found[pair[1]]
            common = len(first & second)
            if common >= similar * (len(first) + len(second) - common):
                yield pair


def _pairs(members: Sequence[int]) -> Iterable[tuple[int, int]]:
    if len(members) > _LARGEST_BUCKET:
        return ((members[0], other) for other in members[1:])
    return ((first, second) for place, first in enumerate(members) for second in members[place + 1 :])
