"""One cache for a process: where it is, who shares it, and when it is not asked."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from embedprefs.cache.store import DEFAULT_SIZE_LIMIT, EmbeddingCache
from embedprefs.files.folders import embedding_cache_folder

__all__ = ["clear_cache", "default_cache_folder", "is_suspended", "open_cache", "without_cache"]

_suspended: contextvars.ContextVar[bool] = contextvars.ContextVar("embedprefs_cache_suspended", default=False)
_by_folder: weakref.WeakValueDictionary[tuple[Path, int], EmbeddingCache] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def default_cache_folder() -> Path:
    """Return where embeddings are kept unless told otherwise.

    It lies in the folder that EMBEDPREFS_CACHE names, else in the platform's folder for caches.
    """
    return embedding_cache_folder()


def open_cache(folder: Path | str, *, size_limit: int = DEFAULT_SIZE_LIMIT) -> EmbeddingCache:
    """Return the cache in a folder: one object for all models of a process, so that they share its connection.

    Args:
        folder: The cache's folder.
        size_limit: Bytes its file may take.
    """
    key = (Path(folder).absolute(), size_limit)
    with _lock:
        cache = _by_folder.get(key)
        if cache is None:
            cache = _by_folder[key] = EmbeddingCache(key[0], size_limit=size_limit)
        return cache


def clear_cache(folder: Path | str | None = None) -> None:
    """Remove every vector that is kept in a folder; deleting the folder does the same.

    Args:
        folder: The cache's folder, as `compute.cache` names it; the default one if not given.

    Raises:
        ResourceError: the files cannot be removed.
    """
    EmbeddingCache(folder if folder is not None else default_cache_folder()).clear()


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compute every vector within this block, and keep none: for measurements, and to see what a model does now."""
    token = _suspended.set(True)
    try:
        yield
    finally:
        _suspended.reset(token)


def is_suspended() -> bool:
    """Tell whether this is within `without_cache`."""
    return _suspended.get()
