"""One collection as a vector store uses it: opened when it is first needed, in threads of its own for event loops."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from embedprefs import EmbedPrefsWarning, InputError
from embedprefs_qdrant.collection import Collection
from embedprefs_qdrant.sparse import SparseEmbedder
from langchain_embedprefs.searching import Scored, Searcher, SearchOptions, has_unit_length, relevance_of
from langchain_embedprefs.writing import Plan, Writer

__all__ = ["CollectionAccess"]

Vector = NDArray[np.float32]
Result = TypeVar("Result")

#: Calls to a server under way at the same time; the embedded engine answers one after the other.
SERVER_CALLS = 8

_CLOSED = "This vector store is closed.\n  Make another one."


class CollectionAccess:
    """Plans, writes and searches, each after the identities were compared."""

    def __init__(self, collection: Collection, sparse: SparseEmbedder | None, *, create: bool) -> None:
        """Take the collection.

        Args:
            collection: With its store and its spaces.
            sparse: What makes sparse vectors; None where there are none.
            create: Whether it may be made where it is missing.
        """
        self.collection = collection
        self._create = create
        self._writer = Writer(collection, sparse)
        self._searcher = Searcher(collection, sparse)
        self._opening = threading.Lock()
        self._readable = self._writable = False
        calls = SERVER_CALLS if collection.store.capabilities.several_processes else 1
        self._executor = ThreadPoolExecutor(max_workers=calls, thread_name_prefix="embedprefs-store")
        self._closed = False

    def submit(self, call: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Begin a call in a thread of the store's own.

        Raises:
            InputError: The vector store is closed.
        """
        if self._closed:
            raise InputError(_CLOSED)
        return self._executor.submit(call, *arguments)

    async def in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a call in a thread of the store's own; cancelling takes it back if it has not begun."""
        return await asyncio.wrap_future(self.submit(call, *arguments))

    def close(self) -> None:
        """Wait for calls under way, and end the threads."""
        self._closed = True
        self._executor.shutdown(wait=True)

    # Documents in ----------------------------------------------------------------------------------------------------

    def plan(self, documents: Sequence[Document]) -> Plan:
        """What documents need; makes the collection where it is missing.

        Raises:
            PreferenceMismatchError: It was made under another identity.
            InputError: It is missing and may not be made.
        """
        with self._opening:
            if not self._writable:
                self._require_existing()
                self.collection.open(create=True, extend=True)
                self._warn_of_incomplete()
                self._writable = self._readable = True
        return self._writer.plan(documents)

    def _warn_of_incomplete(self) -> None:
        """Say that documents stored before lack vectors added now: this store cannot read them again by itself."""
        if self.collection.added:
            warnings.warn(
                f"The collection {self.collection.name!r} has got the vectors "
                f"{', '.join(sorted(self.collection.added))} now. Documents stored before lack them until they are "
                "added again, and a search that uses these vectors may miss them.",
                EmbedPrefsWarning,
                stacklevel=4,
            )

    def write(self, plan: Plan, vectors: Vector) -> dict[str, str]:
        """Store what a plan says; see `Writer.write`.

        Raises:
            PreferenceMismatchError: The embeddings give other vectors than when the collection was made.
        """
        if plan.new:  # without, no model need be loaded
            self.collection.check_canaries()
        return self._writer.write(plan, vectors)

    def drop(self) -> bool:
        """Delete the collection; whether there was one."""
        with self._opening:
            self._readable = self._writable = False
            return self.collection.store.drop(self.collection.name)

    # Documents out ---------------------------------------------------------------------------------------------------

    def open_for_search(self, *, quiet: bool = False) -> bool:
        """Compare identities before anything is embedded; False where there is no collection yet.

        Args:
            quiet: Do not warn of a missing collection.

        Raises:
            PreferenceMismatchError: It was made under another identity.
            InputError: It is missing and may not be made.
        """
        if self._closed:
            raise InputError(_CLOSED)
        if self._readable:
            return True
        with self._opening:
            if not self._require_existing():
                if not quiet:
                    warnings.warn(
                        f"There is no collection {self.collection.name!r} in {self.collection.store.url} yet, so "
                        "nothing is found. It is made when the first document is added.",
                        EmbedPrefsWarning,
                        stacklevel=4,
                    )
                return False
            if not self._readable:
                self.collection.open(create=False)
                self._readable = True
            return True

    async def aopen_for_search(self) -> bool:
        """As `open_for_search`, beside the event loop."""
        return self._readable or await self.in_thread(self.open_for_search)

    def search(
        self, vectors: Sequence[Vector], k: int, options: SearchOptions, texts: Sequence[str] | None = None
    ) -> list[Scored]:
        """See `Searcher.search`; vectors of a model that changed are refused."""
        self.collection.check_canaries()
        return self._searcher.search(vectors, k, options, texts)

    def search_diverse(
        self, vector: Vector, k: int, fetch_k: int, lambda_mult: float, options: SearchOptions
    ) -> list[Document]:
        """See `Searcher.search_diverse`."""
        self.collection.check_canaries()
        return self._searcher.search_diverse(vector, k, fetch_k, lambda_mult, options)

    def document(self, point: Any) -> Document:
        """A stored point as the document that was added."""
        return self._searcher.document(point)

    def as_relevance(self, found: Scored, named: Mapping[str, Any]) -> Scored:
        """The documents with scores on LangChain's scale.

        Args:
            found: With the store's own scores.
            named: Options of the search.
        """
        relevance = self.relevance(hybrid=self._searcher.is_hybrid(SearchOptions.of(named)))
        return [(document, relevance(score)) for document, score in found]

    def relevance(self, *, hybrid: bool) -> Callable[[float], float]:
        """What turns the store's score into a relevance; see `relevance_of`."""
        main = self.collection.main
        unit_length = has_unit_length(self.collection.read(), main)
        distance = self.collection.spaces[main].distance
        return lambda score: relevance_of(score, distance, unit_length=unit_length, hybrid=hybrid)

    def _require_existing(self) -> bool:
        """Whether the collection is there; raises where it is missing and may not be made."""
        if self.collection.exists:
            return True
        if not self._create:
            store = self.collection.store
            known = ", ".join(store.collections()) or "none yet"
            raise InputError(
                f"{store.url}: there is no collection {self.collection.name!r}.\n  There are: {known}\n"
                "  Name one of these, or leave out create_collection=False to have it made."
            )
        return False
