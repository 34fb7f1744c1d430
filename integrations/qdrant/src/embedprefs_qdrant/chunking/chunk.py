"""What a chunk is, and the id under which it is stored."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

__all__ = ["CHUNK_NAMESPACE", "Chunk", "chunk_id"]

#: The namespace of chunk ids. Fixed for ever: another one would give every stored chunk a new id.
CHUNK_NAMESPACE = uuid.UUID("6f1b8d52-6a0e-5c52-9a53-0a6f3f7f4c11")


@dataclass(frozen=True)
class Chunk:
    """A stretch of a document, and the text that is embedded for it."""

    source: str
    """The document's source."""
    text: str
    """Exactly `document.text[start:end]`, without white space at either end."""
    start: int
    """Offset of the first character in the document's text."""
    end: int
    """Offset after the last character."""
    headings: tuple[str, ...]
    """The titles above the chunk, outermost first."""
    index: int
    """Place among the document's chunks, from 0."""
    token_count: int
    """Tokens that the model reads for this chunk: prompt, embedded text and special tokens."""
    occurrence: int
    """How many chunks with the same embedded text came before in this document."""
    content_hash: str
    """sha256 of the embedded text, without the prompt: as long as it is the same, so is the vector of it alone."""
    embedded_text: str
    """The text that is embedded: the template filled in. The prompt is added by the model."""

    def id(self, namespace: uuid.UUID = CHUNK_NAMESPACE) -> str:
        """The id of this chunk's point: see `chunk_id`."""
        return chunk_id(self.source, self.content_hash, self.occurrence, namespace)


def chunk_id(source: str, content_hash: str, occurrence: int, namespace: uuid.UUID = CHUNK_NAMESPACE) -> str:
    """The id of a chunk's point, a UUID of version 5.

    It depends on what is embedded and not on where it stands, so that inserting a paragraph renames no other chunk.

    Args:
        source: The document's source.
        content_hash: The chunk's `content_hash`.
        occurrence: How many chunks with this hash came before in the document.
        namespace: The namespace of the ids.
    """
    return str(uuid.uuid5(namespace, json.dumps([source, content_hash, occurrence], ensure_ascii=False)))
