"""A folder of kept vectors: opened when it is needed, shared, and given up rather than trusted where it is damaged."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedprefs.cache import entries
from embedprefs.cache.forks import close_before_forks
from embedprefs.cache.space import CacheSpace
from embedprefs.errors import EmbedPrefsWarning, ResourceError

__all__ = ["DEFAULT_SIZE_LIMIT", "CacheStatistics", "EmbeddingCache"]

logger = logging.getLogger("embedprefs.cache")

Result = TypeVar("Result")

#: Bytes of the file before the least recently used entries leave it: about a million vectors of 384 dimensions.
DEFAULT_SIZE_LIMIT = 2 * 1024**3
#: Folder of the file and its journals within the cache's folder. Another layout of the table takes another number.
_STORE = "store-1"
_FILE = "vectors.sqlite"

#: SQLite's primary result codes (sqlite.org/rescode.html), by what follows from them.
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
#: SQLITE_ERROR is an error in the statement; these are fixed, so it is the table that is another one.
_DAMAGED = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_TOOBIG,
    }
)


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache holds."""

    folder: Path
    entries: int
    bytes: int
    """Size of the file, journals left out."""
    size_limit: int


@dataclass(frozen=True)
class _Open:
    """An open connection, and which file it was opened on."""

    connection: sqlite3.Connection
    inode: tuple[int, int]


