"""Every store finds what a comparison with every vector in numpy finds."""

import math

import numpy as np
import pytest

from embedprefs.errors import InputError
from embedprefs_qdrant.stores import (
    CollectionLayout,
    Filter,
    Match,
    Nearest,
    Point,
    Prefetch,
    RankFusion,
    ScoreFusion,
    SearchParameters,
    SearchQuery,
    SparseVector,
    VectorLayout,
)

# The stub server's emulation tells that it searches exactly anyway.
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")

EXACT = SearchParameters(exact=True)


def unit(vector):
    return vector / np.linalg.norm(vector)


def ranked(scores, *, limit=None, reverse=True):
    return sorted(scores.items(), key=lambda item: item[1], reverse=reverse)[:limit]


def cosine_scores(points, name, query):
    return {point.id: float(unit(point.vectors[name]) @ unit(query)) for point in points}


def sparse_scores(points, query):
    """Inverse document frequency as the engine computes it: ln(1 + (n - df + 0.5) / (df + 0.5))."""
    texts = {
        point.id: dict(
            zip(
                *(part.tolist() for part in (point.vectors["words"].indices, point.vectors["words"].values)),
                strict=True,
            )
        )
        for point in points
    }
    count = len(texts)
    scores = {}
    for identity, weights in texts.items():
        total = 0.0
        for term, weight in zip(query.indices.tolist(), query.values.tolist(), strict=True):
            frequency = sum(term in other for other in texts.values())
            total += weight * weights.get(term, 0.0) * math.log(1 + (count - frequency + 0.5) / (frequency + 0.5))
        if any(term in weights for term in query.indices.tolist()):
            scores[identity] = total
    return scores


def maxsim_scores(points, query):
    return {point.id: float((query @ point.vectors["tokens"].T).max(axis=1).sum()) for point in points}


def fused(rankings, *, k, weights=None):
    scores = {}
    for ranking, weight in zip(rankings, weights or [1] * len(rankings), strict=True):
        for rank, (identity, _) in enumerate(ranking, start=1):
            scores[identity] = scores.get(identity, 0.0) + 1 / (k + rank / weight - 1)
    return scores


def added_up(rankings):
    """Distribution-based score fusion: each ranking scaled by its mean and standard deviation."""
    scores = {}
    for ranking in rankings:
        values = np.array([score for _, score in ranking])
        low, high = values.mean() - 3 * values.std(ddof=1), values.mean() + 3 * values.std(ddof=1)
        for identity, score in ranking:
            scores[identity] = scores.get(identity, 0.0) + (score - low) / (high - low)
    return scores


def assert_same_ranking(hits, wanted, tolerance=1e-5):
    """The same scores in the same order; points whose scores agree to rounding may change places."""
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=tolerance)
    scores = dict(wanted)
    last = wanted[-1][1] if wanted else 0.0
    for hit in hits:
        assert scores.get(hit.id, last) == pytest.approx(hit.score, abs=tolerance)
    assert len({hit.id for hit in hits}) == len(hits)


@pytest.fixture
def queries():
    generator = np.random.default_rng(99)
    return generator.normal(size=(5, 16)).astype(np.float32)


@pytest.fixture
def words():
    return SparseVector(np.array([3, 11, 29, 7]), np.array([1.0, 0.5, 2.0, 1.0], np.float32))


def test_dense_search_finds_the_nearest(filled, queries):
    answers = filled.store.search(
        filled.collection, [SearchQuery(Nearest(query, "dense"), limit=10, parameters=EXACT) for query in queries]
    )
    assert len(answers) == 5
    for query, hits in zip(queries, answers, strict=True):
        assert_same_ranking(hits, ranked(cosine_scores(filled.points, "dense", query), limit=10))


def test_a_hit_carries_its_payload_and_the_vectors_asked_for(filled, queries):
    [hits] = filled.store.search(
        filled.collection, [SearchQuery(Nearest(queries[0], "dense"), limit=3, payload=["number"], vectors=["small"])]
    )
    by_id = {point.id: point for point in filled.points}
    for hit in hits:
        assert hit.payload == {"number": by_id[hit.id].payload["number"]}
        assert set(hit.vectors) == {"small"}
        np.testing.assert_allclose(hit.vectors["small"], unit(by_id[hit.id].vectors["small"]), atol=1e-6)


def test_a_filter_holds_for_every_hit_and_loses_none(filled, queries):
    condition = Filter((Match("kind", "kind 1"),), (Match("flag", True),))
    kept = [p for p in filled.points if p.payload["kind"] == "kind 1" and not p.payload["flag"]]
    [hits] = filled.store.search(
        filled.collection, [SearchQuery(Nearest(queries[0], "dense"), limit=50, filter=condition)]
    )
    assert_same_ranking(hits, ranked(cosine_scores(kept, "dense", queries[0])))


