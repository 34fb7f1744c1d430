"""The ingestor for programs with an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from embedprefs import InputError
from embedprefs_qdrant.ingest import QdrantIngestor
from embedprefs_qdrant.report import IngestReport
from embedprefs_qdrant.status import CollectionStatus
from embedprefs_qdrant.verification import VerifyReport

__all__ = ["AsyncQdrantIngestor"]

Result = TypeVar("Result")


class AsyncQdrantIngestor:
    """A `QdrantIngestor` whose methods are coroutines.

    The work is done in one thread of its own, so that the loop goes on and its default executor stays free; calls are
    done one after the other, in the order they were made. A cancelled call that has not begun is not made; a cancelled
    ingest that runs is stopped after the group in hand, before the next call begins.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what `QdrantIngestor` takes; the store is opened at the first call."""
        self._make = functools.partial(QdrantIngestor, *arguments, **options)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedprefs-qdrant")
        self._ingestor: QdrantIngestor | None = None
        self._closed = False

    async def ingest(self, documents: Any, **options: Any) -> IngestReport:
        """Bring documents in; see `QdrantIngestor.ingest`."""
        event = threading.Event()
        return await self._run(lambda ingestor: ingestor.ingest(documents, stop_event=event, **options), event)

    async def search(self, query: Any, **options: Any) -> Any:
        """Find passages; see `QdrantIngestor.search`."""
        return await self._run(lambda ingestor: ingestor.search(query, **options))

    async def status(self) -> CollectionStatus:
        """What the collection holds; see `QdrantIngestor.status`."""
        return await self._run(lambda ingestor: ingestor.status())

    async def verify(self, documents: Any, **options: Any) -> VerifyReport:
        """Compare the store with its source; see `QdrantIngestor.verify`."""
        return await self._run(lambda ingestor: ingestor.verify(documents, **options))

    async def optimize(self, **options: Any) -> bool:
        """Build the search graphs; see `QdrantIngestor.optimize`."""
        return await self._run(lambda ingestor: ingestor.optimize(**options))

    async def close(self) -> None:
        """Let go of models, stores and the thread, after the calls made so far; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.wrap_future(self._executor.submit(self._close))
        finally:
            self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[QdrantIngestor], Result], stop: threading.Event | None = None) -> Result:
        if self._closed:
            raise InputError("The ingestor is closed.\n  Make another one.")
        future = self._executor.submit(self._call, call)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not future.cancel() and stop is not None:
                stop.set()
            raise

    def _call(self, call: Callable[[QdrantIngestor], Result]) -> Result:
        if self._ingestor is None:
            self._ingestor = self._make()
        return call(self._ingestor)

    def _close(self) -> None:
        if self._ingestor is not None:
            self._ingestor.close()
