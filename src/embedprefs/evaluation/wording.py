"""Figures and tables in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from embedprefs.evaluation.statistics import Interval
from embedprefs.wording import many

__all__ = ["figure", "interval_words", "many", "p_value_words", "shortened", "table"]


def figure(value: float, *, signed: bool = False) -> str:
    """Return a value of a metric with four decimals, with its sign where it is a difference."""
    if math.isnan(value):
        return "-"
    rounded = round(value, 4) + 0.0
    return f"{rounded:+.4f}" if signed else f"{rounded:.4f}"


def interval_words(interval: Interval | None, *, signed: bool = False) -> str:
    """Return an interval in brackets; - where there is none."""
    if interval is None:
        return "-"
    return f"[{figure(interval.low, signed=signed)}, {figure(interval.high, signed=signed)}]"


def p_value_words(value: float) -> str:
    """Return a p-value; below what four decimals show, as less than that."""
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}"


def shortened(text: str, length: int) -> str:
    """Return a text on one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
