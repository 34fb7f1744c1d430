"""What happens to open files when the process forks: SQLite's connections must not be carried into a child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol

__all__ = ["close_before_forks"]


class _Closable(Protocol):
    lock: Any

    def close(self) -> None: ...


_all: weakref.WeakSet[_Closable] = weakref.WeakSet()
_lock = threading.Lock()
_held: list[_Closable] = []


def close_before_forks(cache: _Closable) -> None:
    """See to it that a cache is closed while the process forks; parent and child open it again when they use it.

    Args:
        cache: Has `close()` and a reentrant `lock` that is held whenever its file is used.
    """
    with _lock:
        _all.add(cache)


def _before_fork() -> None:
    # A connection that a child inherits may not even be closed there, so that none may be open.
    _lock.acquire()
    for cache in list(_all):
        cache.lock.acquire()
        _held.append(cache)
        cache.close()


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()
    _lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
