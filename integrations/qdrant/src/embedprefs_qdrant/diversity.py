"""Hits that differ from each other, and at most so many of one document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedprefs_qdrant.stores.points import Hit

__all__ = ["limit_per_document", "maximal_marginal_relevance", "scaled_relevance", "select_diverse"]


def maximal_marginal_relevance(
    query: NDArray[np.float32], vectors: NDArray[np.float32], weight: float, count: int
) -> list[int]:
    """Choose vectors that are near the query and far from each other.

    Each step takes the candidate with the greatest weight * cos(query, it) - (1 - weight) * max cos(chosen, it)
    (Carbonell and Goldstein, SIGIR 1998).

    Args:
        query: Shape (size,).
        vectors: Candidates, shape (candidates, size).
        weight: 1 is relevance alone, 0 difference alone.
        count: How many to choose.

    Returns:
        Places of the chosen candidates, in the order of choice.
    """
    if not len(vectors):
        return []
    return select_diverse(_unit(vectors) @ _unit(query[None])[0], vectors, weight, count)


def select_diverse(
    relevance: NDArray[np.float32], vectors: NDArray[np.float32], weight: float, count: int
) -> list[int]:
    """Maximal marginal relevance, with a relevance that is known already.

    Args:
        relevance: Of each candidate, on a scale of about 1, shape (candidates,).
        vectors: Candidates, shape (candidates, size).
        weight: 1 is relevance alone, 0 difference alone.
        count: How many to choose.

    Returns:
        Places of the chosen candidates, in the order of choice.
    """
    unit = _unit(vectors)
    chosen: list[int] = []
    nearest = np.full(len(unit), -np.inf)
    open_places = np.ones(len(unit), dtype=bool)
    while len(chosen) < min(count, len(unit)):
        spread = np.where(np.isinf(nearest), 0.0, nearest)
        scores = np.where(open_places, weight * relevance - (1.0 - weight) * spread, -np.inf)
        place = int(scores.argmax())
        chosen.append(place)
        open_places[place] = False
        nearest = np.maximum(nearest, unit @ unit[place])
    return chosen


def scaled_relevance(scores: Sequence[float]) -> NDArray[np.float32]:
    """Scores of any scale, best first, as relevances from 1 (the first) to 0 (the last).

    Distances, fused ranks and rerankers' scores cannot be weighed against a cosine as they are.
    """
    values = np.asarray(scores, dtype=np.float32)
    span = float(values[-1] - values[0]) if len(values) else 0.0
    if span == 0.0:
        return np.ones(len(values), dtype=np.float32)
    return np.asarray((values[-1] - values) / np.float32(span), dtype=np.float32)


def limit_per_document(hits: Sequence[Hit], most: int) -> list[Hit]:
    """The hits in their order, at most so many of one document."""
    counts: dict[str, int] = {}
    kept = []
    for hit in hits:
        # A point that names no document, of an adopted collection, is one of its own.
        source = str(hit.payload.get("source") or hit.id)
        counts[source] = counts.get(source, 0) + 1
        if counts[source] <= most:
            kept.append(hit)
    return kept


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(vectors / lengths, dtype=np.float32)
