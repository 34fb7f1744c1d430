"""Documents into the store and back: ids, metadata, what is embedded again, and what a failure leaves."""

from __future__ import annotations

import datetime as dt
import uuid

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from embedprefs import (
    EmbedPrefsWarning,
    InputError,
    InvalidPreferenceError,
    PartialResultError,
    PreferenceMismatchError,
    load_model,
)
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant.stores import ClientStore, UploadError
from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsVectorStore

METADATA = {
    "_id": "mine",
    "year": 2021,
    "ratio": 0.5,
    "whole": 2.0,
    "draft": False,
    "none": None,
    "tags": ["a", "b"],
    "nested": {"deep": [1, {"er": "x"}]},
    "größe": "wide",
}


def document(text, identifier=None, **metadata):
    return Document(id=identifier, page_content=text, metadata=metadata)


def embedded(store, call):
    """How many texts a call embedded."""
    before = store.embeddings.report.texts
    call()
    return store.embeddings.report.texts - before


def test_metadata_comes_back_exactly_and_nothing_is_added(make_store, static):
    """Not even where a name is one that others add."""
    store = make_store(static)
    original = Document(id="a", page_content="red apple", metadata=METADATA)
    store.add_documents([original])
    [found] = store.similarity_search("red apple", k=1)
    assert found == original
    assert store.get_by_ids(["a"]) == [original]
    assert type(found.metadata["whole"]) is float
    assert original.metadata == METADATA


def test_any_text_is_an_id(make_store, static):
    """Texts, digests, UUIDs in any spelling, and numbers written as texts, each of its own."""
    ids = ["1", "notes/a.md#3", "ü" * 300, "a" * 64, str(uuid.UUID(int=7)), uuid.UUID(int=7).hex, "7"]
    store = make_store(static)
    assert store.add_texts([f"red {place}" for place in range(len(ids))], ids=ids) == ids
    assert [found.id for found in store.get_by_ids(ids)] == ids
    assert [found.page_content for found in store.get_by_ids(list(reversed(ids)))] == [
        f"red {place}" for place in reversed(range(len(ids)))
    ]


def test_a_generator_of_texts_is_stored(make_store, static):
    """Every text of it."""
    store = make_store(static)
    ids = store.add_texts(f"red {number}" for number in range(10))
    assert len(ids) == len(set(ids)) == 10
    assert store.store.count("notes") == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: store.add_texts(["red", "blue"], ids=["1"]), "2 documents and 1 ids"),
        (lambda store: store.add_texts(["red", "blue"], [{}]), "2 texts and 1 metadata"),
        (lambda store: store.add_texts("red"), "one text"),
        (lambda store: store.add_texts(["red", None]), "Input 1 is a NoneType"),
        (lambda store: store.add_texts(["red"], ids=[""]), "id of input 0"),
        (lambda store: store.add_texts(["red", "blue"], ids=["1", "1"]), "Two different documents"),
        (lambda store: store.add_texts(["red"], [{"file": object()}]), "file is a object"),
        (lambda store: store.add_texts(["red"], [{"rate": float("nan")}]), "rate is nan"),
        (lambda store: store.add_texts(["red \ud800"]), "surrogate"),
        (lambda store: store.add_texts(["red"], batch=3), "'batch'"),
        (lambda store: store.add_documents(["red"]), "Input 0 is a str"),
        (lambda store: store.delete(), "neither ids nor a filter"),
    ],
)
def test_what_cannot_be_stored_is_refused_whole(make_store, static, call, message):
    """Nothing is stored, nothing is dropped in silence, and nothing is embedded."""
    store = make_store(static)
    with pytest.raises(InputError, match=message):
        call(store)
    assert store.store.collections() == []
    assert not static.loaded


def test_adding_again_embeds_nothing(make_store, static):
    """With ids and without: the id of a document that has none is made of its content."""
    store = make_store(static)
    documents = [document("red apple", "1", year=1), document("blue sky"), document("blue sky", year=2)]
    first = store.add_documents(documents)
    assert embedded(store, lambda: store.add_documents(documents)) == 0
    assert store.add_documents(documents) == first
    assert store.store.count("notes") == 3


