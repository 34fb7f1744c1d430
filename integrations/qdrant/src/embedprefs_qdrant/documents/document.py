"""What a document is, what a failure is, and which values metadata may hold."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

__all__ = ["Document", "FailedSource", "FailureKind", "SourceError", "hash_text", "to_json_value", "to_metadata"]

FailureKind = Literal[
    "missing",
    "unreadable",
    "undecodable",
    "malformed",
    "invalid",
    "duplicate",
    "missing_extra",
    "empty",
    "unsupported",
    "same_file",
]

#: Kinds that report something left out on purpose, which makes no run a failure.
_SKIPPED: frozenset[str] = frozenset({"empty", "unsupported", "same_file"})


def hash_text(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Document:
    """One document: where it came from, its text, and what is known about it.

    A Markdown, rst or plain text file's `text` is the decoded file, character for character, so that offsets into it
    are offsets into the file. For HTML and PDF it is the extracted text.
    """

    source: str
    """Stable name: the path relative to the root with forward slashes, `path#row` for a row of a table, or the caller's
    own id."""
    text: str
    format: str = "text"
    """`markdown`, `rst`, `text`, `html` (its text is Markdown) or `pdf` (a form feed stands between its pages)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Values that JSON can hold."""
    content_hash: str = ""
    """The text's sha256; computed when left out."""
    title: str | None = None
    body_start: int = 0
    """Offset of the first character after the front matter. What lies before it is in `metadata` and is not chunked."""

    def __post_init__(self) -> None:
        """Compute the hash that was left out.

        Raises:
            ValueError: The source is empty, or `body_start` lies outside the text.
        """
        if not self.source:
            raise ValueError("A document needs a source: the path or id under which it is known. Found an empty one.")
        if not 0 <= self.body_start <= len(self.text):
            raise ValueError(f"body_start is {self.body_start}; allowed is 0 to {len(self.text)}, the text's length.")
        if not self.content_hash:
            object.__setattr__(self, "content_hash", hash_text(self.text))


@dataclass(frozen=True)
class FailedSource:
    """Something that gave no document, and why."""

    source: str
    """The name that its document would have had; for a row that has no name, the file's."""
    reason: str
    """What was found and what to do, as a sentence."""
    kind: FailureKind = "unreadable"
    line: int | None = None
    """Line (jsonl, csv) or row (parquet) in that file, from 1."""

    @property
    def is_skipped(self) -> bool:
        """Whether it was left out on purpose (empty, an unknown file type, a second name of one file).

        Only what is not skipped makes a run fail in part.
        """
        return self.kind in _SKIPPED

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.reason}"


class SourceError(Exception):
    """One source or row cannot be used; the reader turns it into a `FailedSource`."""

    def __init__(self, reason: str, kind: FailureKind, *, line: int | None = None, source: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.line = line
        self.source = source


def to_json_value(value: Any, name: str) -> Any:
    """A metadata value as JSON holds it: dates as ISO text, numpy scalars as numbers, NaN and infinities as null.

    Args:
        value: The value as it was found.
        name: Its dotted name, for the message.

    Raises:
        SourceError: JSON has no form for this type.
    """
    if value is None or isinstance(value, bool | str | int):
        return _checked_text(value, name) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((to_json_value(item, name) for item in value), key=repr)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [to_json_value(item, f"{name}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Decimal):
        return to_json_value(float(value), name)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return to_json_value(value.tolist(), name)
    raise SourceError(
        f'Metadata "{name}" is a {type(value).__name__}. Allowed is what JSON holds: text, numbers, true, false, null, '
        "lists and objects of them, and dates. Convert it, or leave it out with metadata_fields.",
        "invalid",
    )


def to_metadata(values: Mapping[Any, Any], fields: frozenset[str] | None) -> dict[str, Any]:
    """The metadata to keep: all of it, or only the named fields.

    Raises:
        SourceError: A kept value has a type that JSON cannot hold.
    """
    return {
        str(name): to_json_value(value, str(name))
        for name, value in values.items()
        if fields is None or str(name) in fields
    }


def _checked_text(text: str, name: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                f'Metadata "{name}" holds half a surrogate pair at character {error.start}, which is no text. '
                "Write the whole character.",
                "malformed",
            ) from error
    return text
