"""The headings of a document: where they stand, how deep, and what they say.

Markdown is read by markdown-it, whose block parser does it alone (a megabyte in a fifth of a second). For rst, the
title rules of the reStructuredText specification ("Sections") are few and exact, and a scanner of lines follows them:
docutils builds the whole tree and runs directives, which takes forty times as long.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = ["Heading", "Outline", "outline"]

_LINE_END = re.compile(r"\r\n|\r|\n")
_RST_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")
_SPACES = re.compile(r"\s+")
_MARKDOWN_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_HEADING_ATTRIBUTES = re.compile(r"\s*\{[^{}]*\}\s*$")


@dataclass(frozen=True)
class Heading:
    """One heading of a document."""

    start: int
    """Offset of its first line (the overline, where it has one)."""
    end: int
    """Offset after its last line."""
    level: int
    """Depth, from 1."""
    title: str


@dataclass(frozen=True)
class Outline:
    """A document's headings, in order, and its stretches of code and tables."""

    headings: list[Heading] = field(default_factory=list)
    verbatim: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of each stretch where lines matter and sentences do not, in order."""

    def is_verbatim(self, position: int) -> bool:
        """Whether a cut here would be within code or a table."""
        place = bisect_right(self.verbatim, (position, -1)) - 1
        return place >= 0 and self.verbatim[place][0] < position < self.verbatim[place][1]


def outline(text: str, document_format: str, start: int = 0) -> Outline:
    """A document's headings and verbatim stretches.

    Args:
        text: The document's text.
        document_format: `markdown` and `html` (whose text is Markdown) and `rst` have headings; others have none.
        start: Where the body starts, after front matter.
    """
    if document_format in {"markdown", "html"}:
        return _markdown(text, start)
    if document_format == "rst":
        return Outline(_rst_headings(text, start))
    return Outline()


@cache
def _markdown_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Inline marks decide nothing about headings, and reading them would take most of the time.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _markdown(text: str, start: int) -> Outline:
    lines = _line_starts(text, start)
    found = Outline()
    tokens = _markdown_parser().parse(text[start:])
    for position, token in enumerate(tokens):
        if token.map is None:
            continue
        first, last = lines[token.map[0]], lines[min(token.map[1], len(lines) - 1)]
        # A heading in a list or quotation belongs to it, and is no section of the document.
        if token.type == "heading_open" and token.level == 0:
            title = _markdown_title(tokens[position + 1].content)
            if title:
                found.headings.append(Heading(first, last, int(token.tag[1:]), title))
        elif token.type in {"fence", "code_block", "html_block", "table_open"}:
            found.verbatim.append((first, last))
    return found


def _markdown_title(content: str) -> str:
    title = _MARKDOWN_ESCAPE.sub(r"\1", _HEADING_ATTRIBUTES.sub("", content))
    return _SPACES.sub(" ", title.replace("`", "").replace("**", "")).strip()


def _line_starts(text: str, start: int) -> list[int]:
    """The offset of every line, and the text's end."""
    return [start, *(match.end() for match in _LINE_END.finditer(text, start)), len(text)]


def _rst_headings(text: str, start: int) -> list[Heading]:
    bounds = _line_starts(text, start)
    lines = [text[first:last].rstrip() for first, last in pairwise(bounds)]
    styles: list[tuple[str, bool]] = []
    headings: list[Heading] = []
    number = 0
    is_free = True  # whether the line before is blank or a heading, so that a title can start here
    while number < len(lines):
        size, style = _rst_title(lines, number) if is_free else (0, ("", False))
        if not size:
            is_free = not lines[number]
            number += 1
            continue
        if style not in styles:
            styles.append(style)
        title = _SPACES.sub(" ", lines[number + (1 if style[1] else 0)]).strip()
        headings.append(Heading(bounds[number], bounds[number + size], styles.index(style) + 1, title))
        number += size
    return headings


def _rst_title(lines: list[str], number: int) -> tuple[int, tuple[str, bool]]:
    """How many lines a title at this line takes (0: there is none), and its style."""
    none = (0, ("", False))
    line = lines[number]
    following = lines[number + 1] if number + 1 < len(lines) else ""
    if not line or not following:
        return none
    if _is_adornment(line):
        closing = lines[number + 2] if number + 2 < len(lines) else ""
        is_title = len(line) > 1 and closing == line and len(line) >= min(_width(following.strip()), 4)
        if is_title and not (_is_adornment(following) and len(following) == len(line)):
            return 3, (line[0], True)
        return none
    if line[0].isspace() or not _is_adornment(following):
        return none
    # The specification asks for an underline as long as the title; docutils takes a shorter one from four on.
    if len(following) >= min(_width(line), 4):
        return 2, (following[0], False)
    return none


def _is_adornment(line: str) -> bool:
    return _RST_ADORNMENT.match(line) is not None


def _width(text: str) -> int:
    """Columns that a text takes on a screen: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
