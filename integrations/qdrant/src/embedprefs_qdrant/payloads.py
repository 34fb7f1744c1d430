"""What a point carries beside its vectors, and which fields the collection indexes.

| field | what it is |
| --- | --- |
| source | the document's stable name: its path relative to the root, or the caller's id |
| text | the chunk, exactly as it stands in the document |
| title, headings | of the document, and the headings above the chunk |
| start, end, index | character offsets into the document, and the chunk's place in it |
| metadata | the document's own metadata |
| content_hash | of the embedded text: equal hashes have equal vectors |
| document_hash, document_chunks, chunking | of the document: text and metadata, number of chunks, how it was cut |

A document is complete in the store exactly when it has `document_chunks` points that all name the same
`document_hash` and `chunking`. Points of a document that is being replaced disagree until the last step, so a run that
was killed leaves a document that the next run recognises and finishes: no ledger is kept beside the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.stores.points import StoredPoint

__all__ = [
    "BOOKKEEPING_FIELDS",
    "SourceState",
    "chunk_payload",
    "document_hash",
    "source_states",
]

#: The fields that say to which state of a document a point belongs.
BOOKKEEPING_FIELDS = ("document_hash", "document_chunks", "chunking")


def document_hash(document: Document) -> str:
    """Sha256 over everything of a document that reaches its chunks or their payloads; 32 hexadecimal digits."""
    values = [document.content_hash, document.format, document.title, document.body_start, document.metadata]
    parts = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def chunk_payload(document: Document, chunk: Chunk, state: tuple[str, int, str]) -> dict[str, Any]:
    """The payload of one chunk.

    Args:
        document: Where it stands.
        chunk: The chunk.
        state: document_hash, document_chunks and chunking of the document.
    """
    return {
        "source": document.source,
        "title": document.title,
        "text": chunk.text,
        "headings": list(chunk.headings),
        "start": chunk.start,
        "end": chunk.end,
        "index": chunk.index,
        "metadata": dict(document.metadata),
        "content_hash": chunk.content_hash,
        **dict(zip(BOOKKEEPING_FIELDS, state, strict=True)),
    }


@dataclass
class SourceState:
    """What the store holds of one document."""

    points: int = 0
    states: set[tuple[str, int, str]] = field(default_factory=set)

    def is_complete_as(self, digest: str, chunking: str) -> bool:
        """Whether the document is stored whole, with this hash and cut this way."""
        return self.is_whole and next(iter(self.states))[::2] == (digest, chunking)

    @property
    def is_whole(self) -> bool:
        """Whether some one state of the document is stored, whole."""
        return len(self.states) == 1 and self.points == next(iter(self.states))[1]


def source_states(points: Iterable[StoredPoint]) -> dict[str, SourceState]:
    """Gather the points of a collection by document; memory grows with documents, not with points."""
    found: dict[str, SourceState] = {}
    for point in points:
        source = point.payload.get("source")
        if not isinstance(source, str):
            continue
        state = found.setdefault(source, SourceState())
        state.points += 1
        state.states.add(_state(point.payload))
    return found


def _state(payload: Mapping[str, Any]) -> tuple[str, int, str]:
    return (
        str(payload.get("document_hash", "")),
        int(payload.get("document_chunks") or 0),
        str(payload.get("chunking", "")),
    )
