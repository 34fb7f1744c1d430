"""Scores of every scale: similarities, distances, fused ranks and rerankers', and what is built upon them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError, load_preferences
from embedprefs.preferences import IndexPreferences
from embedprefs.testing import static_model_folder
from embedprefs_qdrant import Document, QdrantIngestor
from embedprefs_qdrant.diversity import scaled_relevance, select_diverse

WORDS = {
    "ant": [1.0, 0.0, 0.0, 0.0],
    "bee": [0.9, 0.3, 0.0, 0.0],
    "cat": [0.0, 1.0, 0.0, 0.0],
    "dog": [0.0, 0.0, 2.0, 0.0],
    "elk": [3.0, 0.1, 0.0, 0.0],
    "fly": [0.0, 0.0, 0.0, 0.1],
}


@pytest.fixture(scope="module")
def lengthy_model(tmp_path_factory):
    """A model whose vectors have different lengths."""
    return static_model_folder(tmp_path_factory.mktemp("lengthy") / "model", WORDS)


@pytest.fixture(scope="module", params=["cosine", "dot", "euclidean", "manhattan"])
def similarity(request):
    """Each way to compare."""
    return request.param


@pytest.fixture(scope="module", params=[":memory:", "edge"])
def measured(request, similarity, lengthy_model, tmp_path_factory):
    """An ingestor that compares by it, with one document a word; the tests share it."""
    folder = tmp_path_factory.mktemp("measured")
    file = folder / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{lengthy_model}"\n[vectors]\nsimilarity_fn_name = "{similarity}"\n')
    store = request.param if request.param == ":memory:" else f"edge:{folder / 'index'}"
    with warnings.catch_warnings():
        # The checks advise against such similarities for vectors of different lengths; here they are the subject.
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        with QdrantIngestor(load_preferences(file), store) as ingestor:
            ingestor.ingest([(word, word) for word in WORDS])
            yield ingestor


def by_hand(name):
    """Words by their score to "ant", best first."""
    query = np.array(WORDS["ant"])
    scores = {}
    for word, values in WORDS.items():
        vector = np.array(values)
        scores[word] = {
            "cosine": float(query @ vector / np.linalg.norm(vector)),
            "dot": float(query @ vector),
            "euclidean": -float(np.linalg.norm(query - vector)),
            "manhattan": -float(np.abs(query - vector).sum()),
        }[name]
    return sorted(scores.items(), key=lambda item: -item[1])


def kind(ingestor):
    return ingestor.space.resolved["vectors.similarity_fn_name"]


def shown(ingestor, score):
    """A score as hits carry it: distances are positive."""
    return -score if kind(ingestor) in ("euclidean", "manhattan") else score


def test_hits_are_in_the_order_of_their_own_measure(measured):
    """Similarities fall, distances grow."""
    wanted = by_hand(kind(measured))[:3]
    hits = measured.search("ant", limit=3)
    assert [hit.score for hit in hits] == pytest.approx([shown(measured, score) for _, score in wanted], abs=1e-5)
    assert [hit.source for hit in hits] == [word for word, _ in wanted]


def test_a_threshold_leaves_out_what_is_worse_by_the_measure(measured):
    """Below it for similarities, above it for distances."""
    wanted = by_hand(kind(measured))
    threshold = (wanted[1][1] + wanted[2][1]) / 2
    hits = measured.search("ant", limit=6, score_threshold=shown(measured, threshold))
    assert {hit.source for hit in hits} == {wanted[0][0], wanted[1][0]}


def test_mmr_at_one_is_the_order_of_the_scores(measured):
    """Also where the smallest score is the best one."""
    plain = [hit.source for hit in measured.search("ant", limit=3)]
    assert [hit.source for hit in measured.search("ant", limit=3, mmr=1.0)] == plain


def test_mmr_below_one_still_begins_with_the_best(measured):
    """Nothing is chosen yet that it could be like."""
    assert measured.search("ant", limit=4, mmr=0.5)[0].source == by_hand(kind(measured))[0][0]


def test_one_hit_per_document_keeps_the_best_by_the_measure(measured):
    """Each document comes once, with its nearest chunk."""
    measured.ingest([Document("two", "# A\n\nfly\n\n# B\n\nant", format="markdown")])
    hits = measured.search("ant", limit=7, per_document=1)
    assert len({hit.source for hit in hits}) == len(hits) == 7


def test_verifying_looks_at_lengths_where_they_count(measured):
    """A vector of the right direction and the wrong length gives other dot products and distances."""
    documents = [(word, word) for word in WORDS]
    point = next(p for p in measured.store.scroll("documents", vectors=True) if p.payload["source"] == "elk")
    from embedprefs_qdrant.stores import Point

    measured.store.upsert("documents", [Point(point.id, {"dense": 1.5 * point.vectors["dense"]}, point.payload)])
    report = measured.verify(documents, sample=6)
    assert list(report.deviating) == ([] if kind(measured) == "cosine" else [point.id])
    repaired = measured.verify(documents, sample=6, repair=True)
    assert repaired.is_good or repaired.repaired
    assert measured.verify(documents, sample=6).is_good


def test_scaled_relevance_is_one_for_the_first_and_zero_for_the_last():
    """Whichever way the scale runs."""
    assert scaled_relevance([0.2, 0.6, 1.2]).tolist() == pytest.approx([1.0, 0.6, 0.0])
    assert scaled_relevance([5.0, 3.0, 1.0]).tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert scaled_relevance([2.0, 2.0]).tolist() == [1.0, 1.0]
    assert scaled_relevance([]).tolist() == []


def test_diversity_with_known_relevance_by_hand():
    """The second is the first again; the third is worse and different."""
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert select_diverse(np.array([1.0, 0.9, 0.0], dtype=np.float32), vectors, 0.5, 2) == [0, 2]


FIRST = ("ban", "kem", "lil", "mor", "rus", "sat")
SECOND = ("tik", "tip", "sal", "rur", "moss", "lin")
QUESTION = "kem rur"


@pytest.fixture
def hybrid(make_ingestor, store):
    """Thirty-six notes of two words, with dense and sparse vectors; no two of them are alike."""
    ingestor = make_ingestor(store, hybrid=True, two_stage_dims=8)
    ingestor.ingest(
        [
            (f"{a} {b}", " ".join([a] * (1 + x) + [b] * (1 + y)))
            for x, a in enumerate(FIRST)
            for y, b in enumerate(SECOND)
        ]
    )
    return ingestor


def test_a_similarity_threshold_in_a_hybrid_search_is_explained(hybrid):
    """No fused rank reaches 1.5: an empty answer would look like one."""
    with pytest.raises(InputError, match=r"(?s)at most 1\.0000.*hybrid=False"):
        hybrid.search(QUESTION, score_threshold=1.5)
    assert hybrid.search(QUESTION, score_threshold=0.5, hybrid=False) != []


def test_a_threshold_on_fused_ranks_keeps_the_best(hybrid):
    """On the scale of the hits' own scores."""
    hits = hybrid.search(QUESTION, limit=20)
    assert hits[0].source == QUESTION
    assert hits[0].score > hits[1].score
    [best] = hybrid.search(QUESTION, limit=20, score_threshold=(hits[0].score + hits[1].score) / 2)
    assert best.id == hits[0].id


