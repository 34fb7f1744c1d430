"""Finding documents: order, filters, relevance on one scale, difference, and both rankings fused."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from embedprefs import InputError
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant.stores.filters import Filter, Match
from langchain_embedprefs import EmbedPrefsEmbeddings
from langchain_embedprefs.searching import relevance_of


class Table(Embeddings):
    """Embeddings that look a text up; any other text has a fixed vector."""

    def __init__(self, vectors):
        self.vectors = vectors

    def embed_query(self, text):
        return list(self.vectors.get(text, (0.6, 0.8)))

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


UNIT = Table({"query": (1, 0), "same": (1, 0), "near": (0.8, 0.6), "across": (0, 1), "opposite": (-1, 0)})
ORDER = ["same", "near", "across", "opposite"]
LONG = Table({"query": (2, 0), "same": (3, 0), "near": (1, 1), "across": (0, 5), "opposite": (-2, 0)})


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_relevance_of_unit_vectors_is_the_same_for_every_distance(make_store, distance):
    """(1 + cosine) / 2, so that a threshold keeps its meaning; most similar first."""
    store = make_store(UNIT, distance=distance)
    store.add_texts(ORDER, ids=ORDER)
    found = store.similarity_search_with_relevance_scores("query", k=4)
    assert [document.id for document, _ in found] == ORDER
    assert [score for _, score in found] == pytest.approx([1.0, 0.9, 0.5, 0.0], abs=1e-6)
    kept = store.similarity_search_with_relevance_scores("query", k=4, score_threshold=0.8)
    assert [document.id for document, _ in kept] == ["same", "near"]


@pytest.mark.parametrize(
    ("distance", "order"),
    [
        ("dot", ["same", "near", "across", "opposite"]),
        ("euclid", ["same", "near", "opposite", "across"]),
        ("manhattan", ["same", "near", "opposite", "across"]),
    ],
)
def test_relevance_of_other_vectors_falls_with_the_distance_and_stays_between_0_and_1(make_store, distance, order):
    """The most similar has the greatest relevance, whichever way the store's score runs."""
    store = make_store(LONG, distance=distance)
    store.add_texts(ORDER, ids=ORDER)
    found = store.similarity_search_with_relevance_scores("query", k=4)
    scores = [score for _, score in found]
    assert {document.id for document, _ in found[:2]} == set(order[:2])
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert scores[0] > 0.5 or distance == "manhattan"


def test_rounding_never_leaves_the_scale():
    """A similarity a little beyond 1 is 1."""
    assert relevance_of(1.0000000017, "cosine", unit_length=True) == 1.0
    assert relevance_of(-1.0000001, "cosine", unit_length=True) == 0.0
    assert relevance_of(2.0000002, "euclid", unit_length=True) == 0.0


def test_the_store_says_what_its_distance_gives(make_store):
    """Scores are the store's own where relevance is not asked for."""
    store = make_store(UNIT, distance="euclid")
    store.add_texts(ORDER, ids=ORDER)
    scores = [score for _, score in store.similarity_search_with_score("query", k=4)]
    assert scores == pytest.approx([0.0, np.sqrt(0.4), np.sqrt(2.0), 2.0], abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
def test_lambda_of_1_is_relevance_and_of_0_is_difference(make_store, bert, weight):
    """As LangChain's own function chooses."""
    store = make_store(bert)
    texts = ["a red apple", "a red apple tree", "red apples", "the blue sky", "a cloudy sky", "green grass"]
    store.add_texts(texts, ids=texts)
    query = "a red apple"
    vectors = list(bert.embed_documents_array(texts))
    chosen = maximal_marginal_relevance(bert.embed_query_array(query), vectors, lambda_mult=weight, k=3)
    found = store.max_marginal_relevance_search(query, k=3, fetch_k=6, lambda_mult=weight)
    assert [document.id for document in found] == [texts[place] for place in chosen]
    if weight == 1.0:
        assert found == store.similarity_search(query, k=3)


def test_mmr_chooses_from_fetch_k_documents_and_never_from_fewer_than_k(make_store):
    """The candidates are the nearest, however different others are."""
    store = make_store(UNIT)
    store.add_texts(ORDER, ids=ORDER)
    found = store.max_marginal_relevance_search("query", k=2, fetch_k=2, lambda_mult=0.0)
    assert [document.id for document in found] == ["same", "near"]
    found = store.max_marginal_relevance_search("query", k=2, fetch_k=4, lambda_mult=0.0)
    assert [document.id for document in found] == ["same", "opposite"]
    assert len(store.max_marginal_relevance_search("query", k=4, fetch_k=1)) == 4
    with pytest.raises(InputError, match="lambda_mult is 2"):
        store.max_marginal_relevance_search("query", lambda_mult=2)


@pytest.fixture
def letters(make_store):
    """Six documents with metadata."""
    store = make_store(UNIT)
    store.add_documents(
        [
            Document(id="a", page_content="1", metadata={"year": 1990, "kind": "note", "by": {"name": "Ada"}}),
            Document(id="b", page_content="2", metadata={"year": 2000, "kind": "letter", "tags": ["x", "y"]}),
            Document(id="c", page_content="3", metadata={"year": 2010, "kind": "letter", "read": True}),
            Document(id="d", page_content="4", metadata={"year": 2020, "kind": "card", "tags": ["y"]}),
            Document(id="e", page_content="5", metadata={"year": 2020, "kind": "note", "read": None}),
            Document(id="f", page_content="6"),
        ]
    )
    return store


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, "abcdef"),
        ({}, "abcdef"),
        ({"kind": "note"}, "ae"),
        ({"kind": {"$eq": "note"}}, "ae"),
        ({"kind": {"$ne": "note"}}, "bcdf"),
        ({"kind": ["note", "card"]}, "ade"),
        ({"kind": {"$in": ["note", "card"]}}, "ade"),
        ({"kind": {"$nin": ["note", "card"]}}, "bcf"),
        ({"year": {"$gte": 2000, "$lt": 2020}}, "bc"),
        ({"year": {"gt": 2000}, "kind": "letter"}, "c"),
        ({"$and": [{"year": {"$lte": 2000}}, {"kind": "note"}]}, "a"),
        ({"tags": "y"}, "bd"),
        ({"by.name": "Ada"}, "a"),
        ({"read": True}, "c"),
        ({"read": {"$exists": True}}, "c"),
        ({"year": {"$exists": False}}, "f"),
        ({"year": None}, "f"),
        (Filter(must=(Match("metadata.kind", "note"),)), "ae"),
    ],
)
def test_filters_hold(letters, condition, expected):
    """In every form that is allowed."""
    found = letters.similarity_search("query", k=10, filter=condition)
    assert sorted(document.id for document in found) == list(expected)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"year": {"$gtt": 3}}, "Did you mean"),
        ({"$or": [{"kind": "note"}]}, r"\$or"),
        (lambda document: True, "filter is a function"),
        ({"$and": {"kind": "note"}}, r"\$and of a filter"),
    ],
)
def test_filters_that_would_not_hold_are_refused(letters, condition, message):
    """Rather than left out."""
    with pytest.raises(InputError, match=message):
        letters.similarity_search("query", filter=condition)


