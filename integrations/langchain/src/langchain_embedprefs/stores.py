"""Stores that several vector stores of this process share: the embedded engine opens a folder once."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs_qdrant.stores import Store, open_store

if TYPE_CHECKING:
    from pydantic import SecretStr
    from qdrant_client import QdrantClient

__all__ = ["HeldStore", "hold_store"]


@dataclass(eq=False)
class HeldStore:
    """A store, and how to let go of it."""

    store: Store
    key: str | None
    """Under which it is shared; None where it is not."""
    owned: bool

    def release(self) -> None:
        """Close the store if it was opened here and nobody else holds it."""
        if not self.owned:
            return
        self.owned = False
        if self.key is not None:
            with _lock:
                shared = _shared[self.key]
                shared.holders -= 1
                if shared.holders:
                    return
                del _shared[self.key]
        self.store.close()


@dataclass(eq=False)
class _Shared:
    store: Store
    holders: int = 0


_shared: dict[str, _Shared] = {}
_lock = threading.RLock()


def _forget() -> None:
    """In a forked child: the parent has the folders open."""
    global _lock  # noqa: PLW0603 - it may be held by a thread that the child does not have
    _lock = threading.RLock()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def hold_store(target: Store | QdrantClient | str, api_key: SecretStr | str | None, folder: Path) -> HeldStore:
    """Open what an address names, or take what is handed in.

    Args:
        target: A store, a ready client, or an address.
        api_key: For a server; None reads QDRANT_API_KEY.
        folder: Where relative paths in the address start.
    """
    given: Any = target
    if not isinstance(given, str):
        if isinstance(given, Store):
            return HeldStore(given, None, owned=False)
        return HeldStore(open_store(given), None, owned=True)
    scheme, _, rest = given.partition(":")
    if scheme.lower() not in ("edge", "local") or not rest or rest.startswith("//"):
        return HeldStore(open_store(given, api_key=api_key), None, owned=True)
    path = (folder / Path(rest).expanduser()).resolve()
    key = f"{scheme.lower()}:{path}"
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            shared = _shared[key] = _Shared(open_store(key))
        shared.holders += 1
        return HeldStore(shared.store, key, owned=True)
