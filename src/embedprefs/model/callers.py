"""Warnings that point at the user's own line."""

from __future__ import annotations

import inspect
import warnings

from embedprefs.errors import EmbedPrefsWarning

__all__ = ["warn_caller"]


def warn_caller(message: str) -> None:
    """Warn at the line that called `encode`, however many frames of this package and of the host lie between."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("embedprefs.", "sentence_tr")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, EmbedPrefsWarning, stacklevel=max(1, level))
