"""`compare`: verdicts by the interval's bound, on the same data only, with the queries that changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embedprefs.errors import InputError
from embedprefs.evaluation import compare, evaluate, evaluate_pairs, evaluate_rankings, fidelity


def rankings_of(ranks):
    """Return rankings that find each query's document at a rank; None finds it nowhere."""
    found = {}
    for number, rank in enumerate(ranks):
        hits = [f"x{at}" for at in range(20)]
        if rank is not None:
            hits.insert(rank - 1, f"d{number}")
        found[f"q{number}"] = [(hit, 100.0 - at) for at, hit in enumerate(hits)]
    return found


def measured(ranks, **options):
    qrels = {f"q{number}": {f"d{number}": 1} for number in range(len(ranks))}
    return evaluate_rankings(rankings_of(ranks), qrels, metrics=["mrr@10", "recall@10"], **options)


def test_a_side_that_is_better_for_most_queries_is_better():
    a = measured([2] * 40)
    b = measured([1] * 30 + [2] * 10)
    found = compare(a, b)
    assert (found.verdict, found.is_acceptable) == ("better", True)
    assert found.result.difference == pytest.approx(0.375)
    assert found.result.interval.low > 0
    assert found.result.p_value < 0.001
    assert (found.improved, found.worsened, found.observations) == (30, 0, 40)
    back = compare(b, a)
    assert (back.verdict, back.is_acceptable) == ("worse", False)
    assert back.result.p_value == found.result.p_value


def test_equal_sides_are_equivalent_without_a_margin():
    a = measured([1, 2, 3, None] * 10)
    found = compare(a, a, margin=0)
    assert (found.verdict, found.is_acceptable) == ("equivalent", True)
    assert (found.result.difference, found.result.p_value) == (0.0, 1.0)
    assert compare(a, a).verdict == "equivalent"
    assert found.changed == ()
    assert "the same results to the last digit" in found.to_text()


def test_a_loss_that_so_few_queries_may_not_have_shown_is_not_excluded():
    """No query lost anything. Of 30 that leaves up to 9.5 % of others, of 400 less than 1 % (the rule of three)."""

    def with_other_scores(evaluation):
        changed = [replace(q, hits=tuple(replace(h, score=h.score / 2) for h in q.hits)) for q in evaluation.queries]
        return replace(evaluation, queries=tuple(changed))

    for count, verdict in ((30, "undecided"), (400, "equivalent")):
        a = measured([1] * count)
        found = compare(a, with_other_scores(a), margin=0.01)
        assert found.result.difference == 0.0
        assert found.result.lower_bound == pytest.approx(-(1 - 0.05 ** (1 / count)))
        assert (found.verdict, found.is_acceptable) == (verdict, verdict == "equivalent")
    assert compare(measured([1] * 10), with_other_scores(measured([1] * 10))).verdict == "undecided"


def test_the_bound_decides_about_a_margin_and_not_the_mean():
    """B loses 0.5 % on the mean, in a few queries that change much: that it loses at most 1 % is not shown."""
    ranks = [1] * 100
    b = measured([2, *ranks[1:]])
    found = compare(measured(ranks), b, margin=0.01)
    assert found.result.difference == pytest.approx(-0.005)
    assert found.result.lower_bound < -0.01
    assert (found.verdict, found.within_margin, found.is_acceptable) == ("undecided", False, False)
    assert "a loss of at most 1 % is not shown" in found.to_text()
    assert "too few to tell" in found.to_text()
    without = compare(measured(ranks), b)
    assert (without.verdict, without.within_margin, without.is_acceptable) == ("undecided", None, True)


def test_enough_queries_show_the_same_loss_to_be_within_the_margin():
    """The same mean loss of 0.5 % over a hundred times as many queries: now the bound keeps the margin."""
    ranks = [1] * 10_000
    a, b = (measured(side, resamples=100) for side in (ranks, [2] * 100 + ranks[100:]))
    found = compare(a, b, margin=0.01, resamples=500)
    assert found.result.difference == pytest.approx(-0.005)
    assert -0.01 < found.result.lower_bound < -0.005
    assert found.result.interval.high < 0
    assert (found.verdict, found.within_margin, found.is_acceptable) == ("equivalent", True, True)
    assert "a loss of at most 1 % is shown" in found.to_text()


