"""What has to be done for one document: which chunks to embed, to keep, to move and to delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS, SourceState, chunk_payload, document_hash
from embedprefs_qdrant.stores.filters import Filter, Match
from embedprefs_qdrant.stores.points import PointId
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["DocumentPlan", "PlannedChunk", "Planner"]


@dataclass(frozen=True)
class PlannedChunk:
    """One chunk that the store does not have yet."""

    id: str
    embedded_text: str
    content_hash: str
    payload: dict[str, Any]


@dataclass
class DocumentPlan:
    """Everything one document needs; an unchanged one needs nothing.

    The steps are in this order, so that a run that is killed leaves nothing that looks whole and is not: store `new`,
    rewrite the payloads of `moved`, set the bookkeeping of `kept`, delete `stale`.
    """

    source: str
    state: tuple[str, int, str]
    is_new: bool
    new: list[PlannedChunk] = field(default_factory=list)
    moved: dict[PointId, dict[str, Any]] = field(default_factory=dict)
    """Stored chunks whose offsets, headings or metadata changed -> their whole payload."""
    kept: list[PointId] = field(default_factory=list)
    """Stored chunks of which only the document's state changed."""
    stale: list[PointId] = field(default_factory=list)
    remaining: int = 0
    """Chunks of `new` that are not acknowledged yet."""
    failed: bool = False

    @property
    def bookkeeping(self) -> dict[str, Any]:
        """The payload fields that name the document's state."""
        return dict(zip(BOOKKEEPING_FIELDS, self.state, strict=True))


class Planner:
    """Compares documents with what the store holds."""

    def __init__(
        self,
        store: Store,
        collection: str,
        chunk: Callable[[Document], Sequence[Chunk]],
        *,
        chunking: str,
        states: dict[str, SourceState],
        deep: bool = False,
    ) -> None:
        """Take what all documents share.

        Args:
            store: Where the chunks are kept.
            collection: In which collection.
            chunk: Cuts a document.
            chunking: Short name of how documents are cut; part of a document's state.
            states: What the store holds, by source.
            deep: Compare every chunk, also of a document whose state says that it is whole and unchanged.
        """
        self._store = store
        self._collection = collection
        self._chunk = chunk
        self._chunking = chunking
        self._states = states
        self._deep = deep

    def plan(self, document: Document) -> DocumentPlan | None:
        """Say what a document needs; None if the store has it, whole and unchanged."""
        digest = document_hash(document)
        stored = self._states.get(document.source)
        if stored is not None and not self._deep and stored.is_complete_as(digest, self._chunking):
            return None
        chunks = self._chunk(document)
        plan = DocumentPlan(document.source, (digest, len(chunks), self._chunking), is_new=stored is None)
        wanted: dict[PointId, PlannedChunk] = {}
        for chunk in chunks:
            point = chunk.id()
            wanted[point] = PlannedChunk(
                point, chunk.embedded_text, chunk.content_hash, chunk_payload(document, chunk, plan.state)
            )
        self._compare(document.source, wanted, plan, has_points=stored is not None)
        plan.remaining = len(plan.new)
        return plan

    def _compare(
        self, source: str, wanted: dict[PointId, PlannedChunk], plan: DocumentPlan, *, has_points: bool
    ) -> None:
        stored: dict[PointId, dict[str, Any]] = {}
        if has_points:
            own = Filter(must=(Match("source", source),))
            stored = {
                point.id: point.payload for point in self._store.scroll(self._collection, filter=own, payload=True)
            }
        plan.stale = [point for point in stored if point not in wanted]
        for point, chunk in wanted.items():
            payload = stored.get(point)
            if payload is None:
                plan.new.append(chunk)
            elif payload == chunk.payload:
                continue
            elif _without_bookkeeping(payload) == _without_bookkeeping(chunk.payload):
                plan.kept.append(point)
            else:
                plan.moved[point] = chunk.payload


def _without_bookkeeping(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in BOOKKEEPING_FIELDS}
