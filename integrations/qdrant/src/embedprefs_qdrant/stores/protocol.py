"""What every store does, whatever is behind it: the embedded engine, a server, or the client's emulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.points import Hit, Point, PointId, StoredPoint
from embedprefs_qdrant.stores.queries import SearchQuery

__all__ = [
    "BulkState",
    "Capabilities",
    "CollectionDescription",
    "OptimizeProgress",
    "RecordPlace",
    "Store",
    "UploadReport",
]

RecordPlace = Literal["collection metadata", "sidecar file", "reserved point"]


@dataclass(frozen=True)
class Capabilities:
    """What a store can do, and what it accepts without doing it.

    Attributes:
        engine: "edge" (embedded engine), "server", or "local" (the client's emulation in Python).
        transport: How it is reached.
        engine_version: Version of the engine or the server; None where a server does not tell.
        persistent: Whether the points outlive the process.
        several_processes: Whether several processes can have it open at once.
        approximate_search: Whether it can build an HNSW graph. Otherwise every search is exact.
        optimizes_itself: Whether graphs are built in the background, without `optimize`.
        payload_indexes: Whether payload indexes speed up filters. Filters work either way.
        adds_vectors: Whether a named vector can be added to an existing collection.
        native_aliases: Whether the engine keeps aliases itself; otherwise a file beside the collections does.
        ignored: Settings of a layout or a search that are accepted and have no effect.
        notes: What else differs from a server, in sentences.
    """

    engine: Literal["edge", "server", "local"]
    transport: Literal["in process", "REST", "gRPC"]
    engine_version: str | None
    persistent: bool
    several_processes: bool
    approximate_search: bool
    optimizes_itself: bool
    payload_indexes: bool
    adds_vectors: bool
    native_aliases: bool
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CollectionDescription:
    """One collection as it is now.

    Attributes:
        name: Its own name, also where an alias was asked for.
        aliases: Names that lead to it.
        layout: As stored.
        points: Exact number of points, the reserved one not counted.
        indexed_vectors: Vectors in an HNSW graph, an estimate; None where the store builds none.
        segments: Segments that hold the points; None where the store has none.
        status: "ready"; "indexing" while graphs are built; "failed" when the engine reports an error.
        detail: What the engine says about a failure.
        record_place: Where the record was found; None where the collection carries none.
    """

    name: str
    aliases: tuple[str, ...]
    layout: CollectionLayout
    points: int
    indexed_vectors: int | None
    segments: int | None
    status: Literal["ready", "indexing", "failed"]
    detail: str | None
    record_place: RecordPlace | None


@dataclass(frozen=True)
class UploadReport:
    """What one `upsert` took.

    Attributes:
        points: Points stored: all of the call.
        requests: Requests sent, repeated ones included.
        retries: How many of them repeated something.
        verified: Points whose request failed and which were then found to be stored.
        payload_bytes: Estimated size of what was sent once.
        seconds: Time taken.
    """

    points: int
    requests: int
    retries: int
    verified: int
    payload_bytes: int
    seconds: float


@dataclass(frozen=True)
class OptimizeProgress:
    """How far `optimize` is.

    Attributes:
        phase: "optimizing", then "done".
        seconds: Time since the start.
        indexed_vectors: Vectors in a graph so far; None where the engine does not tell before it is done.
    """

    phase: Literal["optimizing", "done"]
    seconds: float
    indexed_vectors: int | None


@dataclass(frozen=True)
class BulkState:
    """What the bulk profile does: whether indexing is held back, and why or why not."""

    held_back: bool
    reason: str


@runtime_checkable
class Store(Protocol):
    """Collections of points under one roof.

    Every method that takes the name of a collection takes an alias as well. All of them may be called from several
    threads; only a server runs such calls at the same time. Methods raise `embedprefs.errors.InputError` for a
    collection that does not exist or a request that cannot be right, `embedprefs.errors.ResourceError` where another
    process has the data open, and `StoreError` (an `UnavailableError`) for what the engine or the server fails at.
    """

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do."""

    def collections(self) -> list[str]:
        """Names of all collections, sorted, aliases not among them."""

    def describe(self, collection: str) -> CollectionDescription | None:
        """A collection as it is now; None if it does not exist."""

    def ensure(self, collection: str, layout: CollectionLayout) -> bool:
        """Create the collection, or make sure that the existing one fits.

        Vectors and payload indexes that an existing collection lacks are added. Warns (`EmbedPrefsWarning`) of what
        was asked and has no effect here.

        Returns:
            Whether it was created.

        Raises:
            PreferenceMismatchError: The collection exists with other dimensions, distances, datatypes or kinds of
                vectors.
        """

    def drop(self, collection: str) -> bool:
        """Delete a collection and its aliases; False if there was none."""

    def read_record(self, collection: str) -> dict[str, Any] | None:
        """The record that `write_record` stored; None if there is none, or no collection."""

    def write_record(self, collection: str, record: Mapping[str, Any]) -> None:
        """Store a JSON object with the collection, in place of an earlier one, and read it back.

        It is kept in the collection's metadata where the store has such, otherwise in a file beside the collection
        (embedded engine) or in a reserved point, which no other method shows.
        """

    def existing(
        self,
        collection: str,
        ids: Sequence[PointId],
        *,
        payload: bool | Sequence[str] = False,
        vectors: bool | Sequence[str] = False,
    ) -> dict[PointId, StoredPoint]:
        """Those of the points that are stored, by id.

        Args:
            collection: Name.
            ids: Any number.
            payload: True for all fields, or the names of those wanted.
            vectors: True for all vectors, or the names of those wanted.
        """

    def upsert(self, collection: str, points: Sequence[Point], *, verify_fields: Sequence[str] = ()) -> UploadReport:
        """Store points, each in place of an earlier one of the same id; returns when all are applied.

        All points are checked before the first is sent. They travel in batches of bounded size; a batch whose fate is
        unknown (timeout, lost answer) is looked up and what is missing is sent again.

        Args:
            collection: Name.
            points: Each id once.
            verify_fields: Payload fields that together change whenever the point does, such as a content hash and a
                fingerprint. After a failure, a stored point that has the same values counts as stored. Without them
                everything in doubt is sent again, which is as safe.

        Raises:
            InputError: A point cannot be stored, or is larger than a request may be; nothing was sent.
            UploadError: Points could not be stored; names them, with the attempts and the cause. The others of the
                call are stored.
        """

    def set_payload(
        self,
        collection: str,
        payload: Mapping[str, Any],
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002 - the word of the engine's own requests
        replace: bool = False,
    ) -> None:
        """Set payload fields of points chosen by ids or by filter; with `replace`, instead of all their fields."""

    def delete(
        self,
        collection: str,
        *,
        ids: Sequence[PointId] | None = None,
        filter: Filter | None = None,  # noqa: A002
    ) -> None:
        """Delete the points chosen by ids or by filter. An empty filter is refused: use `drop`."""

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        payload: bool | Sequence[str] = True,
        vectors: bool | Sequence[str] = False,
        batch_size: int = 256,
    ) -> Iterator[StoredPoint]:
        """All points in the order of their ids, read `batch_size` at a time. Points may be deleted meanwhile."""

    def count(self, collection: str, *, filter: Filter | None = None) -> int:  # noqa: A002
        """Exact number of points that meet the filter."""

    def search(self, collection: str, queries: Sequence[SearchQuery]) -> list[list[Hit]]:
        """Run searches together; the hits of each, best first."""

    def barrier(self, collection: str) -> None:
        """Return when everything acknowledged so far is as safe as the store can make it.

        The embedded engine writes it to disk (it survives a power failure; a killed process loses nothing even
        without). A server flushes by itself within seconds and offers no command for it.
        """

    def optimize(
        self,
        collection: str,
        *,
        progress: Callable[[OptimizeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Build the graphs that searches profit from, and return when they are ready.

        The embedded engine builds them now, in a process of its own; other calls wait. For a server this waits until
        it reports the collection as green.

        Args:
            collection: Name.
            progress: Called from time to time, in the calling thread.
            timeout: Seconds; None waits 3600.

        Returns:
            Whether anything was done or waited for.

        Raises:
            StoreError: Not ready in time. The data is unharmed, searches work.
        """

    def bulk(self, collection: str) -> AbstractContextManager[BulkState]:
        """A context for filling an empty collection: graphs are built once at its end instead of again and again.

        What was held back is restored when the context ends, however it ends; should the process be killed,
        the next `ensure` restores it. `optimize` afterwards waits until the graphs are built.
        """

    def switch(self, alias: str, collection: str) -> str | None:
        """Let `alias` lead to `collection`, atomically.

        Returns:
            The collection it led to before.
        """

    def aliases(self) -> dict[str, str]:
        """Collection by alias."""

    def close(self) -> None:
        """Release files and connections. A client that was handed in stays open."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