def test_offset_and_threshold_cut_the_same_list(filled, queries):
    wanted = ranked(cosine_scores(filled.points, "dense", queries[1]))
    threshold = (wanted[7][1] + wanted[8][1]) / 2
    paged, cut = filled.store.search(
        filled.collection,
        [
            SearchQuery(Nearest(queries[1], "dense"), limit=5, offset=5, parameters=EXACT),
            SearchQuery(Nearest(queries[1], "dense"), limit=50, score_threshold=threshold, parameters=EXACT),
        ],
    )
    assert_same_ranking(paged, wanted[5:10])
    assert_same_ranking(cut, wanted[:8])


def test_sparse_search_weighs_rare_terms_more(filled, words):
    [hits] = filled.store.search(filled.collection, [SearchQuery(Nearest(words, "words"), limit=15)])
    assert_same_ranking(hits, ranked(sparse_scores(filled.points, words), limit=15), tolerance=1e-4)


def test_multivectors_are_compared_by_maxsim(filled):
    query = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    [hits] = filled.store.search(filled.collection, [SearchQuery(Nearest(query, "tokens"), limit=10, parameters=EXACT)])
    assert_same_ranking(hits, ranked(maxsim_scores(filled.points, query), limit=10), tolerance=1e-4)


@pytest.mark.parametrize("fusion", [RankFusion(), RankFusion(k=60), RankFusion(k=10, weights=(1.0, 3.0))])
def test_hybrid_search_fuses_both_rankings(filled, queries, words, fusion):
    query = SearchQuery.hybrid(
        Nearest(queries[2], "dense"), Nearest(words, "words"), limit=60, candidates=20, fusion=fusion, parameters=EXACT
    )
    [hits] = filled.store.search(filled.collection, [query])
    dense = ranked(cosine_scores(filled.points, "dense", queries[2]), limit=20)
    sparse = ranked(sparse_scores(filled.points, words), limit=20)
    wanted = ranked(fused([dense, sparse], k=fusion.k, weights=fusion.weights))
    assert_same_ranking(hits, wanted)


def test_hybrid_search_adds_up_the_scores_of_both_sides(filled, queries, words):
    """Each side's scores are put on one scale by their own distribution."""
    query = SearchQuery.hybrid(
        Nearest(queries[2], "dense"),
        Nearest(words, "words"),
        limit=60,
        candidates=20,
        fusion=ScoreFusion(),
        parameters=EXACT,
    )
    [hits] = filled.store.search(filled.collection, [query])
    dense = ranked(cosine_scores(filled.points, "dense", queries[2]), limit=20)
    sparse = ranked(sparse_scores(filled.points, words), limit=20)
    assert_same_ranking(hits, ranked(added_up([dense, sparse])), tolerance=1e-4)


def test_hybrid_search_applies_the_filter_before_it_takes_candidates(filled, queries, words):
    kept = [point for point in filled.points if point.payload["kind"] == "kind 2"]
    query = SearchQuery.hybrid(
        Nearest(queries[2], "dense"),
        Nearest(words, "words"),
        candidates=5,
        filter=Filter((Match("kind", "kind 2"),)),
        parameters=EXACT,
    )
    [hits] = filled.store.search(filled.collection, [query])
    dense = ranked(cosine_scores(kept, "dense", queries[2]), limit=5)
    wanted_ids = {identity for identity, _ in dense}
    assert wanted_ids <= {hit.id for hit in hits}
    assert {hit.id for hit in hits} <= {point.id for point in kept}


def test_a_query_without_terms_falls_back_to_the_dense_half(filled, queries):
    nothing = SparseVector(np.array([], int), np.array([]))
    hybrid, sparse, weighted = filled.store.search(
        filled.collection,
        [
            SearchQuery.hybrid(Nearest(queries[0], "dense"), Nearest(nothing, "words"), limit=5, parameters=EXACT),
            SearchQuery(Nearest(nothing, "words")),
            SearchQuery.hybrid(
                Nearest(queries[0], "dense"), Nearest(nothing, "words"), limit=5, fusion=RankFusion(weights=(1, 2))
            ),
        ],
    )
    dense = [identity for identity, _ in ranked(cosine_scores(filled.points, "dense", queries[0]), limit=5)]
    assert [hit.id for hit in hybrid] == dense
    assert [hit.id for hit in weighted] == dense
    assert sparse == []


