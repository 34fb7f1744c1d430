"""Intervals, tests, and what a set of queries can show; resampled by group.

Queries that were written from the same document succeed or fail together. Resampling queries one by one would take
them for independent observations, and give intervals that are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "CONFIDENCE",
    "DEFAULT_RESAMPLES",
    "POWER",
    "Groups",
    "Interval",
    "Resampled",
    "bootstrap",
    "bootstrap_statistic",
    "detectable_difference",
    "randomization_test",
    "student_quantile",
    "unseen_share",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

CONFIDENCE = 0.95
POWER = 0.8
DEFAULT_RESAMPLES = 10_000
#: Numbers drawn at a time: keeps resampling within some tens of megabytes.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """Where a figure lies, with the share of samples for which such an interval covers it."""

    low: float
    high: float
    confidence: float = CONFIDENCE


class Groups:
    """Which observations belong together."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.names, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
        self.codes: Integers = codes.reshape(-1).astype(np.intp)
        self.sizes: Integers = np.bincount(self.codes, minlength=len(self.names)).astype(np.intp)

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.names)

    def sums(self, values: Floats) -> Floats:
        """Return the sum of each group's values: shape (groups, columns), from shape (observations, columns)."""
        columns = [np.bincount(self.codes, weights=column, minlength=self.count) for column in values.T]
        return np.stack(columns, axis=1)

    def draws(self, resamples: int, seed: int) -> Iterator[Integers]:
        """Yield blocks of resamples: groups drawn with replacement, shape (resamples of the block, groups)."""
        generator = np.random.default_rng(seed)
        block = max(1, _BLOCK // max(1, self.count))
        for start in range(0, resamples, block):
            yield generator.integers(0, self.count, size=(min(block, resamples - start), self.count))

    def observations(self, drawn: Integers) -> Floats:
        """Return how often each observation is in one resample of groups; shape (observations,)."""
        return np.bincount(drawn, minlength=self.count).astype(np.float64)[self.codes]


@dataclass(frozen=True)
class Resampled:
    """A figure, and what it would have been on other samples of the same size."""

    value: float
    samples: Floats
    """The figure of each resample."""
    groups: int

    @property
    def varies(self) -> bool:
        """False where every resample gives the same figure, which says nothing about other samples."""
        return self.groups > 1 and float(np.ptp(self.samples)) > 1e-12

    @property
    def standard_error(self) -> float:
        """Standard deviation of the figure over samples; NaN with fewer than two groups."""
        if self.groups < 2:
            return math.nan
        # Resampling n things with replacement underestimates their variance by (n - 1) / n.
        return float(np.std(self.samples) * math.sqrt(self.groups / (self.groups - 1)))

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return the two-sided interval; None with fewer than two groups."""
        if self.groups < 2:
            return None
        tail = (1 - confidence) / 2
        return Interval(self.bound(tail), self.bound(1 - tail), confidence)

    def bound(self, share: float) -> float:
        """Return a one-sided bound: the share of samples below it.

        The percentile bootstrap is too narrow for few groups. As Hesterberg ("What Teachers Should Know About the
        Bootstrap", 2015) proposes, the quantile is taken further out, by the ratio of Student's t to the normal
        distribution and by sqrt(n / (n - 1)).
        """
        normal = NormalDist()
        wider = math.sqrt(self.groups / (self.groups - 1)) * student_quantile(share, self.groups - 1)
        return float(np.quantile(self.samples, min(1.0, max(0.0, normal.cdf(wider)))))


def bootstrap(values: Floats, groups: Groups, *, resamples: int, seed: int) -> list[Resampled]:
    """Resample means by group.

    Args:
        values: Shape (observations, columns); each column is one figure.
        groups: Which observations belong together.
        resamples: How often.
        seed: The same seed draws the same groups.

    Returns:
        One result a column: the mean over all observations, and the mean in each resample.
    """
    sums, sizes = groups.sums(values), groups.sizes
    columns = values.shape[1]
    drawn: list[list[Floats]] = [[] for _ in range(columns)]
    for draw in groups.draws(resamples, seed):
        weights = sizes[draw].sum(axis=1)
        for column in range(columns):
            drawn[column].append(sums[:, column][draw].sum(axis=1) / weights)
    means = values.mean(axis=0)
    return [Resampled(float(means[column]), np.concatenate(drawn[column]), groups.count) for column in range(columns)]


def bootstrap_statistic(
    statistic: Callable[[Floats], Floats], groups: Groups, *, resamples: int, seed: int
) -> list[Resampled]:
    """Resample figures that are no means, by group.

    Args:
        statistic: Takes how often each observation counts, shape (observations,), and returns the figures.
        groups: Which observations belong together.
        resamples: How often.
        seed: The same seed draws the same groups.
    """
    whole = statistic(np.ones(len(groups.codes)))
    rows = [statistic(groups.observations(row)) for draw in groups.draws(resamples, seed) for row in draw]
    samples = np.stack(rows)
    return [Resampled(float(value), samples[:, column], groups.count) for column, value in enumerate(whole)]


def randomization_test(differences: Floats, groups: Groups, *, flips: int, seed: int) -> float:
    """Return the two-sided p-value of paired differences: how often chance alone gives a mean as far from 0.

    If both sides were equally good, each group's difference might as well have the other sign (Smucker, Allan and
    Carterette 2007). All sign patterns are tried where there are few groups, `flips` random ones otherwise.

    Args:
        differences: One value an observation.
        groups: Which observations change sign together.
        flips: How many sign patterns to draw.
        seed: The same seed draws the same patterns.
    """
    sums = groups.sums(differences[:, None])[:, 0]
    # Rounding must not decide whether a pattern is as extreme as what was seen.
    seen = abs(float(sums.sum())) - 1e-9 * max(1.0, float(np.abs(sums).sum()))
    count = groups.count
    if count < 63 and 2**count <= flips:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2.0 * patterns - 1.0) @ sums) >= seen))
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // count)
    extreme = 0
    for start in range(0, flips, block):
        patterns = generator.integers(0, 2, size=(min(block, flips - start), count), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs((2.0 * patterns - 1.0) @ sums) >= seen))
    return (1 + extreme) / (1 + flips)


def detectable_difference(standard_error: float, groups: int) -> float:
    """Return the smallest true difference that a paired comparison shows with 80 % power at the 5 % level.

    Args:
        standard_error: Standard error of the difference.
        groups: How many groups it comes from.
    """
    if groups < 2:
        return math.nan
    tail = 1 - (1 - CONFIDENCE) / 2
    return standard_error * (student_quantile(tail, groups - 1) + student_quantile(POWER, groups - 1))


def unseen_share(observations: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share of cases that may lie outside what was seen, when none of these observations did.

    Resampling cannot show what no observation shows. If none of n lost anything, up to 1 - 0.05 ** (1 / n) of all
    others may (95 % confidence; about 3 / n, the "rule of three").

    Args:
        observations: How many there were.
        confidence: How sure the bound is.
    """
    return float(1 - (1 - confidence) ** (1 / observations))


@lru_cache(maxsize=256)
def student_quantile(share: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution; that of the normal distribution from 1,000 degrees on.

    With x = sqrt(degrees) * tan(angle), the density is proportional to cos(angle) ** (degrees - 1), which is summed
    up numerically; accurate to about 1e-5 of the quantile.
    """
    if degrees >= 1000:
        return NormalDist().inv_cdf(share)
    if share == 0.5:
        return 0.0
    angles = np.linspace(0.0, math.pi / 2, 400_001)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = float(np.interp(abs(share - 0.5) * 2, area / area[-1], angles))
    return math.copysign(math.sqrt(degrees) * math.tan(angle), share - 0.5)
