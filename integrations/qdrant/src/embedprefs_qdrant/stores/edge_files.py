"""The files beside the embedded engine's own: locks, the record's sidecar, aliases.

Under the store's folder lie:

- `.aliases.json`: collection by alias
- `.COLLECTION.lock`: held while a process has the collection open
- `COLLECTION/edge_config.json`, `COLLECTION/wal/`, `COLLECTION/segments/`: the engine's
- `COLLECTION/embedprefs.json`: the record
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedprefs.errors import InputError, ResourceError

__all__ = ["CollectionLock", "check_name", "read_json", "write_json"]

CONFIG_FILE = "edge_config.json"
RECORD_FILE = "embedprefs.json"
ALIASES_FILE = ".aliases.json"

#: A collection is created under a name with this beginning and renamed when it is complete.
CREATING_PREFIX = ".creating-"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


def check_name(name: str) -> str:
    """The name, if it can be a folder's on every system.

    Raises:
        InputError: It cannot.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"{name!r} cannot be the name of a collection or alias here.\n"
            "  Allowed: up to 128 letters, digits, '_', '-' and '.', not beginning or ending with '.'"
        )
    return name


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file.

    Raises:
        ResourceError: The file holds no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResourceError(f"{path}:{error.lineno}: The file is damaged: {error.msg}.") from error
    if not isinstance(value, dict):
        raise ResourceError(f"{path}: The file is damaged: it holds no JSON object.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file so that a reader, and a restart after a power failure, finds the old or the new one, whole."""
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename within the folder survive a power failure; systems that cannot open a folder do it themselves."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CollectionLock:
    """One process at a time has a collection of the embedded engine open.

    The engine has a lock of its own, but it looks at it late: a second `EdgeShard.load` fails only after it has
    truncated journals of the sparse vectors, and the first process can no longer write (qdrant-edge-py 0.9.0).
    Therefore this lock is taken before the engine touches a file.
    """

    def __init__(self, root: Path, collection: str) -> None:
        self._folder = root / collection
        self._collection = collection
        from filelock import FileLock

        # Not per thread: one thread may close what another has opened.
        self._lock = FileLock(root / f".{collection}.lock", thread_local=False)

    def acquire(self, wait: float) -> None:
        """Take the lock, waiting so many seconds: that of a killed process is released a moment later.

        Raises:
            ResourceError: Another process, or another store in this one, has the collection open.
        """
        from filelock import Timeout

        end = time.monotonic() + wait
        try:
            self._lock.acquire(timeout=wait, poll_interval=0.05)
        except (Timeout, RuntimeError) as error:
            raise self._held() from error
        while not self._engine_lock_is_free():
            if time.monotonic() >= end:
                self._lock.release()
                raise self._held()
            time.sleep(0.05)

    def release(self) -> None:
        """Let others open the collection."""
        self._lock.release()

    def _engine_lock_is_free(self) -> bool:
        """Whether no program that goes past our lock has the collection open."""
        wal = self._folder / "wal"
        if os.name != "posix" or not wal.is_dir():
            return True
        import fcntl

        descriptor = os.open(wal, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _held(self) -> ResourceError:
        return ResourceError(
            f"{self._folder}: The collection {self._collection!r} is open elsewhere: in another process, or in another "
            "store of this one.\n"
            "  Allowed: the embedded engine serves one process at a time\n"
            "  Close the other one or pass its store on. To share the collection among processes, run a Qdrant server "
            "and open http://HOST:6333 instead; `embedprefs export` copies the collection there."
        )
