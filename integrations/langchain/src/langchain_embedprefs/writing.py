"""LangChain documents into points: what each needs, and storing it.

A document becomes one point, laid out as `QdrantIngestor` lays out its chunks, so that `embedprefs search`, `status`
and `export` read it. A point is replaced in one step, so a run that is killed leaves each document as it was or as it
should be, and running again stores the rest.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from embedprefs import InputError
from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.chunking.template import Template
from embedprefs_qdrant.collection import COARSE, SPARSE, Collection
from embedprefs_qdrant.documents import Document as StoredDocument
from embedprefs_qdrant.documents.document import hash_text
from embedprefs_qdrant.payloads import chunk_payload, document_hash, held_vectors
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.stores import NAMESPACE, Point, PointId, UploadError, Vector
from embedprefs_qdrant.stores.points import canonical_id
from embedprefs_qdrant.stores.validation import canonical_payload
from embedprefs_qdrant.vectors import first_dimensions

__all__ = ["Plan", "Writer", "original_id", "point_id", "point_ids", "prepared"]

#: Where the ids of LangChain documents are derived from. Fixed for ever: another one would rename every point.
DOCUMENT_NAMESPACE = uuid.uuid5(NAMESPACE, "langchain-document")
#: How the documents were cut, in the payload: not at all.
CHUNKING = "langchain-document"
#: What is read of a stored point to see whether it is as it should be.
_COMPARED = ("content_hash", "document_hash", "chunking", "vectors")


def point_id(identifier: str) -> str:
    """The id of a document's point: a UUID of version 5, which every engine takes, whatever the document's id is."""
    return str(uuid.uuid5(DOCUMENT_NAMESPACE, identifier))


def point_ids(identifiers: Iterable[str]) -> list[PointId]:
    """Every point that may be meant: the document of this id, and the point that has it as its own.

    Points that something else stored, such as chunks of `QdrantIngestor`, come back under their own ids.
    """
    ids: list[PointId] = []
    for identifier in identifiers:
        ids.append(point_id(identifier))
        try:
            ids.append(canonical_id(int(identifier) if identifier.isdecimal() else identifier))
        except InputError:
            continue  # an id of LangChain's that is no point id can only be a document's
    return ids


def original_id(point: PointId, payload: Mapping[str, Any]) -> str:
    """The id under which a point is known to LangChain."""
    source = payload.get("source")
    return source if isinstance(source, str) and point_id(source) == point else str(point)


def prepared(documents: Iterable[Any], ids: Sequence[str | None] | None) -> list[Document]:
    """Documents as they are to be stored, with an id each; those given are not changed.

    A document without an id gets one of its text and metadata, so that adding it again stores it once.

    Raises:
        InputError: Something is no document, its text or metadata cannot be stored, there are more or fewer ids than
            documents, or two different documents have the same id. Nothing has been stored.
    """
    listed = list(documents)
    if ids is not None and len(ids) != len(listed):
        raise InputError(
            f"There are {len(listed)} documents and {len(ids)} ids.\n  Give one id for each, None where it has none."
        )
    found: dict[str, Document] = {}
    seen: Counter[str] = Counter()
    result: list[Document] = []
    for place, given in enumerate(listed):
        if not isinstance(given, Document):
            raise InputError(
                f"Input {place} is a {type(given).__name__}, and no Document.\n"
                "  Give langchain_core.documents.Document, or call add_texts with texts."
            )
        document = _storable(given, place)
        identifier = ids[place] if ids is not None else document.id
        if identifier is None:
            identifier = _content_id(document, seen)
        if not isinstance(identifier, str) or not identifier:
            raise InputError(
                f"The id of input {place} is {identifier!r}.\n  Allowed: a text that is not empty, or None"
            )
        earlier = found.setdefault(identifier, document)
        if (earlier.page_content, earlier.metadata) != (document.page_content, document.metadata):
            raise InputError(
                f"Two different documents have the id {identifier!r}: only one could be kept.\n"
                "  Give each its own id, or add them in two calls, the later of which replaces the earlier."
            )
        result.append(Document(id=identifier, page_content=document.page_content, metadata=document.metadata))
    return result


def _storable(document: Document, place: int) -> Document:
    """The document with its metadata as JSON holds it: tuples as lists, dates as ISO text."""
    name = f"document {document.id!r}" if document.id is not None else f"input {place}"
    try:
        values = canonical_payload({"page_content": document.page_content, "metadata": document.metadata})
    except InputError as error:
        raise InputError(
            f"The {name} cannot be stored: {error}.\n  Nothing was stored. Metadata holds what JSON holds: texts, "
            "numbers, true, false, null, lists and objects of them, and dates."
        ) from error
    return Document(id=document.id, page_content=document.page_content, metadata=values["metadata"])


def _content_id(document: Document, seen: Counter[str]) -> str:
    values = json.dumps([document.page_content, document.metadata], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(values.encode()).hexdigest()
    seen[digest] += 1
    return str(uuid.uuid5(DOCUMENT_NAMESPACE, f"{digest} {seen[digest]}"))


@dataclass
class Plan:
    """What a group of documents needs."""

    texts: list[str] = field(default_factory=list)
    """Texts to embed, each once."""
    new: list[tuple[str, dict[str, Any], int]] = field(default_factory=list)
    """Point id, payload and the place of its text, of each document to store."""
    moved: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Point id -> payload, where only metadata changed and the stored vector stays."""
    names: dict[str, str] = field(default_factory=dict)
    """Point id -> the document's id."""


