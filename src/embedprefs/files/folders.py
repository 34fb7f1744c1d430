"""Where this machine keeps what was computed once."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "embedding_cache_folder"]


def cache_folder() -> Path:
    """Return the folder for what is computed once and kept: the one EMBEDPREFS_CACHE names, else the platform's."""
    from platformdirs import user_cache_dir

    stated = os.environ.get("EMBEDPREFS_CACHE")
    return Path(stated).expanduser().absolute() if stated else Path(user_cache_dir("embedprefs", appauthor=False))


def embedding_cache_folder() -> Path:
    """Return where embeddings are kept unless a preference names another folder."""
    return cache_folder() / "embeddings"
