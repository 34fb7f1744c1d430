"""Tensor names, shapes and dtypes from the headers of safetensors files; no weight is read.

The format: 8 bytes with the header's length (little endian), the header as JSON, then the tensors' bytes.
Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from embedprefs.facts.model_facts import TensorFacts
from embedprefs.facts.sources import SourceReader

__all__ = ["Checkpoint", "parse_header", "read_checkpoint"]

#: Longest header that safetensors itself accepts, in bytes.
_LONGEST_HEADER = 100_000_000
_DAMAGED = "Copy or download the file again."

#: Name in the header -> bits of one value, for every dtype that safetensors 0.8 knows.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
}

#: What transformers looks for in a folder, in its order.
_SAFETENSORS = "model.safetensors"
_SAFETENSORS_INDEX = "model.safetensors.index.json"
_PICKLE = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one module."""

    tensors: Mapping[str, TensorFacts] = field(default_factory=dict)
    weight_files: tuple[str, ...] = ()
    """Safetensors files that the host would read, or the pickle where there is no other."""
    pickle: bool = False
    """True where only a pickle exists."""


def tensor_bytes(tensor: TensorFacts) -> int:
    """Return the bytes that a tensor takes as stored."""
    return math.ceil(tensor.elements * _BITS.get(tensor.dtype, 32) / 8)


class _DuplicateNameError(ValueError):
    """A JSON object names something twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateNameError(next(name for name in names if names.count(name) > 1))
    return values


def _entry(name: str, value: Any, file: str) -> tuple[TensorFacts, int, int] | str:
    """Return a tensor with the place of its bytes, or what is wrong with its entry."""
    if not isinstance(value, dict):
        return f"{file}: the entry of tensor {name} is no object"
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        return f"{file}: tensor {name} has the unknown dtype {dtype!r}"
    if not isinstance(shape, list) or not all(isinstance(length, int) and length >= 0 for length in shape):
        return f"{file}: tensor {name} has no valid shape: {shape!r}"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(isinstance(offset, int) for offset in offsets):
        return f"{file}: tensor {name} has no valid data_offsets: {offsets!r}"
    tensor = TensorFacts(name=name, dtype=dtype, shape=tuple(shape), file=file)
    start, end = offsets
    if start < 0 or end - start != tensor_bytes(tensor):
        return (
            f"{file}: tensor {name} ({dtype}, {tuple(shape)}) needs {tensor_bytes(tensor)} bytes and has {end - start}"
        )
    return tensor, start, end


def parse_header(header: bytes, data_bytes: int, file: str) -> tuple[dict[str, TensorFacts], list[str]]:
    """Read the header of a safetensors file.

    Args:
        header: The JSON, without its length.
        data_bytes: Bytes that follow it in the file.
        file: Name of the file, for the tensors and the messages.

    Returns:
        Tensors by name as far as they can be read, and what is wrong.
    """
    try:
        values = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except _DuplicateNameError as error:
        return {}, [f'{file} is damaged: its header names "{error}" twice. {_DAMAGED}']
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return {}, [f"{file} is damaged: its header is not JSON. {_DAMAGED}"]
    if not isinstance(values, dict):
        return {}, [f"{file} is damaged: its header is no JSON object. {_DAMAGED}"]
    tensors: dict[str, TensorFacts] = {}
    places: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for name, value in values.items():
        if name == "__metadata__":
            continue
        found = _entry(name, value, file)
        if isinstance(found, str):
            problems.append(f"{found}. {_DAMAGED}")
            continue
        tensor, start, end = found
        tensors[name] = tensor
        places.append((start, end, name))
    problems.extend(_layout_problems(sorted(places), data_bytes, file) if not problems else ())
    return tensors, problems


def _layout_problems(places: list[tuple[int, int, str]], data_bytes: int, file: str) -> list[str]:
    """Check that the tensors' bytes lie one behind the other and fill the file, as safetensors itself demands."""
    reached = 0
    for start, end, name in places:
        if start != reached:
            fault = "overlaps another tensor" if start < reached else f"leaves {start - reached} bytes unused before it"
            return [f"{file} is damaged: tensor {name} {fault}. {_DAMAGED}"]
        reached = end
    if data_bytes < reached:
        found = f"its header announces {reached:,} bytes of tensors and the file holds {data_bytes:,}"
        return [f"{file} is cut off: {found}. {_DAMAGED}"]
    if data_bytes > reached:
        return [f"{file} is damaged: {data_bytes - reached:,} bytes follow the last tensor. {_DAMAGED}"]
    return []


