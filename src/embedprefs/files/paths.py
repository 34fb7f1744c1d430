"""Paths in a preferences file are relative to it; here they are written as seen from another folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedprefs.toml_text import KeyPath

__all__ = ["rebased"]

#: Preferences that may name a folder or file relative to the file they stand in.
_PATHS: tuple[KeyPath, ...] = (
    ("model", "name"),
    ("model", "adapter", "name"),
    ("model", "cache_folder"),
    ("vectors", "calibration"),
    ("compute", "cache"),
    ("training", "data"),
    ("training", "evaluation_data"),
    ("training", "distill_from"),
    ("index", "root"),
    ("rerank", "name"),
    ("sparse", "name"),
)


def rebased(values: Mapping[str, Any], home: Path, folder: Path) -> dict[str, Any]:
    """Return nested values of a file in `home` with relative paths as a file in `folder` has to write them.

    Absolute paths stay, and so do names on the hub: a text is taken for a path where it begins with a dot, or where
    it exists in `home`.
    """
    copy = dict(values)
    if home == folder:
        return copy
    for path in _PATHS:
        copy = _with_rebased(copy, path, home, folder)
    return copy


def _with_rebased(values: Mapping[str, Any], path: KeyPath, home: Path, folder: Path) -> dict[str, Any]:
    copy = dict(values)
    name, rest = path[0], path[1:]
    value = copy.get(name)
    if rest and isinstance(value, Mapping):
        copy[name] = _with_rebased(value, rest, home, folder)
    elif not rest and isinstance(value, str) and _names_path(value, home):
        copy[name] = os.path.relpath(home / value, folder)
    return copy


def _names_path(value: str, home: Path) -> bool:
    if "\0" in value or value.startswith("~") or Path(value).is_absolute():
        return False
    return value.startswith(".") or (bool(value) and (home / value).exists())
