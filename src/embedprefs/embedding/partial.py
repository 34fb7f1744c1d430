"""What an embedding job has done so far, kept beside its output so that a killed job continues.

The folder `OUTPUT.partial` holds the vectors, the ids, and a journal. Vectors and ids are only ever appended to, and
the journal gets a line after every chunk that is written, with a checksum of it. Whatever lies behind the last line
that still fits is cut off when the job continues, so no moment of a kill can lose or double a row.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from embedprefs.embedding.sources import Position
from embedprefs.errors import InputError, ResourceError

__all__ = ["HEADER_BYTES", "JournalHeader", "Partial", "Progress", "npy_header"]

_JOURNAL_VERSION = 1
_SECONDS_BETWEEN_SYNCS = 5.0
#: The .npy header of two-dimensional vectors; numpy leaves room in it for any number of rows.
HEADER_BYTES = 128


def npy_header(dtype: str, rows: int, dimension: int) -> bytes:
    """Return the header of an .npy file with the vectors in rows.

    Raises:
        RuntimeError: the header does not have the size that was reserved for it.
    """
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(buffer, {**description, "shape": (rows, dimension)})
    header = buffer.getvalue()
    if len(header) != HEADER_BYTES:
        raise RuntimeError(f"numpy wrote an .npy header of {len(header)} bytes, expected {HEADER_BYTES}.")
    return header


@dataclass(frozen=True)
class JournalHeader:
    """What a job is: it continues only where all of this is the same."""

    input: Mapping[str, Any]
    """The input's path, size, sha256 and number of texts; both None for a stream."""
    options: Mapping[str, Any]
    """Options that decide which rows there are and what they become."""
    record: Mapping[str, Any]
    """Record of the model: what its vectors are, and how they were computed."""
    chunk_texts: int
    """Texts of one chunk, at most."""
    chunk_characters: int
    """Characters after which a chunk is full."""
    version: int = _JOURNAL_VERSION


@dataclass(frozen=True)
class Progress:
    """How far a job is; a line of the journal."""

    rows: int = 0
    """Vectors written."""
    position: Position = field(default_factory=Position)
    """Where the input continues."""
    vector_bytes: int = 0
    """Length of the vectors' file without its header."""
    id_bytes: int = 0
    """Length of the ids' file."""
    checksum: int = 0
    """CRC-32 of the chunk's vectors, then its ids."""
    synced: bool = False
    """True where everything up to here was forced to the disk."""
    dtype: str | None = None
    dimension: int | None = None
    tokens: int = 0
    in_workers: int = 0
    """Texts that worker processes read, whose tokens nobody counted."""
    truncated: int = 0
    windowed: int = 0
    clipped: int = 0
    overlong_lines: tuple[int, ...] = ()
    """The first lines that were truncated or embedded in windows."""
    empty: int = 0
    skipped: int = 0
    replaced: int = 0
    named_lines: tuple[int, ...] = ()
    """The first lines that were skipped or had bytes replaced."""
    longest_id: int = 0
    """Characters of the longest id."""
    ids_are_numbers: bool = True
    seconds: float = 0.0
    """Seconds of embedding, over all runs."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the progress that a line of the journal holds."""
        lines = {name: tuple(values[name]) for name in ("overlong_lines", "named_lines")}
        return cls(**{**values, **lines, "position": Position(**values["position"])})


