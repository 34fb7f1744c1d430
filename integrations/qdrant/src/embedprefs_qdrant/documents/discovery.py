"""Which files a path, a folder or a glob names: in a fixed order, each once, with ignore files obeyed."""

# A walk compares the texts of many paths, and `Path.resolve` would follow the links that it has to see.
# ruff: noqa: PTH100, PTH112, PTH118, PTH119, PTH120, PTH207
from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs_qdrant.documents.document import SourceError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["FileFinder", "FoundFile", "names_nothing"]


@dataclass(frozen=True)
class FoundFile:
    """A file to read, and the name its document gets."""

    path: Path
    source: str
    is_named: bool
    """Whether the caller named this very file, so that an unknown type is a failure instead of a skip."""


class FileFinder:
    """Finds the files behind paths, folders and globs.

    `exclude` holds for every file. `include` and `.gitignore` hold for files found in folders and by globs; a file that
    is named itself is read whatever they say. Patterns are those of `.gitignore`, relative to the root.
    `.git` folders are never entered.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        *,
        include: Iterable[str],
        exclude: Iterable[str],
        respect_gitignore: bool,
    ) -> None:
        self._root = os.path.abspath(root if root is not None else Path.cwd())
        self._include = _compile(include, "index.include")
        self._exclude = _compile(exclude, "index.exclude")
        self._respect_gitignore = respect_gitignore
        self._gitignores: dict[str, GitIgnoreSpec | None] = {}
        self._repositories: dict[str, str | None] = {}

    def find(self, name: str | os.PathLike[str]) -> Iterator[FoundFile | SourceError]:
        """Yield the files that one path, folder or glob names, sorted by name within each folder.

        What cannot be looked into is yielded as an error, and the search goes on.
        """
        path = os.fspath(name)
        if os.path.isdir(path):
            folder = os.path.abspath(path)
            yield from self._walk(folder, self._top(folder))
        elif os.path.lexists(path):
            yield from self._named(path)
        elif glob.has_magic(path):
            yield from self._matches(path)
        else:
            yield SourceError(
                "There is no such file or folder. Check the path; a relative one starts at the working directory.",
                "missing",
                source=self.source_of(os.path.abspath(path)),
            )

    def source_of(self, path: str) -> str:
        """A file's stable name: its path relative to the root, with forward slashes."""
        try:
            relative = os.path.relpath(path, self._root)
            if _is_outside(relative):
                # The root and the path may name one folder differently (a link such as macOS's /tmp).
                real = os.path.relpath(os.path.realpath(path), os.path.realpath(self._root))
                relative = relative if _is_outside(real) else real
        except ValueError:  # another drive on Windows
            relative = path
        return relative.replace(os.sep, "/").encode(errors="backslashreplace").decode()

    def _named(self, path: str) -> Iterator[FoundFile | SourceError]:
        path = os.path.abspath(path)
        if not self._is_excluded(path, is_folder=False):
            yield FoundFile(Path(path), self.source_of(path), is_named=True)

    def _matches(self, pattern: str) -> Iterator[FoundFile | SourceError]:
        matched = sorted(glob.glob(pattern, recursive=True))
        if not matched:
            yield SourceError("No file matches this pattern. Check it; ** crosses folders.", "missing", source=pattern)
        files_only = [match for match in matched if not os.path.isdir(match)]
        # `docs/**` matches folders and what is in them: the files alone are the answer. `docs/*/` means the folders.
        if files_only:
            for match in files_only:
                path = os.path.abspath(match)
                if self._is_wanted(path) and not self._is_ignored_with_parents(path, self._top(os.path.dirname(path))):
                    yield FoundFile(Path(path), self.source_of(path), is_named=False)
        else:
            for match in matched:
                folder = os.path.abspath(match)
                yield from self._walk(folder, self._top(folder))

    def _walk(
        self, folder: str, top: str, ancestors: frozenset[str] = frozenset()
    ) -> Iterator[FoundFile | SourceError]:
        real = os.path.realpath(folder)
        if real in ancestors:
            return  # a link that leads back to a folder above: its files are being read already
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield SourceError(
                f"The folder cannot be read: {error.strerror or error}.", "unreadable", source=self.source_of(folder)
            )
            return
        for entry in found:
            path = os.path.join(folder, entry.name)
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself: reading it as a file reports what is wrong
                is_folder = False
            if is_folder and (entry.name == ".git" or self._is_excluded(path, is_folder=True)):
                continue
            if self._is_ignored(path, top, is_folder=is_folder):
                continue
            if is_folder:
                yield from self._walk(path, top, ancestors | {real})
            elif self._is_wanted(path):
                yield FoundFile(Path(path), self.source_of(path), is_named=False)

    def _is_wanted(self, path: str) -> bool:
        if self._is_excluded(path, is_folder=False):
            return False
        return self._include is None or self._include.match_file(self._pattern_path(path))

    def _is_excluded(self, path: str, *, is_folder: bool) -> bool:
        name = self._pattern_path(path)
        return self._exclude is not None and self._exclude.match_file(f"{name}/" if is_folder else name)

    def _pattern_path(self, path: str) -> str:
        parts = self.source_of(path).split("/")
        return "/".join(part for part in parts if part != "..")

    def _top(self, folder: str) -> str:
        """The highest folder whose ignore file counts: the repository's, else the root, else the folder itself."""
        return self._repository(folder) or (folder if _is_outside(os.path.relpath(folder, self._root)) else self._root)

    def _is_ignored_with_parents(self, path: str, top: str) -> bool:
        """Whether git would ignore the file, because of itself or of a folder that holds it."""
        folders: list[str] = []
        folder = os.path.dirname(path)
        while folder != top and os.path.dirname(folder) != folder:
            folders.append(folder)
            folder = os.path.dirname(folder)
        if any(os.path.basename(each) == ".git" for each in folders):
            return True
        return any(self._is_ignored(each, top, is_folder=True) for each in folders) or self._is_ignored(
            path, top, is_folder=False
        )

    def _is_ignored(self, path: str, top: str, *, is_folder: bool) -> bool:
        """Whether the nearest ignore file with an opinion about this path says so."""
        if not self._respect_gitignore:
            return False
        folder = os.path.dirname(path)
        while True:
            spec = self._gitignore(folder)
            if spec is not None:
                name = os.path.relpath(path, folder).replace(os.sep, "/")
                verdict = spec.check_file(f"{name}/" if is_folder else name).include
                if verdict is not None:
                    return verdict
            parent = os.path.dirname(folder)
            if folder in (top, parent):
                return False
            folder = parent

    def _gitignore(self, folder: str) -> GitIgnoreSpec | None:
        if folder not in self._gitignores:
            from pathspec import GitIgnoreSpec

            try:
                text = Path(folder, ".gitignore").read_text(encoding="utf-8", errors="replace")
            except OSError:  # none here, or not ours to read: git itself goes on without it
                self._gitignores[folder] = None
            else:
                self._gitignores[folder] = GitIgnoreSpec.from_lines(text.splitlines())
        return self._gitignores[folder]

    def _repository(self, folder: str) -> str | None:
        """The folder above that holds `.git`, if any."""
        if folder not in self._repositories:
            if os.path.lexists(os.path.join(folder, ".git")):
                self._repositories[folder] = folder
            else:
                parent = os.path.dirname(folder)
                self._repositories[folder] = None if parent == folder else self._repository(parent)
        return self._repositories[folder]


def names_nothing(name: str | os.PathLike[str]) -> bool:
    """Whether a path, folder or glob leads to no file and no folder."""
    path = os.fspath(name)
    if os.path.lexists(path):
        return False
    return not glob.has_magic(path) or next(glob.iglob(path, recursive=True), None) is None


def _is_outside(relative: str) -> bool:
    return relative == os.pardir or relative.startswith(os.pardir + os.sep)


def _compile(patterns: Iterable[str], key: str) -> GitIgnoreSpec | None:
    lines = [patterns] if isinstance(patterns, str) else list(patterns)
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise InvalidPreferenceError(
            Problem(
                f"{key} holds a pattern that cannot be read: {error}",
                key=key,
                value=lines,
                allowed="patterns as in .gitignore, such as docs/**/*.md or !draft.md",
            )
        ) from error
