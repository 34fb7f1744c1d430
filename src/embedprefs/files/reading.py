"""Read one preferences file, with the line of every key."""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError, Problem
from embedprefs.preferences import SCHEMA_VERSION
from embedprefs.toml_text import KeyPath, TomlText, table_at

__all__ = ["ReadFile", "is_model_folder", "read_toml_file", "refuse_model_folder", "table_of"]

#: A preferences file holds a few kilobytes; beyond this it is some other file, weights perhaps.
_LARGEST_FILE = 1 << 20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "UTF-8 with a byte order mark",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class ReadFile:
    """One file's values as written, with their lines."""

    path: Path
    values: dict[str, Any]
    lines: Mapping[str, int]
    """Dotted key -> line, from 1; tables included."""
    table: KeyPath = ()
    """Where in the file the preferences stand: `("tool", "embedprefs")` in pyproject.toml, else the top."""
    text: str = field(default="", repr=False)

    def line(self, key: str) -> int | None:
        """Return the line of a dotted key, or of the nearest table around it; None where neither is written."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition(".")[0]
        return None


def table_of(path: Path) -> KeyPath:
    """Return where in a file of this name the preferences stand."""
    return ("tool", "embedprefs") if path.name == "pyproject.toml" else ()


def read_toml_file(path: Path | str, *, table: KeyPath | None = None) -> ReadFile:
    """Read one TOML file.

    Args:
        path: The file. In a pyproject.toml the table `[tool.embedprefs]` is read.
        table: The table to read, where the file's name does not say it.

    Raises:
        PreferencesFileError: the file is absent, a folder, unreadable, empty, not UTF-8 or not TOML; the message
            names the line.
        InvalidPreferenceError: the file was written for a newer embedprefs.
    """
    path = Path(path)
    table = table_of(path) if table is None else table
    text = _read_text(path)
    try:
        scanned = TomlText.scan(text)
        document = tomllib.loads(text)
    except RecursionError:
        raise PreferencesFileError(f"{path}: tables or arrays are nested too deeply to be read.", file=path) from None
    except ValueError as error:  # TOMLDecodeError, and plain ValueError for numbers with thousands of digits
        raise _not_toml(path, text, error) from None
    values = table_at(document, table)
    if values is None:
        raise PreferencesFileError(
            f"{path}: there is no table [{'.'.join(table)}] in it.\n"
            f"  Add the table, or write the preferences to an embedprefs.toml beside it.",
            file=path,
        )
    if not isinstance(values, dict):
        raise PreferencesFileError(f"{path}: {'.'.join(table)} is no table.\n  Write [{'.'.join(table)}].", file=path)
    read = ReadFile(path, values, scanned.lines(table), table, text)
    _refuse_newer(read)
    return read


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise PreferencesFileError(
            f"{path}: there is no such file.\n  `embedprefs init MODEL` writes one, or name another file.", file=path
        ) from None
    except IsADirectoryError:
        raise PreferencesFileError(
            f"{path}: this is a folder, not a file.\n  Name the file in it, such as {path / 'embedprefs.toml'}.",
            file=path,
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PreferencesFileError(f"{path}: cannot be read ({reason}).", file=path) from error
    if len(data) > _LARGEST_FILE:
        raise PreferencesFileError(
            f"{path}: is larger than 1 MiB, so it is no preferences file.\n  Name the embedprefs.toml instead.",
            file=path,
        )
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise PreferencesFileError(
                f"{path}: is saved as {encoding}; TOML is UTF-8 without a byte order mark.\n"
                f'  Save it again as "UTF-8" in your editor.',
                file=path,
                line=1,
            )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PreferencesFileError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8, which TOML requires.\n"
            f'  Save the file again as "UTF-8" in your editor.',
            file=path,
            line=line,
        ) from None
    if not text.strip():
        raise PreferencesFileError(
            f"{path}: the file is empty.\n  `embedprefs init MODEL --force` writes what a model needs.", file=path
        )
    return text


def _not_toml(path: Path, text: str, error: ValueError) -> PreferencesFileError:
    message = str(error)
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    at_end = "(at end of document)" in message
    line = int(place.group(1)) if place else (text.count("\n") + 1 if at_end else None)
    column = f", column {place.group(2)}" if place else ""
    reason = re.sub(r" *\(at (line \d+, column \d+|end of document)\)", "", message).rstrip(".")
    where = f"{path}:{line}" if line is not None else str(path)
    hint = "\n  Texts need quotes, true and false are written small, and each key stands once."
    return PreferencesFileError(f"{where}: not TOML{column}: {reason}.{hint}", file=path, line=line)


def _refuse_newer(read: ReadFile) -> None:
    """Say "upgrade" before anything a newer file holds is taken for a mistake."""
    version = read.values.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise InvalidPreferenceError(
            Problem(
                f"the file's schema_version is newer than this embedprefs knows ({SCHEMA_VERSION}).",
                key="schema_version",
                value=version,
                allowed=str(SCHEMA_VERSION),
                fix="Upgrade embedprefs: pip install --upgrade embedprefs",
                source=str(read.path),
                line=read.line("schema_version"),
            )
        )


def is_model_folder(folder: Path) -> bool:
    """Return True where a folder holds a model, so that a preferences file in it may have come with the model."""
    if (folder / "modules.json").is_file() or (folder / "config_sentence_transformers.json").is_file():
        return True
    if (folder / "adapter_config.json").is_file():
        return True
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # no config.json, or one that no model could be loaded from
    return isinstance(config, dict) and ("model_type" in config or "architectures" in config)


def refuse_model_folder(path: Path) -> None:
    """Refuse a preferences file that lies in a model's folder.

    Raises:
        PreferencesFileError: the file's folder holds a model.
    """
    if is_model_folder(path.absolute().parent):
        raise PreferencesFileError(
            f"{path}: lies in a model's folder, and a file that may have come with a model is never obeyed.\n"
            f"  Keep the preferences file outside it, and name the folder as model.name.",
            file=path,
        )
