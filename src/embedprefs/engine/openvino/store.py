"""Converted models kept on the disk: made once, shared by processes, the least recently used removed first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from embedprefs.engine.openvino.description import Description
from embedprefs.errors import ModelFilesError, ResourceError

__all__ = ["DEFAULT_SIZE_LIMIT", "ConversionStore", "conversion_key"]

logger = logging.getLogger("embedprefs.engine")

#: Bytes of all conversions together. One takes its float32 weights about twice: as converted, and as compiled.
DEFAULT_SIZE_LIMIT = 10 * 1024**3
#: Folder within the user's cache folder. Another way of converting takes another number.
_STORE = "openvino-3"
#: Seconds after its last use within which a conversion is never removed: another process may be about to read it.
_IN_USE = 600.0
#: Seconds to wait for another process that converts the same model.
_PATIENCE = 1800.0
#: A file whose time is the last use of a conversion.
_USED = "used"


def conversion_key(
    *, weights: str, chain: Sequence[str], versions: Mapping[str, str], quantisation: str | None = None
) -> str:
    """Return the name under which a conversion is kept: it differs wherever the conversion would.

    Args:
        weights: Hash of the weights, those of every module.
        chain: What the model computes beside its weights; `embedprefs.model.changes.chain_of` says it.
        versions: Distribution -> version of what converts.
        quantisation: Hash of what int8 was measured on; None for full weights.
    """
    parts = {
        "format": Description.FORMAT,
        "weights": weights,
        "chain": list(chain),
        "versions": dict(versions),
        "quantisation": quantisation,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


class ConversionStore:
    """A folder of converted models that processes share.

    A conversion is made in a folder of its own and moved to its name when it is whole, so that no process ever reads
    half of one; a lock keeps two processes from doing the same work.
    """

    def __init__(self, folder: Path | None = None, *, size_limit: int = DEFAULT_SIZE_LIMIT) -> None:
        """Take a folder; it is made with the first conversion.

        Args:
            folder: Where conversions are kept; None for the user's cache folder.
            size_limit: Bytes of all conversions together; the least recently used leave first. The newest one stays
                however large it is.
        """
        if folder is None:
            from embedprefs.files.folders import cache_folder

            folder = cache_folder()
        self.folder = folder / _STORE
        self.size_limit = size_limit

    def find(self, key: str) -> Path | None:
        """Return the folder of a kept conversion and note that it is used; None where it is not kept or damaged."""
        place = self.folder / key
        try:
            Description.read(place)
            (place / _USED).touch()
        except ModelFilesError:
            return None
        except OSError as error:  # a folder that others filled may be read-only, and is as good
            logger.debug("The use of %s cannot be noted: %s.", place, error)
        return place

    def get(self, key: str, make: Callable[[Path], object]) -> Path:
        """Return the folder of a conversion, made now where it is not kept.

        Args:
            key: Its name, from `conversion_key`.
            make: Writes the conversion into the empty folder it is given.

        Returns:
            A folder that `OpenVINOBackend` reads. Compiled forms belong into its folder `compiled`.

        Raises:
            ResourceError: the folder cannot be written, or another process converts the same model for half an hour.
        """
        if (found := self.find(key)) is not None:
            return found
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{key}.lock", timeout=_PATIENCE):
                if (found := self.find(key)) is not None:
                    return found
                place = self._make(key, make)
        except Timeout as error:
            raise ResourceError(
                f"Another process has been converting this model for {_PATIENCE / 60:.0f} minutes in {self.folder}.\n"
                '  End it, or write compute.backend = "torch".'
            ) from error
        except OSError as error:
            raise ResourceError(
                f"The converted model cannot be kept in {self.folder}: {error.strerror or error}.\n"
                '  Name a folder that can be written in EMBEDPREFS_CACHE, or write compute.backend = "torch".'
            ) from error
        self._make_room(keep=place)
        return place

    def _make(self, key: str, make: Callable[[Path], object]) -> Path:
        place = self.folder / key
        aside = self.folder / f"new-{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            make(aside)
            (aside / _USED).touch()
            if place.exists():  # damaged: it was not found
                shutil.rmtree(place)
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return place

    def size(self) -> int:
        """Return the bytes that all conversions take, their compiled forms included."""
        return sum(_size(place) for place in self._places())

    def clear(self) -> None:
        """Remove every conversion.

        Raises:
            ResourceError: the folder cannot be removed.
        """
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise ResourceError(f"{self.folder} cannot be removed: {error.strerror or error}.") from error

    def _places(self) -> list[Path]:
        try:
            return [place for place in self.folder.iterdir() if place.is_dir()]
        except OSError:
            return []

    def _make_room(self, keep: Path) -> None:
        """Remove what was not used for the longest time, until the rest fits; what a killed process left goes too."""
        now = time.time()
        by_use = sorted((_last_use(place), place) for place in self._places() if place != keep)
        total = self.size()
        for used, place in by_use:
            left_behind = place.name.startswith("new-") and now - used > _PATIENCE
            if not left_behind and (total <= self.size_limit or now - used < _IN_USE):
                continue
            total -= _size(place)
            logger.info("Removing the converted model %s, unused for %.0f hours.", place, (now - used) / 3600)
            shutil.rmtree(place, ignore_errors=True)


def _last_use(place: Path) -> float:
    for path in (place / _USED, place):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _size(place: Path) -> int:
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_size
            except OSError:  # removed meanwhile by another process
                continue
    return total
