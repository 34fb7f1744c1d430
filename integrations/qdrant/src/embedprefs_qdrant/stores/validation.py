"""Points and queries are checked before anything is sent: engines accept what they should not, or half of it.

The embedded engine stores NaN, applies the good points of a batch whose other points fail, and stores ordinary floats
as uint8 without a word. A server answers an asynchronous write before it has looked at the vectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import EmbedPrefsWarning, InputError
from embedprefs_qdrant.stores.layout import CollectionLayout, VectorLayout
from embedprefs_qdrant.stores.points import Point, PointId, SparseVector, Vector, canonical_id
from embedprefs_qdrant.stores.queries import Nearest, Q, SearchQuery

__all__ = ["validate_points", "validate_query"]

_NAMED = 5
"""So many ids are named in a message; the rest is counted."""


def name_some(ids: Iterable[PointId]) -> str:
    """A few of the ids, and how many more there are."""
    all_ids = [str(point) for point in ids]
    named = ", ".join(all_ids[:_NAMED])
    return named if len(all_ids) <= _NAMED else f"{named} and {len(all_ids) - _NAMED} more"


class _Problems:
    """What is wrong, with the ids of the points where it is."""

    def __init__(self) -> None:
        self._points: dict[str, list[PointId]] = {}

    def add(self, message: str, point: PointId) -> None:
        self._points.setdefault(message, []).append(point)

    def raise_if_any(self, collection: str) -> None:
        if not self._points:
            return
        lines = [f"Points for the collection {collection!r} cannot be stored; nothing was sent."]
        lines += [f"  {message}: {name_some(points)}" for message, points in self._points.items()]
        raise InputError("\n".join(lines))


def validate_points(points: Sequence[Point], layout: CollectionLayout, collection: str) -> list[Point]:
    """The points as every store takes them: canonical ids, contiguous float32 vectors, JSON payloads.

    Args:
        points: To be stored together.
        layout: Of the collection.
        collection: Its name, for messages.

    Raises:
        InputError: An id is no UUID or occurs twice; a vector has another name, shape or type than the layout says,
            holds NaN or infinity, or is not made of integers 0 to 255 where the layout stores uint8; a payload is no
            JSON. Names the points; nothing has been sent.
    """
    problems = _Problems()
    checked: list[Point] = []
    seen: set[PointId] = set()
    directionless: list[PointId] = []
    for point in points:
        identity = canonical_id(point.id)
        if identity in seen:
            problems.add("the id occurs twice in one call", identity)
        seen.add(identity)
        vectors: dict[str, Vector] = {}
        for name, vector in point.vectors.items():
            try:
                converted = _convert(vector, name, layout)
            except InputError as error:
                problems.add(str(error), identity)
                continue
            if isinstance(converted, SparseVector) and not len(converted):
                continue
            vectors[name] = converted
            if name in layout.vectors and layout.vectors[name].distance == "cosine" and not np.any(converted):  # type: ignore[arg-type]
                directionless.append(identity)
        try:
            payload = canonical_payload(point.payload)
        except InputError as error:
            problems.add(str(error), identity)
            continue
        checked.append(replace(point, id=identity, vectors=vectors, payload=payload))
    problems.raise_if_any(collection)
    if directionless:
        warnings.warn(
            f"Vectors of zeros have no direction, so that no cosine search finds their points: "
            f"{name_some(directionless)} in the collection {collection!r}.",
            EmbedPrefsWarning,
            stacklevel=3,
        )
    return checked


def validate_query(query: SearchQuery, layout: CollectionLayout, collection: str) -> SearchQuery:
    """The query with its vectors as float32, every one checked against the layout.

    Raises:
        InputError: A vector's name, shape or type does not fit the layout, or it holds NaN or infinity.
    """
    return _validate_search(query, layout, collection)


def _validate_search(query: Q, layout: CollectionLayout, collection: str) -> Q:
    inner = tuple(_validate_search(prefetch, layout, collection) for prefetch in query.prefetch)
    what = query.query
    if isinstance(what, Nearest):
        try:
            what = Nearest(_convert(what.vector, what.using, layout), what.using)
        except InputError as error:
            raise InputError(f"The search in the collection {collection!r} cannot be run: {error}.") from error
    return replace(query, query=what, prefetch=inner)


def _convert(vector: Vector, name: str, layout: CollectionLayout) -> Vector:
    """One vector as float32; an InputError's text is a clause without a full stop."""
    if name in layout.sparse_vectors:
        if not isinstance(vector, SparseVector):
            raise InputError(f"the vector {name!r} is sparse and was given a {type(vector).__name__}")
        return _convert_sparse(vector, name)
    if name not in layout.vectors:
        known = ", ".join(repr(known) for known in sorted((*layout.vectors, *layout.sparse_vectors)))
        raise InputError(f"the collection has no vector {name!r}, only {known}")
    if isinstance(vector, SparseVector):
        raise InputError(f"the vector {name!r} is dense and was given a sparse vector")
    return _convert_dense(vector, name, layout.vectors[name])


