"""An existing collection, filled by something else, taken into care: a sample is embedded again and compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs import InputError, PreferenceMismatchError
from embedprefs.cache import without_cache
from embedprefs_qdrant.chunking.template import Template
from embedprefs_qdrant.collection import DENSE, Collection
from embedprefs_qdrant.spaces import EmbeddingSpace
from embedprefs_qdrant.status import require_collection
from embedprefs_qdrant.stores.layout import VectorLayout
from embedprefs_qdrant.stores.points import StoredPoint
from embedprefs_qdrant.vectors import row_cosines

if TYPE_CHECKING:
    from embedprefs_qdrant.ingest import QdrantIngestor

__all__ = ["AdoptReport", "adopt_collection"]

#: Names that other libraries give the field with the text.
TEXT_FIELDS = ("text", "page_content", "content", "document", "body", "chunk")
#: Preferences that ask for no vector but the main one.
_ONE_VECTOR: dict[str, Any] = {"two_stage_dims": None, "hybrid": False, "vectors": {}}
#: The least median cosine at which a collection's vectors count as made by these preferences.
LEAST_COSINE = 0.999


@dataclass(frozen=True)
class AdoptReport:
    """How well stored vectors agree with the preferences.

    Attributes:
        collection: Name.
        vector: Name of the vector that was compared; "" is the unnamed one.
        text_field: Payload field that held the text.
        template: `index.template`, which made the texts that were embedded again.
        absent_fields: Fields of the template that no sampled point has; they were left empty.
        sampled: Points embedded again.
        median_cosine: Middle of the cosines between stored and new vectors.
        least_cosine: Smallest of them.
        as_query_cosine: Median where the texts are embedded with the query prompt; a hint where it is the greater one.
        agrees: Whether the preferences explain the vectors.
        recorded: Whether the record was written.
    """

    collection: str
    vector: str
    text_field: str
    template: str
    absent_fields: tuple[str, ...]
    sampled: int
    median_cosine: float
    least_cosine: float
    as_query_cosine: float
    agrees: bool
    recorded: bool

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"absent_fields": list(self.absent_fields)}


def adopt_collection(
    ingestor: QdrantIngestor,
    *,
    sample: int = 64,
    text_field: str | None = None,
    vector: str | None = None,
    force: bool = False,
) -> AdoptReport:
    """Embed a stored sample again and, where it agrees, record these preferences with the collection.

    What is embedded is what `index.template` makes of a point: its text, and its headings, title and source where the
    payload, or the metadata in it, has fields of these names. Kept vectors are not used: they would not say what the
    model does now.

    Args:
        ingestor: Of the collection.
        sample: Points to compare.
        text_field: Payload field with the text; None looks for the usual names.
        vector: Name of the stored vector; None takes `dense`, else the only one.
        force: Record also where the vectors do not agree, or where the collection carries another record.

    Raises:
        InputError: There is no such collection or vector, it holds nothing, no text is found, its vectors have another
            length or similarity, or chunks are to be read in their documents.
        PreferenceMismatchError: The collection carries a record already.
    """
    collection = ingestor.collection
    description = require_collection(collection)
    if ingestor.in_context:
        raise InputError(
            f'index.chunk_context is "document", and the points of the collection {collection.name} do not hold the '
            "documents that would have to be read again to compare their vectors.\n"
            "  Index the documents into a new collection (index.collection)."
        )
    recorded = collection.read()
    if recorded is not None and not force:
        raise PreferenceMismatchError(
            f"The collection {collection.name} carries a record already, written {recorded.get('created_at')} by "
            f"{recorded.get('writer')}.\n  Look at it with `embedprefs status`. To replace it, adopt with force "
            "(--force).",
            left={"uuid": recorded.get("uuid")},
        )
    names = [each for each, layout in description.layout.vectors.items() if not layout.multivector]
    name = _vector_name(vector, names, collection.name)
    _refuse_other_layout(description.layout.vectors[name], ingestor.space, collection.name)
    scrolled = collection.store.scroll(collection.name, payload=True, vectors=(name,), batch_size=min(sample, 256))
    points = list(itertools.islice((point for point in scrolled if name in point.vectors), sample))
    if not points:
        raise InputError(
            f"The collection {collection.name} holds no point with the vector {name!r}, so there is nothing to "
            "compare.\n  Index documents into it: an empty collection needs no adoption."
        )
    field = text_field or _text_field(points, collection.name)
    texts = _texts(points, field, collection.name)
    template = Template(collection.index.template)
    beside = [_beside_the_text(point.payload, template) for point in points]
    rendered = [template.render(text=text, **parts) for text, parts in zip(texts, beside, strict=True)]
    stored = np.stack([np.asarray(point.vectors[name], dtype=np.float32) for point in points])
    with without_cache():
        cosines = row_cosines(stored, ingestor.space.embed_documents(rendered))
        as_query = row_cosines(stored, ingestor.space.embed_queries(texts))
    agrees = bool(np.median(cosines) >= LEAST_COSINE)
    if agrees or force:
        _record(ingestor, name, field)
    return AdoptReport(
        collection=collection.name,
        vector=name,
        text_field=field,
        template=template.text,
        absent_fields=tuple(sorted(template.fields - {"text"} - {name for parts in beside for name in parts})),
        sampled=len(points),
        median_cosine=float(np.median(cosines)),
        least_cosine=float(cosines.min()),
        as_query_cosine=float(np.median(as_query)),
        agrees=agrees,
        recorded=agrees or force,
    )


def _refuse_other_layout(stored: VectorLayout, space: EmbeddingSpace, collection: str) -> None:
    if stored.size != space.size:
        raise InputError(
            f"The vectors of the collection {collection} have {stored.size} dimensions; under these preferences they "
            f"have {space.size}.\n  Set the model and vectors.truncate_dim that made the collection."
        )
    if stored.distance != space.distance:
        raise InputError(
            f"The collection {collection} compares its vectors by {stored.distance}; these preferences do by "
            f"{space.distance}.\n  Set vectors.similarity_fn_name to what the collection has."
        )


def _vector_name(asked: str | None, names: list[str], collection: str) -> str:
    if asked is not None and asked in names:
        return asked
    if asked is None and DENSE in names:
        return DENSE
    if asked is None and len(names) == 1:
        return names[0]
    raise InputError(
        f"The collection {collection} has no dense vector {asked!r}."
        if asked is not None
        else f"The collection {collection} has several dense vectors, so one has to be named."
        f"\n  Allowed: {', '.join(repr(name) for name in names)}"
    )


def _text_field(points: list[StoredPoint], collection: str) -> str:
    for name in TEXT_FIELDS:
        if points and all(isinstance(point.payload.get(name), str) for point in points):
            return name
    found = ", ".join(sorted({key for point in points for key in point.payload})) or "nothing"
    raise InputError(
        f"No payload field of the collection {collection} holds the text of every sampled point.\n"
        f"  Found: {found}\n  Looked for: {', '.join(TEXT_FIELDS)}\n  Name the field (--text-field)."
    )


def _texts(points: list[StoredPoint], field: str, collection: str) -> list[str]:
    texts = [point.payload.get(field) for point in points]
    lacking = [str(point.id) for point, text in zip(points, texts, strict=True) if not isinstance(text, str)]
    if lacking:
        raise InputError(
            f"The payload field {field!r} holds no text in {len(lacking)} of {len(points)} sampled points of the "
            f"collection {collection}, {lacking[0]} among them.\n  Name the field that does (--text-field)."
        )
    return [str(text) for text in texts]


def _beside_the_text(payload: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """The template's other fields, as far as a point has them: in its payload, or in the metadata that it holds."""
    metadata = payload.get("metadata")
    found: dict[str, Any] = {}
    for name in template.fields - {"text"}:
        value = payload.get(name)
        if value is None and isinstance(metadata, Mapping):
            value = metadata.get(name)
        if name == "headings" and isinstance(value, str):
            found[name] = [value]
        elif name == "headings" and isinstance(value, list):
            found[name] = [str(heading) for heading in value]
        elif value is not None:
            found[name] = str(value)
    return found


def _record(ingestor: QdrantIngestor, vector: str, text_field: str) -> None:
    """Record the main vector alone: what else the preferences ask for is added when documents are indexed."""
    collection = ingestor.collection
    bare = Collection(
        collection.store, collection.name, {vector: ingestor.space}, collection.index.model_copy(update=_ONE_VECTOR)
    )
    bare.main = vector
    record = bare.new_record() | {"adopted": {"vector": vector, "text_field": text_field}}
    collection.store.write_record(collection.name, record)
