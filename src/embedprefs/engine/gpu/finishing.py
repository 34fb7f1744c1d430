"""What becomes of vectors before they leave the device: cut, scaled, and turned into codes.

The same numbers as `embedprefs.engine.pipeline.finished`, `Calibration.quantize` and the host's packed bits give; but
what is copied back is a fraction of the bytes.
"""

from __future__ import annotations

import torch

from embedprefs.engine.backend import Codes, Finish

__all__ = ["finish_on_device"]

#: What a value may lie outside the ranges by float32 rounding alone; as in `Calibration.quantize`.
_ROUNDING = 1 / 256


def finish_on_device(vectors: torch.Tensor, finish: Finish) -> tuple[torch.Tensor, ...]:
    """Return finished vectors; where codes from ranges are asked for, also how many values lay outside them.

    Args:
        vectors: Shape (texts, dimension), float32.
        finish: What is asked for.
    """
    if finish.truncate_dim is not None:
        vectors = vectors[:, : finish.truncate_dim]
    if finish.normalize:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True, dtype=torch.float64)
        vectors = vectors / lengths.clamp(min=1e-12).float()
    if finish.codes is None:
        return (vectors.contiguous(),)
    if finish.codes.precision in ("binary", "ubinary"):
        return (_bits(vectors, signed=finish.codes.precision == "binary"),)
    return _steps(vectors, finish.codes)


def _bits(vectors: torch.Tensor, *, signed: bool) -> torch.Tensor:
    """Return eight dimensions a byte, the first in the highest bit; 128 less where the byte is signed."""
    positive = torch.nn.functional.pad(vectors > 0, (0, -vectors.shape[1] % 8)).int()
    # Made on the device: a copy from ordinary memory would wait for everything that is under way there.
    places = torch.arange(7, -1, -1, dtype=torch.int32, device=vectors.device)
    packed: torch.Tensor = (positive.reshape(len(vectors), -1, 8) << places).sum(dim=2)
    return (packed - 128).to(torch.int8) if signed else packed.to(torch.uint8)


def _steps(vectors: torch.Tensor, codes: Codes) -> tuple[torch.Tensor, torch.Tensor]:
    # Not waited for: what is under way on the device would be waited for too.
    minimum = torch.from_numpy(codes.minimum).to(vectors.device, non_blocking=True)
    steps = torch.from_numpy(codes.steps).to(vectors.device, non_blocking=True)
    positions = (vectors - minimum) / steps
    clipped = ((positions < -_ROUNDING) | (positions > 255 + _ROUNDING)).sum()
    found = positions.floor().clamp(0, 255)
    if codes.precision == "uint8":
        return found.to(torch.uint8), clipped
    return (found - 128).to(torch.int8), clipped
