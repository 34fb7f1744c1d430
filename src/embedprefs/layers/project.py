"""The project's file, and those that it extends."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError, Problem
from embedprefs.files.paths import rebased
from embedprefs.files.reading import ReadFile, read_toml_file, refuse_model_folder
from embedprefs.layers.stated import StatedLayer, of_file
from embedprefs.preferences import Layer
from embedprefs.validation import kept, shown

__all__ = ["project_layers"]


def project_layers(path: Path) -> list[StatedLayer]:
    """Return the layers of a file and of the files it extends, the base first.

    Raises:
        PreferencesFileError: a file cannot be read or lies in a model's folder.
        InvalidPreferenceError: files extend each other in a circle, or `extends` is no text.
    """
    chain: list[ReadFile] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        refuse_model_folder(current)
        read = _read(current, chain[-1] if chain else None)
        chain.append(read)
        seen.append(current.resolve())
        current = _extended(read)
        if current is not None and current.resolve() in seen:
            circle = [str(item.path) for item in chain] + [str(current)]
            raise InvalidPreferenceError(
                Problem(
                    f"extends leads back to {current}: {' -> '.join(circle)}.",
                    key="extends",
                    value=read.values["extends"],
                    fix="Remove one of them, so that the chain has an end.",
                    source=str(read.path),
                    line=read.line("extends"),
                )
            )
    folder = path.absolute().parent
    moved = [replace(read, values=rebased(read.values, read.path.absolute().parent, folder)) for read in chain]
    return [of_file(Layer.PROJECT_FILE, read) for read in reversed(moved)]


def _read(path: Path, by: ReadFile | None) -> ReadFile:
    try:
        return read_toml_file(path)
    except PreferencesFileError as error:
        if by is None:
            raise
        raise PreferencesFileError(
            f"{error}\n  {by.path}:{by.line('extends')} extends it.", file=error.file, line=error.line
        ) from error


def _extended(read: ReadFile) -> Path | None:
    """Return the file that a file extends; None where it extends none."""
    if "extends" not in read.values:
        return None
    name = read.values["extends"]
    if not isinstance(name, str) or not name.strip():
        raise InvalidPreferenceError(
            Problem(
                f"extends is {shown(name)}.",
                key="extends",
                value=kept(name),
                allowed="the path of one preferences file, relative to this one",
                source=str(read.path),
                line=read.line("extends"),
            )
        )
    return Path(os.path.normpath(read.path.parent / Path(name).expanduser()))
