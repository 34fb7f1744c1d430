"""A collection takes vectors of its own identity, and no others."""

from __future__ import annotations

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, FakeEmbeddings

from embedprefs import InputError, InvalidPreferenceError, PreferenceMismatchError, Record, load_model
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant import QdrantIngestor
from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsVectorStore


def test_ours_leaves_its_full_record(make_store, bert):
    """Read back, it is the embeddings' own identity."""
    store = make_store(bert)
    store.add_texts(["red"])
    recorded = Record.from_json(store.record["vectors"]["dense"]["identity"])
    assert recorded.compare(bert.record).status == "same"
    assert "query_prompt" in recorded.identity


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"prompts.query": "ask: "}, "query_prompt"),
        ({"prompts.document": ""}, "document_prompt"),
        ({"tokenizer.max_seq_length": 32}, "max_seq_length"),
    ],
)
def test_another_identity_of_the_same_size_is_refused(make_store, bert_folder, overrides, field):
    """For adding and for searching, naming the field; nothing is embedded for it."""
    one, other = EmbedPrefsEmbeddings(model=bert_folder), EmbedPrefsEmbeddings(model=bert_folder, overrides=overrides)
    store = make_store(one)
    store.add_texts(["red"], ids=["1"])
    wrong = make_store(other, url=store.store)
    with pytest.raises(PreferenceMismatchError, match=field):
        wrong.similarity_search("red")
    with pytest.raises(PreferenceMismatchError, match=field):
        wrong.add_texts(["blue"])
    with pytest.raises(PreferenceMismatchError, match=field):
        EmbedPrefsVectorStore.from_existing_collection(other, url=store.store, collection="notes")
    assert not other.loaded
    assert store.store.count("notes") == 1


def test_a_collection_of_chunks_read_in_their_documents_is_searched_and_not_added_to(make_store, bert_folder):
    """Documents come here as they were split; the whole ones are indexed elsewhere, under the same preferences."""
    overrides = {"index.chunk_context": "document", "index.chunk_tokens": 16, "index.collection": "notes"}
    embeddings = EmbedPrefsEmbeddings(model=bert_folder, overrides=overrides)
    store = make_store(embeddings)
    with pytest.raises(InvalidPreferenceError, match="as they were split"):
        store.add_texts(["red"])
    assert store.record is None
    assert not embeddings.loaded
    text = "The river froze.\n\nIt was a cold winter in the old town, and snow lay on the mountain."
    with QdrantIngestor(bert_folder, store.store, overrides=overrides) as ingestor:
        ingestor.ingest([("winter", text)])
    assert "winter" in store.similarity_search("cold winter", k=1)[0].page_content
    with pytest.raises(InvalidPreferenceError, match="as they were split"):
        store.add_texts(["red"])
    alone = make_store(EmbedPrefsEmbeddings(model=bert_folder), url=store.store)
    with pytest.raises(PreferenceMismatchError, match=r'chunk_context\s+"document"\s+"chunk"'):
        alone.similarity_search("cold winter")


def test_other_embeddings_cannot_read_documents_whole(make_store):
    """They take texts and give vectors: nothing of a text's parts is seen."""
    with pytest.raises(InvalidPreferenceError, match="embeds whole texts alone"):
        make_store(DeterministicFakeEmbedding(size=6), index=IndexPreferences(chunk_context="document"))


def test_any_langchain_embeddings_leave_class_dimension_and_canaries(make_store):
    """Which is enough to notice another class, another dimension, and other vectors of the same class."""
    store = make_store(DeterministicFakeEmbedding(size=6))
    store.add_texts(["red"], ids=["1"])
    entry = store.record["vectors"]["dense"]
    assert entry["identity"] is None
    assert entry["description"] == {
        "class": "langchain_core.embeddings.fake.DeterministicFakeEmbedding",
        "dimension": 6,
    }
    assert entry["canaries"]["shape"][1] == 6
    assert make_store(DeterministicFakeEmbedding(size=6), url=store.store).similarity_search("red")[0].id == "1"
    with pytest.raises(PreferenceMismatchError, match="another embedding function"):
        make_store(DeterministicFakeEmbedding(size=8), url=store.store).similarity_search("red")
    with pytest.raises(PreferenceMismatchError, match="another embedding function"):
        make_store(FakeEmbeddings(size=6), url=store.store).add_texts(["blue"])


