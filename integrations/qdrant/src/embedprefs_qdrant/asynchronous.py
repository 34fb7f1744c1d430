"""The ingestor for programs with an event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from embedprefs_qdrant.ingest import QdrantIngestor
from embedprefs_qdrant.report import IngestReport
from embedprefs_qdrant.status import CollectionStatus
from embedprefs_qdrant.verification import VerifyReport

__all__ = ["AsyncQdrantIngestor"]

Result = TypeVar("Result")


class AsyncQdrantIngestor:
    """A `QdrantIngestor` whose methods are coroutines.

    The work is done in one thread of its own, so that the loop goes on and its default executor stays free; calls are
    done one after the other, in the order they were made. Cancelling a running ingest stops it after the group in hand.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what `QdrantIngestor` takes; the store is opened at the first call."""
        self._make = functools.partial(QdrantIngestor, *arguments, **options)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedprefs-qdrant")
        self._ingestor: QdrantIngestor | None = None

    async def ingest(self, documents: Any, **options: Any) -> IngestReport:
        """Bring documents in; see `QdrantIngestor.ingest`."""
        return await self._run(lambda ingestor: ingestor.ingest(documents, **options))

    async def search(self, query: Any, **options: Any) -> Any:
        """Find passages; see `QdrantIngestor.search`."""
        return await self._run(lambda ingestor: ingestor.search(query, **options))

    async def status(self) -> CollectionStatus:
        """What the collection holds; see `QdrantIngestor.status`."""
        return await self._run(lambda ingestor: ingestor.status())

    async def verify(self, documents: Any, **options: Any) -> VerifyReport:
        """Compare the store with its source; see `QdrantIngestor.verify`."""
        return await self._run(lambda ingestor: ingestor.verify(documents, **options))

    async def close(self) -> None:
        """Let go of models, stores and the thread."""
        if self._ingestor is not None:
            await self._run(lambda ingestor: ingestor.close())
        self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[QdrantIngestor], Result]) -> Result:
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._call, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if self._ingestor is not None:
                self._ingestor.stop()
            raise

    def _call(self, call: Callable[[QdrantIngestor], Result]) -> Result:
        if self._ingestor is None:
            self._ingestor = self._make()
        return call(self._ingestor)
