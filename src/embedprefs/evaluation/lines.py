"""Reading JSON lines and tables so that every problem is named with its file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from embedprefs.errors import InputError

__all__ = ["Problems", "json_type", "read_csv", "read_jsonl", "read_tsv", "require_file", "required_text"]

_NAMED_PROBLEMS = 10


class Problems:
    """What is wrong with the lines of some files, gathered so that all of it is said at once."""

    def __init__(self) -> None:
        self._first: tuple[str, int | None] | None = None
        self._messages: list[str] = []
        self._count = 0

    def add(self, file: str, line: int | None, message: str) -> None:
        """Note one problem: what was found and what is needed."""
        self._first = self._first or (file, line)
        self._count += 1
        if self._count <= _NAMED_PROBLEMS:
            self._messages.append(f"{file}:{line}: {message}" if line is not None else f"{file}: {message}")

    def raise_if_any(self) -> None:
        """Raise what was noted.

        Raises:
            InputError: there is at least one problem; file and line are those of the first.
        """
        if self._first is None:
            return
        file, line = self._first
        more = self._count - len(self._messages)
        lines = [*self._messages, *([f"… and {more:,} more."] if more else [])]
        raise InputError("\n".join(lines), file=file, line=line)


def require_file(path: Path, what: str) -> None:
    """Raise where a path is no file.

    Args:
        path: Where it should be.
        what: What is expected there, `the corpus`.

    Raises:
        InputError: there is no such file, or it is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, where {what} should be a file.\n  Name the file in it.", file=path)
    if not path.exists():
        near = get_close_matches(path.name, _names_in(path.parent), n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Check the path."
        raise InputError(f"{path}: there is no such file ({what}).\n  {hint}", file=path)


def _names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def read_jsonl(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of a file of JSON lines with their line numbers; empty lines are skipped.

    Lines that are no JSON object are added to `problems` and left out.
    """
    name = str(path)
    for number, text in _text_lines(path, problems):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            problems.add(name, number, f"not JSON: {reason}. Each line has to be one JSON object.")
            continue
        if not isinstance(value, dict):
            problems.add(name, number, f"the line holds {json_type(value)}. Each line has to be one JSON object.")
            continue
        yield number, value


def read_tsv(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of a table, tab-separated (or by white space where a line has no tab), with line numbers."""
    for number, text in _text_lines(path, problems):
        if text.strip():
            yield number, text.split("\t") if "\t" in text else text.split()


def read_csv(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the records of a CSV file with a header line, by column name, with the line each begins on."""
    name = str(path)
    # The module's limit of 128 KiB a field is made for tables; a text may be longer.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((f"{text}\n" for _, text in _text_lines(path, problems)), strict=True)
    header: Sequence[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(name, number, f"not CSV: {error}. Look for a quote that is not closed.")
            return
        if not values:
            continue
        if header is None:
            header = values
        elif len(values) != len(header):
            problems.add(
                name,
                number,
                f"{len(values)} values, where the header names {len(header)} columns. "
                "A value that holds a comma has to stand in quotes.",
            )
        else:
            yield number, dict(zip(header, values, strict=True))


def _text_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.add(
                    str(path), number, f"byte {error.start + 1} of the line is not UTF-8. Convert the file to UTF-8."
                )
                continue
            yield number, text.removesuffix("\n").removesuffix("\r")


def required_text(
    record: Mapping[str, Any],
    field: str,
    place: tuple[str, int | None],
    problems: Problems,
    *,
    identifier: bool = False,
) -> str | None:
    """Return a text field of a record; None, with a problem noted, where it is absent or no text.

    Args:
        record: One line's values.
        field: Name of the field.
        place: File and line, for the problem.
        problems: Where it is noted.
        identifier: The field is an id: whole numbers are taken as text, and it must not be empty.
    """
    if field not in record:
        near = get_close_matches(field, record, n=1, cutoff=0.5)
        found = ", ".join(f'"{name}"' for name in record) or "none"
        hint = f' Rename "{near[0]}" to "{field}".' if near else ""
        problems.add(*place, f'no field "{field}"; the fields are {found}.{hint}')
        return None
    value = record[field]
    if identifier and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        problems.add(*place, f'"{field}" holds {json_type(value)}. It has to be a text.')
        return None
    if identifier and not value:
        problems.add(*place, f'"{field}" is empty. Every record needs an id.')
        return None
    return value


def json_type(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__}")