def test_other_vectors_under_the_same_class_are_noticed(make_store):
    """A model that was replaced behind an unchanged provider shows in the canary vectors."""

    class Replaced(DeterministicFakeEmbedding):
        shift: float = 0.0

        def embed_query(self, text):
            return [value + self.shift for value in super().embed_query(text)]

        def embed_documents(self, texts):
            return [self.embed_query(text) for text in texts]

    store = make_store(Replaced(size=6))
    store.add_texts(["red"], ids=["1"])
    moved = make_store(Replaced(size=6, shift=3.0), url=store.store)
    with pytest.raises(PreferenceMismatchError, match="canary"):
        moved.similarity_search("red")
    with pytest.raises(PreferenceMismatchError, match="canary"):
        moved.add_texts(["blue"])
    assert store.store.count("notes") == 1


def test_ours_and_others_do_not_mix(make_store, bert):
    """A collection of either kind refuses the other."""
    store = make_store(bert)
    store.add_texts(["red"])
    with pytest.raises(PreferenceMismatchError, match="another embedding function"):
        make_store(DeterministicFakeEmbedding(size=32), url=store.store).similarity_search("red")


def test_a_collection_without_a_record_is_refused(make_store, static):
    """Nothing says what its vectors are."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("notes", vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE))
    client.upsert("notes", [models.PointStruct(id=1, vector=[0.1] * 8, payload={"page_content": "red"})])
    with pytest.raises(PreferenceMismatchError, match="no record"):
        make_store(static, url=client).similarity_search("red")


def test_the_distance_of_preferences_cannot_be_overruled(static):
    """The similarity is part of the identity."""
    with pytest.raises(InputError, match="similarity_fn_name"):
        EmbedPrefsVectorStore(static, ":memory:", distance="dot")
    with pytest.raises(InputError, match="embedding is a str"):
        EmbedPrefsVectorStore("a model's name", ":memory:")


def test_what_the_ingestor_stored_is_found_and_the_reverse(make_store, static_folder, tmp_path):
    """One layout for both: `embedprefs index` fills it, LangChain asks it."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Fruit\n\nred apple\n", encoding="utf-8")
    model = load_model(static_folder)
    embeddings = EmbedPrefsEmbeddings(model=model)
    store = make_store(embeddings)
    ingestor = QdrantIngestor(model, store.store, collection="notes", root=tmp_path)
    assert ingestor.ingest(tmp_path / "docs").embedded == 1
    [chunk] = store.similarity_search("red apple", k=1)
    assert "red apple" in chunk.page_content
    assert store.get_by_ids([chunk.id]) == [chunk]
    store.add_texts(["blue sky"], [{"n": 1}], ids=["note"])
    [hit] = ingestor.search("blue sky", limit=1)
    assert (hit.source, hit.text, hit.metadata) == ("note", "blue sky", {"n": 1})
    assert store.delete([chunk.id, "note"])
    assert store.store.count("notes") == 0


def test_an_adopted_collection_of_langchain_qdrant_is_read_and_filled(static):
    """Its own names of vector and text field are kept."""
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    from embedprefs_qdrant import adopt_collection

    client = QdrantClient(":memory:")
    client.create_collection("notes", vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE))
    theirs = QdrantVectorStore(client, "notes", embedding=static)
    theirs.add_texts(["red apple", "blue sky", "green tree"], [{"n": 1}, {"n": 2}, {"n": 3}])
    with EmbedPrefsVectorStore(static, client, "notes") as store:
        with QdrantIngestor(static.sentence_transformer, store.store, collection="notes") as ingestor:
            adopt_collection(ingestor)
        [found] = store.similarity_search("blue sky", k=1)
        assert (found.page_content, found.metadata) == ("blue sky", {"n": 2})
        store.add_texts(["red tree"], ids=["new"])
        assert store.get_by_ids(["new"])[0].page_content == "red tree"
    assert theirs.similarity_search("red tree", k=1)[0].page_content == "red tree"
