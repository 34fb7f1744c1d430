"""LangChain's own standard suites for providers."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsRetriever, EmbedPrefsVectorStore


class _Model:
    """Which class, and with which arguments."""

    @pytest.fixture(autouse=True)
    def _folder(self, minilm_folder):
        type(self).folder = minilm_folder

    @property
    def embeddings_class(self):
        return EmbedPrefsEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.folder, "overrides": {"compute.backend": "torch"}}


class TestEmbeddingsUnit(_Model, EmbeddingsUnitTests):
    """Construction, from arguments and from the environment."""

    @property
    def init_from_env_params(self):
        return {"EMBEDPREFS_MODEL__NAME": self.folder}, {}, {"dimension": 384}


class TestEmbeddingsIntegration(_Model, EmbeddingsIntegrationTests):
    """Embedding with the real MiniLM."""


class TestVectorStoreInMemory(VectorStoreIntegrationTests):
    """The 25 tests over the emulation in memory."""

    @pytest.fixture
    def vectorstore(self):
        with EmbedPrefsVectorStore(embedding=self.get_embeddings(), url=":memory:", collection="standard") as store:
            yield store


class TestVectorStoreEmbedded(VectorStoreIntegrationTests):
    """The 25 tests over the embedded engine."""

    @pytest.fixture
    def vectorstore(self, tmp_path):
        url = f"edge:{tmp_path / 'index'}"
        with EmbedPrefsVectorStore(embedding=self.get_embeddings(), url=url, collection="standard") as store:
            yield store


class TestRetriever(RetrieversIntegrationTests):
    """The retriever over a store of four documents."""

    @pytest.fixture(autouse=True)
    def _store(self):
        with EmbedPrefsVectorStore(
            embedding=DeterministicFakeEmbedding(size=6), url=":memory:", collection="standard"
        ) as store:
            store.add_documents([Document(page_content=text) for text in ("one", "two", "three", "four")])
            type(self).store = store
            yield

    @property
    def retriever_constructor(self):
        return EmbedPrefsRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.store, "k": 2}

    @property
    def retriever_query_example(self):
        return "two"
