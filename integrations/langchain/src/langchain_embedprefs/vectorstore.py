"""A LangChain vector store over Qdrant that knows what its vectors are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray

from embedprefs import InputError, MissingExtraError
from embedprefs.preferences import IndexPreferences, SparsePreferences
from langchain_embedprefs.additions import Addition, documents_of, refuse_named
from langchain_embedprefs.embeddings import EmbedPrefsEmbeddings

try:
    from embedprefs_qdrant.collection import DENSE, Collection
except ImportError as error:
    raise MissingExtraError(
        "embedprefs-qdrant", extra="qdrant", needed_for="EmbedPrefsVectorStore", distribution="langchain-embedprefs"
    ) from error
from embedprefs_qdrant.layouts import refuse_context
from embedprefs_qdrant.sparse import sparse_embedder
from embedprefs_qdrant.stores.layout import Distance
from langchain_embedprefs.access import CollectionAccess
from langchain_embedprefs.filters import as_filter
from langchain_embedprefs.refusals import refuse_additions_in_context, refuse_named_vectors
from langchain_embedprefs.searching import Scored, SearchOptions
from langchain_embedprefs.spaces import aembed_documents, aembed_query, space_of
from langchain_embedprefs.stores import hold_store
from langchain_embedprefs.writing import point_ids, prepared

if TYPE_CHECKING:
    from pydantic import SecretStr
    from qdrant_client import QdrantClient

    from embedprefs_qdrant import Store
    from langchain_embedprefs.retriever import EmbedPrefsRetriever

__all__ = ["EmbedPrefsVectorStore"]

Vector = NDArray[np.float32]

#: Documents planned, embedded and stored at a time: enough that sorting by length pays; what was stored stays stored.
GROUP_SIZE = 512


class EmbedPrefsVectorStore(VectorStore):
    """Documents in a Qdrant collection that records which model, prompts and settings its vectors come from.

    Embeddings of another identity are refused, with both sides field by field, instead of giving bad answers.

    Setup:
        ```bash
        pip install "langchain-embedprefs[qdrant]"
        ```

    Key init args:
        embedding: `EmbedPrefsEmbeddings`, or any LangChain `Embeddings`.
        url: `edge:PATH` (the engine in this process), `http(s)://HOST`, `grpc(s)://HOST`, `local:PATH` or `:memory:`.
        collection: Its name; it is made when the first document is added.

    Instantiate:
        ```python
        from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsVectorStore

        store = EmbedPrefsVectorStore(embedding=EmbedPrefsEmbeddings(), url="edge:index", collection="notes")
        ```

    Add and delete:
        ```python
        store.add_documents([Document(id="n1", page_content="...", metadata={"year": 2021})])
        store.delete(ids=["n1"])
        ```

    Search:
        ```python
        store.similarity_search("Which harbour froze?", k=3, filter={"year": {"$gte": 2000}})
        store.max_marginal_relevance_search("harbours", k=3, lambda_mult=0.5)
        ```

    Async:
        ```python
        await store.asimilarity_search("Which harbour froze?", k=3)
        ```

        Calls to the store run in threads of its own, queries of several tasks are embedded together, and the event
        loop's default executor stays free.

    Use as retriever:
        ```python
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3})
        ```

    Ids are any texts. A document without an id gets one of its text and metadata, so adding it again stores it once; a
    document that is stored already is not embedded again, and one whose metadata alone changed keeps its vector.
    """

    def __init__(
        self,
        embedding: Embeddings,
        url: Store | QdrantClient | str | None = None,
        collection: str | None = None,
        *,
        index: IndexPreferences | None = None,
        sparse: SparsePreferences | None = None,
        distance: Distance | None = None,
        api_key: SecretStr | str | None = None,
        create_collection: bool = True,
    ) -> None:
        """Take embeddings, store and collection; nothing is loaded, opened or embedded yet, but the store.

        Args:
            embedding: What makes the vectors.
            url: Address of the store, a ready `QdrantClient`, or a store of embedprefs_qdrant; None takes
                `index.store` of the embeddings' preferences. Clients and stores stay the caller's.
            collection: Its name; None takes `index.collection`.
            index: How the collection is laid out, in place of the preferences' `[index]`. What concerns files and
                chunks has no meaning here: documents come as LangChain splits them.
            sparse: The sparse side of a hybrid search, in place of the preferences' `[sparse]`; used where
                `index.hybrid` is true.
            distance: For embeddings without preferences: "cosine" (default), "dot", "euclid" or "manhattan".
            api_key: For a server; None reads the environment variable QDRANT_API_KEY. It is shown nowhere.
            create_collection: Make the collection when it is missing; False raises instead.

        Raises:
            InputError: The address is wrong, or `embedding` is none.
            InvalidPreferenceError: `index` asks for what this store does not fill.
            ResourceError: Another process has the folder open.
        """
        self._embedding = embedding
        preferences = embedding.effective_preferences if isinstance(embedding, EmbedPrefsEmbeddings) else None
        if index is None:
            index = preferences.index if preferences is not None else IndexPreferences()
        refuse_named_vectors(index)
        self._space = space_of(embedding, distance, index.template, index.chunk_context)
        refuse_context(index, self._space)
        if sparse is None:
            sparse = preferences.sparse if preferences is not None else SparsePreferences()
        sparse = sparse if index.hybrid else None
        folder = preferences.folder if preferences is not None and url is None else Path.cwd()
        self._held = hold_store(url if url is not None else index.store, api_key, folder)
        embedder = sparse_embedder(sparse) if sparse is not None else None
        made = Collection(self._held.store, collection or index.collection, {DENSE: self._space}, index, sparse)
        self._access = CollectionAccess(made, embedder, create=create_collection)

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def embeddings(self) -> Embeddings:
        """What makes the vectors."""
        return self._embedding

    @property
    def store(self) -> Store:
        """Where the points are."""
        return self._held.store

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._access.collection.name

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What the collection records about its vectors; None where there is no collection."""
        return self._access.collection.read()

    def close(self) -> None:
        """Let go of a store that was opened here; the embeddings stay as they are."""
        self._access.close()
        self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Making one ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **named: Any,
    ) -> Self:
        """Make a vector store and add texts; `named` are the further arguments of the constructor."""
        store = cls(embedding, **named)
        with _closed_on_error(store):
            store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **named: Any,
    ) -> Self:
        """As `from_texts`, beside the event loop."""
        store = cls(embedding, **named)
        with _closed_on_error(store):
            await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_existing_collection(cls, embedding: Embeddings, **named: Any) -> Self:
        """A vector store over a collection that has to be there, of these embeddings' identity.

        Raises:
            InputError: There is no such collection.
            PreferenceMismatchError: It was made under another identity.
        """
        store = cls(embedding, create_collection=False, **named)
        with _closed_on_error(store):
            store._access.open_for_search()
        return store

    # Documents in ----------------------------------------------------------------------------------------------------

    def add_documents(self, documents: list[Document], **named: Any) -> list[str]:
        """Store documents, each in place of an earlier one of the same id.

        Args:
            documents: Any number.
            **named: `ids`, one for each, in place of the documents' own; `batch_size`, documents embedded and stored
                at a time.

        Returns:
            Their ids, in order.

        Raises:
            InputError: A document cannot be stored, or two different ones have the same id; nothing was stored.
            InvalidPreferenceError: `index.chunk_context` asks for vectors that are made of whole documents, and
                documents come here as they were split.
            PreferenceMismatchError: The collection was made under another identity; nothing was stored.
            PartialResultError: The store failed; `failed` names every document that is not stored.
        """
        listed, size = self._checked(documents, named)
        addition = Addition(listed, size)
        waiting: Future[dict[str, str]] | None = None
        with addition.explained():
            for group in addition.groups():
                plan = self._access.plan(group)
                vectors = self._space.embed_documents(plan.texts) if plan.texts else _NOTHING
                if waiting is not None:
                    addition.note(waiting.result())
                # Stored while the next group is embedded.
                waiting = self._access.submit(self._access.write, plan, vectors)
            if waiting is not None:
                addition.note(waiting.result())
        return addition.ids

    async def aadd_documents(self, documents: list[Document], **named: Any) -> list[str]:
        """As `add_documents`, beside the event loop; a cancelled task leaves whole documents behind."""
        listed, size = self._checked(documents, named)
        addition = Addition(listed, size)
        waiting: asyncio.Future[dict[str, str]] | None = None
        with addition.explained():
            for group in addition.groups():
                plan = await self._access.in_thread(self._access.plan, group)
                vectors = await aembed_documents(self._embedding, plan.texts) if plan.texts else _NOTHING
                if waiting is not None:
                    addition.note(await waiting)
                waiting = asyncio.wrap_future(self._access.submit(self._access.write, plan, vectors))
            if waiting is not None:
                addition.note(await waiting)
        return addition.ids

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **named: Any,
    ) -> list[str]:
        """Store texts; see `add_documents`. Texts may come from a generator.

        Raises:
            InputError: There are more or fewer metadata or ids than texts, or one is no text; nothing was stored.
        """
        return self.add_documents(documents_of(texts, metadatas), ids=ids, **named)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **named: Any,
    ) -> list[str]:
        """As `add_texts`, beside the event loop."""
        return await self.aadd_documents(documents_of(texts, metadatas), ids=ids, **named)

    def delete(self, ids: list[str] | None = None, **named: Any) -> bool:
        """Delete documents by id, or with `filter=` by metadata; those that are not there are no error.

        Raises:
            InputError: Neither ids nor a filter is given.
        """
        condition = as_filter(named.pop("filter", None))
        refuse_named("delete", named, "ids, filter")
        if ids is None and not condition:
            raise InputError("delete was given neither ids nor a filter.\n  To delete everything, drop the collection.")
        if not self._access.open_for_search(quiet=True):
            return True
        if ids:
            self.store.delete(self.collection, ids=point_ids(ids))
        if condition:
            self.store.delete(self.collection, filter=condition)
        return True

    async def adelete(self, ids: list[str] | None = None, **named: Any) -> bool:
        """As `delete`, beside the event loop."""
        return await self._access.in_thread(lambda: self.delete(ids, **named))

    def delete_collection(self) -> bool:
        """Delete the whole collection with its record; whether there was one."""
        return self._access.drop()

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, in the order of the ids; those that are not there are left out."""
        if not ids or not self._access.open_for_search(quiet=True):
            return []
        wanted = [point_ids([identifier]) for identifier in dict.fromkeys(ids)]
        found = self.store.existing(self.collection, [point for points in wanted for point in points], payload=True)
        stored = (next((found[point] for point in points if point in found), None) for points in wanted)
        return [self._access.document(point) for point in stored if point is not None]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """As `get_by_ids`, beside the event loop."""
        return await self._access.in_thread(self.get_by_ids, ids)

    # Documents out ---------------------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **named: Any) -> list[Document]:
        """The documents that answer a query best.

        Args:
            query: A text.
            k: Documents, at most.
            **named: `filter`, conditions on metadata such as `{"year": {"$gte": 2000}}`, or a `Filter` of
                embedprefs_qdrant; `offset`; `score_threshold`, against the store's own score; `exact`; `hybrid`.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            InputError: An option is unknown, or the collection is missing and may not be made.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **named)]

    async def asimilarity_search(self, query: str, k: int = 4, **named: Any) -> list[Document]:
        """As `similarity_search`, beside the event loop."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **named)]

    def similarity_search_with_score(self, query: str, k: int = 4, **named: Any) -> Scored:
        """As `similarity_search`, with the store's score: a similarity, a distance, or a fused rank when hybrid."""
        options = SearchOptions.of(named)
        if not self._access.open_for_search():
            return []
        return self._access.search([self._space.embed_queries([query])[0]], k, options, [query])[0]

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **named: Any) -> Scored:
        """As `similarity_search_with_score`, beside the event loop."""
        options = SearchOptions.of(named)
        if not await self._access.aopen_for_search():
            return []
        vector = await aembed_query(self._embedding, query)
        return (await self._access.in_thread(self._access.search, [vector], k, options, [query]))[0]

    def similarity_search_batch(self, queries: Sequence[str], k: int = 4, **named: Any) -> list[list[Document]]:
        """The documents that answer each of several queries, embedded in one call and searched in one request."""
        options = SearchOptions.of(named)
        if not queries or not self._access.open_for_search():
            return [[] for _ in queries]
        found = self._access.search(list(self._space.embed_queries(queries)), k, options, queries)
        return [[document for document, _ in scored] for scored in found]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **named: Any) -> list[Document]:
        """The documents nearest to a vector."""
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, **named)]

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **named: Any) -> list[Document]:
        """As `similarity_search_by_vector`, beside the event loop."""
        return await self._access.in_thread(lambda: self.similarity_search_by_vector(embedding, k, **named))

    def similarity_search_with_score_by_vector(self, embedding: list[float], k: int = 4, **named: Any) -> Scored:
        """The documents nearest to a vector, with the store's score."""
        options = SearchOptions.of(named)
        if not self._access.open_for_search():
            return []
        return self._access.search([np.asarray(embedding, dtype=np.float32)], k, options)[0]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **named: Any
    ) -> list[Document]:
        """Documents that answer a query and differ from each other.

        Args:
            query: A text.
            k: Documents, at most.
            fetch_k: Best documents to choose from.
            lambda_mult: 1 is relevance alone, 0 difference alone.
            **named: As for `similarity_search`.
        """
        options = SearchOptions.of(named)
        if not self._access.open_for_search():
            return []
        return self._access.search_diverse(self._space.embed_queries([query])[0], k, fetch_k, lambda_mult, options)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **named: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, beside the event loop."""
        options = SearchOptions.of(named)
        if not await self._access.aopen_for_search():
            return []
        vector = await aembed_query(self._embedding, query)
        return await self._access.in_thread(self._access.search_diverse, vector, k, fetch_k, lambda_mult, options)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **named: Any
    ) -> list[Document]:
        """Documents that are near a vector and differ from each other; see `max_marginal_relevance_search`."""
        options = SearchOptions.of(named)
        if not self._access.open_for_search():
            return []
        return self._access.search_diverse(np.asarray(embedding, dtype=np.float32), k, fetch_k, lambda_mult, options)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **named: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search_by_vector`, beside the event loop."""
        return await self._access.in_thread(
            lambda: self.max_marginal_relevance_search_by_vector(embedding, k, fetch_k, lambda_mult, **named)
        )

    def as_retriever(self, **named: Any) -> EmbedPrefsRetriever:
        """A retriever over this store; see `EmbedPrefsRetriever`."""
        from langchain_embedprefs.retriever import EmbedPrefsRetriever

        tags = named.pop("tags", None) or self._get_retriever_tags()
        return EmbedPrefsRetriever(vectorstore=self, tags=[*tags], **named)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._access.relevance(hybrid=False)

    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **named: Any) -> Scored:
        found = self.similarity_search_with_score(query, k, **named)
        return self._access.as_relevance(found, named) if found else []

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **named: Any) -> Scored:
        found = await self.asimilarity_search_with_score(query, k, **named)
        return await self._access.in_thread(self._access.as_relevance, found, named) if found else []

    # Within ----------------------------------------------------------------------------------------------------------

    def _checked(self, documents: Iterable[Document], named: dict[str, Any]) -> tuple[list[Document], int]:
        ids, size = named.pop("ids", None), named.pop("batch_size", None)
        refuse_named("add_documents", named, "documents, ids, batch_size")
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError(f"batch_size is {size!r}.\n  Allowed: a whole number of at least 1")
        refuse_additions_in_context(self._access.collection.index)
        return prepared(documents, ids), size or GROUP_SIZE


_NOTHING: Vector = np.empty((0, 0), dtype=np.float32)


@contextmanager
def _closed_on_error(store: EmbedPrefsVectorStore) -> Iterator[None]:
    """Let go of a store that its maker will not get to see."""
    try:
        yield
    except BaseException:
        store.close()
        raise
