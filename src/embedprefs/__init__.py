"""Preferences for embedding models: one file, checked, resolved, obeyed and recorded.

The public names are imported when they are first used: `import embedprefs` loads neither torch nor pydantic.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from embedprefs.lazy_names import lazy_names

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "Preferences": "preferences",
    "load_preferences": "layers",
    "write_preferences": "files",
    "check": "checks",
    "Finding": "checks",
    "resolve": "resolve",
    "Resolved": "resolve",
    "load_model": "model",
    "PreferredSentenceTransformer": "model",
    "load_encoder": "serving",
    "Encoder": "serving",
    "fingerprint": "record",
    "Record": "record",
    "CheckFailedError": "errors",
    "EmbedPrefsError": "errors",
    "EmbedPrefsWarning": "errors",
    "InputError": "errors",
    "InvalidPreferenceError": "errors",
    "MissingExtraError": "errors",
    "ModelFilesError": "errors",
    "OverlongTextError": "errors",
    "PartialResultError": "errors",
    "PreferenceMismatchError": "errors",
    "PreferencesFileError": "errors",
    "Problem": "errors",
    "ResourceError": "errors",
    "UnavailableError": "errors",
}

if TYPE_CHECKING:
    from embedprefs.checks import Finding, check
    from embedprefs.errors import (
        CheckFailedError,
        EmbedPrefsError,
        EmbedPrefsWarning,
        InputError,
        InvalidPreferenceError,
        MissingExtraError,
        ModelFilesError,
        OverlongTextError,
        PartialResultError,
        PreferenceMismatchError,
        PreferencesFileError,
        Problem,
        ResourceError,
        UnavailableError,
    )
    from embedprefs.files import write_preferences
    from embedprefs.layers import load_preferences
    from embedprefs.model import PreferredSentenceTransformer, load_model
    from embedprefs.preferences import Preferences
    from embedprefs.record import Record, fingerprint
    from embedprefs.resolve import Resolved, resolve
    from embedprefs.serving import Encoder, load_encoder

__all__ = [
    "CheckFailedError",
    "EmbedPrefsError",
    "EmbedPrefsWarning",
    "Encoder",
    "Finding",
    "InputError",
    "InvalidPreferenceError",
    "MissingExtraError",
    "ModelFilesError",
    "OverlongTextError",
    "PartialResultError",
    "PreferenceMismatchError",
    "Preferences",
    "PreferencesFileError",
    "PreferredSentenceTransformer",
    "Problem",
    "Record",
    "Resolved",
    "ResourceError",
    "UnavailableError",
    "__version__",
    "check",
    "fingerprint",
    "load_encoder",
    "load_model",
    "load_preferences",
    "resolve",
    "write_preferences",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package, in which a public name stays what it is when a module of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing embedprefs.resolve would put that module where the function `resolve` belongs.
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
