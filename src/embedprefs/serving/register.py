"""Which artefacts this user has compiled, so that preferences find theirs, and what they were compiled from.

One JSON file an artefact in the user's cache folder, named by what the artefact is for. Nothing of it travels with an
artefact: paths are this machine's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from embedprefs.files.folders import cache_folder

__all__ = ["Entry", "artefact_key", "compiled_folder", "entries", "entry_for", "file_stamps"]

logger = logging.getLogger("embedprefs.serving")


def compiled_folder() -> Path:
    """Return where artefacts lie unless a folder is named, and where all of them are registered."""
    return cache_folder() / "compiled"


def artefact_key(fingerprint: str, demand: Mapping[str, Any]) -> str:
    """Return the name of an artefact: equal names, equal vectors computed in the same way.

    Args:
        fingerprint: Identity of the vectors.
        demand: The compute preferences that decide about the number format.
    """
    text = json.dumps({"fingerprint": fingerprint, "demand": dict(demand)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """One registered artefact."""

    folder: str
    """Where it lies."""
    fingerprint: str
    demand: Mapping[str, Any]
    model: str
    """`model.name` as the preferences state it."""
    preferences_file: str | None
    """The preferences file it was compiled from; None where there was none."""
    source_folder: str | None
    """The model's files on this machine; None where they do not lie in one folder."""
    stamps: Mapping[str, list[int]]
    """File of the model -> size and time when it was compiled."""
    stated: Mapping[str, Any]
    """The preferences, nested, as they were stated."""

    @property
    def key(self) -> str:
        """Its name."""
        return artefact_key(self.fingerprint, self.demand)

    def write(self) -> None:
        """Register the artefact; a former one of the same name is forgotten."""
        folder = compiled_folder()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{self.key}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        temporary.replace(folder / f"{self.key}.json")

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read an entry; None where there is none, or it cannot be used, which costs looking at the model itself.

        An entry whose artefact was deleted is forgotten: who deletes a folder does not want to hear of it for ever.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            entry = cls(**values)
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError) as error:
            logger.warning("%s is no entry of a compiled artefact and is left alone: %s.", file, error)
            return None
        if Path(entry.folder).is_dir():
            return entry
        logger.info("The compiled artefact in %s was deleted, and is forgotten.", entry.folder)
        with suppress(OSError):  # a folder that cannot be written forgets it the next time
            file.unlink(missing_ok=True)
        return None

    def with_stamps_of_now(self) -> Self:
        """Return the entry for the model's files as they are now."""
        return replace(self, stamps=file_stamps(Path(self.source_folder), self.stamps) if self.source_folder else {})

    def source_is_unchanged(self) -> bool:
        """Tell whether every file of the model has the size and time it had; False where it is not here."""
        return self.source_folder is not None and self.with_stamps_of_now().stamps == self.stamps

    def source_is_here(self) -> bool:
        """Tell whether the model's files can be compared."""
        return self.source_folder is not None and Path(self.source_folder).is_dir()


def entry_for(fingerprint: str, demand: Mapping[str, Any]) -> Entry | None:
    """Return the artefact that gives these vectors in this way; None where none is registered."""
    return Entry.read(compiled_folder() / f"{artefact_key(fingerprint, demand)}.json")


def entries() -> Iterator[Entry]:
    """Yield every registered artefact, the latest first."""
    folder = compiled_folder()
    if not folder.is_dir():
        return
    files = [file for file in folder.iterdir() if file.suffix == ".json"]
    for file in sorted(files, key=lambda item: item.stat().st_mtime_ns, reverse=True):
        entry = Entry.read(file)
        if entry is not None:
            yield entry


def file_stamps(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time in nanoseconds of those files of a folder that are there."""
    stamps = {}
    for name in names:
        path = folder / name
        if path.is_file():
            status = path.stat()
            stamps[name] = [status.st_size, status.st_mtime_ns]
    return stamps
