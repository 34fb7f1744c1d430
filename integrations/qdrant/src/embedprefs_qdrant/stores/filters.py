"""Conditions on payloads and ids, the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from embedprefs.errors import InputError
from embedprefs_qdrant.stores.points import PointId, canonical_id

__all__ = ["Condition", "Filter", "HasId", "IsEmpty", "Match", "MatchAny", "Range"]


@dataclass(frozen=True)
class Match:
    """The field, or one element of the list it holds, equals the value."""

    field: str
    value: str | int | float | bool

    def __post_init__(self) -> None:
        if not isinstance(self.value, (str, int, float)):
            raise InputError(
                f"The filter on {self.field!r} compares with {self.value!r}.\n"
                "  Allowed: a string, a number, true or false\n"
                "  Use IsEmpty to find points that lack the field."
            )


@dataclass(frozen=True)
class MatchAny:
    """The field, or one element of the list it holds, is among the values; no values match no point."""

    field: str
    values: tuple[str, ...] | tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        kinds = {type(value) for value in self.values}
        if kinds not in (set(), {str}, {int}):
            raise InputError(
                f"The filter on {self.field!r} lists values of the types "
                f"{', '.join(sorted(kind.__name__ for kind in kinds))}.\n"
                "  Allowed: only strings, or only integers"
            )


@dataclass(frozen=True)
class Range:
    """The field lies between bounds: numbers, or datetimes (an ISO 8601 string is a datetime; naive means UTC)."""

    field: str
    gt: float | datetime | date | str | None = None
    gte: float | datetime | date | str | None = None
    lt: float | datetime | date | str | None = None
    lte: float | datetime | date | str | None = None

    def __post_init__(self) -> None:
        given = list(self.bounds().values())
        if not given:
            raise InputError(f"The filter on {self.field!r} is a range without bounds.\n  Allowed: gt, gte, lt, lte")
        numbers = [isinstance(bound, (int, float)) for bound in given]
        if any(numbers) and not all(numbers):
            raise InputError(f"The filter on {self.field!r} mixes numbers and datetimes in one range.")

    def bounds(self) -> dict[str, float | datetime | date | str]:
        """The bounds that were given, by name."""
        named = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {name: bound for name, bound in named.items() if bound is not None}

    @property
    def is_datetime(self) -> bool:
        """Whether the bounds are datetimes."""
        return not isinstance(next(iter(self.bounds().values())), (int, float))

    def datetimes(self) -> dict[str, str]:
        """The bounds as ISO 8601 strings, by name."""
        return {
            name: bound.isoformat() if isinstance(bound, date) else str(bound) for name, bound in self.bounds().items()
        }


@dataclass(frozen=True)
class IsEmpty:
    """The field is missing, null or an empty list."""

    field: str


@dataclass(frozen=True)
class HasId:
    """The point's id is among these."""

    ids: tuple[PointId, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(canonical_id(point) for point in self.ids))


Condition = Match | MatchAny | Range | IsEmpty | HasId


@dataclass(frozen=True)
class Filter:
    """Points that meet every condition of `must` and none of `must_not`."""

    must: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "must", tuple(self.must))
        object.__setattr__(self, "must_not", tuple(self.must_not))

    def __and__(self, other: Filter | None) -> Filter:
        """Points that meet both filters."""
        if other is None:
            return self
        return Filter(self.must + other.must, self.must_not + other.must_not)

    def __bool__(self) -> bool:
        return bool(self.must or self.must_not)
