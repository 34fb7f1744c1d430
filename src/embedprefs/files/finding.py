"""Find the preferences file of a project."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from embedprefs.errors import PreferencesFileError
from embedprefs.files.reading import is_model_folder, read_toml_file
from embedprefs.toml_text import table_at

__all__ = ["FILE_NAME", "find_preferences_file"]

FILE_NAME = "embedprefs.toml"


def find_preferences_file(
    start: Path | str | None = None, *, environment: Mapping[str, str] | None = None
) -> Path | None:
    """Return the preferences file that holds in a folder; None where there is none.

    The file that the environment variable EMBEDPREFS_PREFERENCES names; otherwise the nearest `embedprefs.toml`, or
    `pyproject.toml` with a table `[tool.embedprefs]`, in the folder or above it. The search ends at the repository's
    root (a folder with `.git`) or at the home folder. Folders that hold a model, and what lies in them, are passed
    over.

    Args:
        start: Folder where the search begins; the current one if not given.
        environment: Environment variables; those of this process if not given.

    Raises:
        PreferencesFileError: EMBEDPREFS_PREFERENCES names no file, or a pyproject.toml on the way that mentions
            embedprefs is not TOML.
    """
    environment = os.environ if environment is None else environment
    named = environment.get("EMBEDPREFS_PREFERENCES")
    if named is not None and not named.strip():
        raise PreferencesFileError("EMBEDPREFS_PREFERENCES is empty.\n  Let it name a preferences file, or unset it.")
    if named is not None:
        path = Path(named).expanduser()
        if not path.exists():
            raise PreferencesFileError(
                f"{path}: there is no such file.\n  The environment variable EMBEDPREFS_PREFERENCES names it.",
                file=path,
            )
        return path
    found: Path | None = None
    for folder in _folders(Path.cwd() if start is None else Path(start)):
        if is_model_folder(folder):
            found = None  # what was found below may have come with this model
        elif found is None:
            found = _file_in(folder)
    return found


def _folders(start: Path) -> list[Path]:
    """Return the folder and those above it, up to the repository's root or home."""
    start = start.expanduser().absolute()
    if start.is_file():
        start = start.parent
    home = Path.home().absolute()
    folders: list[Path] = []
    for folder in (start, *start.parents):
        folders.append(folder)
        if (folder / ".git").exists() or folder == home:
            break
    return folders


def _file_in(folder: Path) -> Path | None:
    if (folder / FILE_NAME).exists():
        return folder / FILE_NAME
    project = folder / "pyproject.toml"
    if not project.is_file():
        return None
    try:
        data = project.read_bytes()
    except OSError as error:
        raise PreferencesFileError(f"{project}: cannot be read ({error.strerror}).", file=project) from error
    if b"embedprefs" not in data:
        return None  # most projects: not worth parsing, and not ours to complain about
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        read_toml_file(project)  # raises, and says where
        raise
    return project if table_at(document, ("tool", "embedprefs")) is not None else None
