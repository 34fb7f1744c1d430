"""Figures beside their targets, as the benchmarks print and keep them. Imported by the scripts beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedprefs import EmbedPrefsWarning

__all__ = ["Figure", "Section", "aligned", "print_figures", "quieten", "run_sections", "write_json"]


@dataclass(frozen=True)
class Figure:
    """One measured figure: what, how much, and what it has to be."""

    what: str
    value: float | None
    """None where it could not be measured; `detail` says why."""
    unit: str = "x"
    target: float | None = None
    """None for a figure that only explains another one."""
    at_least: bool = True
    """Whether the target is the least or the most that is allowed."""
    detail: str = ""
    digits: int = 2
    values: dict[str, Any] = field(default_factory=dict)
    """What it was made of, for the JSON file."""

    @property
    def verdict(self) -> Literal["met", "missed", "not run", "-"]:
        """Whether the target is met."""
        if self.value is None:
            return "not run"
        if self.target is None:
            return "-"
        return "met" if (self.value >= self.target if self.at_least else self.value <= self.target) else "missed"

    def line(self) -> str:
        """Return the figure as one line."""
        shown = f"{self.value:.{self.digits}f} {self.unit}".strip() if self.value is not None else ""
        sign = ">=" if self.at_least else "<="
        target = f"{sign} {self.target:.{self.digits}f}" if self.target is not None else ""
        return f"{self.verdict:8} {self.what:58} {shown:>12}  {target:10} {self.detail}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Return the figure as JSON values."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Section:
    """A part of a benchmark that can be run by itself."""

    name: str
    title: str
    measure: Callable[[], Iterable[Figure]]


def quieten() -> None:
    """Keep warnings about preferences and the host's bars out of what is printed."""
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore", EmbedPrefsWarning)
    transformers_logging.disable_progress_bar()


def run_sections(sections: Iterable[Section], *, failures: tuple[type[Exception], ...]) -> dict[str, list[Figure]]:
    """Run sections one after the other and print each figure as soon as it is there.

    Args:
        sections: What to run.
        failures: Errors that end a section, and are printed as its reason; the next section runs nevertheless.
    """
    found: dict[str, list[Figure]] = {}
    for section in sections:
        print(f"\n{section.title}", flush=True)
        figures = found.setdefault(section.name, [])
        try:
            for figure in section.measure():
                figures.append(figure)
                print(figure.line(), flush=True)
        except failures as error:
            figures.append(Figure(section.title, None, detail=" ".join(str(error).split())[:300]))
            print(figures[-1].line(), flush=True)
    return found


def print_figures(found: dict[str, list[Figure]]) -> int:
    """Print how many targets are met, and return the exit code: 0 where all are, 1 otherwise."""
    verdicts = [figure.verdict for figures in found.values() for figure in figures]
    met, missed, absent = (verdicts.count(word) for word in ("met", "missed", "not run"))
    print(f"\n{met} met, {missed} missed, {absent} not run")
    return 1 if missed or absent else 0


def write_json(path: Path, heading: dict[str, Any], found: dict[str, list[Figure]]) -> None:
    """Write everything that was measured."""
    sections = {name: [figure.to_json() for figure in figures] for name, figures in found.items()}
    path.write_text(
        json.dumps({**heading, "sections": sections}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines whose columns stand under each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
