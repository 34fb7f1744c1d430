"""What has to be done for one document: which chunks to embed, to keep, to move and to delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.context import Passage, ReadDocument
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.payloads import (
    STATE_FIELDS,
    DocumentState,
    SourceState,
    chunk_payload,
    document_hash,
    held_vectors,
)
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
    """Equal hashes have equal vectors."""
    payload: dict[str, Any]
    passage: Passage | None = None
    """Its place in the document that is read for its vector; None where it is read alone."""


@dataclass
class DocumentPlan:
    """Everything one document needs; an unchanged one needs nothing.

    The steps are in this order, so that a run that is killed leaves nothing that looks whole and is not: store `new`,
    rewrite the payloads of `moved`, set the bookkeeping of `kept`, delete `stale`.
    """

    source: str
    state: DocumentState
    is_new: bool
    new: list[PlannedChunk] = field(default_factory=list)
    incomplete: int = 0
    """Chunks of `new` that are stored, without a vector that is wanted or with one of another identity."""
    outdated: int = 0
    """Chunks of `new` that are stored with the vectors of another state of the document, which is read for them."""
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
        return self.state.payload


class Planner:
    """Compares documents with what the store holds."""

    def __init__(
        self,
        store: Store,
        collection: str,
        chunk: Callable[[Document], Sequence[Chunk]],
        *,
        chunking: str,
        vectors: Mapping[str, str],
        states: Mapping[str, SourceState],
        deep: bool = False,
        in_context: bool = False,
    ) -> None:
        """Take what all documents share.

        Args:
            store: Where the chunks are kept.
            collection: In which collection.
            chunk: Cuts a document.
            chunking: Short name of how documents are cut; part of a document's state.
            vectors: Name of each vector that every point is to have -> what it is made under.
            states: What the store holds, by source.
            deep: Compare every chunk, also of a document whose state says that it is whole and unchanged.
            in_context: Read the whole document for the vector of a chunk.
        """
        self._store = store
        self._collection = collection
        self._chunk = chunk
        self._chunking = chunking
        self.vectors = dict(vectors)
        self._states = states
        self._deep = deep
        self._in_context = in_context

    def plan(self, document: Document) -> DocumentPlan | None:
        """Say what a document needs; None if the store has it, whole and unchanged.

        Raises:
            InputError: The document cannot be cut or stored.
            StoreError: The store does not answer.
        """
        digest = document_hash(document)
        stored = self._states.get(document.source)
        if stored is not None and not self._deep and stored.is_complete_as(digest, self._chunking, self.vectors):
            return None
        chunks = self._chunk(document)
        plan = DocumentPlan(document.source, DocumentState(digest, len(chunks), self._chunking), is_new=stored is None)
        wanted: dict[PointId, PlannedChunk] = {}
        read = ReadDocument.of(document) if self._in_context else None
        for chunk in chunks:
            point = chunk.id()
            passage = read.passage(chunk) if read is not None else None
            digest = passage.content_hash if passage is not None else chunk.content_hash
            payload = chunk_payload(document, chunk, plan.state, self.vectors, content_hash=digest)
            wanted[point] = PlannedChunk(point, chunk.embedded_text, digest, payload, passage)
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
            held = held_vectors(payload or {})
            # The id says which text a chunk has. What its vectors were made of may be more than that.
            of_other = payload is not None and payload.get("content_hash") != chunk.content_hash
            if payload is None or of_other or not self.vectors.items() <= held.items():
                plan.new.append(chunk)
                plan.outdated += of_other
                plan.incomplete += payload is not None and not of_other
                continue
            # Vectors that are not wanted now stay, and stay named.
            target = {**chunk.payload, "vectors": dict(held)}
            if _same(payload, target):
                continue
            if _same(_without_state(payload), _without_state(target)):
                plan.kept.append(point)
            else:
                plan.moved[point] = target


def _without_state(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in STATE_FIELDS}


def _same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; Python alone takes `True` for 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
