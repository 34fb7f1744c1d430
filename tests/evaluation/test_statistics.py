"""Intervals cover, tests agree with scipy's, and what is called detectable is detected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from embedprefs.evaluation.statistics import (
    Groups,
    Resampled,
    bootstrap,
    detectable_difference,
    randomization_test,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 5, 15, 100, 999, 1000, 50_000])
@pytest.mark.parametrize("share", [0.025, 0.05, 0.5, 0.8, 0.975])
def test_students_quantiles_are_scipys(share, degrees):
    assert student_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=3e-3, abs=1e-9)


def test_groups_are_drawn_whole():
    """With one value a group, every resampled mean is a mean of group values; queries alone would give others."""
    groups = Groups(["a"] * 3 + ["b"] * 3)
    (found,) = bootstrap(np.array([[0.0]] * 3 + [[1.0]] * 3), groups, resamples=2000, seed=0)
    assert set(found.samples.tolist()) == {0.0, 0.5, 1.0}
    assert found.value == 0.5


def test_groups_of_different_size_count_by_their_queries():
    groups = Groups(["a", "b", "b", "b"])
    (found,) = bootstrap(np.array([[1.0], [0.0], [0.0], [0.0]]), groups, resamples=500, seed=0)
    assert found.value == 0.25
    assert set(found.samples.tolist()) == {0.0, 0.25, 1.0}


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    values = np.random.default_rng(0).normal(size=(50, 1))
    groups = Groups([str(number) for number in range(50)])
    found = [bootstrap(values, groups, resamples=500, seed=seed)[0].interval() for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("count", "size"), [(6, 10), (20, 5), (100, 1)])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(count, size):
    """500 samples of correlated queries: about 95 % of the intervals hold the mean, for few groups too."""
    generator = np.random.default_rng(11)
    labels = Groups([str(group) for group in range(count) for _ in range(size)])
    covered = 0
    for seed in range(500):
        shared = np.repeat(generator.normal(size=count), size)
        values = (shared + generator.normal(size=count * size))[:, None]
        interval = bootstrap(values, labels, resamples=400, seed=seed)[0].interval()
        covered += interval.low <= 0 <= interval.high
    assert 0.915 <= covered / 500 <= 0.985


def test_resampling_dependent_queries_one_by_one_would_be_too_narrow():
    """Ten queries a document that succeed and fail together: the interval by document is about sqrt(10) times wider."""
    shared = np.repeat(np.random.default_rng(0).normal(size=40), 10)[:, None]
    by_document = Groups([str(number // 10) for number in range(400)])
    by_query = Groups([str(number) for number in range(400)])
    errors = [bootstrap(shared, groups, resamples=2000, seed=0)[0].standard_error for groups in (by_document, by_query)]
    assert errors[0] / errors[1] == pytest.approx(math.sqrt(10), rel=0.15)


def test_one_group_gives_no_interval():
    (found,) = bootstrap(np.ones((5, 1)), Groups(["a"] * 5), resamples=100, seed=0)
    assert found.interval() is None
    assert math.isnan(found.standard_error)
    assert math.isnan(detectable_difference(found.standard_error, 1))


def test_few_groups_take_every_sign_pattern():
    """Three groups have eight patterns; only the two with all signs alike are as far from 0."""
    groups = Groups(["a", "a", "b", "c"])
    assert randomization_test(np.array([1.0, 1.0, 2.0, 3.0]), groups, flips=10_000, seed=0) == 2 / 8
    assert randomization_test(np.zeros(4), groups, flips=10_000, seed=0) == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_the_randomisation_test_is_scipys_permutation_test(shift):
    differences = np.random.default_rng(4).normal(shift, 1.0, size=60)
    groups = Groups([str(number) for number in range(60)])
    ours = randomization_test(differences, groups, flips=10_000, seed=1)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10_000, rng=np.random.default_rng(2)
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.02)


def test_without_a_difference_the_test_finds_one_in_five_of_a_hundred():
    generator = np.random.default_rng(8)
    groups = Groups([str(number // 2) for number in range(60)])
    found = [
        randomization_test(np.repeat(generator.normal(size=30), 2), groups, flips=400, seed=seed) < 0.05
        for seed in range(600)
    ]
    assert 0.025 <= np.mean(found) <= 0.08


def test_the_detectable_difference_is_detected_four_times_in_five():
    """80 % of samples whose true mean is the detectable difference have an interval above 0."""
    generator = np.random.default_rng(9)
    groups = Groups([str(number) for number in range(80)])
    true = detectable_difference(1 / math.sqrt(80), 80)
    found = [
        bootstrap(generator.normal(true, 1.0, size=(80, 1)), groups, resamples=400, seed=seed)[0].interval().low > 0
        for seed in range(400)
    ]
    assert 0.74 <= np.mean(found) <= 0.86


def test_known_numbers_of_queries_for_known_differences():
    """A standard deviation of 0.25 needs 196 queries to show 0.05, and 1,225 to show 0.02 (normal approximation)."""
    assert detectable_difference(0.25 / math.sqrt(196), 196) == pytest.approx(0.05, rel=0.01)
    assert detectable_difference(0.25 / math.sqrt(1225), 1225) == pytest.approx(0.02, rel=0.01)


def test_a_one_sided_bound_lies_inside_the_two_sided_interval():
    found = Resampled(0.0, np.random.default_rng(0).normal(size=20_000), 200)
    interval = found.interval()
    assert interval.low < found.bound(0.05) < 0 < found.bound(0.95) < interval.high
    assert found.bound(0.05) == pytest.approx(-1.65, abs=0.05)
