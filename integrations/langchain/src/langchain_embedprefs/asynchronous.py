"""Embedding beside an event loop: queries gathered into one forward pass, documents in groups that can be stopped.

Each model has one thread for queries and one for documents, so that a question never waits behind an index run, one
forward pass of each kind runs at a time, and the default executor of the event loop stays free. Nothing here belongs to
an event loop; any number of them may share a model. A lane's thread ends when the lane is let go.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["DocumentLane", "QueryLane", "run_in"]

Vectors = NDArray[np.float32]
Result = TypeVar("Result")


async def run_in(executor: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any) -> Result:
    """Run a call in a thread of an executor of our own, and await it.

    Cancelling the awaiting task takes the call back if it has not begun.
    """
    return await asyncio.wrap_future(executor.submit(call, *arguments))


@dataclass(eq=False)
class _WaitingQuery:
    text: str
    until: float
    """When the batch that it heads leaves at the latest, on the monotonic clock."""
    most: int
    """How many queries that batch holds at most."""
    future: Future[Vectors] = field(default_factory=Future)


class QueryLane:
    """Gathers queries that are asked at the same time into one call of the model.

    The first query waits `wait` seconds for others, and no longer; those that arrive while the model computes form
    the next batch. A query whose task was cancelled is left out. When a batch fails, each of its queries is embedded
    alone, so that every caller gets its own result or its own error.
    """

    def __init__(self, embed: Callable[[list[str]], Vectors], name: str) -> None:
        """Take what embeds.

        Args:
            embed: Vectors of texts, shape (texts, dimensions), in their order.
            name: Of the thread.
        """
        self._embed = embed
        self._changed = threading.Condition()
        self._waiting: deque[_WaitingQuery] = deque()
        self._draining = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def embed(self, text: str, *, wait: float, most: int) -> Vectors:
        """Vector of one query, shape (dimensions,).

        Args:
            text: The query.
            wait: Seconds that it may wait for others.
            most: Queries of its batch, at most.
        """
        return await asyncio.wrap_future(self.submit(text, wait=wait, most=most))

    def submit(self, text: str, *, wait: float, most: int) -> Future[Vectors]:
        """Hand in one query; see `embed`. Cancelling the future leaves it out, if it has not begun."""
        query = _WaitingQuery(text, time.monotonic() + wait, most)
        with self._changed:
            self._waiting.append(query)
            if not self._draining:
                self._executor.submit(self._drain)
                self._draining = True
            self._changed.notify_all()
        return query.future

    def _drain(self) -> None:
        while (batch := self._next_batch()) is not None:
            running = [query for query in batch if query.future.set_running_or_notify_cancel()]
            if running:
                self._run(running)

    def _next_batch(self) -> list[_WaitingQuery] | None:
        with self._changed:
            if not self._waiting:
                self._draining = False
                return None
            first = self._waiting[0]
            while len(self._waiting) < first.most and (left := first.until - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(first.most, len(self._waiting)))]

    def _run(self, batch: Sequence[_WaitingQuery]) -> None:
        try:
            vectors = self._embed([query.text for query in batch])
        except BaseException as error:  # noqa: BLE001 - raised again where the query is awaited
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for query in batch:
                self._run([query])
            return
        for query, vector in zip(batch, vectors, strict=True):
            query.future.set_result(vector)


class DocumentLane:
    """Embeds lists of documents one after the other, each in groups; cancelling stops between two groups."""

    def __init__(self, embed: Callable[[Sequence[str], int], Iterator[Vectors]], name: str) -> None:
        """Take what embeds.

        Args:
            embed: Called with texts and the size of a group; yields each group's vectors, shape (texts, dimensions).
            name: Of the thread.
        """
        self._embed = embed
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def embed(
        self, texts: Sequence[str], group_size: int, gather: Callable[[Iterator[Vectors]], Result]
    ) -> Result:
        """Embed documents in the lane's thread.

        Args:
            texts: The documents, at least one.
            group_size: Texts embedded at a time.
            gather: Puts the groups together; it is called in the thread as well.
        """
        stop = threading.Event()
        future = self._executor.submit(lambda: gather(self._groups(texts, group_size, stop)))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _groups(self, texts: Sequence[str], group_size: int, stop: threading.Event) -> Iterator[Vectors]:
        groups = self._embed(texts, group_size)
        while not stop.is_set() and (vectors := next(groups, None)) is not None:
            yield vectors
