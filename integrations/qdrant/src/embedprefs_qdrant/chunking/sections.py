"""Dividing a document at its headings, no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from embedprefs_qdrant.chunking.outline import Heading

__all__ = ["Section", "divide"]


@dataclass(frozen=True)
class Section:
    """A stretch of a document under one heading path."""

    start: int
    end: int
    path: tuple[str, ...]


@dataclass
class _Node:
    """A heading with all that stands beneath it; the root is the document."""

    start: int
    body: int
    """Where the text after the heading starts."""
    end: int
    level: int
    path: tuple[str, ...]
    children: list[_Node] = field(default_factory=list)


def divide(
    text: str,
    headings: Sequence[Heading],
    start: int,
    fits: Callable[[int, int, tuple[str, ...]], bool],
) -> Iterator[Section]:
    """Yield sections that cover a document from `start` on.

    A heading with all that stands beneath it is one section where it fits. Otherwise its own text is one, and each
    heading beneath it is divided in the same way. A heading without text of its own goes with the first one beneath it.

    Args:
        text: The document's text.
        headings: Its headings, in order.
        start: Where the body starts.
        fits: Whether a stretch under a path fits into one chunk.
    """
    root = _tree(headings, start, len(text))
    yield from _divide(text, root, root.start, fits)


def _divide(text: str, node: _Node, start: int, fits: Callable[[int, int, tuple[str, ...]], bool]) -> Iterator[Section]:
    while True:
        first = node.children[0].start if node.children else node.end
        has_text = bool(text[node.body : first].strip())
        if has_text or len(node.children) != 1:
            break
        node = node.children[0]  # a title above all else: what it heads is under its path
    if not node.children or fits(start, node.end, node.path):
        yield Section(start, node.end, node.path)
        return
    if has_text:
        yield Section(start, first, node.path)
        start = first
    for child in node.children:
        yield from _divide(text, child, start, fits)
        start = child.end


def _tree(headings: Sequence[Heading], start: int, end: int) -> _Node:
    root = _Node(start, start, end, 0, ())
    open_nodes = [root]
    for heading in headings:
        while open_nodes[-1].level >= heading.level:
            open_nodes.pop().end = heading.start
        above = open_nodes[-1]
        node = _Node(heading.start, heading.end, end, heading.level, (*above.path, heading.title))
        above.children.append(node)
        open_nodes.append(node)
    return root
