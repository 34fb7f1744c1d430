"""The metrics are those of ir-measures (trec_eval), graded judgements and ties included."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedprefs.errors import InputError
from embedprefs.evaluation import evaluate_rankings, parse_metrics, score
from embedprefs.evaluation.metrics import Metric

NAMES = [f"{name}@{k}" for name in ("ndcg", "mrr", "recall", "map") for k in (1, 3, 10, 100)]


def oracle(rankings, qrels, names, level=1):
    """Return query -> metric -> value, by ir-measures."""
    spelled = {
        "ndcg": "nDCG@{k}",
        "mrr": "RR(rel={level})@{k}",
        "recall": "R(rel={level})@{k}",
        "map": "AP(rel={level})@{k}",
    }
    measures = {}
    for name in names:
        word, _, k = name.partition("@")
        measures[ir_measures.parse_measure(spelled[word].format(k=k, level=level))] = name
    found = {query: {} for query in qrels}
    for item in ir_measures.iter_calc(list(measures), qrels, rankings):
        found[item.query_id][measures[item.measure]] = item.value
    return found


def assert_equal_to_oracle(rankings, qrels, level=1, names=NAMES):
    ours = evaluate_rankings(rankings, qrels, metrics=names, relevance_level=level, resamples=100)
    theirs = oracle(rankings, qrels, names, level)
    for query in ours.queries:
        for name in names:
            assert query.values[name] == pytest.approx(theirs[query.id].get(name, 0.0), abs=1e-6), (query.id, name)
    aggregated = {name: np.mean([theirs[query].get(name, 0.0) for query in qrels]) for name in names}
    assert {name: ours[name] for name in names} == pytest.approx(aggregated, abs=1e-6)


@pytest.mark.parametrize("level", [1, 2])
def test_graded_judgements_give_the_oracles_values(level):
    """200 queries, grades from -1 to 3, rankings of 120 of 150 documents, some relevant ones not found."""
    generator = np.random.default_rng(7)
    documents = [f"d{number}" for number in range(150)]
    qrels, rankings = {}, {}
    for number in range(200):
        judged = generator.choice(documents, size=generator.integers(1, 30), replace=False)
        grades = {str(doc): int(generator.integers(-1, 4)) for doc in judged}
        # A measure of ir-measures is not defined where no document reaches the relevance level.
        grades[str(judged[0])] = 3
        qrels[f"q{number}"] = grades
        found = generator.choice(documents, size=120, replace=False)
        rankings[f"q{number}"] = {str(doc): float(np.float32(generator.normal())) for doc in found}
    assert_equal_to_oracle(rankings, qrels, level)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_are_broken_as_the_oracle_breaks_them(data):
    """Few distinct scores, so that most documents are tied: of equal scores the larger id comes first."""
    documents = [f"d{number}" for number in range(12)]
    grade, value = st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0])
    qrels, rankings = {}, {}
    for query in ("q1", "q2"):
        qrels[query] = {**data.draw(st.dictionaries(st.sampled_from(documents), grade, max_size=6)), "d5": 1}
        rankings[query] = {doc: data.draw(value) for doc in documents}
    names = [name for name in NAMES if not name.startswith("mrr@")]
    assert_equal_to_oracle(rankings, qrels, names=names)
    # Its MRR with a cut-off is MS MARCO's, where the smaller id comes first; without one it is trec_eval's.
    whole = {item.query_id: item.value for item in ir_measures.iter_calc([ir_measures.RR], qrels, rankings)}
    for query in evaluate_rankings(rankings, qrels, metrics=["mrr@12"], resamples=100).queries:
        assert query.values["mrr@12"] == pytest.approx(whole[query.id], abs=1e-6)


def test_values_by_hand():
    found, judged = [0, 2, 0, 1], [2, 1, 1]
    assert score(Metric("mrr", 10), found, judged) == 0.5
    assert score(Metric("mrr", 1), found, judged) == 0.0
    assert score(Metric("recall", 4), found, judged) == pytest.approx(2 / 3)
    assert score(Metric("map", 4), found, judged) == pytest.approx((1 / 2 + 2 / 4) / 3)
    ideal = 2 / 1 + 1 / math.log2(3) + 1 / 2
    assert score(Metric("ndcg", 4), found, judged) == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)


@pytest.mark.parametrize("name", NAMES)
def test_a_query_without_relevant_documents_gets_0(name):
    (metric,) = parse_metrics([name])
    assert score(metric, [0, 0], [0, -1]) == 0.0
    assert score(metric, [], [1]) == 0.0


def test_names_are_read_in_any_case_and_once():
    assert [str(metric) for metric in parse_metrics(["nDCG@10", "mrr@5", "ndcg@10"])] == ["ndcg@10", "mrr@5"]
    assert parse_metrics(["recall@3"])[0].title == "Recall@3"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ndgc@10", "Did you mean ndcg@10?"),
        ("ndcg", "Did you mean ndcg@10?"),
        ("recall@0", "Did you mean recall@10?"),
        ("accuracy@1", "ndcg@K, mrr@K, recall@K, map@K"),
    ],
)
def test_a_name_that_is_no_metric_is_refused_with_the_nearest(name, expected):
    with pytest.raises(InputError, match="is no metric") as caught:
        parse_metrics([name])
    assert expected in str(caught.value)


def test_no_metric_is_refused():
    with pytest.raises(InputError, match="No metric"):
        parse_metrics([])
