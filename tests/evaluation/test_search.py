"""Exact search in bounded memory: the same hits as a full sort, whatever the vectors are made of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from embedprefs.errors import InputError
from embedprefs.evaluation.search import ExactSearch, NearestDocuments, id_order
from embedprefs.evaluation.vectors import VectorForm


def by_sorting(scores, ids, depth):
    """Return the hits that sorting everything gives: by score, then by id, both falling."""
    return [
        [ids[at] for at in sorted(range(len(ids)), key=lambda at: (row[at], ids[at]), reverse=True)[:depth]]
        for row in scores
    ]


def found_in_chunks(form, queries, documents, ids, depth, size):
    search = ExactSearch(form, form.prepared(queries), ids, depth)
    for start in range(0, len(ids), size):
        search.add(ids[start : start + size], documents[start : start + size])
    return search.found()


@pytest.mark.parametrize("size", [1, 7, 50, 200])
@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_chunks_change_nothing_and_ties_go_to_the_larger_id(similarity, size):
    """Small whole numbers, so that many scores are exactly equal, negative ones and zeros among them."""
    generator = np.random.default_rng(3)
    documents = generator.integers(-1, 2, size=(200, 4)).astype(np.float32)
    queries = generator.integers(-1, 2, size=(9, 4)).astype(np.float32)
    ids = [f"d{number}" for number in generator.permutation(200)]
    form = VectorForm("float32", similarity)
    scores = form.scores(form.prepared(queries), form.prepared(documents))
    hits = found_in_chunks(form, queries, documents, ids, 20, size)
    assert [[doc for doc, _ in row] for row in hits] == by_sorting(scores.tolist(), ids, 20)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_scores_are_the_hosts(similarity):
    from sentence_transformers.util import cos_sim, dot_score, euclidean_sim, manhattan_sim

    host = {"cosine": cos_sim, "dot": dot_score, "euclidean": euclidean_sim, "manhattan": manhattan_sim}[similarity]
    generator = np.random.default_rng(0)
    queries, documents = (generator.normal(size=(count, 24)).astype(np.float32) for count in (5, 40))
    form = VectorForm("float32", similarity)
    ours = form.scores(form.prepared(queries), form.prepared(documents))
    assert ours == pytest.approx(host(queries, documents).numpy(), abs=1e-5)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_compared_by_the_hamming_distance(precision):
    """The host's packed bits, signed or not; compared with counting the bits that differ."""
    from sentence_transformers.util.quantization import quantize_embeddings

    generator = np.random.default_rng(5)
    queries, documents = (
        np.asarray(quantize_embeddings(generator.normal(size=(count, 64)).astype(np.float32), precision=precision))
        for count in (6, 90)
    )
    assert queries.dtype == (np.int8 if precision == "binary" else np.uint8)
    form = VectorForm(precision, "cosine")
    assert form.similarity == "hamming"
    expected = [
        [
            1 - sum(((int(a) ^ int(b)) & 0xFF).bit_count() for a, b in zip(query, doc, strict=True)) / 64
            for doc in documents
        ]
        for query in queries
    ]
    scores = form.scores(form.prepared(queries), form.prepared(documents))
    assert scores == pytest.approx(np.array(expected), abs=1e-6)


def test_int8_vectors_are_compared_as_the_codes_they_are():
    generator = np.random.default_rng(5)
    queries, documents = (generator.integers(-128, 128, size=(count, 300)).astype(np.int8) for count in (3, 20))
    form = VectorForm("int8", "dot")
    scores = form.scores(form.prepared(queries), form.prepared(documents))
    assert scores.tolist() == (queries.astype(int) @ documents.astype(int).T).tolist()


def test_a_document_that_is_left_out_is_no_hit():
    form = VectorForm("float32", "dot")
    ids = ["a", "b", "c"]
    search = ExactSearch(form, form.prepared(np.eye(2)), ids, 3, left_out={0: "a"})
    search.add(ids, np.array([[9.0, 9.0], [2.0, 2.0], [1.0, 1.0]]))
    assert search.found() == [[("b", 2.0), ("c", 1.0)], [("a", 9.0), ("b", 2.0), ("c", 1.0)]]


def test_many_queries_are_compared_in_blocks_of_bounded_size():
    best = NearestDocuments(10_000, 100)
    blocks = best.blocks(4_000)
    assert blocks[0].start == 0
    assert blocks[-1].stop == 10_000
    assert all(one.stop == other.start for one, other in pairwise(blocks))
    assert max(block.stop - block.start for block in blocks) * 4_100 <= 2_000_000


def test_places_follow_the_sorted_ids():
    assert id_order(["b", "a", "é", "10", "9"]).tolist() == [3, 2, 4, 0, 1]


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[np.nan, 1.0]], "NaN or infinity"),
        ([[1.0, np.inf]], "position 0"),
        ([1.0, 2.0], "shape"),
        (np.array([[1, 2]], dtype=np.int8), "codes or bits"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors, expected):
    with pytest.raises(InputError, match=expected):
        VectorForm("float32", "cosine").prepared(vectors)


def test_queries_and_documents_of_different_lengths_are_refused():
    form = VectorForm("float32", "cosine")
    search = ExactSearch(form, form.prepared(np.eye(3)), ["a"], 1)
    with pytest.raises(InputError, match="3 dimensions and its documents 2"):
        search.add(["a"], np.ones((1, 2)))


def test_an_unknown_similarity_is_refused():
    with pytest.raises(InputError, match="cosine, dot, euclidean, manhattan"):
        VectorForm("float32", "jaccard")
