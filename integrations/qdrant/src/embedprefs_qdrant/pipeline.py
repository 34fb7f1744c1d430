"""Reading, embedding and storing side by side, with bounded queues between them.

One thread reads and cuts documents, the caller's thread embeds, one thread stores. Each waits for the next when that
one is slower, so memory stays flat however large the corpus is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedprefs import EmbedPrefsError, InputError, UnavailableError
from embedprefs.wording import many
from embedprefs_qdrant.channel import Channel
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS
from embedprefs_qdrant.planning import DocumentPlan, PlannedChunk, Planner
from embedprefs_qdrant.report import IngestProgress, IngestReport
from embedprefs_qdrant.stores.failures import StoreError, UploadError
from embedprefs_qdrant.stores.points import Point, PointId, SparseVector, Vector
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["Pipeline", "Vectors", "unavailable"]

#: Chunks embedded in one call: enough that sorting them by length pays, few enough that a stop comes soon.
GROUP_SIZE = 256
#: Chunks planned ahead of the one that is embedded.
PLANNED_AHEAD = 4 * GROUP_SIZE
#: Groups that wait to be stored, and the bytes of their vectors: token vectors make a group a hundred times larger.
WAITING_GROUPS = 4
WAITING_BYTES = 32 * 2**20
#: Bytes of the vectors of recent chunks that are kept, so that a text repeated in the corpus is embedded once.
RECENT_BYTES = 32 * 2**20
#: Groups in a row of which the store takes nothing before the run gives up.
MOST_FAILURES_IN_A_ROW = 3
#: Seconds between two looks whether the run was stopped, while nothing is to be done.
LOOK_EVERY = 0.2
#: Seconds an ending run waits for the document that is being read. An iterable of the caller's may never come back.
LAST_DOCUMENT_WAIT = 2.0
#: Seconds that a run ended by an interrupt waits for the request under way.
LAST_REQUEST_WAIT = 5.0

#: A point that is found with all of these is the very one that was sent: the content hash and the identities decide
#: the vectors, the document's state decides the rest.
VERIFY_FIELDS = ("content_hash", *BOOKKEEPING_FIELDS)

Vectors = Mapping[str, Vector]


@dataclass(frozen=True)
class _Group:
    points: Sequence[Point]
    members: Sequence[DocumentPlan]
    """The plan of each point."""


class Pipeline:
    """One run of documents through reading, embedding and storing."""

    def __init__(
        self,
        store: Store,
        collection: str,
        planner: Planner,
        embed: Callable[[Sequence[PlannedChunk], frozenset[str]], list[Vectors]],
        find_vectors: Callable[[Sequence[str]], Mapping[str, Vectors]],
        *,
        report: IngestReport,
        progress: Callable[[IngestProgress], None] | None,
        is_stopped: Callable[[], bool],
    ) -> None:
        """Take what the run works with.

        Args:
            store: Where points go.
            collection: In which collection.
            planner: Says what each document needs, and the names of the vectors that every point carries.
            embed: The named vectors of chunks, one mapping a chunk.
            find_vectors: Content hash -> vectors the store already holds for it, some or all.
            report: Counted up as the run goes.
            progress: Called in the caller's thread after each step.
            is_stopped: Whether to end the run after the group in hand; asked often, from several threads.
        """
        self._store = store
        self._collection = collection
        self._planner = planner
        self._embed = embed
        self._find_vectors = find_vectors
        self._report = report
        self._progress = progress
        self._is_stopped = is_stopped
        self._plans: Channel[DocumentPlan] = Channel(PLANNED_AHEAD, lambda plan: 1 + len(plan.new) + len(plan.moved))
        self._groups: Channel[_Group | DocumentPlan] = Channel(WAITING_BYTES, _size)
        self._recent = _RecentVectors(RECENT_BYTES)
        #: Content hash -> why a chunk has no vector.
        self._unreadable: dict[str, str] = {}
        self._error: BaseException | None = None
        self._ending = threading.Event()
        self._planned = 0
        self._reading_done = False
        self._failures_in_a_row = 0

    def run(self, documents: Iterable[Document]) -> None:
        """Bring every document into the store, or fail naming why.

        What is embedded is stored before the run ends, also where it ends early; an interrupt (KeyboardInterrupt) ends
        it after the request under way.

        Raises:
            UnavailableError: The store refused group after group, or could not be asked.
            Exception: Whatever the documents' own iterable raised, or the model.
        """
        reader = threading.Thread(target=self._run_reader, args=(documents,), name="embedprefs-read", daemon=True)
        uploader = threading.Thread(target=self._run_uploader, name="embedprefs-store", daemon=True)
        reader.start()
        uploader.start()
        try:
            self._embed_all()
            self._groups.finish()
            while uploader.is_alive():
                uploader.join(LOOK_EVERY)
                self._tell("finishing")
        except Exception:
            self._groups.finish()
            uploader.join()
            raise
        except BaseException:
            self._groups.abandon()
            uploader.join(LAST_REQUEST_WAIT)
            raise
        finally:
            self._ending.set()
            self._plans.abandon()
            reader.join(LAST_DOCUMENT_WAIT)
        if self._error is not None:
            raise self._error
        self._tell("done")

    def _run_reader(self, documents: Iterable[Document]) -> None:
        try:
            self._read(documents)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the caller's thread
            self._end_with(error)
        self._reading_done = True
        self._plans.finish()

    def _run_uploader(self) -> None:
        try:
            self._upload()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the caller's thread
            self._end_with(error)
            self._groups.abandon()

    def _end_with(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._ending.set()

    @property
    def _is_ending(self) -> bool:
        return self._is_stopped() or self._ending.is_set()

    # ------------------------------------------------------------------ reading

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
            except StoreError as error:
                raise self._unavailable("could not be asked what it holds", error) from error
            if plan is None:
                self._report.unchanged += 1
                continue
            if plan.is_new:
                self._report.new += 1
            else:
                self._report.changed += 1
            self._report.chunks += plan.state.chunks
            self._report.kept += plan.state.chunks - len(plan.new)
            self._planned += len(plan.new)
            if not self._plans.put(plan):
                return

    # ------------------------------------------------------------------ embedding

    def _embed_all(self) -> None:
        for group in self._grouped():
            self._embed_group(group)
            self._tell("embedding")
            if self._is_ending:
                return

    def _grouped(self) -> Iterator[list[tuple[DocumentPlan, PlannedChunk]]]:
        """Gather chunks of one or more documents into groups; a document without new chunks goes straight on.

        The chunks of a document that is read whole stay together, so that it is read once.
        """
        group: list[tuple[DocumentPlan, PlannedChunk]] = []
        told = -1
        while not self._ending.is_set():
            plan = self._plans.take(LOOK_EVERY)
            if told != self._report.documents:
                told = self._report.documents
                self._tell("reading")
            if plan is None:
                # A stop also ends a run whose next document does not come.
                if self._plans.is_over or self._is_stopped():
                    break
                continue
            if not plan.new:
                self._groups.put(plan)
            for chunk in plan.new:
                group.append((plan, chunk))
                if len(group) >= GROUP_SIZE and (chunk.passage is None or chunk is plan.new[-1]):
                    yield group
                    group = []
        if group and not self._ending.is_set():
            yield group

    def _embed_group(self, group: list[tuple[DocumentPlan, PlannedChunk]]) -> None:
        group = [(plan, chunk) for plan, chunk in group if not plan.failed]
        chunks = {chunk.content_hash: chunk for _, chunk in group}
        vectors = {digest: row for digest in chunks if (row := self._recent.get(digest)) is not None}
        unknown = [digest for digest in chunks if digest not in vectors]
        stored = self._find_vectors(unknown) if unknown else {}
        lacking: dict[frozenset[str], list[str]] = {}
        for digest in unknown:
            names = frozenset(self._planner.vectors.keys() - stored.get(digest, {}).keys())
            lacking.setdefault(names, []).append(digest)
        embedded = 0
        for names, digests in lacking.items():
            made: Mapping[str, Vectors] = {digest: {} for digest in digests}
            if names:
                started = time.perf_counter()
                made = self._made([chunks[digest] for digest in digests], names)
                self._report.seconds_embedding += time.perf_counter() - started
                embedded += len(made)
            for digest, row in made.items():
                vectors[digest] = {**stored.get(digest, {}), **row}
        self._report.embedded += embedded
        self._report.reused += sum(chunk.content_hash in vectors for _, chunk in group) - embedded
        for digest, row in vectors.items():
            self._recent.put(digest, row)
        points, members = [], []
        for plan, chunk in group:
            if chunk.content_hash not in vectors:
                self._fail(plan, self._unreadable[chunk.content_hash])
                continue
            row = vectors[chunk.content_hash]
            if not all(_is_finite(vector) for vector in row.values()):
                self._fail(
                    plan, f"the model gave a vector with NaN or infinity for the chunk at {chunk.payload['start']}"
                )
            if not plan.failed:
                points.append(Point(chunk.id, row, chunk.payload))
                members.append(plan)
        if points:
            self._groups.put(_Group(points, members))

    def _made(self, chunks: Sequence[PlannedChunk], names: frozenset[str]) -> Mapping[str, Vectors]:
        """Content hash -> the named vectors; a document that cannot be read whole has none, and its reason is kept."""
        alone = [chunk for chunk in chunks if chunk.passage is None]
        made = dict(
            zip((chunk.content_hash for chunk in alone), self._embed(alone, names) if alone else (), strict=True)
        )
        documents: dict[str, list[PlannedChunk]] = {}
        for chunk in chunks:
            if chunk.passage is not None:
                documents.setdefault(chunk.passage.document, []).append(chunk)
        for passages in documents.values():
            digests = [chunk.content_hash for chunk in passages]
            try:
                made |= zip(digests, self._embed(passages, names), strict=True)
            except InputError as error:
                self._unreadable |= dict.fromkeys(digests, f"a chunk cannot be embedded in its document: {error}")
        return made

    # ------------------------------------------------------------------ storing

    def _upload(self) -> None:
        while (item := self._groups.take()) is not None:
            if isinstance(item, DocumentPlan):
                self._finish(item)
            else:
                self._store_group(item)

    def _store_group(self, group: _Group) -> None:
        failed: set[PointId] = set()
        try:
            self._store.upsert(self._collection, group.points, verify_fields=VERIFY_FIELDS)
        except UploadError as error:
            failed = {*error.failed_ids, *error.unsent_ids}
            self._fail_points(group, failed, error)
        except InputError as error:
            # Nothing was sent. What cannot be stored must not keep other documents out.
            plans = {id(plan): plan for plan in group.members}
            if len(plans) > 1:
                for plan in plans.values():
                    points = [
                        point for point, member in zip(group.points, group.members, strict=True) if member is plan
                    ]
                    self._store_group(_Group(points, [plan] * len(points)))
                return
            failed = {point.id for point in group.points}
            self._fail_points(group, failed, error)
        if len(failed) < len(group.points):
            self._failures_in_a_row = 0
        self._report.stored += len(group.points) - len(failed)
        for point, plan in zip(group.points, group.members, strict=True):
            if point.id not in failed:
                plan.remaining -= 1
                if plan.remaining == 0 and not plan.failed:
                    self._finish(plan)

    def _fail_points(self, group: _Group, failed: set[PointId], error: EmbedPrefsError) -> None:
        for point, plan in zip(group.points, group.members, strict=True):
            if point.id in failed:
                self._fail(plan, str(error))
        # What the store did not even try is the documents' fault, unless it is that of the collection as a whole.
        if isinstance(error, StoreError) or self._store.describe(self._collection) is None:
            self._note_failure(error)

    def _note_failure(self, error: EmbedPrefsError) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise self._unavailable(f"failed {self._failures_in_a_row} times in a row", error) from error

    def _unavailable(self, what: str, error: EmbedPrefsError) -> UnavailableError:
        return unavailable(self._store, what, error, self._report)

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
        except StoreError as error:
            self._fail(plan, str(error))
            self._note_failure(error)
        except InputError as error:
            self._fail(plan, str(error))
        else:
            self._failures_in_a_row = 0

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
                    self._report.stored,
                    self._reading_done,
                )
            )


def unavailable(store: Store, what: str, error: EmbedPrefsError, report: IngestReport) -> UnavailableError:
    """The error that ends a run whose store is gone, with what is safe."""
    return UnavailableError(
        f"{store.url} {what}, the last time with:\n{error}\n"
        f"  In this run {many(report.stored, 'chunk was', 'chunks were')} acknowledged, and stored in the collection "
        f"{report.collection}. Look after the store, then run again: it continues."
    )


class _RecentVectors:
    """The vectors used last, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._rows: OrderedDict[str, Vectors] = OrderedDict()

    def get(self, digest: str) -> Vectors | None:
        return self._rows.get(digest)

    def put(self, digest: str, row: Vectors) -> None:
        known = self._rows.pop(digest, None)
        self._held += _vector_bytes(row) - (_vector_bytes(known) if known is not None else 0)
        self._rows[digest] = row
        while self._held > self._most:
            self._held -= _vector_bytes(self._rows.popitem(last=False)[1])


def _size(item: _Group | DocumentPlan) -> int:
    """Share of what may wait, in bytes."""
    if isinstance(item, DocumentPlan):
        return WAITING_BYTES // PLANNED_AHEAD * (1 + len(item.moved))
    return max(WAITING_BYTES // WAITING_GROUPS, sum(_vector_bytes(point.vectors) for point in item.points))


def _vector_bytes(row: Vectors) -> int:
    return sum(
        vector.indices.nbytes + vector.values.nbytes if isinstance(vector, SparseVector) else vector.nbytes
        for vector in row.values()
    )


def _is_finite(vector: Vector) -> bool:
    values = vector.values if isinstance(vector, SparseVector) else vector
    return bool(np.isfinite(values).all())
