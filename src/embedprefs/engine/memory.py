"""Telling that memory ran out, whichever library says it."""

from __future__ import annotations

import re

__all__ = ["is_out_of_memory"]

#: What allocators say where they raise no class of their own: torch on the CPU, OpenVINO and ONNX Runtime. They are
#: asked of `RuntimeError` and what derives from it only.
_ALLOCATION_FAILED = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad[_ ]alloc|failed to allocate|allocation failed"
    r"|could not (allocate|create a memory)|cannot allocate",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, so that a smaller batch may succeed.

    `MemoryError`, torch's `OutOfMemoryError`, and the errors of torch's CPU allocator, OpenVINO and ONNX Runtime, which
    only their message tells apart.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _ALLOCATION_FAILED.search(str(error)) is not None
