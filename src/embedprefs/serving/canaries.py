"""Canary texts: what names and hashes cannot see, a few vectors show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedprefs.model.report import unreported

if TYPE_CHECKING:
    from embedprefs.serving.artefact import EncodingSettings
    from embedprefs.serving.encoder import Encoder, Role

__all__ = ["Moved", "embed_canaries", "furthest", "roles_of"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Moved:
    """How far the canary that moved furthest is from its stored vector."""

    position: int
    """Its place among the rows."""
    cosine: float
    length: float
    """Its length, as a part of the stored vector's."""

    def is_within(self, bound: float) -> bool:
        """Tell whether a cosine of at least `bound` allows it.

        Two vectors of length 1 with that cosine lie sqrt(2 (1 - cosine)) apart, so that a length may differ by as much.
        """
        return self.cosine >= bound and abs(self.length - 1) <= math.sqrt(max(0.0, 2 * (1 - bound)))


def roles_of(encoding: EncodingSettings) -> tuple[Role, ...]:
    """Return the roles whose canaries are kept: queries only where they have another prompt or length."""
    prompts, limits = encoding.prompts, encoding.limits
    same = prompts["query"] == prompts["document"] and limits["query"] == limits["document"]
    return ("document",) if same else ("document", "query")


def embed_canaries(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Embed the canary texts in every role of `roles_of`.

    They are not the user's texts: no report counts them, and no cache keeps them.

    Returns:
        Shape (roles, texts, dimensions), float32.
    """
    with unreported():
        return np.stack([encoder.encode_uncached(texts, role) for role in roles_of(encoder.encoding)])


def furthest(stored: Floats, now: Floats) -> Moved:
    """Return the vector that moved furthest: by its angle, or by its length where that is worse.

    Args:
        stored: Shape (..., dimensions).
        now: The same shape.
    """
    one = stored.reshape(-1, stored.shape[-1]).astype(np.float64)
    other = now.reshape(-1, now.shape[-1]).astype(np.float64)
    lengths, others = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    # Vectors of zeros (a static model that knows no word) agree with each other, and with nothing else.
    both_zero = (lengths == 0) & (others == 0)
    product = lengths * others
    cosines = np.where(both_zero, 1.0, (one * other).sum(axis=1) / np.where(product == 0, 1.0, product))
    ratios = np.where(both_zero, 1.0, others / np.where(lengths == 0, 1.0, lengths))
    cosines, ratios = np.nan_to_num(cosines, nan=-1.0), np.nan_to_num(ratios, nan=0.0)
    distances = np.maximum(1 - cosines, (ratios - 1) ** 2 / 2)
    position = int(distances.argmax())
    return Moved(position, float(cosines[position]), float(ratios[position]))
