"""The template that makes the embedded text out of a chunk and what stands around it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from embedprefs.errors import InvalidPreferenceError
from embedprefs.preferences.index_limits import template_problems

__all__ = ["HEADING_SEPARATOR", "Template"]

#: What stands between two titles of a heading path.
HEADING_SEPARATOR = " > "


class Template:
    r"""A text with `{text}`, and `{headings}`, `{title}` or `{source}` where wanted.

    `"{headings}\n\n{text}"` puts the heading path before every chunk. White space at the ends of the result is left
    out, so that a chunk without headings starts with its text.

    Raises:
        InvalidPreferenceError: A field is unknown or formatted, `{text}` is missing, or a brace is left open; every
            problem is listed.
    """

    def __init__(self, text: str = "{text}", *, key: str = "index.template") -> None:
        self.text = text
        self._parts = _parse(text, key)
        #: The fields it names.
        self.fields = frozenset(field for _, field in self._parts if field is not None)

    def render(self, *, text: str, headings: Sequence[str] = (), title: str | None = None, source: str = "") -> str:
        """The embedded text of one chunk."""
        values: Mapping[str, str] = {
            "text": text,
            "headings": HEADING_SEPARATOR.join(headings),
            "title": title or "",
            "source": source,
        }
        return "".join(literal if field is None else literal + values[field] for literal, field in self._parts).strip()

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _parse(text: str, key: str) -> list[tuple[str, str | None]]:
    """Pairs of literal text and the field that follows it."""
    problems = template_problems(text, key=key)
    if problems:
        raise InvalidPreferenceError(problems)
    return [(literal, field) for literal, field, _, _ in string.Formatter().parse(text)]