class EmbeddingCache:
    """Vectors by text, kept in a folder that processes and threads share.

    Nothing that goes wrong with the file is raised: `get` finds nothing and `put` keeps nothing, and a warning says
    once what to do. A damaged file is set aside and begun anew.
    """

    def __init__(self, folder: Path | str, *, size_limit: int = DEFAULT_SIZE_LIMIT, recency: float = 3600.0) -> None:
        """Take a folder; it is made with the first vector that is kept.

        Args:
            folder: The cache's folder, on a disk of this machine: SQLite's locks do not work over a network.
            size_limit: Bytes the file may take; the least recently used entries leave it.
            recency: Seconds within which two uses of an entry count as one, so that a look-up seldom has to write.
        """
        self.folder = Path(folder).absolute()
        self.size_limit = size_limit
        #: Held while the file is used. Reentrant, because a fork takes it as well.
        self.lock = threading.RLock()
        self._recency = recency
        self._open: _Open | None = None
        self._off = False
        close_before_forks(self)

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return self.folder / _STORE / _FILE

    def get(
        self, space: CacheSpace, texts: Sequence[str], *, dimension: int | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """Return position -> vector for the texts that are kept.

        Args:
            space: What the vectors are, and how they are computed.
            texts: The texts.
            dimension: Length the vectors have to have; None where it is not known.

        Returns:
            Vectors of shape (dimensions,), float32, read-only, equal to those that were kept bit for bit.

        Warns:
            EmbedPrefsWarning: entries are damaged, or the file is; they are left out.
        """
        if not texts or self._off:
            return {}
        keys = [space.key(text) for text in texts]
        aged = time.time() - self._recency
        found = self._attempt(partial(entries.look_up, keys=keys, dimension=dimension, aged=aged))
        if found is None:
            return {}
        if found.damaged:
            _warn(
                f"{len(found.damaged)} entries of the embedding cache in {self.folder} are damaged. Their texts are "
                "computed again."
            )
            self._attempt(partial(entries.delete, keys=found.damaged))
        if found.aged:
            self._attempt(partial(entries.touch, keys=found.aged))
        return found.vectors

    def put(self, space: CacheSpace, texts: Sequence[str], vectors: NDArray[np.float32]) -> int:
        """Keep the vectors of texts. Vectors that hold NaN or infinity are never kept.

        Args:
            space: What the vectors are, and how they were computed.
            texts: The texts.
            vectors: Shape (texts, dimensions), float32.

        Returns:
            How many were kept.

        Raises:
            ValueError: the vectors are not float32, or not one for each text.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"{len(texts)} texts need float32 vectors of shape ({len(texts)}, dimensions); "
                f"found {vectors.dtype} of shape {vectors.shape}."
            )
        finite = np.flatnonzero(np.isfinite(vectors).all(axis=1)).tolist()
        values = np.ascontiguousarray(vectors, dtype="<f4")
        kept = 0
        for start in range(0, len(finite), entries.BATCH):
            rows = [(space.key(texts[at]), values[at].tobytes()) for at in finite[start : start + entries.BATCH]]
            if not self._attempt(partial(self._insert, rows=rows), create=True):
                break
            kept += len(rows)
        return kept

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds; nothing, where it cannot be read."""
        number, size = self._attempt(entries.count) or (0, 0)
        return CacheStatistics(self.folder, number, size, self.size_limit)

    def clear(self) -> None:
        """Remove every entry, of every model; processes that use the folder go on with an empty cache.

        Raises:
            ResourceError: the files cannot be removed.
        """
        with self.lock:
            self.close()
            self._off = False
            try:
                self._set_aside()
            except OSError as error:
                raise ResourceError(
                    f"The embedding cache in {self.folder} cannot be removed: {error.strerror or error}.\n"
                    "  End the programs that use it, or make the folder writable."
                ) from error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self.lock:
            if self._open is not None:
                self._open.connection.close()
                self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The file --------------------------------------------------------------------------------------------------------

    def _attempt(self, action: Callable[[sqlite3.Connection], Result], *, create: bool = False) -> Result | None:
        """Run an action on the file; None where there is none, or where it cannot be used, which has been said then."""
        with self.lock:
            if self._off:
                return None
            try:
                connection = self._connected(create=create)
                return None if connection is None else action(connection)
            except sqlite3.Error as error:
                self._judge(error)
            except UnicodeDecodeError as error:  # a damaged name, where Python builds SQLite's message
                self._begin_anew(error)
            except OSError as error:
                self._turn_off(error.strerror or str(error))
        return None

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> bool:
        entries.insert(connection, rows, self.size_limit)
        return True

    def _connected(self, *, create: bool) -> sqlite3.Connection | None:
        """Return a connection to the file that is there now: it may have been cleared or replaced meanwhile."""
        inode = _inode(self.file)
        if inode is None and create:
            self._create()
            inode = _inode(self.file)
        if self._open is not None and self._open.inode != inode:
            self.close()
        if inode is None:
            return None
        if self._open is None:
            self._open = _Open(entries.open_file(self.file), inode)
        return self._open.connection

    def _create(self) -> None:
        """Make an empty file aside and move it into place, so that no process ever sees half of one."""
        # Vectors tell about their texts: the folders are their owner's alone.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = self.folder / f"new-{uuid.uuid4().hex}"
        aside.mkdir(mode=0o700)
        try:
            entries.create_file(aside / _FILE)
            _move(aside, self.folder / _STORE)
        except FileExistsError:
            logger.debug("Another process made %s first.", self.file)
        finally:
            if aside.exists():
                shutil.rmtree(aside)

    # What goes wrong -------------------------------------------------------------------------------------------------

    def _judge(self, error: sqlite3.Error) -> None:
        """Go on as SQLite's error asks for."""
        stated = getattr(error, "sqlite_errorcode", None)
        if stated is None:
            raise error  # not from the file, but from how it is used here
        code = stated & 0xFF
        if code in _BUSY:
            logger.info("The embedding cache in %s is busy; this call goes on without it: %s.", self.folder, error)
        elif code in _DAMAGED:
            self._begin_anew(error)
        else:
            self._turn_off(str(error))

    def _begin_anew(self, error: Exception) -> None:
        used = self._open
        self.close()
        if used is not None and used.inode != _inode(self.file):
            return  # another process has replaced it already
        _warn(f"The embedding cache in {self.folder} is damaged ({error}). It is begun anew; texts are computed again.")
        try:
            self._set_aside()
        except OSError as failure:
            self._turn_off(failure.strerror or str(failure))

    def _set_aside(self) -> None:
        """Move the file and its journals away as a whole and remove them; whoever has them open is not disturbed."""
        aside = self.folder / f"old-{uuid.uuid4().hex}"
        try:
            (self.folder / _STORE).rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside)

    def _turn_off(self, reason: str) -> None:
        self._off = True
        self.close()
        _warn(
            f"The embedding cache in {self.folder} cannot be used: {reason}. Texts are computed without it.\n"
            "  Make the folder writable, name another one in compute.cache, or write cache = false."
        )


def _warn(message: str) -> None:
    warnings.warn(message, EmbedPrefsWarning, stacklevel=4)


def _move(source: Path, target: Path) -> None:
    """Rename a folder to a name that is free.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        source.rename(target)
    except OSError as error:
        # Systems differ in what they say about a folder that is not empty.
        if target.exists():
            raise FileExistsError(str(target)) from error
        raise


def _inode(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that replaced it; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
