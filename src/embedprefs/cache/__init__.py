"""The embedding cache: a text that was embedded before is looked up instead of computed.

Vectors are kept in one SQLite file, shared by every process of this machine that names the folder. An entry is found by
what its vector is (the fingerprint), how it was computed (the numerics), the role with its prompt, and the exact text;
where one of them differs there is no entry. The value is the float32 vector as the identity truncates and normalises
it, before it is quantised.

A cache may be lost at any time and costs time alone, so nothing here raises because of it: what cannot be read is
computed, and a warning says why.
"""

from __future__ import annotations

from embedprefs.cache.sharing import clear_cache, default_cache_folder, is_suspended, open_cache, without_cache
from embedprefs.cache.space import CacheSpace, Role
from embedprefs.cache.store import DEFAULT_SIZE_LIMIT, CacheStatistics, EmbeddingCache

__all__ = [
    "DEFAULT_SIZE_LIMIT",
    "CacheSpace",
    "CacheStatistics",
    "EmbeddingCache",
    "Role",
    "clear_cache",
    "default_cache_folder",
    "is_suspended",
    "open_cache",
    "without_cache",
]
