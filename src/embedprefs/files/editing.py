"""Change single keys of a TOML text and leave everything else as it stands.

Comments, order, quoting and line ends survive, because nothing but the changed key or value is written again. A new
key takes the place of its commented-out default where there is one. (`tomlkit` renders the values; it is not used to
place them, since it appends a new key below the comment that introduces the next table.)
"""

from __future__ import annotations

import re
from typing import Any

from embedprefs.toml_text import Entry, Header, KeyPath, TomlText, dotted

__all__ = ["rendered", "with_key_renamed", "with_value", "without_empty_tables", "without_key"]


def rendered(value: Any) -> str:
    """Return a value as TOML on one line.

    Raises:
        ValueError: TOML cannot hold such a value.
    """
    import tomlkit  # needed for writing alone
    from tomlkit.exceptions import TOMLKitError

    try:
        if isinstance(value, dict):
            pairs = (f"{dotted((str(name),))} = {rendered(item)}" for name, item in value.items())
            inner = ", ".join(pairs)
            return f"{{ {inner} }}" if inner else "{}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(rendered(item) for item in value) + "]"
        return str(tomlkit.item(value).as_string())
    except (TOMLKitError, TypeError) as error:
        raise ValueError(f"TOML cannot hold a value of type {type(value).__name__}.") from error


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def _line_end(text: str, offset: int) -> int:
    """Return the offset after the line end that follows; the text's length on a last line without one."""
    end = text.find("\n", offset)
    return len(text) if end < 0 else end + 1


def _inserted_line(text: str, offset: int, line: str) -> str:
    newline = _newline(text)
    before = text[:offset]
    if before and not before.endswith("\n"):
        before += newline
    return f"{before}{line}{newline}{text[offset:]}"


def with_value(text: str, path: KeyPath, value: Any, *, root: KeyPath = ()) -> str:
    """Return the text with one key set.

    Args:
        text: A valid TOML text.
        path: The key, from the top of the document.
        value: What it is to hold; anything TOML can.
        root: The table the preferences stand in, `("tool", "embedprefs")` in pyproject.toml.

    Raises:
        ValueError: TOML cannot hold the value, or the key's table holds a plain value.
    """
    places = TomlText.scan(text)
    written = rendered(value)
    entry = places.entry(path)
    if entry is not None:
        return text[: entry.value_start] + written + text[entry.value_end :]
    around = _inline_table(places, path)
    if around is not None:
        return _with_inline_pair(text, around, path, written)
    header = _header_for(places, path, root)
    sibling = _dotted_sibling(places, path, header, root)
    if sibling is not None:
        line = f"{dotted(path[len(sibling.table) :])} = {written}"
        return _inserted_line(text, _line_end(text, sibling.value_end), _indent(text, sibling.key_start) + line)
    if header is None and (root or len(path) > 1):
        return _with_new_table(text, path, written, root)
    return _with_line_in_table(text, places, header, path, written)


def _indent(text: str, offset: int) -> str:
    start = _line_start(text, offset)
    return text[start:offset] if text[start:offset].isspace() else ""


def _inline_table(places: TomlText, path: KeyPath) -> Entry | None:
    """Return the innermost `key = { }` that the path lies in."""
    found = None
    for entry in places.entries:
        if len(entry.path) < len(path) and entry.path == path[: len(entry.path)] and not entry.in_array:
            if places.text[entry.value_start] != "{":
                raise ValueError(f"{dotted(entry.path)} holds a plain value, so {dotted(path)} cannot be set.")
            found = entry
    return found


def _with_inline_pair(text: str, around: Entry, path: KeyPath, written: str) -> str:
    pair = f"{dotted(path[len(around.path) :])} = {written}"
    inner = text[around.value_start + 1 : around.value_end - 1].rstrip()
    joined = f"{inner}, {pair}" if inner.strip() else f" {pair}"
    return f"{text[: around.value_start]}{{{joined} }}{text[around.value_end :]}"


def _header_for(places: TomlText, path: KeyPath, root: KeyPath) -> Header | None:
    """Return the header with the longest path around the key, below the root or the root itself for a top-level key."""
    least = len(root) + 1 if len(path) > len(root) + 1 else len(root)
    fitting = [
        header
        for header in places.headers
        if not header.array and least <= len(header.path) < len(path) and header.path == path[: len(header.path)]
    ]
    return max(fitting, key=lambda header: len(header.path), default=None)


