"""Where a model's files are read from: a folder of this machine, or the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

__all__ = ["FolderSource", "ModelSource", "SourceReader", "blob_hash"]

#: Model folders are shallow; deeper ones hold a training run's checkpoints or a whole project.
_DEEPEST = 4


class ModelSource(Protocol):
    """The files of one model; absent files are None, never an error."""

    @property
    def kind(self) -> Literal["folder", "cache", "hub"]:
        """What the files are read from."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where every file lies on this machine; None where the weights do not."""
        ...

    @property
    def revision(self) -> str | None:
        """Commit the files are from."""
        ...

    @property
    def downloaded_to(self) -> Path | None:
        """Where small files read from the hub were kept; None for a folder."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """Every file's path relative to the model, sorted."""
        ...

    @property
    def content_hashes(self) -> Mapping[str, str]:
        """File -> sha256 of its content, for those where it is known without reading them."""
        ...

    def read(self, file: str) -> bytes | None:
        """Return a whole small file; None where it is absent."""
        ...

    def size(self, file: str) -> int | None:
        """Return a file's length in bytes; None where it is absent."""
        ...

    def read_range(self, file: str, start: int, length: int) -> bytes:
        """Return a part of a large file; shorter than asked for where the file ends."""
        ...


def blob_hash(path: Path) -> str | None:
    """Return the sha256 that the hub's cache gives a large file by the name of its blob.

    The cache links `snapshots/<commit>/<file>` to `blobs/<etag>`, and the etag of a large file is its sha256 (64
    digits); that of a small one is git's sha1 (40 digits), which says nothing here. Source: "Understand caching" in
    the documentation of huggingface_hub.
    """
    if not path.is_symlink():
        return None
    target = path.resolve()
    if target.parent.name != "blobs" or re.fullmatch(r"[0-9a-f]{64}", target.name) is None:
        return None
    return target.name


class FolderSource:
    """A model's files in a folder, be it the user's or the hub cache's."""

    def __init__(self, folder: Path, kind: Literal["folder", "cache"], revision: str | None = None) -> None:
        self._folder = folder
        self._kind = kind
        self._revision = revision

    @property
    def kind(self) -> Literal["folder", "cache", "hub"]:
        """What the files are read from."""
        return self._kind

    @property
    def folder(self) -> Path | None:
        """The folder itself."""
        return self._folder

    @property
    def revision(self) -> str | None:
        """Commit of a snapshot in the hub cache."""
        return self._revision

    @property
    def downloaded_to(self) -> Path | None:
        """None: everything lies in the folder."""
        return None

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file's path relative to the folder, sorted; hidden ones and deep folders left out."""
        return tuple(sorted(self._walk(self._folder, PurePosixPath())))

    def _walk(self, folder: Path, inside: PurePosixPath) -> Iterator[str]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    continue
                path = inside / entry.name
                if entry.is_dir():
                    if len(path.parts) < _DEEPEST:
                        yield from self._walk(Path(entry.path), path)
                else:
                    yield path.as_posix()

    @cached_property
    def content_hashes(self) -> Mapping[str, str]:
        """Hashes that the hub cache's blob names give."""
        hashes = {file: blob_hash(self._folder / file) for file in self.files}
        return {file: found for file, found in hashes.items() if found is not None}

    def read(self, file: str) -> bytes | None:
        """Return a whole file; None where it is absent."""
        try:
            return (self._folder / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size(self, file: str) -> int | None:
        """Return a file's length in bytes; None where it is absent."""
        try:
            return (self._folder / file).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_range(self, file: str, start: int, length: int) -> bytes:
        """Return a part of a file."""
        with (self._folder / file).open("rb") as stream:
            stream.seek(start)
            return stream.read(length)


class SourceReader:
    """Reads JSON of a source and notes what is wrong with it, so that one damaged file hides no other."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.problems: list[str] = []

    def note(self, problem: str) -> None:
        """Note a problem once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def json_object(self, file: str) -> dict[str, Any]:
        """Return a file's JSON object; {} where it is absent or unusable, the latter noted."""
        value = self._json(file)
        if value is None or isinstance(value, dict):
            return value or {}
        self.note(
            f"{file} holds {_json_type(value)} where an object is needed. Restore the file from the model's source."
        )
        return {}

    def json_list(self, file: str) -> list[Any]:
        """Return a file's JSON list; [] where it is absent or unusable, the latter noted."""
        value = self._json(file)
        if value is None or isinstance(value, list):
            return value or []
        self.note(f"{file} holds {_json_type(value)} where a list is needed. Restore the file from the model's source.")
        return []

    def _json(self, file: str) -> Any:
        data = self._bytes(file)
        if data is None:
            return None
        if data.startswith(b"\xef\xbb\xbf"):
            self.note(
                f"{file} starts with a byte-order mark, which sentence-transformers cannot read. "
                "Save it as UTF-8 without one."
            )
            data = data[3:]
        try:
            return json.loads(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            self.note(f"{file} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. Save it as UTF-8.")
        except json.JSONDecodeError as error:
            self.note(
                f"{file} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
                "Restore the file from the model's source."
            )
        except RecursionError:
            self.note(f"{file} is nested too deeply to be a model's file. Restore it from the model's source.")
        return None

    def _bytes(self, file: str) -> bytes | None:
        try:
            return self.source.read(file)
        except OSError as error:
            self.note(f"{file} cannot be read: {error.strerror or error}. Check the file's permissions.")
            return None


def _json_type(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
