"""What goes into a store and what comes back: points, sparse vectors, hits."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import InputError

__all__ = [
    "NAMESPACE",
    "RECORD_POINT_ID",
    "Hit",
    "Point",
    "PointId",
    "SparseVector",
    "StoredPoint",
    "Vector",
    "canonical_id",
]

#: Every identifier of ours is derived from this one.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/embedprefs-qdrant/")

#: The reserved point that keeps the record where a store has no place of its own for it. It carries no vector, so
#: that no search finds it, and every other method of a store leaves it out.
RECORD_POINT_ID = str(uuid.uuid5(NAMESPACE, "embedprefs-record"))

PointId = str | int
"""A UUID in its usual spelling, or an integer from 0 (which only collections made elsewhere have)."""


@dataclass(frozen=True, eq=False)
class SparseVector:
    """A vector given by its non-zero places.

    Attributes:
        indices: Places, shape (n,), uint32, each once, in any order.
        values: Weights, shape (n,), float32.
    """

    indices: NDArray[np.uint32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indices)


Vector = NDArray[Any] | SparseVector
"""Dense, shape (size,); several vectors of one point, shape (tokens, size); or sparse. Any real number type goes in,
float32 comes out."""


@dataclass(frozen=True, eq=False)
class Point:
    """One point to be stored; it replaces the whole point of the same id.

    Attributes:
        id: A UUID, best uuid5 of what the point stands for, so that writing it twice stores it once.
        vectors: Vector by name. A name of the layout may be missing; an empty sparse vector counts as missing.
        payload: JSON values: strings, finite numbers, booleans, None, lists and objects; datetimes become ISO 8601
            strings.
    """

    id: PointId
    vectors: Mapping[str, Vector]
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StoredPoint:
    """One point as the store returns it.

    Attributes:
        id: As stored.
        payload: The fields that were asked for.
        vectors: The vectors that were asked for, float32; normalised where the distance is cosine.
    """

    id: PointId
    payload: dict[str, Any]
    vectors: dict[str, Vector]


@dataclass(frozen=True, eq=False)
class Hit(StoredPoint):
    """One point that a search found.

    Attributes:
        score: Similarity, greatest first; with the distances "euclid" and "manhattan" the distance, smallest first.
    """

    score: float


def canonical_id(value: object) -> PointId:
    """An id in the spelling that every store returns.

    Raises:
        InputError: It is neither a UUID nor an integer from 0 to 2**64 - 1.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass  # reported below, together with every other kind of wrong id
    raise InputError(
        f"The point id {value!r} is neither a UUID nor an integer from 0.\n"
        "  Allowed: a UUID such as those of uuid.uuid5(namespace, name)\n"
        "  Derive the id from the text with uuid.uuid5 and keep the original in the payload."
    )
