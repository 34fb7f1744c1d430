"""Counts in words, for messages and reports."""

from __future__ import annotations

__all__ = ["many"]


def many(count: int, one: str, more: str | None = None) -> str:
    """Return a count with its noun in the right number: `1 chunk`, `2,000 chunks`.

    Args:
        count: How many.
        one: The words for one.
        more: The words for any other number; None adds an s.
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"
