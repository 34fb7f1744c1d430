"""The user's own file: what holds on this machine for every project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platformdirs

from embedprefs.errors import Problem
from embedprefs.files.reading import ReadFile, read_toml_file
from embedprefs.layers.stated import StatedLayer, leaves, of_file
from embedprefs.preferences import Layer
from embedprefs.toml_text import KeyPath, dotted
from embedprefs.validation import put, secret_problem

__all__ = ["USER_FILE_KEYS", "user_file", "user_layer"]

#: What the user file may hold beside `[compute]`: nothing that changes a vector.
USER_FILE_KEYS: tuple[KeyPath, ...] = (
    ("schema_version",),
    ("model", "cache_folder"),
    ("training", "arguments", "report_to"),
    ("training", "arguments", "run_name"),
    ("training", "arguments", "project"),
)


def user_file() -> Path:
    """Return where the user file is kept on this platform, whether or not it exists."""
    return Path(platformdirs.user_config_dir("embedprefs", appauthor=False)) / "embedprefs.toml"


def user_layer() -> StatedLayer | None:
    """Return what the user file states; None where there is none.

    Raises:
        PreferencesFileError: the file cannot be read.
    """
    path = user_file()
    if not path.exists():
        return None
    read = read_toml_file(path)
    held, problems = _split(read)
    return StatedLayer(Layer.USER_FILE, held, of_file(Layer.USER_FILE, read).place, tuple(problems))


def _split(read: ReadFile) -> tuple[dict[str, Any], list[Problem]]:
    """Return what the user file may hold, and a problem for each key that it may not."""
    held: dict[str, Any] = {}
    problems: list[Problem] = []
    place = of_file(Layer.USER_FILE, read).place
    for path, value in leaves(read.values):
        if path in USER_FILE_KEYS or path[0] == "compute":
            put(held, path, value)
            continue
        key = dotted(path)
        problems.append(
            secret_problem(path, value, place)
            or Problem(
                f"{key} may not stand in the user file: it holds for one project, not for this machine.",
                key=key,
                allowed="[compute], " + ", ".join(dotted(item) for item in USER_FILE_KEYS),
                fix="Move it to the project's embedprefs.toml.",
                source=str(read.path),
                line=read.line(key),
            )
        )
    return held, problems
