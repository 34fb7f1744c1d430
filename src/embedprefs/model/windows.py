"""One vector from the vectors of a text's windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

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
    values = torch.as_tensor(vectors).float()
    weights = torch.tensor(content, dtype=torch.float32, device=values.device).unsqueeze(1)
    pooled = []
    start = 0
    for count in counts:
        part, weight = values[start : start + count], weights[start : start + count]
        start += count
        if pooling == "first":
            pooled.append(part[0])
        elif pooling == "max":
            pooled.append(part.max(dim=0).values)
        elif pooling == "mean":
            pooled.append(part.mean(dim=0))
        else:
            pooled.append((part * weight).sum(dim=0) / weight.sum())
    rows = torch.stack(pooled)
    return rows if isinstance(vectors, torch.Tensor) else rows.numpy()