def test_an_unchanged_run_loads_no_model(make_store, static, static_folder):
    """Comparing hashes is enough."""
    store = make_store(static)
    store.add_texts(["red apple", "blue sky"], ids=["1", "2"])
    again = EmbedPrefsEmbeddings(model=static_folder)
    assert make_store(again, url=store.store).add_texts(["red apple", "blue sky"], ids=["1", "2"]) == ["1", "2"]
    assert not again.loaded


def test_equal_documents_without_ids_are_each_kept(make_store, static):
    """Twice in one call is twice in the store, and again after another run."""
    store = make_store(static)
    for _ in range(2):
        assert len(set(store.add_texts(["red", "red"]))) == 2
    assert store.store.count("notes") == 2


def test_a_changed_text_is_embedded_and_changed_metadata_is_not(make_store, static):
    """The point is replaced under its id."""
    store = make_store(static)
    store.add_documents([document("red apple", "1", year=1), document("blue sky", "2", year=1)])
    changed = [document("green tree", "1", year=1), document("blue sky", "2", year=2)]
    assert embedded(store, lambda: store.add_documents(changed)) == 1
    assert store.get_by_ids(["1", "2"]) == changed
    assert store.similarity_search("blue sky", k=1, filter={"year": 2})[0].id == "2"
    assert store.similarity_search("green tree", k=1)[0].id == "1"


def test_documents_get_the_vector_that_was_added_later(make_store, static):
    """A collection that becomes hybrid: adding again completes each document, and only then leaves it alone."""
    store = make_store(static)
    store.add_texts(["red apple", "blue sky"], ids=["1", "2"])
    hybrid = make_store(static, url=store.store, index=IndexPreferences(hybrid=True))
    with pytest.warns(EmbedPrefsWarning, match="has got the vectors sparse now. Documents stored before lack them"):
        hybrid.add_texts(["green"])  # the canary vectors are compared with it, and not counted below
    for expected in (2, 0):
        assert embedded(hybrid, lambda: hybrid.add_texts(["red apple", "blue sky"], ids=["1", "2"])) == expected
    assert all("sparse" in point.vectors for point in store.store.scroll("notes", vectors=True))


def test_a_model_that_was_changed_after_loading_is_refused(make_store, static_folder):
    """Its files say nothing about the vectors it gives now."""
    import torch

    model = load_model(static_folder)
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    store = make_store(EmbedPrefsEmbeddings(model=model))
    with pytest.raises(PreferenceMismatchError, match="no longer"):
        store.add_texts(["red"])
    assert store.store.collections() == []


def test_equal_texts_are_embedded_once(make_store, static):
    """Under different ids too."""
    store = make_store(static)
    store.add_texts(["red"], ids=["0"])
    assert embedded(store, lambda: store.add_texts(["blue sky"] * 20, ids=[str(n) for n in range(1, 21)])) == 1


def test_dates_are_stored_as_text(make_store, static):
    """As JSON does it; the filter on a range of dates finds them."""
    store = make_store(static)
    store.add_texts(["red"], [{"day": dt.date(2024, 5, 17)}], ids=["1"])
    assert store.get_by_ids(["1"])[0].metadata == {"day": "2024-05-17"}
    assert store.similarity_search("red", filter={"day": {"$lt": dt.date(2025, 1, 1)}})


def test_documents_are_deleted_by_id_and_by_filter(make_store, static):
    """Unknown ids are no error, and an empty list deletes nothing."""
    store = make_store(static)
    store.add_texts(["red", "green", "blue"], [{"n": 1}, {"n": 2}, {"n": 3}], ids=["1", "2", "3"])
    assert store.delete(["1", "absent"])
    assert store.delete([])
    assert [found.id for found in store.get_by_ids(["1", "2", "3"])] == ["2", "3"]
    assert store.delete(filter={"n": {"$gte": 3}})
    assert [found.id for found in store.get_by_ids(["1", "2", "3"])] == ["2"]
    assert store.delete_collection()
    store.add_texts(["sky"], ids=["4"])
    assert store.store.count("notes") == 1