def test_unknown_options_are_refused(letters):
    """With the nearest known one."""
    with pytest.raises(InputError, match="Did you mean score_threshold"):
        letters.similarity_search("query", score_treshold=0.5)
    with pytest.raises(InputError, match="k is 0"):
        letters.similarity_search("query", k=0)


def test_offset_pages_through_the_same_order(make_store, bert):
    """No document twice, none left out, with both rankings fused as well."""
    store = make_store(bert, index=IndexPreferences(hybrid=True))
    texts = [f"note {number} about apples and the number {number * 7}" for number in range(40)]
    store.add_texts(texts, ids=texts)
    for hybrid in (False, True):
        whole = store.similarity_search("note about apples", k=40, hybrid=hybrid)
        pages = [
            document
            for start in range(0, 40, 10)
            for document in store.similarity_search("note about apples", k=10, offset=start, hybrid=hybrid)
        ]
        assert len({document.id for document in whole}) == 40
        assert {document.id for document in pages} == {document.id for document in whole}


def test_hybrid_search_finds_what_only_the_words_say(make_store, minilm_embeddings):
    """A rare word that the dense ranking misses comes up; relevance stays between 0 and 1."""
    store = make_store(minilm_embeddings, index=IndexPreferences(hybrid=True))
    texts = [f"a tale of a loyal puppy, part {number}" for number in range(20)]
    store.add_texts([*texts, "inventory item xq4471zz, shelf two"])
    query = "friendly dog xq4471zz"
    found = store.similarity_search_with_relevance_scores(query, k=5)
    assert any("xq4471zz" in document.page_content for document, _ in found)
    assert all(0.0 < score <= 1.0 for _, score in found)
    dense = store.similarity_search(query, k=5, hybrid=False)
    assert not any("xq4471zz" in document.page_content for document in dense)
    with pytest.raises(InputError, match="needs the query's text"):
        store.similarity_search_by_vector(minilm_embeddings.embed_query(query), hybrid=True)


def test_hybrid_without_a_sparse_vector_is_refused(letters):
    """Rather than answered by half."""
    with pytest.raises(InputError, match="no sparse vector"):
        letters.similarity_search("query", hybrid=True)


def test_several_queries_are_embedded_and_searched_together(make_store, static):
    """One call of the model; each query gets its own answers."""
    store = make_store(static)
    store.add_texts(["red apple", "blue sky", "green tree"], ids=["1", "2", "3"])
    queries = ["red apple", "green tree", "blue sky"]
    expected = [store.similarity_search(query, k=2) for query in queries]
    before = static.report.calls
    assert store.similarity_search_batch(queries, k=2) == expected
    assert static.report.calls == before + 1


def test_two_stages_find_what_one_finds(make_store, bert_folder):
    """The first dimensions choose, all of them score."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    store = make_store(embeddings, index=IndexPreferences(two_stage_dims=16))
    texts = [f"sky number {number}" for number in range(30)]
    store.add_texts(texts, ids=texts)
    [(found, score)] = store.similarity_search_with_score_by_vector(embeddings.embed_documents([texts[7]])[0], k=1)
    assert (found.id, score) == (texts[7], pytest.approx(1.0, abs=1e-6))


def test_the_retriever_takes_every_search_type(letters):
    """And k from wherever it is stated last."""
    assert len(letters.as_retriever(k=2).invoke("query")) == 2
    assert len(letters.as_retriever(k=2).invoke("query", k=3)) == 3
    assert len(letters.as_retriever(search_kwargs={"k": 5}).invoke("query")) == 5
    assert len(letters.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 6}).invoke("query")) == 2
    threshold = letters.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99})
    assert threshold.invoke("query") == []
    filtered = letters.as_retriever(search_kwargs={"filter": {"kind": "card"}})
    assert [document.id for document in filtered.invoke("query")] == ["d"]
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        letters.as_retriever(k=0)


def test_a_trace_names_provider_and_model(make_store, static, static_folder):
    """What LangSmith asks for."""
    parameters = make_store(static).as_retriever()._get_ls_params()
    assert parameters["ls_embedding_provider"] == "EmbedPrefsEmbeddings"
    assert parameters["ls_embedding_model"] == static_folder
    assert parameters["ls_vector_store_provider"] == "EmbedPrefsVectorStore"