def _convert_dense(vector: NDArray[Any], name: str, layout: VectorLayout) -> NDArray[np.float32]:
    array = np.asarray(vector)
    if array.dtype.kind not in "fiu":
        raise InputError(f"the vector {name!r} holds {array.dtype}, not real numbers")
    if layout.multivector:
        fits = array.ndim == 2 and array.shape[0] > 0 and array.shape[1] == layout.size
        wanted = f"(tokens, {layout.size})"
    else:
        fits, wanted = array.shape == (layout.size,), f"({layout.size},)"
    if not fits:
        raise InputError(f"the vector {name!r} has the shape {array.shape} instead of {wanted}")
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is reported as such
        converted = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(converted).all():
        raise InputError(f"the vector {name!r} holds NaN or infinity")
    if layout.datatype == "uint8" and not (
        ((converted >= 0) & (converted <= 255)).all() and (converted == np.rint(converted)).all()
    ):
        raise InputError(
            f"the vector {name!r} is stored as uint8 and is not made of integers 0 to 255 "
            '(embed with precision "uint8", or store as float32)'
        )
    return converted


def _convert_sparse(vector: SparseVector, name: str) -> SparseVector:
    indices, values = np.asarray(vector.indices), np.asarray(vector.values)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise InputError(f"the sparse vector {name!r} has indices {indices.shape} and values {values.shape}")
    if not len(indices):
        return SparseVector(np.empty(0, np.uint32), np.empty(0, np.float32))
    if indices.dtype.kind not in "iu" or int(indices.min()) < 0 or int(indices.max()) >= 2**32:
        raise InputError(f"the sparse vector {name!r} has indices that are not integers 0 to 2**32 - 1")
    if values.dtype.kind not in "fiu":
        raise InputError(f"the sparse vector {name!r} holds {values.dtype}, not real numbers")
    if len(np.unique(indices)) != len(indices):
        raise InputError(f"the sparse vector {name!r} names an index twice")
    with np.errstate(over="ignore"):
        weights = values.astype(np.float32)
    if not np.isfinite(weights).all():
        raise InputError(f"the sparse vector {name!r} holds NaN or infinity")
    return SparseVector(indices.astype(np.uint32), weights)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise InputError(f"the payload has the key {key!r}, which is no string")
    return canonical_string(key, "a key of the payload")


def canonical_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object equal to the one given; an InputError's text is a clause without a full stop."""
    return {_key(key): canonical_json(value, str(key)) for key, value in payload.items()}


def canonical_json(value: Any, place: str) -> Any:
    """A JSON value equal to the one given; an InputError's text is a clause without a full stop."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return canonical_string(value, f"the payload's {place}")
    if isinstance(value, (int, np.integer)):
        if not -(2**63) <= value < 2**63:
            raise InputError(f"the payload's {place} is an integer beyond 64 bits")
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            raise InputError(f"the payload's {place} is {value}, which JSON cannot hold")
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_key(key): canonical_json(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical_json(item, f"{place}[{position}]") for position, item in enumerate(value)]
    raise InputError(f"the payload's {place} is a {type(value).__name__}, which JSON cannot hold")


def canonical_string(text: str, place: str) -> str:
    """The text, if it can be encoded as UTF-8."""
    if text.isascii():
        return str(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place} holds half of a surrogate pair, which is no character") from None
    return str(text)
