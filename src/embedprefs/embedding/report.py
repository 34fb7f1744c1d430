"""What a job says about itself: how far it is, and what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["EmbedFileReport", "JobProgress"]


@dataclass(frozen=True)
class JobProgress:
    """How far a running job is."""

    rows: int
    """Texts that are embedded, those of earlier runs included."""
    new_rows: int
    """Texts embedded by this run."""
    total: int | None
    """Texts in the input; None for a stream, which is read once."""


@dataclass(frozen=True)
class EmbedFileReport:
    """What a job did."""

    output: Path
    finished: bool
    """False where it was stopped; the next run continues."""
    texts: int
    """Vectors written, over all runs."""
    resumed: int
    """Of these, vectors that earlier runs had computed."""
    tokens: int
    """Tokens that the model read in this process, over all runs."""
    in_workers: int
    """Texts that worker processes read; their tokens are not counted."""
    truncated: int
    """Texts that were longer than the model reads, and were cut."""
    windowed: int
    """Texts that were longer than the model reads, and were embedded in windows."""
    overlong_lines: tuple[int, ...]
    """The first lines that were truncated or windowed."""
    clipped: int
    """Numbers outside the calibrated ranges, with int8 and uint8."""
    empty: int
    """Texts without a word, which were embedded as they are."""
    skipped: int
    """Lines left out because their bytes are not UTF-8."""
    replaced: int
    """Lines whose unreadable bytes were replaced."""
    named_lines: tuple[int, ...]
    """The first of the skipped and replaced lines."""
    dimension: int | None
    """Numbers of one vector; a binary precision packs eight dimensions into one."""
    dtype: str | None
    """Numpy's name of their type: float32, int8 ..."""
    seconds: float
    """Seconds of embedding, over all runs; loading the model is not in it."""

    @property
    def computed(self) -> int:
        """Texts that this run embedded."""
        return self.texts - self.resumed

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **asdict(self),
            "output": str(self.output),
            "overlong_lines": list(self.overlong_lines),
            "named_lines": list(self.named_lines),
        }
