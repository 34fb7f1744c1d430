"""Small operations on vectors that indexing and searching share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_dimensions"]


def first_dimensions(vector: Any, dimensions: int) -> NDArray[np.float32]:
    """The first dimensions of a vector, scaled to length 1; shape (dimensions,), float32."""
    part = np.asarray(vector, dtype=np.float32)[:dimensions]
    length = float(np.linalg.norm(part))
    return part / np.float32(length) if length > 0 else part
