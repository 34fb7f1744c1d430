"""Getting numbers to a device and back while it computes.

A GPU reads and writes the memory of the machine by itself where that memory is pinned, and does so beside computing
where the copy is on a stream of its own. Everywhere else a copy is made when it is asked for, and the rest of the path
is the same.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Arriving", "Copies", "copies_for"]


#: torch's streams and events state no types.
_untyped: Any = torch.cuda


class Arriving(Protocol):
    """Tensors on their way back."""

    def wait(self) -> list[NDArray[Any]]:
        """Return them as arrays, once they are there."""
        ...


class Copies(Protocol):
    """The way to one device and back."""

    in_flight: int
    """Batches that may be under way at a time."""

    def room(self, count: int) -> torch.Tensor:
        """Return memory of the machine for so many int32, from which `send` is fast."""
        ...

    def send(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the numbers on the device; what is computed next there waits for them."""
        ...

    def fetch(self, found: list[torch.Tensor]) -> Arriving:
        """Begin to bring tensors back once they are computed, and do not wait."""
        ...


def copies_for(device: torch.device) -> Copies:
    """Return the way to a device and back."""
    return _StreamCopies(device) if device.type == "cuda" else _PlainCopies(device)


class _PlainCopies:
    """Copies when asked: a processor, whose memory is the machine's, and devices without streams of copies."""

    in_flight = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def room(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int32, device="cpu")

    def send(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.to(self._device)

    def fetch(self, found: list[torch.Tensor]) -> Arriving:
        return _There([tensor.cpu().numpy() for tensor in found])


class _There:
    """Arrays that are there already."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays

    def wait(self) -> list[NDArray[Any]]:
        return self._arrays


class _StreamCopies:
    """Copies from and to pinned memory, on one stream each way.

    torch's allocators keep the memory of both sides from being used anew while a copy reads or writes it: the device's
    is told by `record_stream`, and the one of pinned memory notes every copy by itself.
    """

    in_flight = 3

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._there: torch.cuda.Stream = _untyped.Stream(device)
        self._back: torch.cuda.Stream = _untyped.Stream(device)

    def room(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int32, device="cpu", pin_memory=True)

    def send(self, numbers: torch.Tensor) -> torch.Tensor:
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._there):
            sent = numbers.to(self._device, non_blocking=True)
        computing.wait_stream(self._there)
        sent.record_stream(computing)
        return sent

    def fetch(self, found: list[torch.Tensor]) -> Arriving:
        self._back.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._back):
            copied = [torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True) for tensor in found]
            for host, tensor in zip(copied, found, strict=True):
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._back)
            done = _untyped.Event()
            done.record(self._back)
        return _Copied(copied, done)


class _Copied:
    """Pinned memory that a copy is writing into."""

    def __init__(self, copied: list[torch.Tensor], done: torch.cuda.Event) -> None:
        self._copied = copied
        self._done = done

    def wait(self) -> list[NDArray[Any]]:
        self._done.synchronize()
        # Copied once more: pinned memory is scarce, and these arrays live as long as their reader likes.
        return [np.array(tensor.numpy()) for tensor in self._copied]
