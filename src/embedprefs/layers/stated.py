"""What one layer states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedprefs.errors import Problem
from embedprefs.files.reading import ReadFile
from embedprefs.preferences import Layer, Origin, find_field
from embedprefs.toml_text import KeyPath, dotted
from embedprefs.validation import Place

__all__ = ["StatedLayer", "leaves", "of_file"]


@dataclass(frozen=True)
class StatedLayer:
    """Nested values of one layer, and where each was written."""

    layer: Layer
    values: Mapping[str, Any]
    place: Place
    problems: tuple[Problem, ...] = field(default=())
    """What is wrong with the layer beyond its values: a key that it may not hold, an unknown variable."""

    def origin(self, key: str) -> Origin:
        """Return where a dotted key was written."""
        source, line = self.place(key)
        return Origin(self.layer, source or "", line)

    def origins(self) -> Iterator[tuple[str, Origin]]:
        """Yield the origin of every value, and of every preference that is a table of values."""
        for path, value in leaves(self.values):
            if value == {} and len(path) == 1:
                continue  # a section's bare header states nothing
            for end in range(1, len(path)):
                if find_field(".".join(path[:end])) is not None:
                    yield dotted(path[:end]), self.origin(dotted(path[:end]))
            yield dotted(path), self.origin(dotted(path))


def leaves(values: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and value of everything in nested tables that is no table itself, empty tables included."""
    for name, value in values.items():
        path = (*prefix, str(name))
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def of_file(layer: Layer, read: ReadFile, *, problems: tuple[Problem, ...] = ()) -> StatedLayer:
    """Return what a file states; a key's own line, or that of the table around it, is its place."""

    def place(key: str) -> tuple[str, int | None]:
        return str(read.path), read.line(key)

    return StatedLayer(layer, read.values, place, problems)