async def test_every_method_has_an_async_twin_that_leaves_the_default_executor_alone(make_store, static):
    """Same results, no call in the loop's own executor."""
    import asyncio

    used = []
    asyncio.get_running_loop().run_in_executor = lambda executor, call, *rest: used.append(call)
    store = make_store(static)
    ids = await store.aadd_documents([document("red apple", "1", n=1), document("blue sky", "2", n=2)])
    assert ids == ["1", "2"]
    assert await store.aadd_texts(["green tree"], [{"n": 3}], ids=["3"]) == ["3"]
    assert await store.aget_by_ids(["1"]) == store.get_by_ids(["1"])
    query = "red apple"
    vector = static.embed_query(query)
    assert await store.asimilarity_search(query, k=2) == store.similarity_search(query, k=2)
    assert await store.asimilarity_search_with_score(query) == store.similarity_search_with_score(query)
    assert await store.asimilarity_search_by_vector(vector) == store.similarity_search_by_vector(vector)
    assert await store.asimilarity_search_with_relevance_scores(query) == store.similarity_search_with_relevance_scores(
        query
    )
    assert await store.amax_marginal_relevance_search(query, k=2) == store.max_marginal_relevance_search(query, k=2)
    assert await store.amax_marginal_relevance_search_by_vector(
        vector, k=2
    ) == store.max_marginal_relevance_search_by_vector(vector, k=2)
    assert await store.adelete(["3"])
    retriever = store.as_retriever(k=1)
    assert await retriever.ainvoke(query) == retriever.invoke(query)
    assert used == []
    assert store.store.count("notes") == 2


async def test_a_store_can_be_made_with_its_documents(static, tmp_path):
    """Both ways, from texts and from documents."""
    url = f"edge:{tmp_path / 'index'}"
    with EmbedPrefsVectorStore.from_texts(["red"], static, [{"n": 1}], ids=["1"], url=url, collection="a") as store:
        assert store.get_by_ids(["1"])[0].metadata == {"n": 1}
    with EmbedPrefsVectorStore.from_documents([document("red", "1"), document("sky")], static, url=url) as store:
        assert store.collection == "documents"
        assert store.store.count("documents") == 2
    afterwards = await EmbedPrefsVectorStore.afrom_documents([document("red", "1")], static, url=url, collection="b")
    with afterwards as store:
        assert store.get_by_ids(["1"])


@pytest.mark.parametrize("kind", ["edge", "local"])
def test_a_restart_finds_everything(static, tmp_path, kind):
    """Another object over the same folder, later and at the same time."""
    url = f"{kind}:{tmp_path / 'index'}"
    with EmbedPrefsVectorStore(static, url, "notes") as one:
        one.add_texts(["red apple"], ids=["1"])
        with EmbedPrefsVectorStore(static, url, "notes") as two:  # the engine opens a folder once per process
            assert two.get_by_ids(["1"])
        assert one.get_by_ids(["1"])
    with EmbedPrefsVectorStore.from_existing_collection(static, url=url, collection="notes") as later:
        assert later.similarity_search("red apple", k=1)[0].id == "1"


async def test_a_closed_store_says_so(static):
    """Whichever way it is called."""
    store = EmbedPrefsVectorStore.from_texts(["red"], static, url=":memory:")
    store.close()
    for call in (lambda: store.similarity_search("red"), lambda: store.get_by_ids(["1"])):
        with pytest.raises(InputError, match="closed"):
            call()
    with pytest.raises(InputError, match="closed"):
        await store.asimilarity_search("red")


def test_a_missing_collection_is_empty_or_an_error_as_asked(make_store, static):
    """A search says that nothing was added yet; `create_collection=False` refuses to go on."""
    store = make_store(static)
    with pytest.warns(EmbedPrefsWarning, match="no collection 'notes'"):
        assert store.similarity_search("red") == []
    assert store.get_by_ids(["1"]) == []
    strict = make_store(static, url=store.store, create_collection=False)
    with pytest.raises(InputError, match="no collection 'notes'"):
        strict.similarity_search("red")
    with pytest.raises(InputError, match="no collection 'notes'"):
        strict.add_texts(["red"])
    with pytest.raises(InputError, match="no collection 'notes'"):
        EmbedPrefsVectorStore.from_existing_collection(static, url=store.store, collection="notes")