def test_hybrid_over_two_stages_gives_what_hybrid_over_all_dimensions_gives(hybrid):
    """With more candidates than points the first stage loses nothing."""
    two = hybrid.search(QUESTION, limit=5)
    one = hybrid.search(QUESTION, limit=5, two_stage=False)
    assert [hit.score for hit in two] == pytest.approx([hit.score for hit in one], abs=1e-6)


def test_mmr_and_grouping_work_on_fused_ranks(hybrid):
    """At 1 the order is the fused one; the options go together."""
    plain = [hit.score for hit in hybrid.search(QUESTION, limit=5)]
    assert [hit.score for hit in hybrid.search(QUESTION, limit=5, mmr=1.0)] == pytest.approx(plain, abs=1e-6)
    hits = hybrid.search(QUESTION, limit=5, mmr=0.5, per_document=1, offset=2)
    assert len({hit.source for hit in hits}) == 5


def test_one_document_with_many_near_passages_does_not_hide_the_others(make_ingestor, store):
    """More passages than candidates are asked for at first."""
    crowd = "\n\n".join(f"## Part {number}\n\nBan kel {number}." for number in range(120))
    ingestor = make_ingestor(store, chunk_tokens=8)
    others = [(f"other {number}", f"Ban rut sat {number}.") for number in range(4)]
    ingestor.ingest([Document("crowd", crowd, format="markdown"), *others])
    assert {hit.source for hit in ingestor.search("ban kel", limit=50)} == {"crowd"}
    hits = ingestor.search("ban kel", limit=5, per_document=1)
    assert {hit.source for hit in hits} == {"crowd", *(name for name, _ in others)}
    assert [hit.source for hit in ingestor.search("ban kel", limit=3, offset=2, per_document=1)] == [
        hit.source for hit in hits[2:]
    ]


def test_exactness_of_the_preferences_is_obeyed(make_ingestor, store):
    """`index.hnsw.exact` is what a search without a word of its own does."""
    from embedprefs.preferences import HnswPreferences

    ingestor = make_ingestor(store, hnsw=HnswPreferences(exact=True, m=4, ef_construct=16))
    ingestor.ingest([("a", "Ban kel.")])
    sent = []
    search = ingestor.store.search

    def record(collection, queries):
        sent.extend(query.parameters.exact for query in queries)
        return search(collection, queries)

    ingestor.store.search = record
    ingestor.search("ban")
    ingestor.search("ban", exact=False)
    assert sent == [True, False]


def test_an_alias_that_leads_elsewhere_is_noticed(loaded_model, model_folder, store):
    """A service goes on while the alias is switched to a collection of another identity."""
    from embedprefs import PreferenceMismatchError
    from embedprefs_qdrant.spaces import ModelSpace

    with QdrantIngestor(loaded_model, store, collection="old") as old:
        old.ingest([("a", "Ban kel.")])
        old.store.switch("current", "old")
        other = ModelSpace(str(model_folder), overrides={"prompts.document": "mos "})
        with QdrantIngestor(other, old.store, collection="new") as new:
            new.ingest([("a", "Ban kel.")])
        with QdrantIngestor(loaded_model, old.store, collection="current") as service:
            service.searcher.recheck_seconds = 0.0
            assert service.search("ban")[0].source == "a"
            assert service.ingest([("a", "Ban kel.")]).unchanged == 1
            old.store.switch("current", "new")
            with pytest.raises(PreferenceMismatchError, match="mos"):
                service.search("ban")


def test_a_first_stage_is_refused_for_a_vector_that_has_none(loaded_model, model_folder):
    """No option is ignored."""
    from embedprefs.preferences import NamedVectorPreferences

    named = NamedVectorPreferences.model_validate({"model": {"name": str(model_folder)}})
    index = IndexPreferences(two_stage_dims=8, vectors={"other": named})
    with QdrantIngestor(loaded_model, ":memory:", index=index) as ingestor:
        ingestor.ingest([("a", "Ban kel.")])
        assert ingestor.search("ban", two_stage=True)
        with pytest.raises(InputError, match="'other' has no short one"):
            ingestor.search("ban", two_stage=True, vector="other")
