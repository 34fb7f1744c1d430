"""Whether a model's weights are still those that were loaded."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

__all__ = ["weights_digest"]


def weights_digest(model: torch.nn.Module) -> dict[str, tuple[Any, ...]]:
    """Return name -> (shape, dtype, checksum) for every parameter and buffer that the model saves.

    torch's own counter of changes is no help: the fused AdamW of a trainer does not raise it. Sums over the bits are
    none either: turning signs round can leave them as they were. So the bytes of each tensor get a CRC-32, which every
    change within 32 bits alters for certain and any other with a probability of 1 - 2**-32, tensor by tensor. It takes
    about a third of a second for a gigabyte on one core.
    """
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    with torch.no_grad(), ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as threads:
        checksums = list(threads.map(_checksum, tensors.values()))
    return {
        name: (tuple(tensor.shape), str(tensor.dtype), checksum)
        for (name, tensor), checksum in zip(tensors.items(), checksums, strict=True)
    }


def _checksum(tensor: torch.Tensor) -> int:
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return 0
    flat = tensor.detach().cpu().contiguous().view(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data)