def test_two_stages_rescore_the_first_dimensions_with_all_of_them(filled, queries):
    query = SearchQuery.two_stage(
        Nearest(queries[3][:4], "small"), Nearest(queries[3], "dense"), limit=5, candidates=12, parameters=EXACT
    )
    [hits] = filled.store.search(filled.collection, [query])
    first = {identity for identity, _ in ranked(cosine_scores(filled.points, "small", queries[3][:4]), limit=12)}
    chosen = [point for point in filled.points if point.id in first]
    assert_same_ranking(hits, ranked(cosine_scores(chosen, "dense", queries[3]), limit=5))


def test_maxsim_rescores_the_hits_of_a_dense_search(filled, queries):
    tokens = np.random.default_rng(6).normal(size=(2, 4)).astype(np.float32)
    query = SearchQuery.two_stage(
        Prefetch(Nearest(queries[4], "dense"), 15, parameters=EXACT), Nearest(tokens, "tokens"), limit=15
    )
    [hits] = filled.store.search(filled.collection, [query])
    first = {identity for identity, _ in ranked(cosine_scores(filled.points, "dense", queries[4]), limit=15)}
    chosen = [point for point in filled.points if point.id in first]
    assert_same_ranking(hits, ranked(maxsim_scores(chosen, tokens)), tolerance=1e-4)


def test_a_rescored_search_may_itself_be_a_fusion(filled, queries, words):
    candidates = Prefetch(
        RankFusion(),
        10,
        prefetch=(Prefetch(Nearest(queries[0], "dense"), 10, parameters=EXACT), Prefetch(Nearest(words, "words"), 10)),
    )
    [hits] = filled.store.search(
        filled.collection, [SearchQuery.two_stage(candidates, Nearest(queries[0], "dense"), limit=10)]
    )
    scores = cosine_scores(filled.points, "dense", queries[0])
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(hits) == 10


@pytest.mark.parametrize(
    ("vector", "using", "named"),
    [
        (np.ones(15), "dense", r"shape \(15,\)"),
        (np.full(16, np.nan), "dense", "NaN"),
        (np.ones(16), "absent", "has no vector 'absent'"),
        (np.ones(16), "words", "is sparse"),
    ],
)
def test_a_query_that_cannot_be_right_is_refused(filled, vector, using, named):
    with pytest.raises(InputError, match=named):
        filled.store.search(filled.collection, [SearchQuery(Nearest(vector, using))])


def test_a_query_with_impossible_numbers_cannot_be_made():
    nearest = Nearest(np.ones(2), "dense")
    for wrong in (
        lambda: SearchQuery(nearest, limit=0),
        lambda: SearchQuery(nearest, offset=-1),
        lambda: Prefetch(nearest, 0),
        lambda: SearchQuery(RankFusion()),
        lambda: SearchQuery(ScoreFusion()),
        lambda: SearchQuery(RankFusion(weights=(1.0,)), prefetch=(Prefetch(nearest, 1), Prefetch(nearest, 1))),
        lambda: RankFusion(k=0),
        lambda: RankFusion(weights=(1.0, -1.0)),
        lambda: SearchQuery.two_stage(Prefetch(nearest, 5), nearest, candidates=3),
    ):
        with pytest.raises(InputError):
            wrong()


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid", "manhattan"])
def test_each_distance_orders_as_it_should(store, distance):
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(20, 5)).astype(np.float32)
    query = generator.normal(size=5).astype(np.float32)
    store.ensure(f"by_{distance}", CollectionLayout({"dense": VectorLayout(5, distance)}))
    store.upsert(f"by_{distance}", [Point(number, {"dense": row}, {}) for number, row in enumerate(rows)])
    measure = {
        "cosine": lambda row: float(unit(row) @ unit(query)),
        "dot": lambda row: float(row @ query),
        "euclid": lambda row: float(np.linalg.norm(row - query)),
        "manhattan": lambda row: float(np.abs(row - query).sum()),
    }[distance]
    far = distance in {"cosine", "dot"}
    wanted = ranked({number: measure(row) for number, row in enumerate(rows)}, limit=20, reverse=far)
    [hits] = store.search(f"by_{distance}", [SearchQuery(Nearest(query, "dense"), limit=20)])
    assert_same_ranking(hits, wanted, tolerance=1e-4)
    threshold = (wanted[4][1] + wanted[5][1]) / 2
    [cut] = store.search(f"by_{distance}", [SearchQuery(Nearest(query, "dense"), limit=20, score_threshold=threshold)])
    assert_same_ranking(cut, wanted[:5], tolerance=1e-4)


def test_a_reserved_record_changes_no_score(filled, words):
    """The collection holds a record; inverse document frequencies count the texts alone."""
    best = ranked(sparse_scores(filled.points, words), limit=1)
    [hits] = filled.store.search(filled.collection, [SearchQuery(Nearest(words, "words"), limit=1)])
    assert filled.store.read_record(filled.collection) is not None
    assert hits[0].score == pytest.approx(best[0][1], abs=1e-4)