def _read_header(reader: SourceReader, file: str) -> dict[str, TensorFacts]:
    source = reader.source
    try:
        size = source.size(file) or 0
        start = source.read_range(file, 0, 8)
        if len(start) < 8:
            reader.note(
                f"{file} is cut off: it has {size:,} bytes, fewer than the 8 that start a safetensors file. {_DAMAGED}"
            )
            return {}
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            reader.note(
                f"{file} is a Git LFS pointer, not the weights themselves. Run `git lfs pull` in the model's folder."
            )
            return {}
        if length > _LONGEST_HEADER:
            reader.note(
                f"{file} is no safetensors file: it announces a header of {length:,} bytes, and "
                f"{_LONGEST_HEADER:,} are the most. {_DAMAGED}"
            )
            return {}
        if 8 + length > size:
            reader.note(
                f"{file} is cut off: its header of {length:,} bytes does not fit into the file of {size:,}. {_DAMAGED}"
            )
            return {}
        header = source.read_range(file, 8, length)
    except OSError as error:
        reader.note(f"{file} cannot be read: {error.strerror or error}. Check the file's permissions.")
        return {}
    tensors, problems = parse_header(header, size - 8 - length, file)
    for problem in problems:
        reader.note(problem)
    return tensors


def _shards(reader: SourceReader, index: str) -> tuple[str, ...]:
    """Return the files that an index names, as paths inside the model."""
    weight_map = reader.json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        reader.note(f'{index} has no usable "weight_map". Restore the file from the model\'s source.')
        return ()
    folder = PurePosixPath(index).parent
    return tuple(sorted({(folder / file).as_posix() for file in weight_map.values()}))


def _sharded(reader: SourceReader, index: str) -> Checkpoint:
    weight_map = reader.json_object(index).get("weight_map", {})
    tensors: dict[str, TensorFacts] = {}
    present = []
    for file in _shards(reader, index):
        if reader.source.size(file) is None:
            reader.note(f"{file} is named by {index} and absent. Copy or download it.")
            continue
        present.append(file)
        for name, tensor in _read_header(reader, file).items():
            if name in tensors:
                reader.note(f"{file} and {tensors[name].file} both hold the tensor {name}. {_DAMAGED}")
            tensors[name] = tensor
    lacking = [name for name in weight_map if name not in tensors] if isinstance(weight_map, dict) else []
    whole = len(present) == len(_shards(reader, index))
    if lacking and whole:
        reader.note(f"{index} names {len(lacking)} tensors that no file holds, {lacking[0]} among them. {_DAMAGED}")
    return Checkpoint(tensors, tuple(present))


def read_checkpoint(reader: SourceReader, folder: str = "", stated: str | None = None) -> Checkpoint:
    """Read the headers of the weights that the host would load from a folder of the model.

    Args:
        reader: The model's files; problems are noted there.
        folder: Folder of the module inside the model; "" for the model's own.
        stated: File that config.json names as `transformers_weights`.
    """
    source = reader.source

    def inside(file: str) -> str:
        return (PurePosixPath(folder) / file).as_posix()

    for file in (stated, _SAFETENSORS, _SAFETENSORS_INDEX):
        if file is None or source.size(inside(file)) is None:
            continue
        if file.endswith(".index.json"):
            return _sharded(reader, inside(file))
        return Checkpoint(_read_header(reader, inside(file)), (inside(file),))
    if source.size(inside(_PICKLE)) is not None:
        return Checkpoint(weight_files=(inside(_PICKLE),), pickle=True)
    if source.size(inside(_PICKLE_INDEX)) is not None:
        return Checkpoint(weight_files=_shards(reader, inside(_PICKLE_INDEX)), pickle=True)
    return Checkpoint()
