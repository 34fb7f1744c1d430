"""The table of entries: one SQLite file, what is written to it and what is believed of it."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH", "Found", "count", "create_file", "delete", "insert", "look_up", "open_file", "touch"]

#: Entries of one transaction, and of one look-up.
BATCH = 512
#: What eviction leaves of the limit: it comes seldom, and is short (0.7 s for 2 GiB), because others wait for it.
_KEPT_SHARE = 0.98
#: Seconds that another process's write is waited for; after that this process goes on without.
_PATIENCE = 5.0
#: Bytes of a page. A vector of 1024 dimensions fills one of SQLite's own 4 KiB, and leaves half of 8 KiB empty.
_PAGE_SIZE = 16_384
#: The journal is cut back to this many bytes after its content went into the file.
_JOURNAL_SIZE = 8 * 1024**2
_CHECKSUM_SIZE = 16


@dataclass
class Found:
    """What a look-up found."""

    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Position -> vector of shape (dimensions,)."""
    damaged: list[bytes] = field(default_factory=list)
    """Keys of entries that are not what was written."""
    aged: list[bytes] = field(default_factory=list)
    """Keys whose last use is long ago."""


def create_file(path: Path) -> None:
    """Write an empty file.

    Its journal is a write-ahead log: readers go on while one process writes, and a process that is killed while it
    writes leaves the entries of its last whole transaction.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE entries (key BLOB PRIMARY KEY, dimension INTEGER NOT NULL, vector BLOB NOT NULL, "
            "checksum BLOB NOT NULL, used REAL NOT NULL)"
        )
        connection.execute("CREATE INDEX by_use ON entries (used)")


def open_file(path: Path) -> sqlite3.Connection:
    """Open a file that is there; several threads may use the connection in turn."""
    # By its path alone SQLite would make a file that is not there.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        # After a power failure the last entries may be missing; the file stays whole.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_SIZE}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def look_up(connection: sqlite3.Connection, keys: Sequence[bytes], dimension: int | None, aged: float) -> Found:
    """Look keys up, and tell whole entries from damaged ones.

    Args:
        connection: The file.
        keys: Keys, in the order of the texts; one may stand several times.
        dimension: Length the vectors have to have; None where it is not known.
        aged: Time before which a last use is long ago, in seconds since 1970.
    """
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    result = Found()
    for part in _parts(list(places)):
        marks = ",".join("?" * len(part))
        rows = connection.execute(
            f"SELECT key, dimension, vector, checksum, used FROM entries WHERE key IN ({marks})",  # noqa: S608 - marks
            part,
        )
        for key, size, value, checksum, used in rows:
            vector = _vector(key, size, value, checksum)
            if key not in places:
                continue  # a damaged index led to another text's entry
            if vector is None or (dimension is not None and len(vector) != dimension):
                result.damaged.append(key)
                continue
            for place in places[key]:
                result.vectors[place] = vector
            if not isinstance(used, float) or used < aged:
                result.aged.append(key)
    return result


def _vector(key: bytes, size: Any, value: Any, checksum: Any) -> NDArray[np.float32] | None:
    """Return the vector of an entry; None where the entry is not what was written."""
    whole = isinstance(value, bytes) and isinstance(size, int) and len(value) == 4 * size
    if not whole or checksum != _checksum(key, value):
        return None
    return np.frombuffer(value, dtype="<f4").astype(np.float32, copy=False)


def _checksum(key: bytes, value: bytes) -> bytes:
    # The key is part of it, so that a vector that strayed to another text's entry is noticed as well.
    return hashlib.blake2b(key + value, digest_size=_CHECKSUM_SIZE).digest()


def insert(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]], size_limit: int) -> None:
    """Write entries (key, little-endian float32 values), and evict others where the file became too large."""
    now = time.time()
    with _transaction(connection):
        connection.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            [(key, len(value) // 4, value, _checksum(key, value), now) for key, value in rows],
        )
        _evict(connection, size_limit)
    # Pages that became free are used again; those beyond the limit go back to the disk.
    beyond = _pragma(connection, "page_count") - size_limit // _pragma(connection, "page_size")
    if beyond > 0 and _pragma(connection, "freelist_count"):
        # Not with execute(): the statement returns no column, and is then stepped once, for one page.
        connection.executescript(f"PRAGMA incremental_vacuum({beyond})")


def _evict(connection: sqlite3.Connection, size_limit: int) -> None:
    """Delete the least recently used entries where the file is larger than it may be."""
    if _bytes_used(connection) <= size_limit:
        return
    deleted = 1
    while deleted and _bytes_used(connection) > size_limit * _KEPT_SHARE:
        deleted = connection.execute(
            "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries ORDER BY used, rowid LIMIT ?)",
            (BATCH // 8,),
        ).rowcount


def _bytes_used(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def count(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of entries and the size of the file in bytes."""
    entries = int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
    return entries, _pragma(connection, "page_count") * _pragma(connection, "page_size")


def delete(connection: sqlite3.Connection, keys: Sequence[bytes]) -> None:
    """Delete entries."""
    with _transaction(connection):
        connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])


def touch(connection: sqlite3.Connection, keys: Sequence[bytes]) -> None:
    """Note that entries were used now."""
    now = time.time()
    with _transaction(connection):
        connection.executemany("UPDATE entries SET used = ? WHERE key = ?", [(now, key) for key in keys])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _parts(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))
