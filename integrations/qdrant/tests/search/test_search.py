"""Questions in, passages out, compared with numpy over all vectors."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import InputError
from embedprefs_qdrant import QdrantIngestor
from embedprefs_qdrant.searching import maximal_marginal_relevance

QUERY = "ban kel lim mos rut"


@pytest.fixture
def filled(make_ingestor, corpus, store):
    """An ingestor over a filled collection."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    return ingestor


def brute_force(ingestor, query, condition=lambda _payload: True):
    """Ids of all points by cosine, best first; payload and score by id."""
    vector = ingestor.space.embed_queries([query])[0]
    rows = {}
    for point in ingestor.store.scroll(ingestor.collection.name, vectors=True):
        if condition(point.payload):
            rows[point.id] = (float(point.vectors["dense"] @ vector / np.linalg.norm(vector)), point.payload)
    return dict(sorted(rows.items(), key=lambda item: -item[1][0]))


def test_hits_are_those_of_brute_force(filled):
    """The same passages, the same scores, in the same order."""
    wanted = brute_force(filled, QUERY)
    hits = filled.search(QUERY, limit=20, exact=True)
    assert np.allclose([hit.score for hit in hits], [score for score, _ in wanted.values()][:20], atol=1e-5)
    for hit in hits:
        score, payload = wanted[hit.id]
        assert hit.score == pytest.approx(score, abs=1e-5)
        assert (hit.text, hit.source, hit.start, hit.end) == (
            payload["text"],
            payload["source"],
            payload["start"],
            payload["end"],
        )


def test_an_offset_continues_where_the_limit_ended(filled):
    """Two pages of five are the first ten."""
    whole = [hit.score for hit in filled.search(QUERY, limit=10)]
    pages = [hit.score for offset in (0, 5) for hit in filled.search(QUERY, limit=5, offset=offset)]
    assert pages == pytest.approx(whole, abs=1e-6)


def test_a_path_pattern_keeps_hits_within_a_folder(filled):
    """And nothing that belongs to the folder is lost."""
    wanted = brute_force(filled, QUERY, lambda payload: payload["source"].startswith("part1/"))
    hits = filled.search(QUERY, limit=10, where="path=part1/*")
    assert {hit.source.split("/")[0] for hit in hits} == {"part1"}
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in list(wanted.values())[:10]], abs=1e-5)


def test_a_score_threshold_leaves_out_worse_hits(filled):
    """All above it, none below it."""
    wanted = [score for score, _ in brute_force(filled, QUERY).values()]
    threshold = (wanted[6] + wanted[7]) / 2
    assert len(filled.search(QUERY, limit=50, score_threshold=threshold)) == 7


def test_one_hit_per_document(filled):
    """Each document's best passage, in the order of these."""
    hits = filled.search(QUERY, limit=5, per_document=1)
    assert len(hits) == len({hit.source for hit in hits}) == 5
    best = {}
    for score, payload in brute_force(filled, QUERY).values():
        best.setdefault(payload["source"], score)
    assert [hit.score for hit in hits] == pytest.approx(list(best.values())[:5], abs=1e-5)


def test_several_questions_are_answered_in_their_order(filled):
    """A batch gives what single questions give."""
    questions = [QUERY, "sat til kep"]
    together = filled.search(questions, limit=4)
    for question, hits in zip(questions, together, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in filled.search(question, limit=4)]


def test_hybrid_search_finds_the_rare_word(make_ingestor, store):
    """A word that the dense model does not know is found by the sparse side, and fusing keeps both."""
    ingestor = make_ingestor(store, hybrid=True)
    notes = [(f"note {number}", f"Ban kel lim number {number}.") for number in range(30)]
    ingestor.ingest([*notes, ("the one", "Ban kel lim xylophone.")])
    assert ingestor.search("xylophone", limit=1)[0].source == "the one"
    assert "sparse" in ingestor.status().vectors


def test_two_stage_search_scores_with_all_dimensions(make_ingestor, corpus, store):
    """The short vectors choose candidates, the full ones order them."""
    ingestor = make_ingestor(store, two_stage_dims=8)
    ingestor.ingest(str(corpus))
    wanted = brute_force(ingestor, QUERY)
    hits = ingestor.search(QUERY, limit=3)
    assert [hit.score for hit in hits] == pytest.approx([wanted[hit.id][0] for hit in hits], abs=1e-5)
    assert hits[0].score == pytest.approx(next(iter(wanted.values()))[0], abs=1e-5)


def test_mmr_is_relevance_at_one_and_spreads_below(filled):
    """At 1 the order is that of the scores; at 0.3 the chosen passages are less alike."""
    plain = filled.search(QUERY, limit=6)
    assert [hit.id for hit in filled.search(QUERY, limit=6, mmr=1.0)] == [hit.id for hit in plain]
    spread = filled.search(QUERY, limit=6, mmr=0.3)
    vectors = {point.id: point.vectors["dense"] for point in filled.store.scroll("documents", vectors=True)}

    def alikeness(hits):
        matrix = np.stack([vectors[hit.id] for hit in hits])
        return float((matrix @ matrix.T).mean())

    assert alikeness(spread) < alikeness(plain)


def test_mmr_by_hand():
    """Three candidates: the second is the first again, the third is another direction."""
    query = np.array([1.0, 0.2], dtype=np.float32)
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert maximal_marginal_relevance(query, vectors, 0.5, 3) == [0, 2, 1]
    assert maximal_marginal_relevance(query, vectors, 1.0, 3) == [0, 1, 2]


def test_a_missing_collection_is_named_with_those_that_exist(make_ingestor, store):
    """A typo in the name gets an answer to go on with."""
    with pytest.raises(InputError, match="there is no collection 'documents'"):
        make_ingestor(store).search(QUERY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"offset": -1}, "offset is -1"),
        ({"mmr": 1.5}, "mmr is 1.5"),
        ({"hybrid": True}, "index.hybrid"),
        ({"rerank": True}, "rerank"),
        ({"two_stage": True}, "two_stage_dims"),
        ({"vector": "small"}, "no vector 'small'"),
    ],
)
def test_options_that_cannot_be_met_are_refused(filled, options, words):
    """No option is ignored."""
    with pytest.raises(InputError, match=words):
        filled.search(QUERY, **options)


def test_queries_get_the_query_prompt(model_folder, corpus, store):
    """The prompt changes the vector that is searched with."""
    from embedprefs_qdrant.spaces import ModelSpace

    space = ModelSpace(str(model_folder), overrides={"prompts.query": "sat til kep "})
    with QdrantIngestor(space, store, root=corpus) as ingestor:
        ingestor.ingest(str(corpus))
        plain = ingestor.space.embed_documents([QUERY])[0]
        asked = ingestor.space.embed_queries([QUERY])[0]
        assert not np.allclose(plain, asked, atol=1e-3)
        wanted = brute_force(ingestor, QUERY)
        assert ingestor.search(QUERY, limit=1)[0].id == next(iter(wanted))