def test_the_margin_is_a_share_of_the_first_side():
    """A loss of 0.01 on 0.1 is 10 %."""
    found = compare(measured([10] * 300), measured([10] * 270 + [None] * 30), margin=0.05)
    assert found.result.lower_bound > -0.05
    assert (found.verdict, found.is_acceptable) == ("worse", False)


@pytest.mark.parametrize("margin", [-0.1, 1.0, 5.0])
def test_a_margin_that_is_no_share_is_refused(margin):
    with pytest.raises(InputError, match=r"0\.01 is 1 %"):
        compare(measured([1, 2]), measured([1, 2]), margin=margin)


def test_dependent_queries_count_by_their_source():
    """Twenty queries of one document that all lose are one observation, not twenty."""
    qrels = {f"q{number}": {f"d{number}": 1} for number in range(60)}
    corpus = {f"d{number}": {"text": f"t{number}", "source": str(number // 20)} for number in range(60)}
    corpus |= {f"x{at}": f"x{at}" for at in range(20)}
    sides = [
        evaluate_rankings(rankings_of(ranks), qrels, corpus=corpus, metrics=["mrr@10"], group_by=group)
        for group in ("auto", "query")
        for ranks in ([1] * 60, [2] * 40 + [1] * 20)
    ]
    assert compare(sides[2], sides[3]).verdict == "worse"
    grouped = compare(sides[0], sides[1])
    assert (grouped.groups, grouped.grouped_by) == (3, "source")
    assert grouped.verdict == "undecided"
    assert grouped.result.p_value == 0.5
    assert any("3 groups only" in note for note in grouped.notes)


def test_one_group_tells_nothing():
    a, b = (measured(ranks, group_by="auto") for ranks in ([1], [2]))
    found = compare(a, b, margin=0.5)
    assert (found.verdict, found.is_acceptable, found.result.interval) == ("undecided", False, None)
    assert "a single group" in found.to_text()


def test_the_queries_that_changed_most_come_first_with_both_sides_hits(load, model, little):
    smaller = load(vectors__truncate_dim=4)
    sides = [evaluate(side, little.corpus, little.queries, little.qrels) for side in (model, smaller)]
    found = compare(*sides, changed=7)
    sizes = [abs(query.difference) for query in found.changed]
    assert len(sizes) == 7
    assert sizes == sorted(sizes, reverse=True)
    all_sizes = sorted(
        (
            abs(b.values["ndcg@10"] - a.values["ndcg@10"])
            for a, b in zip(sides[0].queries, sides[1].queries, strict=True)
        ),
        reverse=True,
    )
    assert sizes == all_sizes[:7]
    first = found.changed[0]
    (of_a,) = [query for query in sides[0].queries if query.id == first.id]
    assert first.hits_a == of_a.hits
    assert first.first_relevant_a == of_a.first_relevant
    text = found.to_text({key: value["text"] for key, value in little.corpus.items()})
    assert f"{first.id}  {little.queries[first.id]}" in text
    assert f"A   1  {first.hits_a[0].id}" in text or f"A   1* {first.hits_a[0].id}" in text
    assert little.corpus[first.hits_b[0].id]["text"] in text
    assert "truncate_dim: null -> 4" in text
    assert found.result.detectable_difference > 0


def test_the_difference_is_a_paired_one(load, model, little):
    """The interval of the difference is narrower than that of two sets of queries would be."""
    a, b = (
        evaluate(side, little.corpus, little.queries, little.qrels) for side in (model, load(vectors__truncate_dim=12))
    )
    paired = compare(a, b).result.interval
    alone = [side.metrics["ndcg@10"].interval for side in (a, b)]
    unpaired = np.hypot(*(interval.high - interval.low for interval in alone))
    assert paired.high - paired.low < unpaired


def test_files_of_saved_evaluations_are_compared_alike(load, model, little, tmp_path):
    sides = [
        evaluate(side, little.corpus, little.queries, little.qrels) for side in (model, load(vectors__truncate_dim=8))
    ]
    for name, side in zip("ab", sides, strict=True):
        side.save(tmp_path / f"{name}.jsonl")
    assert compare(tmp_path / "a.jsonl", str(tmp_path / "b.jsonl")) == compare(*sides)


def test_saved_evaluations_are_compared_without_torch(model, little, tmp_path):
    """Reading and comparing files loads neither torch, transformers nor scipy."""
    evaluate(model, little.corpus, little.queries, little.qrels, resamples=100).save(tmp_path / "a.jsonl")
    code = (
        "import sys\nfrom embedprefs.evaluation import compare\n"
        "print(compare('a.jsonl', 'a.jsonl', margin=0.01).verdict)\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["equivalent", "[]"]


def test_the_metric_of_the_verdict_can_be_chosen():
    a, b = measured([1] * 30), measured([5] * 30)
    assert compare(a, b).verdict == "worse"
    found = compare(a, b, metric="recall@10")
    assert (found.metric, found.verdict) == ("recall@10", "undecided")
    assert list(found.metrics) == ["recall@10", "mrr@10"]
    with pytest.raises(InputError, match="ndcg@10 is not in both"):
        compare(a, b, metric="ndcg@10")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: replace(e, queries=e.queries[:-1]), "different queries: 1 only in A, 0 only in B"),
        (lambda e: replace(e, data=replace(e.data, digest="other")), "judgements or the corpus differ"),
        (lambda e: replace(e, settings={**e.settings, "relevance_level": 2}), "different relevance levels"),
        (lambda e: replace(e, metrics={"map@5": e.metrics["mrr@10"]}), "not in both"),
    ],
)
def test_evaluations_of_different_data_are_not_compared(change, expected):
    a = measured([1, 2, 3])
    with pytest.raises(InputError, match=expected):
        compare(a, change(a))


def test_another_corpus_is_other_data(model, little):
    """With more documents every figure is lower; that is no difference between models."""
    a = evaluate(model, little.corpus, little.queries, little.qrels, resamples=100)
    b = evaluate(model, {**little.corpus, "more": "w1 w2"}, little.queries, little.qrels, resamples=100)
    with pytest.raises(InputError, match="the corpus differ"):
        compare(a, b)


def test_the_order_of_the_corpus_is_no_difference(model, little):
    a = evaluate(model, little.corpus, little.queries, little.qrels)
    turned = dict(reversed(little.corpus.items()))
    assert compare(a, evaluate(model, turned, little.queries, little.qrels)).verdict == "equivalent"


def test_pairs_are_compared_by_the_difference_of_correlations(load, model):
    generator = np.random.default_rng(3)
    pairs = []
    for number in range(150):
        first = [f"w{at}" for at in generator.choice(60, 4, replace=False)]
        second = first[: number % 4] + [f"w{at}" for at in generator.choice(60, 4 - number % 4, replace=False)]
        pairs.append((" ".join(first), " ".join(second), float(number % 4)))
    sides = (model, load(vectors__truncate_dim=3))
    a, b = (evaluate_pairs(side, pairs, resamples=500) for side in sides)
    found = compare(a, b, margin=0.02, resamples=1000)
    assert found.verdict == "worse"
    assert found.result.difference == pytest.approx(b["spearman"] - a["spearman"])
    assert found.result.interval.low < found.result.difference < found.result.interval.high < 0
    assert found.result.p_value < 0.01
    assert "150 pairs: " in found.to_text()
    assert compare(a, a).verdict == "equivalent"
    with pytest.raises(InputError, match="scored pairs"):
        compare(a, measured([1, 2]))


def test_fidelity_is_not_compared_as_quality(model, little):
    kept = fidelity(model, model, little.corpus, queries=little.queries, resamples=100)
    with pytest.raises(InputError, match="Fidelity to a reference is no quality"):
        compare(kept, kept)


def test_json_holds_the_verdict_and_both_sides(model, little):
    a = evaluate(model, little.corpus, little.queries, little.qrels, resamples=100)
    found = json.loads(json.dumps(compare(a, a, margin=0.01).to_json()))
    assert (found["verdict"], found["within_margin"], found["is_acceptable"]) == ("equivalent", True, True)
    assert found["metrics"]["ndcg@10"]["a"] == a["ndcg@10"]
