"""Conditions on hits as a person writes them: `path=docs/*`, `year>=2020`, `lang=en|de`, `draft!=true`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from embedprefs import InputError
from embedprefs_qdrant.stores.filters import Condition, Filter, Match, MatchAny, Range

__all__ = ["parse_where"]

_CONDITION = re.compile(r"^\s*(?P<field>[^<>=!\s]+)\s*(?P<operator>!=|>=|<=|=|>|<)\s*(?P<value>.*?)\s*$", re.DOTALL)
#: Fields of the payload itself; any other name is one of the document's metadata.
_OWN_FIELDS = {"source", "title", "headings", "index", "start", "end", "text"}
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_GLOB = re.compile(r"[*?\[]")


def parse_where(conditions: Iterable[str], sources: Callable[[], Iterable[str]]) -> Filter | None:
    """Turn conditions into a filter; a hit meets all of them.

    A value is a text, a number, `true` or `false`; `a|b` means either. `path` is another word for `source`, and its
    value may be a pattern with `*` and `?`. Other names are fields of the documents' metadata.

    Args:
        conditions: Such as `["path=docs/*", "year>=2020"]`.
        sources: Lists the sources in the collection; called only for a pattern.

    Raises:
        InputError: A condition cannot be read.
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
        field = _field(match["field"])
        operator, value = match["operator"], match["value"]
        if operator in _BOUNDS:
            must.append(Range(field, **{_BOUNDS[operator]: _bound(text, value)}))
            continue
        condition = _equals(field, value, sources)
        (must_not if operator == "!=" else must).append(condition)
    return Filter(tuple(must), tuple(must_not)) if must or must_not else None


def _field(name: str) -> str:
    if name == "path":
        return "source"
    if name in _OWN_FIELDS or name.startswith("metadata."):
        return name
    return f"metadata.{name}"


def _equals(field: str, value: str, sources: Callable[[], Iterable[str]]) -> Condition:
    choices = value.split("|")
    if field == "source":
        return MatchAny(field, tuple(_expand(choices, sources)))
    values = [_value(choice) for choice in choices]
    if len(values) == 1:
        return Match(field, values[0])
    if all(isinstance(item, int) and not isinstance(item, bool) for item in values):
        return MatchAny(field, tuple(values))
    return MatchAny(field, tuple(choices))


def _expand(choices: Sequence[str], sources: Callable[[], Iterable[str]]) -> list[str]:
    plain = [choice for choice in choices if not _GLOB.search(choice)]
    patterns = [choice for choice in choices if _GLOB.search(choice)]
    if not patterns:
        return plain
    found = [name for name in sources() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return [*plain, *found]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _bound(condition: str, text: str) -> Any:
    value = _value(text)
    if isinstance(value, bool) or not text:
        raise InputError(f"The condition {condition!r} compares with {text!r}.\n  Allowed: a number or a date")
    return value
