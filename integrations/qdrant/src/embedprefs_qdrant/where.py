"""Conditions on hits as a person writes them: `path=docs/*`, `year>=2020`, `lang=en|de`, `draft!=true`."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from embedprefs import InputError
from embedprefs_qdrant.metadata import parse_datetime
from embedprefs_qdrant.stores.filters import Condition, Filter, Match, MatchAny, Range

__all__ = ["parse_where"]

_CONDITION = re.compile(r"^\s*(?P<field>[^<>=!\s]+)\s*(?P<operator>!=|>=|<=|=|>|<)\s*(?P<value>.*?)\s*$", re.DOTALL)
#: Fields of the payload itself; any other name is one of the document's metadata.
_OWN_FIELDS: Mapping[str, str] = {
    "source": "keyword",
    "title": "keyword",
    "headings": "keyword",
    "text": "keyword",
    "index": "integer",
    "start": "integer",
    "end": "integer",
}
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_GLOB = re.compile(r"[*?\[]")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ALLOWED = {"integer": "a whole number", "float": "a number", "bool": "true or false", "uuid": "a UUID"}


def parse_where(
    conditions: Iterable[str], sources: Callable[[], Iterable[str]], kinds: Mapping[str, str] | None = None
) -> Filter | None:
    """Turn conditions into a filter; a hit meets all of them.

    `a|b` means either. `path` is another word for `source`, whose value may be a pattern with `*` and `?`. Other names
    are fields of the documents' metadata. A value is of the type that `index.metadata_fields` declares for its field;
    elsewhere it is a number, `true`, `false`, or a text if it looks like none of these. A day is that whole day, where
    the field holds datetimes.

    Args:
        conditions: Such as `["path=docs/*", "year>=2020"]`.
        sources: Lists the sources in the collection; called only for a pattern.
        kinds: Type of each declared metadata field.

    Raises:
        InputError: A condition cannot be read, or its value is not of the field's type.
    """
    must: list[Condition] = []
    must_not: list[Condition] = []
    for text in conditions:
        match = _CONDITION.match(text)
        if match is None:
            raise InputError(
                f"The condition {text!r} cannot be read.\n"
                "  Allowed: FIELD=VALUE, FIELD!=VALUE, FIELD>VALUE, FIELD>=VALUE, FIELD<VALUE, FIELD<=VALUE; VALUE may "
                "be a|b\n  Example: path=docs/*"
            )
        field, kind = _field(match["field"], kinds or {})
        operator, value = match["operator"], match["value"]
        if operator in _BOUNDS:
            must.append(_range(text, field, kind, operator, value))
            continue
        condition = _equals(text, field, kind, value, sources)
        (must_not if operator == "!=" else must).append(condition)
    return Filter(tuple(must), tuple(must_not)) if must or must_not else None


def _field(name: str, kinds: Mapping[str, str]) -> tuple[str, str | None]:
    """The payload field, and the type of its values where it is known."""
    if name == "path":
        name = "source"
    if name in _OWN_FIELDS:
        return name, _OWN_FIELDS[name]
    name = name.removeprefix("metadata.")
    return f"metadata.{name}", kinds.get(name)


def _equals(
    condition: str, field: str, kind: str | None, value: str, sources: Callable[[], Iterable[str]]
) -> Condition:
    choices = value.split("|")
    if field == "source":
        return MatchAny(field, tuple(_expand(choices, sources)))
    if kind in ("float", "datetime"):
        # The engines compare numbers with decimals and datetimes by ranges alone.
        if len(choices) > 1:
            raise InputError(
                f"The condition {condition!r} lists values of a field of type {kind}.\n"
                "  Allowed: one value, or two conditions with >= and <="
            )
        return _point_range(condition, field, kind, value)
    values = [_typed(condition, choice, kind) for choice in choices]
    if len(values) == 1:
        if kind is None and isinstance(values[0], float):
            return Range(field, gte=values[0], lte=values[0])
        return Match(field, values[0])
    if all(isinstance(item, int) and not isinstance(item, bool) for item in values):
        return MatchAny(field, tuple(values))
    if kind == "bool":
        raise InputError(f"The condition {condition!r} lists several truth values.\n  Allowed: true, or false")
    texts = (value if isinstance(value, str) else choice for value, choice in zip(values, choices, strict=True))
    return MatchAny(field, tuple(texts))


def _point_range(condition: str, field: str, kind: str, value: str) -> Range:
    if kind == "float":
        number = _typed(condition, value, kind)
        return Range(field, gte=number, lte=number)
    moment = _moment(condition, value)
    if _is_day(value):
        return Range(field, gte=moment, lt=moment + dt.timedelta(days=1))
    return Range(field, gte=moment, lte=moment)


def _expand(choices: Sequence[str], sources: Callable[[], Iterable[str]]) -> list[str]:
    plain = [choice for choice in choices if not _GLOB.search(choice)]
    patterns = [choice for choice in choices if _GLOB.search(choice)]
    if not patterns:
        return plain
    # A name may hold a bracket: what is spelled as it is stored is meant.
    found = [name for name in sources() if any(name == each or fnmatch.fnmatchcase(name, each) for each in patterns)]
    return [*plain, *found]


def _typed(condition: str, text: str, kind: str | None) -> Any:
    """A value as the field's type has it."""
    try:
        match kind:
            case None:
                return _guessed(text)
            case "integer":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "uuid":
                return str(uuid.UUID(text))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"The condition {condition!r} compares with {text!r}, and the field is of type {kind}.\n"
            f"  Allowed: {_ALLOWED[str(kind)]}"
        ) from error
    return text


def _guessed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _range(condition: str, field: str, kind: str | None, operator: str, text: str) -> Range:
    if kind in ("integer", "float"):
        return Range(field, **{_BOUNDS[operator]: _typed(condition, text, kind)})
    value = _guessed(text)
    if kind is None and isinstance(value, int | float) and not isinstance(value, bool):
        return Range(field, **{_BOUNDS[operator]: value})
    if kind not in (None, "datetime"):
        raise InputError(
            f"The condition {condition!r} compares sizes, and the field is of type {kind}.\n  Allowed: =, != and a|b"
        )
    moment = _moment(condition, text)
    if _is_day(text) and operator in (">", "<="):
        # After a day is from the next one on, up to and with it is before the next one.
        return Range(field, **{"gte" if operator == ">" else "lt": moment + dt.timedelta(days=1)})
    return Range(field, **{_BOUNDS[operator]: moment})


def _moment(condition: str, text: str) -> dt.datetime:
    try:
        return parse_datetime(text)
    except ValueError as error:
        raise InputError(
            f"The condition {condition!r} compares with {text!r}.\n"
            "  Allowed: a number, or a date such as 2024-02-29 or 2024-02-29T12:00:00Z"
        ) from error


def _is_day(text: str) -> bool:
    return _DAY.fullmatch(text.strip()) is not None
