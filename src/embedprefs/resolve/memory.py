"""Sizes of memory as they are written in a preferences file."""

from __future__ import annotations

import re

__all__ = ["parse_memory_size", "readable_size"]

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?:(?P<unit>[KMGT])(?P<binary>i?)B|(?P<share>%))")


def parse_memory_size(text: str | int, total: int | None) -> int | None:
    """Return a size in bytes: 2048, "8GiB" (1024s), "500MB" (1000s) or a share of `total`, "75%".

    Args:
        text: The size as written.
        total: Bytes that a share is of.

    Returns:
        Bytes; None for a share of an unknown total.

    Raises:
        ValueError: the text is no size.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no size of memory, such as "8GiB", "500MB" or "75%".')
    number = float(match["number"])
    if match["share"]:
        return None if total is None else int(total * number / 100)
    factor = 1024 if match["binary"] else 1000
    return int(number * factor ** _UNITS[match["unit"]])


def readable_size(size: int | None) -> str:
    """Return bytes in the unit a reader would choose: "7.5 GiB"."""
    if size is None:
        return "unknown"
    number = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