def _dotted_sibling(places: TomlText, path: KeyPath, header: Header | None, root: KeyPath) -> Entry | None:
    """Return the last entry that was written with dots into the key's table, or into one around it, elsewhere."""
    found: Entry | None = None
    least = max(len(header.path) + 1 if header is not None else 1, len(root))
    for entry in places.entries:
        common = _common(entry.path[:-1], path[:-1])
        if not entry.inline and not entry.in_array and common >= least and entry.table == path[: len(entry.table)]:
            found, least = entry, common
    return found


def _common(left: KeyPath, right: KeyPath) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _with_new_table(text: str, path: KeyPath, written: str, root: KeyPath) -> str:
    newline = _newline(text)
    table = path[: len(root) + 1] if len(path) > len(root) + 1 else root
    head = text.rstrip()
    gap = newline * 2 if head else ""
    return f"{head}{gap}[{dotted(table)}]{newline}{dotted(path[len(table) :])} = {written}{newline}"


def _with_line_in_table(text: str, places: TomlText, header: Header | None, path: KeyPath, written: str) -> str:
    table = header.path if header is not None else ()
    line = f"{dotted(path[len(table) :])} = {written}"
    start = header.end if header is not None else 0
    end = min((item.start for item in places.headers if item.start > start or header is None), default=len(text))
    default = re.compile(rf"^#[ \t]?{re.escape(dotted(path[len(table) :]))}[ \t]*=[^\r\n]*", re.MULTILINE)
    inside = [entry for entry in places.entries if not entry.inline and start <= entry.key_start < end]
    if path[-1] == "schema_version":
        inside = []  # it stands first, as it says how to read the rest
    for match in default.finditer(text, start, end):
        if not any(entry.key_start <= match.start() < entry.value_end for entry in inside):
            return text[: match.start()] + line + text[match.end() :]
    if inside:
        return _inserted_line(text, _line_end(text, inside[-1].value_end), _indent(text, inside[-1].key_start) + line)
    if header is not None:
        return _inserted_line(text, _line_end(text, header.end), line)
    return _with_first_line(text, line)


def _with_first_line(text: str, line: str) -> str:
    """Put a line below the comment that opens the file."""
    lines = text.splitlines(keepends=True)
    count = 0
    while count < len(lines) and lines[count].lstrip().startswith("#"):
        count += 1
    offset = sum(len(item) for item in lines[:count])
    blank = count < len(lines) and not lines[count].strip()
    if count and blank:
        offset += len(lines[count])
        count += 1
    apart = count < len(lines) and lines[count].lstrip().startswith(("[", "#"))
    return _inserted_line(text, offset, line + (_newline(text) if apart else ""))


def without_key(text: str, path: KeyPath) -> str:
    """Return the text without one key; what stands beneath the key goes with it, comments above it stay."""
    while True:
        places = TomlText.scan(text)
        entry = next((item for item in places.entries if item.path[: len(path)] == path and not item.in_array), None)
        if entry is None:
            return text
        text = _without_entry(text, entry)


def _without_entry(text: str, entry: Entry) -> str:
    if not entry.inline:
        return text[: _line_start(text, entry.key_start)] + text[_line_end(text, entry.value_end) :]
    after = re.compile(r"[ \t]*,[ \t]*").match(text, entry.value_end)
    if after is not None:
        return text[: entry.key_start] + text[after.end() :]
    before = text[: entry.key_start].rstrip()
    return before.removesuffix(",") + " " + text[entry.value_end :].lstrip(" \t")


def without_empty_tables(text: str, wanted: set[KeyPath], *, root: KeyPath = ()) -> str:
    """Return the text without headers of inner tables that hold nothing and that `wanted` does not name.

    An empty `[training.lora]` means something (training with its defaults), so that none may be left over.
    """
    places = TomlText.scan(text)
    for header in reversed(places.headers):
        path = header.path
        held = any(entry.path[: len(path)] == path for entry in places.entries)
        inner = any(item.path != path and item.path[: len(path)] == path for item in places.headers)
        if len(path) < len(root) + 2 or path[: len(root)] != root or held or inner:
            continue
        if not any(item[: len(path)] == path for item in wanted):
            text = text[: _line_start(text, header.start)] + text[_line_end(text, header.end) :]
    return text


def with_key_renamed(text: str, entry: Entry, path: KeyPath) -> str:
    """Return the text with an entry's key written otherwise, in the same table.

    Raises:
        ValueError: the new key does not lie in the entry's table.
    """
    if path[: len(entry.table)] != entry.table:
        raise ValueError(f"{dotted(path)} does not lie in [{dotted(entry.table)}].")
    return text[: entry.key_start] + dotted(path[len(entry.table) :]) + text[entry.key_end :]
