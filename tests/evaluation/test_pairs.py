"""Scored pairs: Spearman's correlation as scipy computes it, ties included."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from embedprefs.evaluation import evaluate_pairs, load_evaluation
from embedprefs.evaluation.pairs import WeightedSpearman, rank_products, spearman


@pytest.fixture(scope="module")
def pairs():
    """Pairs of four words, scored by how many they share."""
    chance = random.Random(2)
    names = [f"w{number}" for number in range(60)]
    found = []
    for number in range(120):
        first = chance.sample(names, 4)
        shared = number % 4
        second = first[:shared] + chance.sample(names, 4 - shared)
        found.append((" ".join(first), " ".join(second), float(shared)))
    return found


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_correlation_is_scipys(levels):
    generator = np.random.default_rng(levels)
    left, right = generator.integers(0, levels, size=(2, 300)).astype(float)
    assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-9)
    assert float(np.mean(rank_products(left, right))) == pytest.approx(spearman(left, right), abs=1e-9)


def test_weights_are_repetitions():
    """A resample in which a pair counts three times is the correlation of the pairs written out."""
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 6, size=(2, 40)).astype(float)
    weights = generator.integers(0, 4, size=40)
    expected = stats.spearmanr(np.repeat(left, weights), np.repeat(right, weights)).statistic
    assert WeightedSpearman(left, right)(weights.astype(float))[0] == pytest.approx(expected, abs=1e-9)


def test_a_constant_series_has_no_correlation():
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0
    assert rank_products(np.ones(5), np.arange(5.0)).tolist() == [0.0] * 5


def test_the_models_similarity_of_documents_is_ranked(model, pairs):
    found = evaluate_pairs(model, pairs)
    rows = [model.encode_document([pair[side] for pair in pairs]) for side in (0, 1)]
    similarities = model.similarity_pairwise(*rows).numpy()
    expected = stats.spearmanr(similarities, [score for *_, score in pairs]).statistic
    assert found["spearman"] == pytest.approx(expected, abs=1e-6)
    interval = found.metrics["spearman"].interval
    assert 0.5 < interval.low < found["spearman"] < interval.high < 1
    assert "120 scored pairs" in found.to_text()


def test_the_interval_is_that_of_resampled_pairs(model, pairs):
    """As scipy's own percentile bootstrap has it, within what chance and the widening for few groups allow."""
    found = evaluate_pairs(model, pairs)
    values = np.array([(pair.score, pair.similarity) for pair in found.pairs])
    theirs = stats.bootstrap(
        (values[:, 0], values[:, 1]),
        lambda left, right: stats.spearmanr(left, right).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    interval = found.metrics["spearman"].interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_saved_evaluation_of_pairs_is_read_back_equal(model, pairs, tmp_path):
    found = evaluate_pairs(model, pairs, resamples=200)
    found.save(tmp_path / "pairs.jsonl")
    assert load_evaluation(tmp_path / "pairs.jsonl") == found


def test_what_has_to_be_known_is_said(model):
    same = [("red", "red", 1.0), ("green", "green", 2.0), ("green", "green", 3.0)]
    notes = "\n".join(evaluate_pairs(model, same, resamples=100).notes)
    assert "the same similarity" in notes
    assert "1 pair repeated" in notes
    assert "3 pairs only" in notes


def test_progress_counts_texts(model, pairs):
    seen = []
    evaluate_pairs(model, pairs, resamples=100, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(240, 240)]