class Partial:
    """The folder beside an output that holds what is done; one process at a time."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.partial")
        self.vectors = self.folder / "vectors.npy"
        self.ids = self.folder / "ids.jsonl"
        self.journal = self.folder / "journal.jsonl"
        self._files: tuple[BinaryIO, BinaryIO, BinaryIO] | None = None
        self._last_sync = time.monotonic()
        self._journal_bytes = 0
        self._done = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[Self]:
        """Hold the folder, creating it where it is absent.

        Raises:
            InputError: the folder cannot be written.
            ResourceError: another process works on the same output.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(exist_ok=True)
            lock = FileLock(self.folder / "lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise ResourceError(
                f"{self.folder}: another process is writing this output.\n  Wait for it, or choose another output."
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.folder.parent}: cannot be written: {error.strerror or error}.\n"
                "  Choose an output in a folder that you may write to.",
                file=self.folder.parent,
            ) from error
        try:
            yield self
        finally:
            self.close()
            lock.release()
            if self._done:
                # Only now: Windows deletes no file that is open, and the lock is one.
                shutil.rmtree(self.folder)

    def read(self) -> tuple[JournalHeader, Progress] | None:
        """Return what an earlier run was and how far it is; None where there is nothing to continue.

        Raises:
            InputError: the journal is damaged.
        """
        lines = _whole_lines(self.journal)
        if not lines:
            return None
        try:
            values = json.loads(lines[0])
            if values["version"] != _JOURNAL_VERSION:
                return None
            header = JournalHeader(**values)
            steps = [Progress(), *(Progress.from_json(json.loads(line)) for line in lines[1:])]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.journal}: the journal of the unfinished run is damaged: {error!r}.\n"
                f"  Run with --restart to begin again; that deletes {self.folder}.",
                file=self.journal,
            ) from error
        # A power cut can lose rows that the journal knows of: go back to the last step whose rows are all there.
        while len(steps) > 1 and not self._holds(steps[-2], steps[-1]):
            steps.pop()
        self._journal_bytes = sum(len(line) + 1 for line in lines[: len(steps)])
        return header, steps[-1]

    def _holds(self, previous: Progress, step: Progress) -> bool:
        if _size(self.vectors) < HEADER_BYTES + step.vector_bytes or _size(self.ids) < step.id_bytes:
            return False
        if step.synced:
            return True
        with self.vectors.open("rb") as vectors, self.ids.open("rb") as ids:
            vectors.seek(HEADER_BYTES + previous.vector_bytes)
            ids.seek(previous.id_bytes)
            checksum = zlib.crc32(vectors.read(step.vector_bytes - previous.vector_bytes))
            checksum = zlib.crc32(ids.read(step.id_bytes - previous.id_bytes), checksum)
        return checksum == step.checksum

    def begin(self, header: JournalHeader) -> Progress:
        """Start from nothing; what an earlier run left is deleted."""
        self.close()
        for path in (self.journal, self.vectors, self.ids):
            path.unlink(missing_ok=True)
        self.vectors.write_bytes(bytes(HEADER_BYTES))
        self.ids.touch()
        line = json.dumps(asdict(header), ensure_ascii=False, default=str) + "\n"
        self.journal.write_text(line, encoding="utf-8")
        self._open()
        return Progress()

    def resume(self, progress: Progress) -> None:
        """Continue behind the step that `read` returned: whatever lies after it is cut off."""
        self.close()
        os.truncate(self.vectors, HEADER_BYTES + progress.vector_bytes)
        os.truncate(self.ids, progress.id_bytes)
        os.truncate(self.journal, self._journal_bytes)
        self._open()

    def _open(self) -> None:
        self._files = (self.vectors.open("ab"), self.ids.open("ab"), self.journal.open("ab"))

    def close(self) -> None:
        """Close the files; the folder stays."""
        if self._files is not None:
            for file in self._files:
                file.close()
            self._files = None

    def append(self, progress: Progress, vectors: np.ndarray[Any, Any], ids: Sequence[int | str]) -> Progress:
        """Write a chunk, then the journal's line about it.

        Args:
            progress: How far the job is with this chunk; lengths and checksum are filled in here.
            vectors: (rows, dimension), in the byte order of this machine.
            ids: One id a row.
        """
        if self._files is None:
            raise RuntimeError("The partial output is not open.")
        vector_file, id_file, journal = self._files
        vector_data = vectors.tobytes()
        id_data = "".join(json.dumps(identifier, ensure_ascii=False) + "\n" for identifier in ids).encode()
        vector_file.write(vector_data)
        id_file.write(id_data)
        vector_file.flush()
        id_file.flush()
        synced = time.monotonic() - self._last_sync > _SECONDS_BETWEEN_SYNCS
        if synced:
            os.fsync(vector_file.fileno())
            os.fsync(id_file.fileno())
        step = replace(
            progress,
            vector_bytes=progress.vector_bytes + len(vector_data),
            id_bytes=progress.id_bytes + len(id_data),
            checksum=zlib.crc32(id_data, zlib.crc32(vector_data)),
            synced=synced,
        )
        journal.write((json.dumps(asdict(step)) + "\n").encode())
        journal.flush()
        if synced:
            os.fsync(journal.fileno())
            self._last_sync = time.monotonic()
        return step

    def rows(self, progress: Progress, *, chunk_rows: int = 4096) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the vectors that are done, in order, some thousand rows at a time."""
        if progress.dtype is None or progress.dimension is None:
            return
        row_bytes = np.dtype(progress.dtype).itemsize * progress.dimension
        with self.vectors.open("rb") as stream:
            stream.seek(HEADER_BYTES)
            left = progress.rows
            while left:
                count = min(chunk_rows, left)
                data = stream.read(count * row_bytes)
                yield np.frombuffer(data, dtype=progress.dtype).reshape(count, progress.dimension)
                left -= count

    def identifiers(self) -> Iterator[int | str]:
        """Yield the rows' ids, in order."""
        with self.ids.open(encoding="utf-8", newline="\n") as stream:
            for line in stream:
                yield json.loads(line)

    def discard(self) -> None:
        """Have the folder deleted when it is let go."""
        self._done = True


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of the journal that were written to their end."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data.split(b"\n")[:-1]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