def test_the_preferences_say_where_and_how(static_folder, tmp_path):
    """Store, collection, template and indexed fields come from `[index]`."""
    file = tmp_path / "embedprefs.toml"
    file.write_text(
        f'[model]\nname = "{static_folder}"\n'
        '[index]\nstore = "edge:vectors"\ncollection = "letters"\ntemplate = "{title} {text}"\n'
        'metadata_fields = {year = "integer"}\n',
        encoding="utf-8",
    )
    embeddings = EmbedPrefsEmbeddings(preferences=file)
    with EmbedPrefsVectorStore(embeddings) as store:
        store.add_documents([document("apple", "1", title="red", year=1900)])
        assert store.store.url == f"edge:{tmp_path / 'vectors'}"
        assert store.store.describe("letters").layout.payload_indexes["metadata.year"].type == "integer"
        [(found, score)] = store.similarity_search_with_score_by_vector(embeddings.embed_documents(["red apple"])[0])
        assert score == pytest.approx(1.0, abs=1e-6)
        assert found.page_content == "apple"


def test_further_named_vectors_are_refused(static):
    """They would stay empty."""
    index = IndexPreferences.model_validate({"vectors": {"other": {"model": {"name": "some/model"}}}})
    with pytest.raises(InvalidPreferenceError, match="further vectors other"):
        EmbedPrefsVectorStore(static, ":memory:", index=index)


class _FailingStore(ClientStore):
    """A store whose upserts fail from the second on."""

    upserts = 0

    def upsert(self, collection, points, *, verify_fields=()):
        self.upserts += 1
        if self.upserts > 1:
            raise UploadError(
                collection,
                failed_ids=[point.id for point in points[:1]],
                unsent_ids=[point.id for point in points[1:]],
                stored=0,
                attempts=1,
                cause="the disk is full",
                status=None,
            )
        return super().upsert(collection, points, verify_fields=verify_fields)


def test_a_failing_store_leaves_a_report_by_the_documents_own_ids():
    """What is stored stays, what is not is named, and adding again embeds only that."""
    from qdrant_client import QdrantClient

    backend = _FailingStore(QdrantClient(":memory:"), url=":memory:", kind="local", transport="in process")
    embedding = DeterministicFakeEmbedding(size=6)
    store = EmbedPrefsVectorStore(embedding, backend, "notes")
    ids = [f"note {number}" for number in range(10)]
    with pytest.raises(PartialResultError, match="the disk is full") as caught:
        store.add_texts(ids, ids=ids, batch_size=3)
    assert set(caught.value.failed) == set(ids[3:])
    assert [found.id for found in store.get_by_ids(ids)] == ids[:3]
    backend.upserts = -100
    assert store.add_texts(ids, ids=ids) == ids
    assert len(store.get_by_ids(ids)) == 10


def test_an_embedding_that_fails_midway_says_what_is_stored(make_store):
    """The error is the embedding's own, with a note."""

    class Failing(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            if "bad" in texts:
                raise RuntimeError("out of memory")
            return super().embed_documents(texts)

    store = make_store(Failing(size=6))
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        store.add_texts(["a", "b", "c", "bad"], batch_size=1)
    assert "were stored before" in caught.value.__notes__[0]


def test_vectors_with_nan_are_refused(make_store):
    """No engine keeps them."""

    class Broken(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            return [
                [float("nan")] * 6 if text == "bad" else vector
                for text, vector in zip(texts, super().embed_documents(texts), strict=True)
            ]

    store = make_store(Broken(size=6))
    with pytest.raises(InputError, match="NaN"):
        store.add_texts(["good", "bad"])
    assert store.store.count("notes") == 0


def test_embeddings_that_give_too_few_vectors_are_refused(make_store):
    """Nothing is stored under another text's vector."""

    class Short(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            return super().embed_documents(texts)[: 6 if len(texts) == 6 else 1]

    store = make_store(Short(size=6))
    with pytest.raises(InputError, match="1 vectors for 2 texts"):
        store.add_texts(["a", "b"])


def test_vectors_are_stored_as_the_model_gives_them(make_store, bert):
    """To the rounding of the store's own normalisation."""
    store = make_store(bert)
    store.add_texts(["red apple", "blue sky"], ids=["1", "2"])
    stored = {point.payload["source"]: point.vectors["dense"] for point in store.store.scroll("notes", vectors=True)}
    expected = bert.embed_documents_array(["red apple", "blue sky"])
    assert np.allclose(stored["1"], expected[0], atol=1e-6)
    assert np.allclose(stored["2"], expected[1], atol=1e-6)
