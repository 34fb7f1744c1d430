"""Metadata of the types that `index.metadata_fields` declares: only such are found through the engines' indexes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from embedprefs import InputError
from embedprefs_qdrant.documents import Document

__all__ = ["parse_datetime", "with_typed_metadata"]


def with_typed_metadata(document: Document, fields: Mapping[str, str]) -> Document:
    """The document with its declared metadata fields converted: a csv file, for one, holds nothing but texts.

    A field may be missing or null, and may hold a list of values.

    Args:
        document: As it was read.
        fields: Name -> keyword, integer, float, bool, datetime, text or uuid; a dotted name reaches into an object.

    Raises:
        InputError: A value cannot be one of its declared type; every such field is listed.
    """
    if not fields:
        return document
    metadata = dict(document.metadata)
    problems: list[str] = []
    for name, kind in fields.items():
        _convert_in(metadata, name, kind, problems)
    if problems:
        raise InputError("\n".join([f"{document.source}: Its metadata does not fit index.metadata_fields.", *problems]))
    return dataclasses.replace(document, metadata=metadata)


def _convert_in(values: dict[str, Any], name: str, kind: str, problems: list[str]) -> None:
    first, _, rest = name.partition(".")
    if name not in values and rest and isinstance(values.get(first), Mapping):
        values[first] = dict(values[first])
        _convert_in(values[first], rest, kind, problems)
        return
    value = values.get(name)
    if value is None:
        return
    if kind not in ("keyword", "text") and isinstance(value, str) and not value.strip():
        values[name] = None  # the empty field of a csv file
        return
    try:
        convert = _CONVERSIONS[kind]
        values[name] = [convert(item) for item in value] if isinstance(value, list) else convert(value)
    except (ValueError, TypeError):
        problems.append(f"  {name} is {value!r}.\n  Allowed: {_ALLOWED[kind]}, or a list of such")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _bool(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in words:
        raise ValueError
    return words[word]


def parse_datetime(value: str) -> dt.datetime:
    """A date or a date with time in ISO 8601; without an offset it is in UTC.

    Raises:
        ValueError: It is neither.
    """
    moment = dt.datetime.fromisoformat(value.strip())
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def _datetime(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    parse_datetime(value)
    return value.strip()


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "keyword": _text,
    "text": _text,
    "integer": _integer,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "uuid": lambda value: str(uuid.UUID(str(value))),
}
_ALLOWED: Mapping[str, str] = {
    "keyword": "a text",
    "text": "a text",
    "integer": "a whole number of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
    "datetime": "a date such as 2024-02-29 or 2024-02-29T12:00:00Z",
    "uuid": "a UUID",
}
