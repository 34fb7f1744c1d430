"""Laying the rows of a batch end to end, in NumPy: no padding, and one copy to the device for each batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packed", "bucket_sizes", "pack", "plan_packed"]


@dataclass(frozen=True)
class Packed:
    """The rows of a batch, end to end."""

    numbers: NDArray[np.int32]
    """Token ids, positions, and where each sequence begins, one behind the other: 2 x size + sequences + 1 numbers."""
    size: int
    """Tokens, filling included."""
    tokens: int
    """Tokens of the texts."""
    texts: int
    """The first sequences; what comes behind them is filling."""
    sequences: int
    """Sequences, filling included."""
    longest: int
    """Tokens of the longest sequence."""

    @property
    def ids(self) -> NDArray[np.int32]:
        """Token ids, shape (size,)."""
        return self.numbers[: self.size]

    @property
    def positions(self) -> NDArray[np.int32]:
        """Position of each token in its sequence, counted as the model does: shape (size,)."""
        return self.numbers[self.size : 2 * self.size]

    @property
    def starts(self) -> NDArray[np.int32]:
        """Where each sequence begins, and behind it the size: shape (sequences + 1,)."""
        return self.numbers[2 * self.size :]


def _new(count: int) -> NDArray[np.int32]:
    return np.empty(count, dtype=np.int32)


def pack(
    rows: Sequence[NDArray[np.int32]],
    *,
    first_position: int = 0,
    size: int | None = None,
    pad_id: int = 0,
    room: Callable[[int], NDArray[np.int32]] = _new,
) -> Packed:
    """Lay rows of token ids end to end.

    Args:
        rows: Token ids of each text, special tokens included.
        first_position: Position of a text's first token: 0, or in RoBERTa and its kin the padding id + 1.
        size: Tokens that the batch is filled up to, with sequences of their own that are no longer than the longest
            text; None fills nothing.
        pad_id: The id of filling.
        room: Returns an array of so many int32, to be written into: memory that a GPU can read by itself.

    Raises:
        ValueError: the rows hold more tokens than `size`.
    """
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    tokens = int(lengths.sum())
    longest = int(lengths.max(initial=0))
    size = tokens if size is None else size
    if size < tokens:
        raise ValueError(f"{tokens} tokens do not fit into {size}.")
    filling = size - tokens
    if filling:
        # No longer than a text: the model has no positions for more.
        longest = max(1, longest)
        whole, rest = divmod(filling, longest)
        lengths = np.concatenate([lengths, np.full(whole, longest), np.full(1 if rest else 0, rest)])
    sequences = len(lengths)
    packed = Packed(room(2 * size + sequences + 1), size, tokens, len(rows), sequences, longest)
    starts = packed.starts
    starts[0] = 0
    np.cumsum(lengths, out=starts[1:])
    if rows:
        np.concatenate(rows, out=packed.ids[:tokens], casting="same_kind")
    packed.ids[tokens:] = pad_id
    np.subtract(
        np.arange(first_position, first_position + size, dtype=np.int32),
        np.repeat(starts[:-1], lengths),
        out=packed.positions,
    )
    return packed


def plan_packed(
    lengths: Sequence[int] | NDArray[np.int64], *, batch_tokens: int | None, max_batch_size: int
) -> list[NDArray[np.intp]]:
    """Divide texts into batches by their true lengths, the longest first; texts of any length may share one.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Tokens of a batch; one text alone may have more. None bounds only the number of texts.
        max_batch_size: Texts of a batch, at most.

    Returns:
        Positions, one array for each batch; every position stands in one of them.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    if batch_tokens is None:
        return [order[start : start + max_batch_size] for start in range(0, len(order), max_batch_size)]
    until = np.cumsum(sizes[order])
    batches: list[NDArray[np.intp]] = []
    start = before = 0
    while start < len(order):
        stop = int(np.searchsorted(until, before + batch_tokens, side="right"))
        stop = max(start + 1, min(stop, start + max_batch_size))
        batches.append(order[start:stop])
        start, before = stop, int(until[stop - 1])
    return batches


#: Sizes that are compiled: torch gives up at eight forms of one function.
_BUCKETS = 6


def bucket_sizes(batch_tokens: int) -> tuple[int, ...]:
    """Return the numbers of tokens that batches are filled up to where every one of them is compiled.

    Args:
        batch_tokens: The largest.

    Returns:
        Ascending: the largest, and each half of the one above it, six at most.
    """
    sizes = (batch_tokens >> halvings for halvings in range(_BUCKETS))
    return tuple(sorted({size for size in sizes if size > 1}))
