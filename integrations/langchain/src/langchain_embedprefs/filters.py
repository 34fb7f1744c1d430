"""Conditions on metadata in the forms that LangChain users write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from embedprefs import InputError
from embedprefs_qdrant.stores.filters import Condition, Filter, IsEmpty, Match, MatchAny, Range

__all__ = ["as_filter"]

_BOUNDS = ("gt", "gte", "lt", "lte")
_OPERATORS = (*_BOUNDS, "eq", "ne", "in", "nin", "exists")


def as_filter(given: Filter | Mapping[str, Any] | None) -> Filter | None:
    """Turn what a search was given into a filter; a document meets all of its conditions.

    Args:
        given: A `Filter` of embedprefs_qdrant, whose fields are those of the payload (`metadata.year`), or a mapping of
            metadata fields: `{"language": "en"}`, `{"year": {"$gte": 2020}}`, `{"kind": ["note", "letter"]}`. The
            operators are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists; `$and` holds several mappings.

    Raises:
        InputError: It is neither, or an operator is unknown.
    """
    if given is None:
        return None
    if isinstance(given, Filter):
        return given
    if not isinstance(given, Mapping):
        raise InputError(
            f"filter is a {type(given).__name__}.\n"
            '  Allowed: a mapping such as {"language": "en", "year": {"$gte": 2020}}, or a Filter of '
            "embedprefs_qdrant.stores"
        )
    must: list[Condition] = []
    must_not: list[Condition] = []
    for name, value in given.items():
        if name == "$and":
            for part in _parts(value):
                must.extend(part.must)
                must_not.extend(part.must_not)
        elif name.startswith("$"):
            raise InputError(
                f"The filter has the operator {name}.\n  Allowed here: $and, or names of metadata fields\n"
                "  For alternatives of one field write a list of values; search twice for other alternatives."
            )
        else:
            _add(f"metadata.{name}", value, must, must_not)
    return Filter(tuple(must), tuple(must_not)) if must or must_not else None


def _parts(value: Any) -> list[Filter]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"$and of a filter holds a {type(value).__name__}.\n  Allowed: a list of mappings")
    return [part for part in map(as_filter, value) if part is not None]


def _add(field: str, value: Any, must: list[Condition], must_not: list[Condition]) -> None:
    if not isinstance(value, Mapping):
        must.append(_equals(field, value))
        return
    bounds = {}
    for written, operand in value.items():
        operator = written.removeprefix("$")
        if operator not in _OPERATORS:
            near = get_close_matches(operator, _OPERATORS, n=1)
            fix = f"\n  Did you mean ${near[0]}?" if near else ""
            allowed = ", ".join(f"${name}" for name in _OPERATORS)
            raise InputError(f"The filter on {field} has the operator {written}.\n  Allowed: {allowed}{fix}")
        if operator in _BOUNDS:
            bounds[operator] = operand
        elif operator == "exists":
            (must_not if operand else must).append(IsEmpty(field))
        else:
            (must_not if operator in ("ne", "nin") else must).append(_equals(field, operand))
    if bounds:
        must.append(Range(field, **bounds))


def _equals(field: str, value: Any) -> Condition:
    if value is None:
        return IsEmpty(field)
    if isinstance(value, (list, tuple, set, frozenset)):
        return MatchAny(field, tuple(value))
    return Match(field, value)
