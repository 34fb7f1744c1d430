"""A Qdrant server over REST or gRPC, or the client's own emulation, through qdrant-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from sqlite3 import Error as SQLiteError
from typing import TYPE_CHECKING, Any, Literal, Self

from embedprefs_qdrant.stores import client_bulk, contract
from embedprefs_qdrant.stores import client_conversion as conversion
from embedprefs_qdrant.stores.batching import MAX_BATCH_BYTES, MAX_BATCH_POINTS, point_bytes
from embedprefs_qdrant.stores.client_calls import Calls
from embedprefs_qdrant.stores.client_collections import ClientCollections
from embedprefs_qdrant.stores.client_upload import Upload
from embedprefs_qdrant.stores.failures import StoreError
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.points import RECORD_POINT_ID, Hit, Point, PointId, StoredPoint, canonical_id
from embedprefs_qdrant.stores.protocol import (
    BulkState,
    Capabilities,
    OptimizeProgress,
    UploadReport,
)
from embedprefs_qdrant.stores.queries import SearchQuery, without_empty_searches
from embedprefs_qdrant.stores.retry import Clock, RetryPolicy
from embedprefs_qdrant.stores.validation import canonical_payload, validate_points, validate_query

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

__all__ = ["ClientStore"]

#: Seconds for one request; the client's own 5 seconds are too few for a batch that a busy server applies.
DEFAULT_TIMEOUT = 60.0

_IDS_AT_ONCE = 256
_POLL_SECONDS = 0.5

_LOCAL_IGNORED = (
    "hnsw",
    "quantization",
    "on_disk",
    "on_disk_payload",
    "datatype",
    "payload_indexes",
    "hnsw_ef",
    "exact",
)


class ClientStore(ClientCollections):
    """Collections of a Qdrant server, or of the client's emulation in Python.

    Args:
        client: A ready client; it is closed with the store only if `owns_client`.
        url: Where it leads, without secrets.
        kind: "server" or "local".
        transport: How it gets there.
        persistent: Whether the points outlive the process.
        owns_client: Whether `close` closes the client.
        timeout: Seconds for one request.
        retry: How patient to be.
        max_batch_bytes: Largest estimated size of one batch, in bytes.
        clock: Time and chance.
    """

    def __init__(
        self,
        client: QdrantClient,
        *,
        url: str,
        kind: Literal["server", "local"],
        transport: Literal["in process", "REST", "gRPC"],
        persistent: bool = True,
        owns_client: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        clock: Clock | None = None,
    ) -> None:
        call = Calls(
            client,
            url=url,
            timeout=timeout,
            policy=retry or RetryPolicy(),
            clock=clock or Clock(),
            local=kind == "local",
        )
        super().__init__(call, kind)
        self._transport: Literal["in process", "REST", "gRPC"] = transport
        self._persistent = persistent
        self._owns_client = owns_client
        self._max_batch_bytes = max_batch_bytes
        self._server_version: str | None = None

    def __repr__(self) -> str:
        return f"ClientStore({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def capabilities(self) -> Capabilities:
        """What the server, or the emulation, can do."""
        if self._kind == "local":
            return Capabilities(
                engine="local",
                transport="in process",
                engine_version=metadata.version("qdrant-client"),
                persistent=self._persistent,
                several_processes=False,
                approximate_search=False,
                optimizes_itself=False,
                payload_indexes=False,
                adds_vectors=True,
                native_aliases=True,
                ignored=_LOCAL_IGNORED,
                notes=(
                    "Every search is exact and compares with every vector in Python.",
                    "Meant for tests and a few thousand points; each point is committed to disk by itself.",
                ),
            )
        return Capabilities(
            engine="server",
            transport=self._transport,
            engine_version=self._server_version,
            persistent=True,
            several_processes=True,
            approximate_search=True,
            optimizes_itself=True,
            payload_indexes=True,
            adds_vectors=True,
            native_aliases=True,
            notes=(
                "Vectors can be added to an existing collection from server 1.18.",
                "A collection's own metadata holds the record from server 1.16; before, a reserved point does.",
                "Acknowledged points reach the disk within the server's flush interval (5 seconds by default).",
            ),
        )

    def connect(self) -> None:
        """Make sure that the server answers, and learn its version.

        Raises:
            StoreError: It does not answer.
        """
        if self._kind == "server":
            self._server_version = self._call("reach the server", lambda client, _: client.info()).version

    # Points

    def existing(
        self,
        collection: str,
        ids: Sequence[PointId],
        *,
        payload: bool | Sequence[str] = False,
        vectors: bool | Sequence[str] = False,
    ) -> dict[PointId, StoredPoint]:
        """Those of the points that are stored, by id."""
        wanted = [canonical_id(point) for point in ids]
        found: dict[PointId, StoredPoint] = {}
        for start in range(0, len(wanted), _IDS_AT_ONCE):
            send = self._retrieval(collection, wanted[start : start + _IDS_AT_ONCE], payload, vectors)
            records = self._point_call(f"read points of {collection!r}", collection, send)
            found.update((point.id, point) for point in map(conversion.our_point, records))
        found.pop(RECORD_POINT_ID, None)
        return found

    @staticmethod
    def _retrieval(
        collection: str, ids: Sequence[PointId], payload: bool | Sequence[str], vectors: bool | Sequence[str]
    ) -> Callable[[QdrantClient, int], list[models.Record]]:
        return lambda client, timeout: client.retrieve(
            collection,
            ids=list(ids),
            with_payload=conversion.selection(payload),
            with_vectors=conversion.selection(vectors),
            timeout=timeout,
        )

    def upsert(self, collection: str, points: Sequence[Point], *, verify_fields: Sequence[str] = ()) -> UploadReport:
        """Store points, each in place of an earlier one of the same id; see `Store.upsert` and `Upload`."""
        checked = self._validated(collection, lambda layout: validate_points(points, layout, collection))
        binary = self._transport == "gRPC"
        upload = Upload(
            collection,
            send=partial(self._send_points, collection),
            find_stored=partial(self._find_stored, collection, tuple(verify_fields)),
            size_of=partial(point_bytes, binary=binary),
            max_bytes=self._max_batch_bytes,
            max_points=MAX_BATCH_POINTS,
            policy=self._call.policy,
            timeout=self._call.timeout,
            clock=self._call.clock,
        )
        return upload.run(checked)

    def _send_points(self, collection: str, points: Sequence[Point], timeout: float) -> None:
        send = _upsert_over_grpc if self._transport == "gRPC" else _upsert
        try:
            self._call.once(partial(send, collection, points), timeout)
        except (OSError, RuntimeError, ValueError, SQLiteError) as error:
            if self._kind == "server":
                raise
            raise StoreError(f"{self.url}: {error}", action="upsert") from error

    def _find_stored(
        self, collection: str, fields: tuple[str, ...], points: Sequence[Point], timeout: float
    ) -> set[PointId]:
        wanted = {
            point.id: [point.payload[field] for field in fields]
            for point in points
            if fields and all(field in point.payload for field in fields)
        }
        if not wanted:
            return set()
        records = self._call.once(self._retrieval(collection, list(wanted), fields, False), timeout)
        found = map(conversion.our_point, records)
        return {point.id for point in found if [point.payload.get(field) for field in fields] == wanted[point.id]}

    def set_payload(
        self,
        collection: str,
        payload: Mapping[str, Any],
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002 - the word of the requests themselves
        replace: bool = False,
    ) -> None:
        """Set payload fields of the chosen points, or with `replace` their whole payload."""
        fields = canonical_payload(payload)
        change = _overwrite_payload if replace else _set_payload
        for selector in self._selectors("set_payload", ids, filter):
            action = f"change payloads in {collection!r}"
            self._point_call(action, collection, partial(change, collection, fields, selector))

    def delete(
        self,
        collection: str,
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002
    ) -> None:
        """Delete the chosen points."""
        for selector in self._selectors("delete", ids, filter):
            self._point_call(
                f"delete points of {collection!r}", collection, partial(_delete_points, collection, selector)
            )

    @staticmethod
    def _selectors(action: str, ids: Sequence[PointId] | None, condition: Filter | None) -> Iterator[Any]:
        from qdrant_client import models

        chosen = contract.choose_points(action, ids, condition)
        if isinstance(chosen, Filter):
            selected = conversion.client_filter(chosen)
            yield models.FilterSelector(filter=selected)
            return
        for start in range(0, len(chosen), _IDS_AT_ONCE):
            yield models.PointIdsList(points=list(chosen[start : start + _IDS_AT_ONCE]))

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        payload: bool | Sequence[str] = True,
        vectors: bool | Sequence[str] = False,
        batch_size: int = 256,
    ) -> Iterator[StoredPoint]:
        """All points in the order of their ids, read `batch_size` at a time."""
        arguments: dict[str, Any] = {
            "scroll_filter": conversion.client_filter(filter),
            "limit": batch_size,
            "with_payload": conversion.selection(payload),
            "with_vectors": conversion.selection(vectors),
        }
        offset: Any = None
        while True:
            records, offset = self._point_call(
                f"read points of {collection!r}", collection, partial(_scroll, collection, offset, arguments)
            )
            for point in map(conversion.our_point, records):
                if point.id != RECORD_POINT_ID:
                    yield point
            if offset is None:
                return

    # Searching

    def search(self, collection: str, queries: Sequence[SearchQuery]) -> list[list[Hit]]:
        """Run searches together; the hits of each, best first."""
        checked = self._validated(
            collection,
            lambda layout: [without_empty_searches(validate_query(query, layout, collection)) for query in queries],
        )
        tunable = self._kind == "server"
        requests = [conversion.client_query(query, tunable=tunable) for query in checked if query is not None]
        answers: Iterator[models.QueryResponse] = iter(())
        if requests:
            answers = iter(
                self._point_call(
                    f"search in {collection!r}",
                    collection,
                    lambda client, timeout: client.query_batch_points(collection, requests, timeout=timeout),
                )
            )
        return [[] if query is None else [conversion.our_hit(hit) for hit in next(answers).points] for query in checked]

    # Safety and speed

    def barrier(self, collection: str) -> None:
        """Make sure the collection is there; there is nothing to do for its points.

        The emulation commits every point, and a server offers no command that flushes.
        """
        self._require_info(collection)

    def optimize(
        self,
        collection: str,
        *,
        progress: Callable[[OptimizeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Wait until the server reports the collection as green; returns whether it was not at once."""
        info = self._require_info(collection)
        if self._kind == "local":
            return False
        clock = self._call.clock
        start = clock.now()
        end = start + (3600.0 if timeout is None else timeout)
        waited = woken = False
        greens = 0
        # A change of settings shows as yellow only a moment later, so that one green answer proves nothing.
        while greens < 2:
            status = str(info.status)
            seconds = clock.now() - start
            if status == "red":
                raise StoreError(
                    f"{self.url}: The collection {collection!r} reports an error: {info.optimizer_status}",
                    action="optimize",
                )
            if status == "grey" and not woken:
                # Graphs that are due after a restart are built only once something is changed.
                self._wake(self._existing_name(collection))
                woken = True
            greens = greens + 1 if status == "green" else 0
            waited = waited or status != "green"
            if greens == 2:
                break
            if clock.now() + _POLL_SECONDS > end:
                raise StoreError(
                    f"{self.url}: The graphs of {collection!r} are not ready after {seconds:.0f} seconds (status "
                    f"{status}). Nothing is lost, and searches work meanwhile.\n  Allow more time.",
                    action="optimize",
                )
            if progress is not None:
                progress(OptimizeProgress("optimizing", seconds, info.indexed_vectors_count))
            clock.sleep(_POLL_SECONDS)
            info = self._require_info(collection)
        if progress is not None:
            progress(OptimizeProgress("done", clock.now() - start, info.indexed_vectors_count))
        return waited

    def _wake(self, name: str) -> None:
        from qdrant_client import models

        self._update(name, {"optimizers_config": models.OptimizersConfigDiff()})

    @contextmanager
    def bulk(self, collection: str) -> Iterator[BulkState]:
        """Hold back the graphs of an empty collection on a server while it is filled."""
        name = self._existing_name(collection)
        if self._kind == "local":
            yield BulkState(held_back=False, reason="The client's emulation builds no graphs.")
            return
        read = partial(self._require_info, name)
        with client_bulk.hold_back(read(), partial(self._update, name), read) as state:
            yield state

    def close(self) -> None:
        """Release the connections; a client that was handed in stays open."""
        if self._owns_client and not self._call.closed:
            self._call.once(lambda client, _: client.close(), self._call.timeout)
        self._call.closed = True


