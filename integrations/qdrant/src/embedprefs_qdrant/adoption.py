"""An existing collection, filled by something else, taken into care: a sample is embedded again and compared."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs import InputError
from embedprefs_qdrant.collection import DENSE
from embedprefs_qdrant.stores.points import StoredPoint

if TYPE_CHECKING:
    from embedprefs_qdrant.ingest import QdrantIngestor

__all__ = ["AdoptReport", "adopt_collection"]

#: Names that other libraries give the field with the text.
TEXT_FIELDS = ("text", "page_content", "content", "document", "body", "chunk")
#: The least median cosine at which a collection's vectors count as made by these preferences.
LEAST_COSINE = 0.999


@dataclass(frozen=True)
class AdoptReport:
    """How well stored vectors agree with the preferences.

    Attributes:
        collection: Name.
        vector: Name of the vector that was compared; "" is the unnamed one.
        text_field: Payload field that held the text.
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
    sampled: int
    median_cosine: float
    least_cosine: float
    as_query_cosine: float
    agrees: bool
    recorded: bool

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def adopt_collection(
    ingestor: QdrantIngestor,
    *,
    sample: int = 64,
    text_field: str | None = None,
    vector: str | None = None,
    force: bool = False,
) -> AdoptReport:
    """Embed a stored sample again and, where it agrees, record these preferences with the collection.

    Args:
        ingestor: Of the collection.
        sample: Points to compare.
        text_field: Payload field with the text; None looks for the usual names, also within a `payload.metadata`.
        vector: Name of the stored vector; None takes `dense`, else the only one.
        force: Record also where the vectors do not agree.

    Raises:
        InputError: There is no such collection or vector, no text is found, or the dimensions differ.
    """
    collection = ingestor.collection
    description = collection.store.describe(collection.name)
    if description is None:
        known = ", ".join(collection.store.collections()) or "none yet"
        raise InputError(
            f"{collection.store.url}: there is no collection {collection.name!r}.\n  There are: {known}\n"
            "  Name the collection to adopt (index.collection)."
        )
    name = _vector_name(vector, list(description.layout.vectors), collection.name)
    size = description.layout.vectors[name].size
    if size != ingestor.space.size:
        raise InputError(
            f"The vectors of the collection {collection.name} have {size} dimensions; under these preferences they "
            f"have {ingestor.space.size}.\n  Set the model and vectors.truncate_dim that made the collection."
        )
    scrolled = collection.store.scroll(collection.name, payload=True, vectors=(name,), batch_size=min(sample, 256))
    points = [point for point in itertools.islice(scrolled, sample) if name in point.vectors]
    field = text_field or _text_field(points, collection.name)
    texts = [str(point.payload.get(field, "")) for point in points]
    stored = np.stack([np.asarray(point.vectors[name], dtype=np.float32) for point in points])
    cosines = _cosines(stored, ingestor.space.embed_documents(texts))
    as_query = _cosines(stored, ingestor.space.embed_queries(texts))
    agrees = bool(np.median(cosines) >= LEAST_COSINE)
    if agrees or force:
        _record(ingestor, name, field)
    return AdoptReport(
        collection=collection.name,
        vector=name,
        text_field=field,
        sampled=len(points),
        median_cosine=float(np.median(cosines)),
        least_cosine=float(cosines.min()),
        as_query_cosine=float(np.median(as_query)),
        agrees=agrees,
        recorded=agrees or force,
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


def _cosines(left: Any, right: Any) -> Any:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)


def _record(ingestor: QdrantIngestor, vector: str, text_field: str) -> None:
    collection = ingestor.collection
    record = collection.new_record()
    record["vectors"] = {vector: record["vectors"][collection.main]}
    record["adopted"] = {"vector": vector, "text_field": text_field}
    collection.store.write_record(collection.name, record)
