"""Conditions as a person writes them become filters."""

from __future__ import annotations

import datetime as dt

import pytest

from embedprefs import InputError
from embedprefs_qdrant.stores import Filter, Match, MatchAny, Range
from embedprefs_qdrant.where import parse_where

SOURCES = ("docs/a.md", "docs/how-to/b.md", "README.md", "docs/c[1].md", "docs/c1.md")
KINDS = {"code": "keyword", "pages": "integer", "price": "float", "day": "datetime", "open": "bool", "key": "uuid"}


def parse(*conditions):
    return parse_where(conditions, lambda: SOURCES, KINDS)


def day(number, month=2):
    return dt.datetime(2024, month, number, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "path=docs/[a-h]*",
            Filter((MatchAny("source", ("docs/a.md", "docs/how-to/b.md", "docs/c[1].md", "docs/c1.md")),)),
        ),
        ("path=docs/c[1].md", Filter((MatchAny("source", ("docs/c[1].md", "docs/c1.md")),))),
        ("path=README.md", Filter((MatchAny("source", ("README.md",)),))),
        ("source=README.md|docs/a.md", Filter((MatchAny("source", ("README.md", "docs/a.md")),))),
        ("path!=docs/?.md", Filter((), (MatchAny("source", ("docs/a.md",)),))),
        ("lang=en", Filter((Match("metadata.lang", "en"),))),
        ("lang=en|de", Filter((MatchAny("metadata.lang", ("en", "de")),))),
        ("year=2020", Filter((Match("metadata.year", 2020),))),
        ("year=2020|2021", Filter((MatchAny("metadata.year", (2020, 2021)),))),
        ("draft!=true", Filter((), (Match("metadata.draft", True),))),
        ("year >= 2020", Filter((Range("metadata.year", gte=2020),))),
        ("metadata.price<9.5", Filter((Range("metadata.price", lt=9.5),))),
        ("price=9", Filter((Range("metadata.price", gte=9.0, lte=9.0),))),
        ("weight=9.5", Filter((Range("metadata.weight", gte=9.5, lte=9.5),))),
        ("day=2024-02-28", Filter((Range("metadata.day", gte=day(28), lt=day(29)),))),
        ("day!=2024-02-28", Filter((), (Range("metadata.day", gte=day(28), lt=day(29)),))),
        ("day>2024-02-29", Filter((Range("metadata.day", gte=day(1, 3)),))),
        ("day>=2024-02-29", Filter((Range("metadata.day", gte=day(29)),))),
        ("day<2024-02-29", Filter((Range("metadata.day", lt=day(29)),))),
        ("day<=2024-02-29", Filter((Range("metadata.day", lt=day(1, 3)),))),
        ("day=2024-02-28T00:00:00Z", Filter((Range("metadata.day", gte=day(28), lte=day(28)),))),
        ("seen>=2024-02-29", Filter((Range("metadata.seen", gte=day(29)),))),
        ("code=007", Filter((Match("metadata.code", "007"),))),
        ("code=1|true", Filter((MatchAny("metadata.code", ("1", "true")),))),
        ("pages=7|8", Filter((MatchAny("metadata.pages", (7, 8)),))),
        ("open=True", Filter((Match("metadata.open", True),))),
        ("key=AB" + 30 * "0", Filter((Match("metadata.key", "ab000000-0000-0000-0000-000000000000"),))),
        ("title=A = B", Filter((Match("title", "A = B"),))),
        ("title=1984", Filter((Match("title", "1984"),))),
        ("headings=2 Methods|3", Filter((MatchAny("headings", ("2 Methods", "3")),))),
    ],
)
def test_a_condition_becomes_a_filter(text, wanted):
    """Patterns are resolved to sources, types are read off the value."""
    assert parse(text) == wanted


def test_several_conditions_hold_together():
    """A hit meets all of them."""
    assert parse("lang=en", "year>2000") == Filter((Match("metadata.lang", "en"), Range("metadata.year", gt=2000)))


def test_no_condition_is_no_filter():
    """Nothing asked, nothing filtered."""
    assert parse() is None


def test_a_pattern_that_matches_nothing_finds_nothing():
    """Not everything."""
    assert parse("path=nowhere/*") == Filter((MatchAny("source", ()),))


@pytest.mark.parametrize(
    "text",
    [
        *("", "docs/*", "=x", "a b=1", "year>true", "year>=", "pages=many", "pages>2024-01-01", "price=1|2"),
        *("day=soon", "day>2024-13-01", "open=maybe", "open=true|false", "key=7", "code>7", "title>A"),
    ],
)
def test_what_cannot_be_read_is_named(text):
    """The message quotes the condition and says what is allowed."""
    with pytest.raises(InputError, match="Allowed"):
        parse(text)
