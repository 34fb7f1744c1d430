"""Seconds of several things that take turns, so that a slow minute of the machine falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from embedprefs.errors import InputError

__all__ = ["Timings", "take_turns"]


@dataclass(frozen=True)
class Timings:
    """How long the same thing took, each time it was done."""

    seconds: tuple[float, ...]
    """In the order they were measured; at least one."""

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("Timings need at least one measurement.")

    @property
    def median(self) -> float:
        """Seconds; the figure that rates are taken from, since one disturbed round does not move it."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest round."""
        return min(self.seconds)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest round."""
        return max(self.seconds)

    @property
    def spread(self) -> float:
        """Distance from the fastest to the slowest round as a share of the median; 0 where all took the same."""
        return (self.slowest - self.fastest) / self.median if self.median > 0 else 0.0

    def times_faster_than(self, other: Timings) -> tuple[float, float, float]:
        """Return how many times faster this is: by the medians, and the least and the most of any one round.

        Args:
            other: Timings of the same rounds.
        """
        rounds = [theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]
        return other.median / self.median, min(rounds), max(rounds)


def take_turns(
    contestants: Sequence[Callable[[int], Any]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    done: Callable[[int, int], None] | None = None,
) -> list[Timings]:
    """Run each contestant once a round and return their timings.

    Whoever begins differs from round to round, so that nobody always runs after the same other.

    Args:
        contestants: Called with the number of the round, from 0.
        rounds: How many rounds.
        clock: Returns seconds.
        done: Called after each run with the runs that are done and with all of them.

    Raises:
        InputError: there is no round to run.
    """
    if rounds < 1:
        raise InputError(f"There are {rounds} rounds to measure.\n  Allowed: a whole number from 1.")
    seconds: list[list[float]] = [[] for _ in contestants]
    total = rounds * len(contestants)
    for number in range(rounds):
        for turn in range(len(contestants)):
            at = (number + turn) % len(contestants)
            began = clock()
            contestants[at](number)
            seconds[at].append(clock() - began)
            if done is not None:
                done(number * len(contestants) + turn + 1, total)
    return [Timings(tuple(measured)) for measured in seconds]
