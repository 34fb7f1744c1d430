"""The factory: preferences become a model that obeys them.

`load_model` checks before it imports torch; the class itself is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedprefs.model.loading import load_model
    from embedprefs.model.preferred import PreferredSentenceTransformer
    from embedprefs.model.report import EncodeReport, OverlongText

__all__ = ["EncodeReport", "OverlongText", "PreferredSentenceTransformer", "load_model"]

_HOMES = {
    "EncodeReport": "report",
    "OverlongText": "report",
    "PreferredSentenceTransformer": "preferred",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'embedprefs.model' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"embedprefs.model.{home}"), name)
    globals()[name] = value
    return value
