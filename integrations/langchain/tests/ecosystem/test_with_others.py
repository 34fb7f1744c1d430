"""Inside LangChain's own stores, caches, indexing and splitters."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_qdrant import QdrantVectorStore
from langchain_qdrant.qdrant import RetrievalMode
from langchain_text_splitters import RecursiveCharacterTextSplitter

import langchain_embedprefs.registration
from embedprefs import EmbedPrefsError, InputError
from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsSparseEmbeddings, register_with_langchain

TEXTS = ["red apple", "blue sky", "green tree", "a red and green apple tree under the blue sky"]


def test_langchain_qdrants_store_takes_it(static):
    """Its validation, its searches, and its async ones."""
    store = QdrantVectorStore.from_texts(TEXTS, static, location=":memory:")
    assert store.similarity_search("blue sky", k=1)[0].page_content == "blue sky"
    assert asyncio.run(store.asimilarity_search("red apple", k=1))[0].page_content == "red apple"


def test_the_store_in_memory_takes_it(bert):
    """With different vectors for queries and documents."""
    store = InMemoryVectorStore(bert)
    store.add_texts(TEXTS)
    [(found, score)] = store.similarity_search_with_score("blue sky", k=1)
    expected = bert.embed_documents_array(TEXTS) @ bert.embed_query_array("blue sky")
    assert found.page_content == TEXTS[int(expected.argmax())]
    assert score == pytest.approx(float(expected.max()), abs=1e-5)
    assert asyncio.run(store.asimilarity_search("blue sky", k=1))[0].page_content == found.page_content


def test_langchains_cache_takes_it(bert):
    """The fingerprint is the name space that keeps one model's vectors from another."""
    kept = InMemoryByteStore()
    cached = CacheBackedEmbeddings.from_bytes_store(bert, kept, namespace=bert.fingerprint, key_encoder="sha256")
    first = cached.embed_documents(TEXTS)
    before = bert.report.texts
    assert cached.embed_documents(TEXTS) == first == bert.embed_documents(TEXTS)
    assert bert.report.texts - before == len(TEXTS)  # of the comparison alone
    assert all(key.startswith(bert.fingerprint) for key in kept.yield_keys())


def test_a_splitter_that_embeds_sentences_takes_it(minilm_embeddings):
    """Such splitters call embed_documents with windows of sentences and compare neighbours."""
    sentences = ["The apple is red.", "Apples grow on trees.", "Ships cross the ocean.", "A harbour shelters ships."]
    vectors = np.array(minilm_embeddings.embed_documents(sentences))
    neighbours = (vectors[:-1] * vectors[1:]).sum(axis=1)
    assert int(neighbours.argmin()) == 1


def files(*names):
    """Documents of three chunks for each file."""
    whole = [Document(page_content=f"{name} red apple. " * 12, metadata={"source": name}) for name in names]
    splitter = RecursiveCharacterTextSplitter(chunk_size=80, chunk_overlap=0, add_start_index=True)
    return splitter.split_documents(whole)


@pytest.mark.parametrize("key_encoder", ["sha256", "blake2b", "sha512"])
def test_index_works_with_every_kind_of_key(make_store, static, key_encoder):
    """Digests are ids like any other; a second run changes nothing, and changed files are cleaned up."""
    store = make_store(static)
    manager = InMemoryRecordManager(namespace="notes")
    manager.create_schema()
    options = {"cleanup": "scoped_full", "source_id_key": "source", "key_encoder": key_encoder, "batch_size": 3}
    chunks = files("a", "b")
    assert index(chunks, manager, store, **options)["num_added"] == len(chunks)
    assert index(chunks, manager, store, **options)["num_skipped"] == len(chunks)
    changed = [
        *(chunk for chunk in chunks if chunk.metadata["source"] == "b"),
        Document(page_content="blue sky", metadata={"source": "a"}),
    ]
    counts = index(changed, manager, store, **options)
    assert counts["num_added"] == 1
    assert counts["num_deleted"] == sum(chunk.metadata["source"] == "a" for chunk in chunks)
    assert store.store.count("notes") == len(changed)


