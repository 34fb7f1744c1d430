"""Vectors that are no numbers never leave the model unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedprefs.errors import ModelFilesError
from embedprefs.model.callers import warn_caller

__all__ = ["look_for_broken_vectors"]

#: Texts that an error names.
_NAMED = 5


def look_for_broken_vectors(vectors: Any, *, model: str, dtype: str, first_position: int = 0) -> None:
    """Say which vectors hold NaN or infinity; refuse a call that gives nothing else.

    In an index such a vector is found by no query, or by every one. A loaded model of a known architecture is not run
    before its first call, so that loading stays quick; what a damaged checkpoint computes shows here. Looking at 1,000
    vectors of 384 numbers takes about a tenth of a millisecond. Tensors on an accelerator are left alone: looking at
    them would wait for the device.

    Args:
        vectors: What a call returns: an array or tensor of shape (texts, dimensions) or (dimensions,), or a list of
            tensors. Codes (int8, uint8, binary) hold no such numbers.
        model: Name of the model, for the message.
        dtype: What it computes in, for the message.
        first_position: Number of the first vector, in streams.

    Raises:
        ModelFilesError: no vector of the call is finite.

    Warns:
        EmbedPrefsWarning: some are not; the first of them are named.
    """
    broken, count = _broken(vectors)
    if not broken:
        return
    advice = (
        "The checkpoint is damaged, or made for a dtype with a wider range: use another one."
        if dtype == "float32"
        else f'The model overflows in {dtype}, or its checkpoint is damaged: write dtype = "float32" under [compute].'
    )
    if len(broken) == count:
        raise ModelFilesError(
            f"{model}: no vector of this call is finite ({count} of {count}).\n  {advice}", model=model
        )
    named = ", ".join(str(first_position + at) for at in broken[:_NAMED])
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    warn_caller(f"{len(broken)} of {count} vectors hold NaN or infinity: input {named}{more}. {advice}")


def _broken(vectors: Any) -> tuple[list[int], int]:
    """Return the positions of vectors that are not finite, and how many vectors there are."""
    if isinstance(vectors, np.ndarray):
        if vectors.dtype.kind != "f" or np.isfinite(vectors).all():
            return [], len(vectors)
        rows = np.atleast_2d(vectors)
        return [int(at) for at in np.flatnonzero(~np.isfinite(rows).all(axis=1))], len(rows)
    # Imported here: arrays are also looked at where there is no torch.
    import torch

    if isinstance(vectors, torch.Tensor):
        if vectors.device.type != "cpu" or not vectors.is_floating_point() or bool(torch.isfinite(vectors).all()):
            return [], len(vectors)
        return _broken(vectors.detach().float().numpy())
    if isinstance(vectors, list) and all(isinstance(vector, torch.Tensor) for vector in vectors):
        return [at for at, vector in enumerate(vectors) if _broken(vector)[0]], len(vectors)
    return [], 0
