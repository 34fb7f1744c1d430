"""How many texts go through the model at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Band", "bands", "estimated_tokens"]

#: Bytes of UTF-8 that make a token, on the low side: English prose has four to five, Chinese and Thai about three.
_BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Band:
    """Texts of similar length, and how many of them make a batch."""

    positions: tuple[int, ...]
    batch_size: int


def estimated_tokens(text: str, limit: float) -> int:
    """Return about how many tokens a text has, at most `limit`; it bounds memory, so it errs on the high side."""
    size = len(text) if text.isascii() else len(text.encode())
    return int(min(limit, size // _BYTES_PER_TOKEN + 2))


def bands(lengths: Sequence[int], batch_tokens: int, max_batch_size: int) -> list[Band]:
    """Divide texts into bands whose batches hold at most `batch_tokens` tokens, padding included.

    The host's loop takes batches of one size; a batch of its longest texts then holds many times the tokens of a batch
    of its shortest. Within a band lengths differ by less than two, and each band has a size of its own.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Tokens of a batch; one text alone may have more.
        max_batch_size: Texts of a batch, at most.

    Returns:
        Bands that hold every position once, those with the longest texts first.
    """
    by_size: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        fitting = max(1, min(max_batch_size, batch_tokens // max(1, length)))
        size = max_batch_size if fitting == max_batch_size else 1 << (fitting.bit_length() - 1)
        by_size.setdefault(size, []).append(position)
    return [Band(tuple(positions), size) for size, positions in sorted(by_size.items())]
