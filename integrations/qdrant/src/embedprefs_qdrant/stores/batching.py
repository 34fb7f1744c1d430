"""Batches of bounded size, in points and in bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from embedprefs.errors import InputError
from embedprefs_qdrant.stores.points import Point, SparseVector

__all__ = ["MAX_BATCH_BYTES", "MAX_BATCH_POINTS", "batches", "point_bytes"]

#: A server takes requests of 32 MiB by default; its documentation advises batches below 5 MB.
MAX_BATCH_BYTES = 4 * 2**20

#: The upper end of what the server's documentation advises for bulk uploads.
MAX_BATCH_POINTS = 256

#: Characters of a float32 written as JSON through Python's float, with its comma; measured on normalised vectors.
_JSON_FLOAT_BYTES = 22
_JSON_INDEX_BYTES = 11
_OVERHEAD_BYTES = 120


def point_bytes(point: Point, *, binary: bool) -> int:
    """Estimated size of a point in a request.

    Args:
        point: A validated point.
        binary: Whether floats travel as four bytes (gRPC, embedded engine) or as text (REST).
    """
    float_bytes, index_bytes = (4, 4) if binary else (_JSON_FLOAT_BYTES, _JSON_INDEX_BYTES)
    size = _OVERHEAD_BYTES + len(json.dumps(point.payload, ensure_ascii=False).encode())
    for name, vector in point.vectors.items():
        size += len(name) + 8
        if isinstance(vector, SparseVector):
            size += len(vector) * (float_bytes + index_bytes)
        else:
            size += vector.size * float_bytes
    return size


def batches(
    points: Sequence[Point], *, size_of: Callable[[Point], int], max_bytes: int, max_points: int
) -> Iterator[tuple[list[Point], int]]:
    """The points in their order, in batches, each with its estimated size in bytes.

    Raises:
        InputError: One point alone is larger than a batch may be.
    """
    batch: list[Point] = []
    total = 0
    for point in points:
        size = size_of(point)
        if size > max_bytes:
            raise InputError(
                f"The point {point.id} takes about {size:,} bytes; nothing was sent.\n"
                f"  Allowed: {max_bytes:,} bytes in one request\n"
                "  Split its text into smaller chunks, keep less in its payload, or raise max_batch_bytes."
            )
        if batch and (total + size > max_bytes or len(batch) >= max_points):
            yield batch, total
            batch, total = [], 0
        batch.append(point)
        total += size
    if batch:
        yield batch, total
