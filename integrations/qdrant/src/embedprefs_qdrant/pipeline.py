"""Reading, embedding and storing side by side, with bounded queues between them.

One thread reads and cuts documents, the caller's thread embeds, one thread stores. Each waits for the next when that
one is slower, so memory stays flat however large the corpus is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedprefs import EmbedPrefsError, InputError, UnavailableError
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.planning import DocumentPlan, PlannedChunk, Planner
from embedprefs_qdrant.report import IngestProgress, IngestReport
from embedprefs_qdrant.stores.failures import StoreError, UploadError
from embedprefs_qdrant.stores.points import Point, Vector
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["Pipeline"]

#: Chunks embedded in one call: enough that sorting them by length pays, few enough that a stop comes soon.
GROUP_SIZE = 256
#: Chunks planned ahead of the one that is embedded.
PLANNED_AHEAD = 4 * GROUP_SIZE
#: Vectors of recent chunks kept, so that a text repeated in the corpus is embedded once.
RECENT_VECTORS = 4096
#: Groups in a row that the store refuses before the run gives up.
MOST_FAILURES_IN_A_ROW = 3

Vectors = Mapping[str, Vector]


@dataclass(frozen=True)
class _Group:
    points: Sequence[Point]
    members: Sequence[tuple[DocumentPlan, str]]
    """The plan of each point, and its id."""


class _BoundedPlans:
    """A queue of plans that counts chunks, so that neither many small documents nor one large one fill memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._items: list[DocumentPlan | None] = []
        self._changed = threading.Condition()
        self._closed = False

    def put(self, plan: DocumentPlan | None) -> None:
        size = 1 if plan is None else 1 + len(plan.new)
        with self._changed:
            # One plan is always let in, however large it is.
            self._changed.wait_for(lambda: self._closed or not self._items or self._waiting + size <= self._most)
            self._items.append(plan)
            self._waiting += size
            self._changed.notify_all()

    def get(self) -> DocumentPlan | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            plan = self._items.pop(0)
            self._waiting -= 1 if plan is None else 1 + len(plan.new)
            self._changed.notify_all()
            return plan

    def close(self) -> None:
        """Let a waiting producer go on; nobody will take what it brings."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Pipeline:
    """One run of documents through reading, embedding and storing."""

    def __init__(
        self,
        store: Store,
        collection: str,
        planner: Planner,
        embed: Callable[[Sequence[str]], list[Vectors]],
        find_vectors: Callable[[Sequence[str]], Mapping[str, Vectors]],
        *,
        report: IngestReport,
        progress: Callable[[IngestProgress], None] | None,
        stop: threading.Event,
    ) -> None:
        """Take what the run works with.

        Args:
            store: Where points go.
            collection: In which collection.
            planner: Says what each document needs.
            embed: Vectors of texts, by vector name, one mapping a text.
            find_vectors: Content hash -> vectors the store already holds for it.
            report: Counted up as the run goes.
            progress: Called in the caller's thread after each step.
            stop: Set to end the run after the group in hand.
        """
        self._store = store
        self._collection = collection
        self._planner = planner
        self._embed = embed
        self._find_vectors = find_vectors
        self._report = report
        self._progress = progress
        self._stop = stop
        self._plans = _BoundedPlans(PLANNED_AHEAD)
        self._groups: queue.Queue[_Group | DocumentPlan | None] = queue.Queue(maxsize=4)
        self._recent: OrderedDict[str, Vectors] = OrderedDict()
        self._error: BaseException | None = None
        self._ending = threading.Event()
        self._planned = 0
        self._stored = 0
        self._reading_done = False
        self._failures_in_a_row = 0

    def run(self, documents: Iterable[Document]) -> None:
        """Bring every document into the store, or fail naming why.

        Raises:
            UnavailableError: The store refused group after group.
            Exception: Whatever the documents' own iterable raised.
        """
        reader = threading.Thread(target=self._run_reader, args=(documents,), name="embedprefs-read", daemon=True)
        uploader = threading.Thread(target=self._run_uploader, name="embedprefs-store", daemon=True)
        reader.start()
        uploader.start()
        try:
            self._embed_all()
        finally:
            self._ending.set()
            self._plans.close()
            # What is in the queue is stored before the run ends, also when it ends early.
            self._groups.put(None)
            uploader.join()
        # Not joined: the reader may wait for an iterable of the caller's that never ends.
        if self._error is not None:
            raise self._error

    def _run_reader(self, documents: Iterable[Document]) -> None:
        try:
            self._read(documents)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the caller's thread
            self._end_with(error)
        self._reading_done = True
        self._plans.put(None)

    def _run_uploader(self) -> None:
        try:
            self._upload()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the caller's thread
            self._end_with(error)
            # Take what the caller's thread may still put, so that it never waits for a thread that has ended.
            while self._groups.get() is not None:
                pass

    def _end_with(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._ending.set()

    @property
    def _is_ending(self) -> bool:
        return self._stop.is_set() or self._ending.is_set()

    def _read(self, documents: Iterable[Document]) -> None:
        for document in documents:
            if self._is_ending:
                return
            self._report.documents += 1
            try:
                plan = self._planner.plan(document)
            except InputError as error:
                self._report.failed[document.source] = str(error)
                continue
            if plan is None:
                self._report.unchanged += 1
                continue
            if plan.is_new:
                self._report.new += 1
            else:
                self._report.changed += 1
            self._report.chunks += plan.state[1]
            self._report.kept += plan.state[1] - len(plan.new)
            self._planned += len(plan.new)
            self._plans.put(plan)

    def _embed_all(self) -> None:
        for plans in self._grouped():
            if self._ending.is_set():
                return
            self._embed_group(plans)
            self._tell("embedding")
            if self._is_ending:
                return
        self._tell("finishing")

    def _grouped(self) -> Iterator[list[tuple[DocumentPlan, PlannedChunk]]]:
        """Gather chunks of one or more documents into groups; a document without new chunks goes straight on."""
        group: list[tuple[DocumentPlan, PlannedChunk]] = []
        while (plan := self._plans.get()) is not None:
            if not plan.new:
                self._groups.put(plan)
                self._tell("reading")
            for chunk in plan.new:
                group.append((plan, chunk))
                if len(group) == GROUP_SIZE:
                    yield group
                    group = []
        if group:
            yield group

    def _embed_group(self, group: list[tuple[DocumentPlan, PlannedChunk]]) -> None:
        vectors: dict[str, Vectors] = {}
        for _, chunk in group:
            if chunk.content_hash in self._recent:
                vectors[chunk.content_hash] = self._recent[chunk.content_hash]
        unknown = {chunk.content_hash: chunk.embedded_text for _, chunk in group if chunk.content_hash not in vectors}
        stored = self._find_vectors(list(unknown)) if unknown else {}
        vectors.update(stored)
        missing = {digest: text for digest, text in unknown.items() if digest not in stored}
        if missing:
            started = time.perf_counter()
            made = self._embed(list(missing.values()))
            self._report.seconds_embedding += time.perf_counter() - started
            vectors.update(zip(missing, made, strict=True))
        self._report.embedded += len(missing)
        self._report.reused += len(group) - len(missing)
        self._remember(vectors)
        points, members = [], []
        for plan, chunk in group:
            if plan.failed:
                continue
            row = vectors[chunk.content_hash]
            if not all(_is_finite(vector) for vector in row.values()):
                self._fail(
                    plan, f"the model gave a vector with NaN or infinity for the chunk at {chunk.payload['start']}"
                )
                continue
            points.append(Point(chunk.id, row, chunk.payload))
            members.append((plan, chunk.id))
        if points:
            self._groups.put(_Group(points, members))

    def _remember(self, vectors: Mapping[str, Vectors]) -> None:
        for digest, row in vectors.items():
            self._recent[digest] = row
            self._recent.move_to_end(digest)
        while len(self._recent) > RECENT_VECTORS:
            self._recent.popitem(last=False)

    def _upload(self) -> None:
        while (item := self._groups.get()) is not None:
            if isinstance(item, DocumentPlan):
                self._finish(item)
            else:
                self._store_group(item)

    def _store_group(self, group: _Group) -> None:
        failed: set[object] = set()
        try:
            self._store.upsert(self._collection, group.points, verify_fields=("content_hash", "document_hash"))
            self._failures_in_a_row = 0
        except UploadError as error:
            failed = {*error.failed_ids, *error.unsent_ids}
            self._note_failure(error)
            for plan in {id(plan): plan for plan, point in group.members if point in failed}.values():
                self._fail(plan, str(error))
        self._stored += len(group.points) - len(failed)
        for plan, point in group.members:
            if point not in failed:
                plan.remaining -= 1
                if plan.remaining == 0 and not plan.failed:
                    self._finish(plan)

    def _note_failure(self, error: StoreError) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise UnavailableError(
                f"{self._store.url} refused {self._failures_in_a_row} groups of points in a row, the last "
                f"with:\n{error}\n"
                "  What was acknowledged is stored. Look after the store, then run again: it continues."
            ) from error

    def _finish(self, plan: DocumentPlan) -> None:
        """The steps after a document's new chunks are acknowledged; the bookkeeping and the deletion come last."""
        try:
            for point, payload in plan.moved.items():
                self._store.set_payload(self._collection, payload, ids=[point], replace=True)
            if plan.kept:
                self._store.set_payload(self._collection, plan.bookkeeping, ids=plan.kept)
            if plan.stale:
                self._store.delete(self._collection, ids=plan.stale)
                self._report.deleted += len(plan.stale)
        except EmbedPrefsError as error:
            self._fail(plan, str(error))
            if isinstance(error, StoreError):
                self._note_failure(error)

    def _fail(self, plan: DocumentPlan, reason: str) -> None:
        plan.failed = True
        self._report.failed.setdefault(plan.source, reason)

    def _tell(self, phase: Literal["reading", "embedding", "finishing", "done"]) -> None:
        if self._progress is not None:
            self._progress(
                IngestProgress(
                    phase,
                    self._report.documents,
                    self._report.unchanged,
                    self._planned,
                    self._report.embedded + self._report.reused,
                    self._stored,
                    self._reading_done,
                )
            )


def _is_finite(vector: Vector) -> bool:
    values = vector if isinstance(vector, np.ndarray) else vector.values
    return bool(np.isfinite(values).all())
