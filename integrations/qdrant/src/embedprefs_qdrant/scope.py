"""Which stored documents a run speaks for, so that it can say which of them are gone."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embedprefs_qdrant.documents import FailedSource
from embedprefs_qdrant.documents.discovery import FileFinder

__all__ = ["RunSources"]

#: Failures named in full for one table; further ones are counted.
NAMED_FAILURES = 5

#: Whether a stored source is one that an input speaks for.
Coverage = Callable[[str], bool]


class RunSources:
    """The sources that a run meets, and those it speaks for.

    A folder speaks for every source beneath it, a file for itself and its rows, a glob for what it would match. Other
    inputs (documents, rows, iterables) speak for nothing but themselves.
    """

    def __init__(self, documents: Any, root: Path, scope: Sequence[str] | None = None) -> None:
        """Take what the run is given.

        Args:
            documents: The inputs.
            root: The folder that sources are relative to.
            scope: Patterns of sources (`*` matches slashes too) that replace what the inputs speak for.
        """
        self._seen: set[str] = set()
        self._unread: list[str] = []
        self._counts: dict[str, int] = {}
        self._coverages: list[tuple[str | None, Coverage]] = []
        if scope is not None:
            self._coverages = [(None, partial(_has_pattern, pattern)) for pattern in scope]
            return
        finder = FileFinder(root, include=(), exclude=(), respect_gitignore=False)
        self._coverages = [(name, _coverage(name, finder)) for name in _paths(documents)]

    def meet(self, source: str) -> None:
        """Note that a source is there."""
        self._seen.add(source)

    def note(self, failure: FailedSource, failed: dict[str, str], skipped: dict[str, str]) -> None:
        """Note what gave no document.

        What was skipped on purpose holds nothing to index: if an earlier run has stored it, that is gone now. What
        failed may be there still.
        """
        named = skipped if failure.is_skipped else failed
        if not failure.is_skipped:
            self.meet(failure.source)
            self._unread.append(failure.source)
        reason = failure.reason if failure.line is None else f"line {failure.line}: {failure.reason}"
        count = self._counts[failure.source] = self._counts.get(failure.source, 0) + 1
        earlier = named.get(failure.source)
        if earlier is None:
            named[failure.source] = reason
        elif count <= NAMED_FAILURES:
            named[failure.source] = f"{earlier}; {reason}"
        else:
            named[failure.source] = f"{earlier.partition(' (and ')[0]} (and {count - NAMED_FAILURES} more)"

    def in_scope(self, stored: Iterable[str]) -> list[str]:
        """Those of the stored sources that the run speaks for."""
        # A path or glob that led nowhere says nothing: more likely it is mistyped than that everything is gone.
        covers = [covers for name, covers in self._coverages if name is None or name not in self._unread]
        return sorted(source for source in stored if any(each(source) for each in covers))

    def absent(self, stored: Iterable[str]) -> list[str]:
        """The stored sources that the run speaks for and did not meet.

        What lies beneath something that could not be read (the rows of a table, the files of a folder) may be there.
        """
        return [
            source
            for source in self.in_scope(stored)
            if source not in self._seen and not any(_is_beneath(source, name) for name in self._unread)
        ]


def _has_pattern(pattern: str, source: str) -> bool:
    return fnmatch.fnmatchcase(source, pattern)


def _paths(documents: Any) -> list[str]:
    if isinstance(documents, str | os.PathLike):
        documents = [documents]
    if not isinstance(documents, list | tuple | set | frozenset):
        return []
    return [os.fspath(item) for item in documents if isinstance(item, str | os.PathLike)]


def _coverage(name: str, finder: FileFinder) -> Coverage:
    """What a path covers, decided in the order in which a finder decides what the path is."""
    source = finder.source_of(os.path.abspath(name))  # noqa: PTH100 - links are not followed
    if Path(name).is_dir():
        return lambda stored: source == "." or stored.startswith(f"{source}/")
    if os.path.lexists(name) or not glob.has_magic(name):
        return lambda stored: stored == source or stored.startswith(f"{source}#")
    pattern = source.split("/")
    return lambda stored: any(_matches(file.split("/"), pattern) for file in _possible_files(stored))


def _possible_files(source: str) -> Iterator[str]:
    """The source, and what stands before each `#`: the file that a row may be of."""
    yield source
    for place, character in enumerate(source):
        if character == "#":
            yield source[:place]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob finds a path: `*` stops at a slash, `**` does not, neither finds what is hidden."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _matches(parts, pattern[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    if pattern[0] == "**":
        return _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _is_beneath(source: str, name: str) -> bool:
    return name == "." or source.startswith((f"{name}#", f"{name}/"))
