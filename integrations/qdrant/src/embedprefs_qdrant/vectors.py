"""Small operations on vectors that indexing and searching share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_dimensions", "row_cosines"]


def first_dimensions(vector: Any, dimensions: int) -> NDArray[np.float32]:
    """The first dimensions of a vector, scaled to length 1; shape (dimensions,), float32."""
    part = np.asarray(vector, dtype=np.float32)[:dimensions]
    length = float(np.linalg.norm(part))
    return part / np.float32(length) if length > 0 else part


def row_cosines(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float32]:
    """The cosine between the rows of two matrices, row by row; shape (rows,), float32.

    Two vectors of zeros count as equal: a static model gives them to a text without known words.
    """
    left, right = np.asarray(left, dtype=np.float32), np.asarray(right, dtype=np.float32)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    cosines[~left.any(axis=1) & ~right.any(axis=1)] = 1.0
    return np.asarray(cosines, dtype=np.float32)
