"""What a point carries beside its vectors, and which fields the collection indexes.

| field | what it is |
| --- | --- |
| source | the document's stable name: its path relative to the root, or the caller's id |
| text | the chunk, exactly as it stands in the document |
| title, headings | of the document, and the headings above the chunk |
| start, end, index | character offsets into the document, and the chunk's place in it |
| metadata | the document's own metadata |
| content_hash | of the embedded text, or of the document and the chunk's place: equal hashes have equal vectors |
| document_hash, document_chunks, chunking | of the document: text and metadata, number of chunks, how it was cut |
| vectors | name of each of the point's vectors -> first digits of the fingerprint it was made under |

A document is complete in the store exactly when it has `document_chunks` points that all name the same
`document_hash` and `chunking`, and each of them carries every vector that is wanted. Points of a document that is being
replaced disagree until the last step, so a run that was killed leaves a document that the next run recognises and
finishes: no ledger is kept beside the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from embedprefs import InputError
from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.stores.points import StoredPoint

__all__ = [
    "BOOKKEEPING_FIELDS",
    "STATE_FIELDS",
    "DocumentState",
    "SourceState",
    "chunk_payload",
    "document_hash",
    "held_vectors",
    "source_states",
]

#: The fields that say to which state of a document a point belongs.
STATE_FIELDS = ("document_hash", "document_chunks", "chunking")
#: These, and what the point's vectors are.
BOOKKEEPING_FIELDS = (*STATE_FIELDS, "vectors")


class DocumentState(NamedTuple):
    """One state of a document, as its points name it."""

    digest: str
    """`document_hash`."""
    chunks: int
    """`document_chunks`."""
    chunking: str

    @property
    def payload(self) -> dict[str, Any]:
        """The payload fields that name the state."""
        return dict(zip(STATE_FIELDS, self, strict=True))


def document_hash(document: Document) -> str:
    """Sha256 over everything of a document that reaches its chunks or their payloads; 32 hexadecimal digits.

    Raises:
        InputError: Its source, title or metadata hold what is no text.
    """
    values = [document.content_hash, document.format, document.title, document.body_start, document.metadata]
    parts = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    try:
        document.source.encode()
        return hashlib.sha256(parts.encode()).hexdigest()[:32]
    except UnicodeEncodeError as error:
        raise InputError(
            f"{document.source!a}: The source, title or metadata hold half a surrogate pair, which is no text.\n"
            "  Write the whole character."
        ) from error


def chunk_payload(
    document: Document,
    chunk: Chunk,
    state: tuple[str, int, str],
    vectors: Mapping[str, str] | None = None,
    *,
    content_hash: str | None = None,
) -> dict[str, Any]:
    """The payload of one chunk.

    Args:
        document: Where it stands.
        chunk: The chunk.
        state: document_hash, document_chunks and chunking of the document.
        vectors: Name of each vector -> what it was made under; None leaves the field out.
        content_hash: What decides the chunk's vectors; None takes that of its embedded text.
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
        "content_hash": content_hash if content_hash is not None else chunk.content_hash,
        **DocumentState(*state).payload,
        **({} if vectors is None else {"vectors": dict(vectors)}),
    }


@dataclass
class SourceState:
    """What the store holds of one document."""

    points: int = 0
    states: set[DocumentState] = field(default_factory=set)
    vectors: frozenset[tuple[str, str]] | None = None
    """Name and identity of the vectors that every one of the points has; None before the first point."""

    def is_complete_as(self, digest: str, chunking: str, vectors: Mapping[str, str]) -> bool:
        """Whether the document is stored whole, with this hash, cut this way and with these vectors."""
        if not self.is_whole:
            return False
        state = next(iter(self.states))
        has_vectors = frozenset(vectors.items()) <= (self.vectors or frozenset())
        return (state.digest, state.chunking) == (digest, chunking) and has_vectors

    @property
    def is_whole(self) -> bool:
        """Whether some one state of the document is stored, whole."""
        return len(self.states) == 1 and self.points == next(iter(self.states)).chunks


def held_vectors(payload: Mapping[str, Any]) -> Mapping[str, str]:
    """Name and identity of a point's vectors, as its payload says; empty for a point that says nothing."""
    found = payload.get("vectors")
    return found if isinstance(found, Mapping) else {}


def source_states(points: Iterable[StoredPoint]) -> dict[str, SourceState]:
    """Gather the points of a collection by document; memory grows with documents, not with points."""
    found: dict[str, SourceState] = {}
    # Most points have the same few vectors: each set is kept once.
    sets: dict[frozenset[tuple[str, str]], frozenset[tuple[str, str]]] = {}
    for point in points:
        source = point.payload.get("source")
        if not isinstance(source, str):
            continue
        state = found.setdefault(source, SourceState())
        state.points += 1
        state.states.add(_state(point.payload))
        held = frozenset((str(name), str(made)) for name, made in held_vectors(point.payload).items())
        common = held if state.vectors is None else state.vectors & held
        state.vectors = sets.setdefault(common, common)
    return found


def _state(payload: Mapping[str, Any]) -> DocumentState:
    chunks = payload.get("document_chunks")
    return DocumentState(
        str(payload.get("document_hash", "")),
        chunks if isinstance(chunks, int) else 0,
        str(payload.get("chunking", "")),
    )
