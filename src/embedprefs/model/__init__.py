"""The factory: preferences become a model that obeys them.

`load_model` checks before it imports torch; the class itself is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

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


__getattr__ = lazy_names(__name__, _HOMES)
