"""How fast the vectors come: device, number format, backend, batches, memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from embedprefs.preferences.declaration import Kind, Section, preference

__all__ = ["ComputePreferences"]

Auto = Literal["auto"]
AtLeastOne = Annotated[StrictInt, Field(ge=1)]
Device = Annotated[StrictStr, Field(pattern=r"^(auto|cpu|mps|cuda|cuda:\d+|xpu|xpu:\d+|npu|npu:\d+|hpu|hpu:\d+)$")]
FileSize = Annotated[StrictStr, Field(pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$")]
Folder = Annotated[StrictStr, Field(min_length=1)]
MemorySize = Annotated[StrictStr, Field(pattern=r"^(auto|\d+(\.\d+)? ?([KMGT]i?B|%))$")]


class ComputePreferences(Section):
    """How the model is run. "auto" is resolved on the machine, and `show` says what it became and why."""

    device: Device | list[Device] = preference(
        "auto",
        kind=Kind.COMPUTE,
        example="cuda:1",
        allowed="auto, cpu, mps, cuda, cuda:N, xpu, xpu:N, npu, npu:N, hpu, hpu:N, or a list of them",
    )
    """Where the model runs: auto, cpu, mps, cuda, cuda:1 ..., or a list of devices, one process each."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = preference("auto", kind=Kind.COMPUTE)
    """Number format of the weights while running."""
    autocast: StrictBool = preference(default=False, kind=Kind.COMPUTE)
    """Keep float32 weights and let torch choose lower precision operation by operation (mixed precision)."""
    weights: Literal["full", "int8"] = preference("full", kind=Kind.COMPUTE)
    """Run with full weights, or with weights quantised to int8."""
    backend: Literal["auto", "torch", "openvino", "onnx"] = preference("auto", kind=Kind.COMPUTE)
    """What runs the model."""
    attention: Literal["auto", "eager", "sdpa", "local", "varlen", "flash_attention_2"] = preference(
        "auto", kind=Kind.COMPUTE
    )
    """Which attention implementation runs; the one asked for, or an error."""
    exactness: Literal["exact", "close", "fast"] = preference("close", kind=Kind.COMPUTE)
    """What "auto" may do: exact (equal to float32 within 1e-5), close (cosine at least 0.9995), fast (also int8)."""
    batch_tokens: Auto | AtLeastOne = preference("auto", kind=Kind.COMPUTE, example=16384)
    """Tokens in one batch, padding included."""
    max_batch_size: Auto | AtLeastOne = preference("auto", kind=Kind.COMPUTE, example=64)
    """Texts in one batch, at most."""
    compile: Auto | StrictBool = preference("auto", kind=Kind.COMPUTE)
    """Compile the model with torch.compile."""
    threads: Auto | AtLeastOne = preference("auto", kind=Kind.COMPUTE)
    """CPU threads of one process."""
    workers: Auto | AtLeastOne = preference("auto", kind=Kind.COMPUTE)
    """Processes that embed side by side."""
    memory_limit: MemorySize | AtLeastOne = preference(
        "auto",
        kind=Kind.COMPUTE,
        example="8GiB",
        allowed='auto, a whole number of bytes, a size such as "8GiB" or "500MB", or a share such as "75%"',
    )
    """The most memory embedding may take: bytes, "8GiB", or a share of what is there, "75%"."""
    cache: StrictBool | Folder = preference(
        default=False,
        kind=Kind.COMPUTE,
        example=True,
        allowed="false, true, or a folder on a disk of this machine, relative to this file",
    )
    """Keep vectors, so that a text embedded before is looked up: in the user's cache folder (true) or in this one."""
    cache_size: FileSize | AtLeastOne = preference(
        "2GiB",
        kind=Kind.COMPUTE,
        example="20GiB",
        allowed='a whole number of bytes, or a size such as "8GiB" or "500MB"',
    )
    """The most the kept vectors may take on the disk; those not used for the longest time are dropped."""
