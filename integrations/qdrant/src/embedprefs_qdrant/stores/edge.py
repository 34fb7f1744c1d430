"""The embedded engine: Qdrant's own storage and search in this process, with its write-ahead log on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import RLock
from typing import Any, Self

from embedprefs.errors import InputError, ResourceError
from embedprefs_qdrant.stores import edge_conversion as conversion
from embedprefs_qdrant.stores import edge_files as files
from embedprefs_qdrant.stores.batching import MAX_BATCH_BYTES, MAX_BATCH_POINTS, batches, point_bytes
from embedprefs_qdrant.stores.contract import (
    canonical_record,
    choose_points,
    ordinary_points,
    refuse_conflicts,
    warn_of_unapplied,
)
from embedprefs_qdrant.stores.edge_shard import Shard
from embedprefs_qdrant.stores.failures import StoreError, UploadError, suggest_collection
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.points import RECORD_POINT_ID, Hit, Point, PointId, StoredPoint, canonical_id
from embedprefs_qdrant.stores.protocol import (
    BulkState,
    Capabilities,
    CollectionDescription,
    OptimizeProgress,
    UploadReport,
)
from embedprefs_qdrant.stores.queries import SearchQuery, without_empty_searches
from embedprefs_qdrant.stores.validation import canonical_payload, validate_points, validate_query

__all__ = ["EdgeStore"]

#: Below this many points a search that leaves the choice to the store compares with every vector: it takes as long as
#: walking a graph (1.6 to 1.8 ms for 20,000 vectors of 384 dimensions, measured) and misses nothing.
EXACT_BELOW = 20_000

_READ_AT_ONCE = 256


class EdgeStore:
    """Collections of the embedded engine under one folder.

    A killed process loses no acknowledged point; `barrier` makes them survive a power failure too. One process at a
    time can have a collection open, from its first use until `close`.

    Args:
        path: Folder that holds the collections, one subfolder each.
        create: Whether the folder may be made.
        lock_wait: Seconds to wait for a collection that is open elsewhere; a killed process releases it after a
            moment.
        max_batch_bytes: Largest estimated size of one batch, in bytes.
        exact_below: Number of points below which searches compare with every vector unless they say otherwise.

    Raises:
        InputError: The folder does not exist and may not be made.
        ResourceError: The path is no folder.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        lock_wait: float = 3.0,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        exact_below: int = EXACT_BELOW,
    ) -> None:
        self._root = Path(path).expanduser().absolute()
        if self._root.exists() and not self._root.is_dir():
            raise ResourceError(f"{self._root}: This is a file; the embedded engine needs a folder.")
        if not create and not self._root.exists():
            raise InputError(f"{self._root}: There is no such folder.\n  Index documents into it first.")
        self._lock_wait = lock_wait
        self._max_batch_bytes = max_batch_bytes
        self._exact_below = exact_below
        self._lock = RLock()
        self._shards: dict[str, Shard] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"EdgeStore({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the store is."""
        return f"edge:{self._root}"

    @property
    def capabilities(self) -> Capabilities:
        """What the embedded engine can do."""
        return Capabilities(
            engine="edge",
            transport="in process",
            engine_version=metadata.version("qdrant-edge-py"),
            persistent=True,
            several_processes=False,
            approximate_search=True,
            optimizes_itself=False,
            payload_indexes=True,
            adds_vectors=True,
            native_aliases=False,
            notes=(
                "One process at a time can have a collection open.",
                "Graphs are built only by optimize(), in a process of its own; other calls wait meanwhile.",
                "Every call holds Python's global lock, so that threads do not search faster than one.",
                "A vector added to an existing collection has the engine's defaults for graph, quantization and place.",
            ),
        )

    # Collections

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(path.parent.name for path in self._root.glob(f"[!.]*/{files.CONFIG_FILE}"))

    def aliases(self) -> dict[str, str]:
        """Collection by alias."""
        written = files.read_json(self._root / files.ALIASES_FILE) or {}
        return dict(written.get("aliases", {}))

    def switch(self, alias: str, collection: str) -> str | None:
        """Let `alias` lead to `collection`, atomically; returns where it led before."""
        files.check_name(alias)
        with self._lock:
            if alias in self.collections():
                raise InputError(f"{self.url}: {alias!r} is a collection and cannot become an alias.")
            target = self._existing_name(collection)
            aliases = self.aliases()
            before = aliases.get(alias)
            files.write_json(self._root / files.ALIASES_FILE, {"version": 1, "aliases": {**aliases, alias: target}})
            return before

    def describe(self, collection: str) -> CollectionDescription | None:
        """A collection as it is now; None if it does not exist."""
        with self._lock:
            name = self._resolve(collection)
            if name not in self.collections():
                return None
            shard = self._shard(name)
            info = shard.run("describe", lambda engine: engine.info())
            record = shard.read_record()
            return CollectionDescription(
                name=name,
                aliases=tuple(sorted(alias for alias, target in self.aliases().items() if target == name)),
                layout=shard.layout,
                points=self.count(name),
                indexed_vectors=info.indexed_vectors_count,
                segments=info.segments_count,
                status="ready",
                detail=None,
                record_place=None if record is None else record[1],
            )

    def ensure(self, collection: str, layout: CollectionLayout) -> bool:
        """Create the collection, or add what an existing one lacks; returns whether it was created."""
        with self._lock:
            name = files.check_name(self._resolve(collection))
            created = name not in self.collections()
            if created:
                self._refuse_closed()
                shard = Shard.create(self._root, name, layout, self._lock_wait)
                self._shards[name] = shard
            else:
                shard = self._shard(name)
            refuse_conflicts(name, layout, shard.layout, self.url)
            if not created:
                self._add_missing(shard, layout)
            warn_of_unapplied(
                name, layout, shard.layout, "They are fixed when a vector is created; fill a new collection with them."
            )
            return created

    def _add_missing(self, shard: Shard, layout: CollectionLayout) -> None:
        import qdrant_edge as edge

        operations = [
            edge.UpdateOperation.create_dense_vector(
                name,
                vector.size,
                conversion.engine_distance(vector),
                conversion.engine_multivector(vector),
                conversion.engine_datatype(vector),
            )
            for name, vector in layout.vectors.items()
            if name not in shard.layout.vectors
        ]
        operations += [
            edge.UpdateOperation.create_sparse_vector(name, edge.Modifier.Idf if sparse.idf else None)
            for name, sparse in layout.sparse_vectors.items()
            if name not in shard.layout.sparse_vectors
        ]
        operations += [
            edge.UpdateOperation.create_field_index(field, conversion.engine_index(index))
            for field, index in layout.payload_indexes.items()
            if field not in shard.layout.payload_indexes
        ]
        for operation in operations:
            shard.run("extend", partial(_update, operation))
        if operations:
            shard.run("flush", lambda engine: engine.flush())
            shard.refresh_layout()

    def drop(self, collection: str) -> bool:
        """Delete a collection and its aliases; False if there was none."""
        with self._lock:
            name = self._resolve(collection)
            if name not in self.collections():
                return False
            if name in self._shards:
                self._shards.pop(name).close()
            aliases = {alias: target for alias, target in self.aliases().items() if target != name}
            if aliases != self.aliases():
                files.write_json(self._root / files.ALIASES_FILE, {"version": 1, "aliases": aliases})
            Shard.drop(self._root, name, self._lock_wait)
            return True

    # The record

    def read_record(self, collection: str) -> dict[str, Any] | None:
        """The record, from the file beside the collection or from the reserved point; None if there is none."""
        with self._lock:
            name = self._resolve(collection)
            if name not in self.collections():
                return None
            found = self._shard(name).read_record()
            return None if found is None else found[0]

    def write_record(self, collection: str, record: Mapping[str, Any]) -> None:
        """Store the record in a file beside the collection and in the reserved point."""
        with self._lock:
            shard = self._shard(collection)
            wanted = canonical_record(record)
            shard.write_record(wanted)
            found = shard.read_record()
            if found is None or found[0] != wanted:
                raise StoreError(f"{self.url}: The record of {shard.name!r} was not kept as written.", action="record")

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
        payload, vectors = conversion.selection(payload), conversion.selection(vectors)
        found: dict[PointId, StoredPoint] = {}
        for start in range(0, len(wanted), _READ_AT_ONCE):
            some = wanted[start : start + _READ_AT_ONCE]
            with self._lock:
                records = self._shard(collection).run("read", partial(_retrieve, some, payload, vectors))
            found.update((point.id, point) for point in map(conversion.our_point, records))
        found.pop(RECORD_POINT_ID, None)
        return found

    def upsert(self, collection: str, points: Sequence[Point], *, verify_fields: Sequence[str] = ()) -> UploadReport:
        """Store points, each in place of an earlier one of the same id.

        `verify_fields` changes nothing here: no answer of an engine in the same process can be lost.
        """
        import qdrant_edge as edge

        del verify_fields
        start = time.monotonic()
        with self._lock:
            layout = self._shard(collection).layout
        checked = validate_points(points, layout, collection)
        planned = list(
            batches(
                checked,
                size_of=partial(point_bytes, binary=True),
                max_bytes=self._max_batch_bytes,
                max_points=MAX_BATCH_POINTS,
            )
        )
        stored = 0
        for batch, _ in planned:
            operation = edge.UpdateOperation.upsert_points([conversion.engine_point(point) for point in batch])
            try:
                with self._lock:
                    self._shard(collection).run("write to", partial(_update, operation))
            except StoreError as error:
                raise UploadError(
                    collection,
                    str(error),
                    failed_ids=[point.id for point in batch],
                    unsent_ids=[point.id for point in checked[stored + len(batch) :]],
                    stored=stored,
                ) from error
            stored += len(batch)
        return UploadReport(
            points=stored,
            requests=len(planned),
            retries=0,
            verified=0,
            payload_bytes=sum(size for _, size in planned),
            seconds=time.monotonic() - start,
        )

    def set_payload(
        self,
        collection: str,
        payload: Mapping[str, Any],
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002 - the word of the engine's own requests
        replace: bool = False,
    ) -> None:
        """Set payload fields of the chosen points, or with `replace` their whole payload."""
        from qdrant_edge import UpdateOperation as operations  # noqa: N813 - a namespace of functions

        fields = canonical_payload(payload)
        chosen = choose_points("set_payload", ids, filter)
        if isinstance(chosen, Filter):
            condition = conversion.engine_filter(chosen)
            by_filter = operations.overwrite_payload_by_filter if replace else operations.set_payload_by_filter
            operation = by_filter(condition, fields)
        elif chosen:
            operation = (operations.overwrite_payload if replace else operations.set_payload)(
                conversion.engine_ids(chosen), fields
            )
        else:
            return
        with self._lock:
            self._shard(collection).run("write to", partial(_update, operation))

    def delete(
        self,
        collection: str,
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002
    ) -> None:
        """Delete the chosen points."""
        from qdrant_edge import UpdateOperation as operations  # noqa: N813 - a namespace of functions

        chosen = choose_points("delete", ids, filter)
        if isinstance(chosen, Filter):
            operation = operations.delete_points_by_filter(conversion.engine_filter(chosen))
        elif chosen:
            operation = operations.delete_points(conversion.engine_ids(chosen))
        else:
            return
        with self._lock:
            self._shard(collection).run("delete from", partial(_update, operation))

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
        import qdrant_edge as edge

        offset: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=batch_size,
                filter=conversion.engine_filter(filter),
                with_payload=conversion.selection(payload),
                with_vector=conversion.selection(vectors),
            )
            with self._lock:
                records, offset = self._shard(collection).run("read", partial(_scroll, request))
            for point in map(conversion.our_point, records):
                if point.id != RECORD_POINT_ID:
                    yield point
            if offset is None:
                return

    def count(self, collection: str, *, filter: Filter | None = None) -> int:  # noqa: A002
        """Exact number of points that meet the filter."""
        import qdrant_edge as edge

        with self._lock:
            shard = self._shard(collection)
            condition = ordinary_points(filter) if shard.has_record_point else filter
            request = edge.CountRequest(exact=True, filter=conversion.engine_filter(condition))
            return int(shard.run("count", lambda engine: engine.count(request)))

    # Searching

    def search(self, collection: str, queries: Sequence[SearchQuery]) -> list[list[Hit]]:
        """Run searches together; the hits of each, best first."""
        import qdrant_edge as edge

        with self._lock:
            shard = self._shard(collection)
            total = shard.run("describe", lambda engine: engine.info()).points_count
            checked = [without_empty_searches(validate_query(query, shard.layout, collection)) for query in queries]
            requests = [
                conversion.engine_query(query, exact=total < self._exact_below)
                for query in checked
                if query is not None
            ]
            answers: Iterator[Any] = iter(())
            if requests:
                batch = edge.QueryBatchRequest(requests)
                answers = iter(shard.run("search", lambda engine: engine.query_batch(batch)))
        return [[] if query is None else [conversion.our_hit(hit) for hit in next(answers)] for query in checked]

    # Safety and speed

    def barrier(self, collection: str) -> None:
        """Write everything acknowledged so far to disk."""
        with self._lock:
            self._shard(collection).run("flush", lambda engine: engine.flush())

    def optimize(
        self,
        collection: str,
        *,
        progress: Callable[[OptimizeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Build the graphs in a process of its own; other calls wait meanwhile.

        Vectors of fewer than 10,000 kilobytes are left without a graph (the engine's default): they are scanned.
        """
        with self._lock:
            shard = self._shard(collection)
            try:
                return shard.optimize(progress, 3600.0 if timeout is None else timeout)
            finally:
                if not shard.is_open:
                    self._shards.pop(shard.name).close()

    @contextmanager
    def bulk(self, collection: str) -> Iterator[BulkState]:
        """Changes nothing: this engine builds graphs only in `optimize`."""
        self._existing_name(collection)
        yield BulkState(held_back=False, reason="The embedded engine builds graphs only when optimize() is called.")

    def close(self) -> None:
        """Write everything to disk and let other processes open the collections."""
        with self._lock:
            self._closed = True
            while self._shards:
                self._shards.popitem()[1].close()

    # Names and shards

    def _resolve(self, collection: str) -> str:
        return self.aliases().get(collection, collection)

    def _existing_name(self, collection: str) -> str:
        name = self._resolve(collection)
        if name not in self._shards and not (self._root / name / files.CONFIG_FILE).is_file():
            raise suggest_collection(collection, [*self.collections(), *self.aliases()], self.url)
        return name

    def _shard(self, collection: str) -> Shard:
        self._refuse_closed()
        name = self._existing_name(files.check_name(collection))
        if name not in self._shards:
            self._shards[name] = Shard.open(self._root, name, self._lock_wait)
        return self._shards[name]

    def _refuse_closed(self) -> None:
        if self._closed:
            raise InputError(f"{self.url}: The store is closed.\n  Open it again with open_store.")


def _update(operation: Any, engine: Any) -> None:
    engine.update(operation)


def _retrieve(ids: list[PointId], payload: bool | list[str], vectors: bool | list[str], engine: Any) -> Any:
    return engine.retrieve(ids, payload, vectors)


def _scroll(request: Any, engine: Any) -> Any:
    return engine.scroll(request)
