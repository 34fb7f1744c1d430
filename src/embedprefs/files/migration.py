"""Bring an older file up to date, comments kept."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError, Problem
from embedprefs.files.editing import with_key_renamed, with_value, without_key
from embedprefs.files.reading import read_toml_file, table_of
from embedprefs.files.writing import write_text
from embedprefs.preferences import SCHEMA_VERSION, find_field
from embedprefs.renamed import renamed_key
from embedprefs.toml_text import Entry, KeyPath, TomlText, dotted, table_at
from embedprefs.validation import problems_in, put

__all__ = ["Change", "migrate_file", "migrate_text"]


@dataclass(frozen=True)
class Change:
    """One thing that bringing a file up to date did, or had to leave to its author."""

    key: str
    line: int | None
    """Line in the text before, from 1."""
    text: str
    """What was done, as a sentence."""
    done: bool = True
    """False where the author has to decide."""

    def __str__(self) -> str:
        return self.text if self.line is None else f"line {self.line}: {self.text}"


def migrate_text(text: str, *, table: KeyPath = ()) -> tuple[str, list[Change]]:
    """Return a file's text in today's form, and what was changed.

    A missing `schema_version` is added, and keys under names that other tools use are renamed or moved. What cannot be
    decided here is left as it stands, and said.

    Args:
        text: The file's text.
        table: Where the preferences stand in it: `("tool", "embedprefs")` for a pyproject.toml.

    Raises:
        PreferencesFileError: the text is not TOML.
        InvalidPreferenceError: the file was written for a newer embedprefs.
    """
    try:
        places = TomlText.scan(text)
        values = table_at(tomllib.loads(text), table)
    except (ValueError, RecursionError) as error:
        raise PreferencesFileError(f"Not TOML: {error}") from error
    values = values if isinstance(values, Mapping) else {}
    _refuse_newer(values, places, table)
    changes: list[Change] = []
    taken: set[KeyPath] = set()
    for entry in places.entries:
        path = entry.path[len(table) :]
        new = _new_path(path) if entry.path[: len(table)] == table and not entry.in_array else None
        if new is None:
            continue
        old_key, new_key = dotted(path), dotted(new)
        if new in taken or table_at(values, new) is not None:
            because = f"{old_key} is called {new_key} here, which is stated as well: keep one of them."
            changes.append(Change(old_key, entry.line, because, done=False))
            continue
        if not _accepts(new, table_at(values, path)):
            because = f"{old_key} is decided by {new_key} here, which takes other values: write it by hand."
            changes.append(Change(old_key, entry.line, because, done=False))
            continue
        taken.add(new)
        text = _moved(text, entry.path, table + new, table_at(values, path), table)
        changes.append(Change(old_key, entry.line, f"{old_key} is called {new_key} now."))
    if "schema_version" not in values:
        text = with_value(text, (*table, "schema_version"), SCHEMA_VERSION, root=table)
        changes.append(Change("schema_version", None, f"schema_version = {SCHEMA_VERSION} is stated now."))
    return text, changes


def migrate_file(path: Path | str, *, dry_run: bool = False) -> list[Change]:
    """Bring a file up to date and return what was changed; with `dry_run` nothing is written.

    Raises:
        PreferencesFileError: the file cannot be read or written, or is not TOML.
        InvalidPreferenceError: the file was written for a newer embedprefs.
    """
    path = Path(path)
    read = read_toml_file(path)
    text, changes = migrate_text(read.text, table=table_of(path))
    if text != read.text and not dry_run:
        write_text(path, text)
    return changes


def _refuse_newer(values: Mapping[str, Any], places: TomlText, table: KeyPath) -> None:
    version = values.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise InvalidPreferenceError(
            Problem(
                f"the file's schema_version is newer than this embedprefs knows ({SCHEMA_VERSION}).",
                key="schema_version",
                value=version,
                allowed=str(SCHEMA_VERSION),
                fix="Upgrade embedprefs: pip install --upgrade embedprefs",
                line=places.lines(table).get("schema_version"),
            )
        )


def _new_path(path: KeyPath) -> KeyPath | None:
    """Return today's path of a key that is not declared; None where it is declared, free or unknown."""
    if any(find_field(".".join(path[:end])) is not None for end in range(1, len(path) + 1)):
        return None
    renamed = renamed_key(dotted(path))
    if path[:1] == ("prompts",) and renamed not in ("prompts.query", "prompts.document"):
        return None  # a further prompt that goes by this name
    return tuple(renamed.split(".")) if renamed is not None else None


def _accepts(new: KeyPath, value: Any) -> bool:
    """Return True where the key's new place accepts its value: `fp16 = true` is no dtype."""
    tree: dict[str, Any] = {}
    put(tree, new, value)
    return not problems_in(tree)


def _moved(text: str, old: KeyPath, new: KeyPath, value: Any, table: KeyPath) -> str:
    """Return the text with a key under its new name, and in its new table where that is another one."""
    entry = TomlText.scan(text).entry(old)
    assert entry is not None  # noqa: S101 - it was there before, and only other keys were moved
    if new[: len(entry.table)] == entry.table and (entry.inline or old[:-1] == new[:-1]):
        return with_key_renamed(text, entry, new)
    comment, text = _comment_of(text, entry)
    text = without_key(text, old)
    text = with_value(text, new, value, root=table)
    return _with_comment(text, new, comment)


def _comment_of(text: str, entry: Entry) -> tuple[tuple[list[str], str], str]:
    """Take the comment lines directly above a statement, and the comment behind it, out of the text."""
    if entry.inline:
        return ([], ""), text
    lines = text.splitlines(keepends=True)
    first = text.count("\n", 0, entry.key_start)
    above = first
    while above and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    if above == 0:
        above = first  # a comment that opens the file is about the file
    end = text.find("\n", entry.value_end)
    behind = text[entry.value_end : end if end >= 0 else len(text)].strip()
    return ([line.rstrip() for line in lines[above:first]], behind), "".join(lines[:above] + lines[first:])


def _with_comment(text: str, path: KeyPath, comment: tuple[list[str], str]) -> str:
    entry = TomlText.scan(text).entry(path)
    assert entry is not None  # noqa: S101 - it was just written
    above, behind = comment
    if entry.inline:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    tail = f"  {behind}" if behind and not re.match(r"[ \t]*#", text[entry.value_end :]) else ""
    text = text[: entry.value_end] + tail + text[entry.value_end :]
    start = text.rfind("\n", 0, entry.key_start) + 1
    return text[:start] + "".join(f"{line}{newline}" for line in above) + text[start:]
