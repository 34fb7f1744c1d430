"""When to ask again: how often, how long to wait, and when to give up.

Written here rather than taken from a retry library, because a repetition depends on what is found in between: a batch
in doubt is looked up, reduced to what is missing, and possibly halved.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs_qdrant.stores.failures import Failure

__all__ = ["Clock", "Deadline", "RetryPolicy"]


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a store is.

    Attributes:
        attempts: Times one request is sent at most, the first included.
        first_wait: Seconds before the second attempt; doubled for each further one.
        longest_wait: Seconds between two attempts at most.
        longest_retry_after: Seconds waited at most when the server says how long (Retry-After).
        deadline: Seconds for one call in all; no attempt begins and no wait ends after it. The attempt under way may
            still use its own timeout.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_retry_after: float = 60.0
    deadline: float = 300.0

    def __post_init__(self) -> None:
        for name in ("attempts", "first_wait", "longest_wait", "longest_retry_after", "deadline"):
            least = 1 if name == "attempts" else 0
            value = getattr(self, name)
            if value < least:
                raise InvalidPreferenceError(
                    Problem(
                        f"The retry policy's {name} is {getattr(self, name)}.", key=name, allowed=f"at least {least}"
                    )
                )


@dataclass(frozen=True)
class Clock:
    """Time and chance, so that a test can run without waiting."""

    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = field(default=random.Random().random)  # noqa: S311 - spreads load, guards nothing


class Deadline:
    """The time left for one call."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._end = clock.now() + policy.deadline

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - self._clock.now())

    def wait(self, failure: Failure, attempts: int) -> bool:
        """Wait before the next attempt.

        The wait is what the server asks for, or else half of an exponentially growing time plus a random part of the
        other half, so that clients that failed together do not return together.

        Returns:
            False, without waiting, when the attempts are used up or the deadline would pass.
        """
        policy = self._policy
        if attempts >= policy.attempts:
            return False
        if failure.wait is not None:
            seconds = min(failure.wait, policy.longest_retry_after)
        else:
            full = min(policy.first_wait * 2 ** (attempts - 1), policy.longest_wait)
            seconds = full / 2 + full / 2 * self._clock.chance()
        if seconds >= self.left:
            return False
        self._clock.sleep(seconds)
        return True