class Writer:
    """Brings documents into one collection."""

    def __init__(self, collection: Collection, sparse: SparseEmbedder | None) -> None:
        self._collection = collection
        self._sparse = sparse
        self._template = Template(collection.index.template)

    def plan(self, documents: Sequence[Document]) -> Plan:
        """Compare documents with what is stored."""
        plan = Plan()
        vectors = self._collection.vectors
        wanted: dict[str, tuple[Chunk, dict[str, Any]]] = {}
        for document in documents:
            stored = self._stored_document(document)
            chunk = self._chunk(stored)
            payload = chunk_payload(stored, chunk, (document_hash(stored), 1, CHUNKING), vectors)
            # An adopted collection keeps its texts in a field of another name.
            payload[self._collection.text_field] = payload.pop("text")
            identifier = point_id(stored.source)
            wanted[identifier] = (chunk, payload)
            plan.names[identifier] = stored.source
        present = self._collection.store.existing(self._collection.name, list(wanted), payload=_COMPARED)
        places: dict[str, int] = {}
        for identifier, (chunk, payload) in wanted.items():
            stored_payload = present[identifier].payload if identifier in present else {}
            held = held_vectors(stored_payload)
            if stored_payload.get("content_hash") != chunk.content_hash or not vectors.items() <= held.items():
                place = places.setdefault(chunk.embedded_text, len(places))
                plan.new.append((identifier, payload, place))
            elif any(stored_payload.get(key) != payload[key] for key in _COMPARED[:-1]):
                # Vectors that are not wanted now stay, and stay named.
                plan.moved[identifier] = {**payload, "vectors": dict(held)}
        plan.texts = list(places)
        return plan

    @staticmethod
    def _stored_document(document: Document) -> StoredDocument:
        title = document.metadata.get("title")
        return StoredDocument(
            source=str(document.id),
            text=document.page_content,
            metadata=document.metadata,
            title=title if isinstance(title, str) and title else None,
        )

    def _chunk(self, document: StoredDocument) -> Chunk:
        """The whole document as one chunk: whoever uses LangChain has split it already."""
        text = document.text
        if self._template.text != "{text}":  # the plain template would strip the text
            text = self._template.render(text=text, title=document.title, source=document.source)
        return Chunk(
            source=document.source,
            text=document.text,
            start=0,
            end=len(document.text),
            headings=(),
            index=0,
            token_count=0,
            occurrence=0,
            content_hash=hash_text(text),
            embedded_text=text,
        )

    def write(self, plan: Plan, vectors: NDArray[np.float32]) -> dict[str, str]:
        """Store what a plan says.

        Args:
            plan: What is to be done.
            vectors: Of `plan.texts`, shape (texts, size).

        Returns:
            Document id -> reason, of each that could not be stored.

        Raises:
            InputError: A vector or a payload cannot be stored; nothing of this group was.
        """
        store, name = self._collection.store, self._collection.name
        rows = self._rows(plan, vectors)
        points = [Point(identifier, rows[place], payload) for identifier, payload, place in plan.new]
        if points:
            try:
                store.upsert(name, points, verify_fields=("content_hash", "document_hash"))
            except UploadError as error:
                return {plan.names[str(point)]: str(error) for point in (*error.failed_ids, *error.unsent_ids)}
        for identifier, payload in plan.moved.items():
            store.set_payload(name, payload, ids=[identifier], replace=True)
        return {}

    def _rows(self, plan: Plan, vectors: NDArray[np.float32]) -> list[dict[str, Vector]]:
        collection = self._collection
        rows: list[dict[str, Vector]] = [{collection.main: vector} for vector in vectors]
        if collection.index.two_stage_dims is not None:
            for row, vector in zip(rows, vectors, strict=True):
                row[COARSE] = first_dimensions(vector, collection.index.two_stage_dims)
        if self._sparse is not None:
            for row, weights in zip(rows, self._sparse.embed_documents(plan.texts), strict=True):
                row[SPARSE] = weights
        return rows