def _upsert(collection: str, points: Sequence[Point], client: QdrantClient, timeout: int) -> None:
    converted = [conversion.client_point(point) for point in points]
    client.upsert(collection, converted, wait=True, timeout=timeout)


def _upsert_over_grpc(collection: str, points: Sequence[Point], client: QdrantClient, timeout: int) -> None:
    # The client's own upsert would turn numpy rows into lists of Python floats first.
    from qdrant_client import grpc

    converted = [conversion.grpc_point(point) for point in points]
    request = grpc.UpsertPoints(collection_name=collection, points=converted, wait=True, timeout=timeout)
    client.grpc_points.Upsert(request, timeout=timeout)


def _set_payload(collection: str, fields: dict[str, Any], selector: Any, client: QdrantClient, timeout: int) -> None:
    client.set_payload(collection, fields, selector, wait=True, timeout=timeout)


def _overwrite_payload(
    collection: str, fields: dict[str, Any], selector: Any, client: QdrantClient, timeout: int
) -> None:
    client.overwrite_payload(collection, fields, selector, wait=True, timeout=timeout)


def _delete_points(collection: str, selector: Any, client: QdrantClient, timeout: int) -> None:
    client.delete(collection, selector, wait=True, timeout=timeout)


def _scroll(
    collection: str, offset: Any, arguments: Mapping[str, Any], client: QdrantClient, timeout: int
) -> tuple[list[models.Record], Any]:
    return client.scroll(collection, offset=offset, timeout=timeout, **arguments)
