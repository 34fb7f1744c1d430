"""How near vectors are to those of the plain host in float32, and what was promised of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedprefs.benchmarking.results import Agreement
from embedprefs.errors import InputError

__all__ = ["agreement_of", "compare_vectors"]

#: Bounds of `compute.exactness`: the least cosine of any text, and the largest difference of any value.
_CLOSE, _EXACT = 0.9995, 1e-5


def compare_vectors(vectors: npt.NDArray[Any], exact: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Return mean and least cosine of pairs of vectors, and the largest difference of any value.

    Args:
        vectors: Shape (texts, dimensions).
        exact: The vectors they are compared with, same shape. Two vectors of zeros count as equal.

    Raises:
        InputError: the shapes differ.
    """
    if vectors.shape != exact.shape:
        raise InputError(
            f"The vectors have the shape {vectors.shape}, and those of the plain host {exact.shape}.\n"
            "  They cannot be compared; report this with the preferences."
        )
    left, right = vectors.astype(np.float64), exact.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    scale = lengths[0] * lengths[1]
    cosines = np.divide((left * right).sum(axis=1), scale, out=np.zeros_like(scale), where=scale > 0)
    cosines[(lengths[0] == 0) & (lengths[1] == 0)] = 1.0
    return float(cosines.mean()), float(cosines.min()), float(np.abs(left - right).max())


def agreement_of(vectors: npt.NDArray[Any], exact: npt.NDArray[Any], exactness: str | None) -> Agreement:
    """Compare vectors with those of the float32 host, and with what `compute.exactness` promises.

    Args:
        vectors: Shape (texts, dimensions).
        exact: Those of the float32 host, same shape.
        exactness: exact, close or fast; None where nothing is promised.
    """
    mean, least, difference = compare_vectors(vectors, exact)
    if exactness == "exact":
        promise = f'compute.exactness = "exact" allows values to differ by {_EXACT:.0e}.'
        return Agreement(mean, least, difference, promise, difference <= _EXACT)
    if exactness == "close":
        promise = f'compute.exactness = "close" promises a cosine of at least {_CLOSE}.'
        return Agreement(mean, least, difference, promise, least >= _CLOSE)
    return Agreement(mean, least, difference)
