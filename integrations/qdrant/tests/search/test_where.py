"""Conditions as a person writes them become filters."""

from __future__ import annotations

import pytest

from embedprefs import InputError
from embedprefs_qdrant.stores import Filter, Match, MatchAny, Range
from embedprefs_qdrant.where import parse_where

SOURCES = ("docs/a.md", "docs/how-to/b.md", "README.md")


def parse(*conditions):
    return parse_where(conditions, lambda: SOURCES)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("path=docs/*", Filter((MatchAny("source", ("docs/a.md", "docs/how-to/b.md")),))),
        ("path=README.md", Filter((MatchAny("source", ("README.md",)),))),
        ("source=README.md|docs/a.md", Filter((MatchAny("source", ("README.md", "docs/a.md")),))),
        ("path!=docs/*", Filter((), (MatchAny("source", ("docs/a.md", "docs/how-to/b.md")),))),
        ("lang=en", Filter((Match("metadata.lang", "en"),))),
        ("lang=en|de", Filter((MatchAny("metadata.lang", ("en", "de")),))),
        ("year=2020", Filter((Match("metadata.year", 2020),))),
        ("year=2020|2021", Filter((MatchAny("metadata.year", (2020, 2021)),))),
        ("draft!=true", Filter((), (Match("metadata.draft", True),))),
        ("year >= 2020", Filter((Range("metadata.year", gte=2020),))),
        ("metadata.price<9.5", Filter((Range("metadata.price", lt=9.5),))),
        ("day>2024-02-29", Filter((Range("metadata.day", gt="2024-02-29"),))),
        ("title=A = B", Filter((Match("title", "A = B"),))),
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


@pytest.mark.parametrize("text", ["", "docs/*", "=x", "a b=1", "year>true", "year>="])
def test_what_cannot_be_read_is_named(text):
    """The message quotes the condition and says what is allowed."""
    with pytest.raises(InputError, match="Allowed"):
        parse(text)
