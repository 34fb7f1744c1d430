"""One vector from the vectors of a text's windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["pool_windows"]


def pool_windows(vectors: Any, counts: Sequence[int], content: Sequence[int], pooling: str) -> Any:
    """Pool windows into texts: in float32, whatever the vectors are in.

    With v(i) the vector of window i and n(i) the number of the text's own tokens in it (special tokens and prompt not
    counted; tokens that two windows share count in both):

    - mean: the sum of v(i), divided by the number of windows;
    - weighted: the sum of n(i) v(i), divided by the sum of n(i), so that a short last window counts less;
    - max: the largest value of each dimension;
    - first: v(0), which is what the host computes of the cut text.

    Args:
        vectors: Shape (windows, dimensions): an array or a tensor.
        counts: Windows of each text, in order.
        content: The text's own tokens in each window.
        pooling: As in `tokenizer.window_pooling`.

    Returns:
        Shape (texts, dimensions), float32; an array for an array, a tensor for a tensor.
    """
    # Arrays and tensors share the words used here, so that torch is not needed for arrays.
    is_array = isinstance(vectors, np.ndarray)
    values = vectors.astype(np.float32) if is_array else vectors.float()
    weights = np.asarray(content, dtype=np.float32)[:, None]
    if not is_array:
        weights = values.new_tensor(weights)
    pooled = []
    start = 0
    for count in counts:
        part, weight = values[start : start + count], weights[start : start + count]
        start += count
        if pooling == "first":
            pooled.append(part[0])
        elif pooling == "max":
            pooled.append(part.max(0) if is_array else part.amax(0))
        elif pooling == "mean":
            pooled.append(part.mean(0))
        else:
            pooled.append((part * weight).sum(0) / weight.sum())
    if is_array:
        return np.stack(pooled)
    import torch

    return torch.stack(pooled)