def test_an_index_run_that_embeds_again_costs_no_model(make_store, static):
    """LangChain's incremental clean-up adds chunks again that it deleted; forced updates find them stored."""
    store = make_store(static)
    manager = InMemoryRecordManager(namespace="notes")
    manager.create_schema()
    chunks = files("a")
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    index(chunks, manager, store, **options)
    before = static.report.texts
    index(chunks, manager, store, force_update=True, **options)
    assert static.report.texts == before


async def test_aindex_works(make_store, static):
    """The same beside an event loop."""
    store = make_store(static)
    manager = InMemoryRecordManager(namespace="notes")
    await manager.acreate_schema()
    chunks = files("a")
    counts = await aindex(chunks, manager, store, cleanup="full", source_id_key="source", key_encoder="sha256")
    assert counts["num_added"] == len(chunks) == store.store.count("notes")


def test_init_embeddings_knows_us_after_registration(bert_folder, monkeypatch):
    """And not before: nothing of LangChain's is changed by importing this package."""
    base = pytest.importorskip("langchain.embeddings.base", reason="the package langchain is not installed")
    monkeypatch.setattr(base, "_BUILTIN_PROVIDERS", dict(base._BUILTIN_PROVIDERS))
    with pytest.raises(ValueError, match="not supported"):
        base.init_embeddings(f"embedprefs:{bert_folder}")
    register_with_langchain()
    for embeddings in (
        base.init_embeddings(f"embedprefs:{bert_folder}"),
        base.init_embeddings(bert_folder, provider="embedprefs", overrides={"prompts.query": "ask: "}),
    ):
        assert isinstance(embeddings, EmbedPrefsEmbeddings)
        assert len(embeddings.embed_query("red")) == 32


def test_a_release_that_keeps_its_providers_elsewhere_is_noticed(monkeypatch):
    """The private table may move: registration then fails, and changes nothing."""
    base = pytest.importorskip("langchain.embeddings.base", reason="the package langchain is not installed")
    monkeypatch.setattr(base, "_BUILTIN_PROVIDERS", {"openai": "langchain_openai"})
    with pytest.raises(EmbedPrefsError, match="keeps its embedding providers elsewhere"):
        langchain_embedprefs.registration.register_with_langchain()
    assert base._BUILTIN_PROVIDERS == {"openai": "langchain_openai"}


@pytest.fixture(scope="module")
def sparse_encoder():
    """A real `SparseEncoder` with one weight for each of five words."""
    import tokenizers
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from transformers import PreTrainedTokenizerFast

    words = {"[UNK]": 0, "[PAD]": 1, "red": 2, "green": 3, "blue": 4, "sky": 5, "apple": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    weights = torch.tensor([0.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    return SparseEncoder(modules=[SparseStaticEmbedding(fast, weight=weights)])


def test_sparse_vectors_are_those_of_the_encoder(sparse_encoder):
    """Each index once, as many values, and an empty text has none."""
    sparse = EmbedPrefsSparseEmbeddings(sparse_encoder)
    red_sky, blue, nothing = sparse.embed_documents(["red sky", "blue blue", ""])
    assert (red_sky.indices, red_sky.values) == ([2, 5], [2.0, 5.0])
    assert (blue.indices, blue.values) == ([4], [4.0])
    assert nothing.indices == nothing.values == []
    assert sparse.embed_query("sky").indices == [5]
    assert asyncio.run(sparse.aembed_query("sky")) == sparse.embed_query("sky")
    assert asyncio.run(sparse.aembed_documents(["red"])) == sparse.embed_documents(["red"])
    assert sparse.embed_documents([]) == []
    with pytest.raises(InputError, match="list of texts"):
        sparse.embed_documents("red")
    with pytest.raises(InputError, match="model is a int"):
        EmbedPrefsSparseEmbeddings(3)


def test_langchain_qdrants_store_searches_with_it(sparse_encoder, static):
    """Sparse alone, and fused with the dense ranking."""
    sparse = EmbedPrefsSparseEmbeddings(sparse_encoder)
    for mode in (RetrievalMode.SPARSE, RetrievalMode.HYBRID):
        store = QdrantVectorStore.from_texts(
            ["red apple", "blue sky", "green"],
            static,
            sparse_embedding=sparse,
            retrieval_mode=mode,
            location=":memory:",
        )
        assert store.similarity_search("sky", k=1)[0].page_content == "blue sky"
