"""The finished file, written from what the job kept: .npy, .npz, .parquet or .jsonl."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from embedprefs.embedding.partial import Partial, Progress, npy_header
from embedprefs.errors import MissingExtraError

__all__ = ["OutputFormat", "require_output_format", "write_ids", "write_output"]

_ROWS = 4096


class OutputFormat(StrEnum):
    """What the vectors are written as."""

    NPY = "npy"
    """The vectors alone, one a row, in the order of the input."""
    NPZ = "npz"
    """The arrays `vectors` and `ids`."""
    PARQUET = "parquet"
    """The columns `id` and `vector`."""
    JSONL = "jsonl"
    """One object a line: `{"id": …, "vector": […]}`."""


def require_output_format(output_format: OutputFormat) -> None:
    """Find out before any text is embedded whether the format can be written.

    Raises:
        MissingExtraError: Parquet without pyarrow.
    """
    if output_format is OutputFormat.PARQUET:
        try:
            import pyarrow.parquet  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingExtraError("pyarrow", extra="parquet", needed_for="Writing Parquet") from error


def write_output(partial: Partial, progress: Progress, output_format: OutputFormat, output: Path) -> None:
    """Put the finished file in its place in one step; until then the place holds what it held.

    The rows are read back a few thousand at a time. A process killed meanwhile loses nothing: the next run writes the
    file again from the same rows.
    """
    partial.close()
    if output_format is OutputFormat.NPY:
        finished = partial.vectors
        _seal(finished, progress)
    else:
        finished = partial.folder / f"finished.{output_format.value}"
        {
            OutputFormat.NPZ: _write_npz,
            OutputFormat.PARQUET: _write_parquet,
            OutputFormat.JSONL: _write_jsonl,
        }[output_format](partial, progress, finished)
    _sync(finished)
    finished.replace(output)


def write_ids(partial: Partial, ids_file: Path) -> None:
    """Write the ids beside the vectors, one JSON value a line in the order of the rows, in one step."""
    finished = partial.folder / "finished.ids"
    shutil.copyfile(partial.ids, finished)
    _sync(finished)
    finished.replace(ids_file)


def _seal(path: Path, progress: Progress) -> None:
    with path.open("r+b") as stream:
        stream.write(_header(progress))


def _header(progress: Progress) -> bytes:
    if progress.dtype is None or progress.dimension is None:
        raise RuntimeError("No vector was written.")
    return npy_header(progress.dtype, progress.rows, progress.dimension)


def _sync(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _write_npz(partial: Partial, progress: Progress, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            member.write(_header(progress))
            for rows in partial.rows(progress):
                member.write(rows.tobytes())
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            _write_id_array(partial, progress, member)


def _write_id_array(partial: Partial, progress: Progress, member: IO[bytes]) -> None:
    """Write the ids as an array that numpy reads without pickle: int64, or texts of the longest id's length."""
    dtype = np.dtype(np.int64) if progress.ids_are_numbers else np.dtype(f"<U{max(progress.longest_id, 1)}")
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (progress.rows,)}
    np.lib.format.write_array_header_1_0(member, description)
    for ids in _pieces(partial.identifiers()):
        values = ids if progress.ids_are_numbers else [str(identifier) for identifier in ids]
        member.write(np.asarray(values, dtype=dtype).tobytes())


def _write_parquet(partial: Partial, progress: Progress, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vector_type = pa.list_(pa.from_numpy_dtype(np.dtype(progress.dtype)), progress.dimension or -1)
    id_type = pa.int64() if progress.ids_are_numbers else pa.string()
    schema = pa.schema([("id", id_type), ("vector", vector_type)])
    identifiers = partial.identifiers()
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in partial.rows(progress, chunk_rows=_ROWS):
            ids: list[Any] = list(islice(identifiers, len(rows)))
            if not progress.ids_are_numbers:
                ids = [str(identifier) for identifier in ids]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=vector_type)
            writer.write_table(pa.table([pa.array(ids, id_type), vectors], schema=schema))


def _write_jsonl(partial: Partial, progress: Progress, path: Path) -> None:
    floating = np.issubdtype(np.dtype(progress.dtype), np.floating)
    # Nine digits give every float32 back exactly; more would only be longer.
    number = "%.9g" if floating else "%d"
    template = ", ".join([number] * (progress.dimension or 0))
    identifiers = partial.identifiers()
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for rows in partial.rows(progress, chunk_rows=_ROWS):
            for row, identifier in zip(_tuples(rows), identifiers, strict=False):
                stream.write(f'{{"id": {json.dumps(identifier, ensure_ascii=False)}, "vector": [{template % row}]}}\n')


def _tuples(rows: np.ndarray[Any, Any]) -> Iterator[tuple[float, ...]]:
    for row in rows:
        yield tuple(row.tolist())


def _pieces(values: Iterator[int | str]) -> Iterator[list[int | str]]:
    while piece := list(islice(values, _ROWS)):
        yield piece
