"""Where each key and value of a TOML text stands.

`tomllib` gives the values, this gives their places. Neither `tomllib` nor `tomlkit` tells line numbers, and without
them an error cannot say where to look.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Entry", "Header", "TomlText", "dotted", "split_key"]

KeyPath = tuple[str, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: KeyPath) -> str:
    """Return a path as a dotted key; a part that holds a dot or a quote is quoted as TOML would have it."""
    return ".".join(part if _BARE.fullmatch(part) else _quoted(part) for part in path)


def _quoted(part: str) -> str:
    escaped = part.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'


def split_key(key: str) -> KeyPath:
    """Return the parts of a dotted key; quoted parts may hold dots.

    Raises:
        ValueError: the text is no key.
    """
    if not key or "\n" in key or "\r" in key:
        raise ValueError(key)
    if all(part and _BARE.fullmatch(part) for part in key.split(".")):
        return tuple(key.split("."))
    scanner = _Scanner(f"{key} = 0")
    tomllib.loads(scanner.text)  # the scanner takes valid TOML for granted
    scanner.scan()
    if len(scanner.entries) != 1:
        raise ValueError(key)
    return scanner.entries[0].path


@dataclass(frozen=True)
class Entry:
    """One `key = value`, with the offsets of both in the text."""

    path: KeyPath
    table: KeyPath
    """The table it is written in; what is left of `path` is the key as written."""
    inline: bool
    """True for a pair within `{ }`."""
    key_start: int
    key_end: int
    value_start: int
    value_end: int
    line: int
    in_array: bool = False
    """True for a pair within an array, or beneath a `[[table]]`: its path does not say which item it belongs to."""


@dataclass(frozen=True)
class Header:
    """One `[table]` or `[[table]]` line."""

    path: KeyPath
    array: bool
    start: int
    end: int
    line: int


@dataclass
class TomlText:
    """A valid TOML text with the places of its keys."""

    text: str
    entries: list[Entry] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)

    @classmethod
    def scan(cls, text: str) -> TomlText:
        """Find the places of every key.

        Raises:
            tomllib.TOMLDecodeError: the text is not TOML.
        """
        tomllib.loads(text)
        scanner = _Scanner(text)
        scanner.scan()
        return cls(text, scanner.entries, scanner.headers)

    def lines(self, root: KeyPath = ()) -> dict[str, int]:
        """Return dotted key -> line, from 1, for every key and table beneath `root`; the first place counts."""
        found: dict[str, int] = {}
        places = [(item.path, item.line) for item in self.headers]
        places += [(item.path, item.line) for item in self.entries]
        for path, line in sorted(places, key=lambda place: place[1]):
            for end in range(len(root) + 1, len(path) + 1):
                if path[: len(root)] == root:
                    found.setdefault(dotted(path[len(root) : end]), line)
        return found

    def entry(self, path: KeyPath) -> Entry | None:
        """Return the entry that holds exactly this key; None where there is none."""
        return next((entry for entry in self.entries if entry.path == path and not entry.in_array), None)


class _Scanner:
    """Walks a text that is known to be valid TOML."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.entries: list[Entry] = []
        self.headers: list[Header] = []
        self._arrays = 0  # how many arrays the position lies in
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def _line(self, offset: int) -> int:
        return bisect_right(self._starts, offset)

    def _char(self) -> str:
        return self.text[self.position : self.position + 1]

    def scan(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip_blank()
            if not self._char():
                return
            if self._char() == "[":
                table = self._header()
            else:
                self._pair(table, inline=False)

    def _skip_space(self) -> None:
        while self._char() in (" ", "\t"):
            self.position += 1

    def _skip_blank(self) -> None:
        """Skip white space, line ends and comments."""
        while char := self._char():
            if char == "#":
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            elif char in " \t\r\n":
                self.position += 1
            else:
                return

    def _header(self) -> KeyPath:
        start = self.position
        array = self.text.startswith("[[", start)
        self.position += 2 if array else 1
        path = self._key()
        self.position += 2 if array else 1
        self.headers.append(Header(path, array, start, self.position, self._line(start)))
        return path

    def _key(self) -> KeyPath:
        """Read a dotted key; the position is left at its end, white space after it included."""
        parts: list[str] = []
        while True:
            self._skip_space()
            start = self.position
            if self._char() in ('"', "'"):
                self._string()
                parts.append(tomllib.loads(f"key = {self.text[start : self.position]}")["key"])
            else:
                bare = _BARE.match(self.text, start)
                assert bare is not None  # noqa: S101 - the text was parsed before
                self.position = bare.end()
                parts.append(bare.group())
            self._skip_space()
            if self._char() != ".":
                return tuple(parts)
            self.position += 1

    def _beneath_array(self, table: KeyPath) -> bool:
        return any(header.array and header.path == table[: len(header.path)] for header in self.headers)

    def _pair(self, table: KeyPath, *, inline: bool) -> None:
        start = self.position
        path = table + self._key()
        key_end = start + len(self.text[start : self.position].rstrip())
        self.position += 1  # =
        self._skip_space()
        value_start = self.position
        place = len(self.entries)
        self._value(path)
        in_array = self._arrays > 0 or self._beneath_array(table)
        entry = Entry(path, table, inline, start, key_end, value_start, self.position, self._line(start), in_array)
        self.entries.insert(place, entry)

    def _value(self, path: KeyPath) -> None:
        char = self._char()
        if char in ('"', "'"):
            self._string()
        elif char == "[":
            self._items("]", path)
        elif char == "{":
            self._items("}", path)
        else:
            end = re.compile(r"[,\]}\n#]|$").search(self.text, self.position)
            assert end is not None  # noqa: S101 - the end of the text matches
            self.position += len(self.text[self.position : end.start()].rstrip())

    def _items(self, closing: str, path: KeyPath) -> None:
        """Skip an array's values or an inline table's pairs."""
        self._arrays += closing == "]"
        self.position += 1
        while True:
            self._skip_blank()
            if self._char() == closing:
                self._arrays -= closing == "]"
                self.position += 1
                return
            if self._char() == ",":
                self.position += 1
            elif closing == "}":
                self._pair(path, inline=True)
            else:
                self._value(path)

    def _string(self) -> None:
        quote = self._char()
        if self.text.startswith(quote * 3, self.position):
            self.position += 3
            while not self.text.startswith(quote * 3, self.position):
                self.position += 2 if quote == '"' and self._char() == "\\" else 1
            self.position += 3
            # Up to two further quotes belong to the text itself.
            for _ in range(2):
                if self._char() == quote:
                    self.position += 1
            return
        self.position += 1
        while self._char() != quote:
            self.position += 2 if quote == '"' and self._char() == "\\" else 1
        self.position += 1


def table_at(values: Mapping[str, Any], path: KeyPath) -> Any:
    """Return what stands at a path of nested tables; None where nothing does."""
    value: Any = values
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
