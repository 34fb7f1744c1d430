"""How far a run is, as a value that a command line can show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "TrainingProgress", "duration"]


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is."""

    stage: str
    """`mining`, `baseline`, `training`, `test`; `baseline, guard` and `test, guard` for the guard set."""
    done: int
    """Steps, or texts embedded."""
    total: int
    seconds_left: float | None = None
    """Of this stage; None while nothing can be said."""
    loss: float | None = None
    """The last one that was logged."""
    metric: float | None = None
    """The last value on the development set."""

    def to_text(self) -> str:
        """Return it as a line: `training 120/328, 2 min 10 s left, loss 0.412`."""
        parts = [f"{self.stage} {self.done:,}/{self.total:,}"]
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(filter(None, [*parts, self.values_text()]))

    def values_text(self) -> str:
        """Return the last loss and metric alone, `loss 0.412, development 0.7000`; empty while there are none."""
        parts = []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.metric is not None:
            parts.append(f"development {self.metric:.4f}")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds in words: `2 min 10 s`."""
    whole = max(0, math.ceil(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


#: Called with how far a run is.
Progress = Callable[[TrainingProgress], None]
