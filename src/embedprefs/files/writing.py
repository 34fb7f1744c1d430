"""Write preferences to a file, in place and at once."""

from __future__ import annotations

import errno
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError, Problem
from embedprefs.files.editing import rendered, with_value, without_empty_tables, without_key
from embedprefs.files.paths import rebased
from embedprefs.files.reading import ReadFile, read_toml_file, refuse_model_folder, table_of
from embedprefs.preferences import SCHEMA_VERSION, Layer, Preferences
from embedprefs.toml_text import KeyPath, dotted, split_key, table_at
from embedprefs.validation import nested, problems_in, secret_problem

__all__ = ["write_preferences", "write_text"]

#: Layers that hold on one machine or in one process; what they say does not belong into a file that is shared.
_ELSEWHERE = (Layer.USER_FILE, Layer.TUNED_LOCK, Layer.ENVIRONMENT)


def write_preferences(
    preferences: Preferences | Mapping[str, Any] | None,
    path: Path | str,
    *,
    force: bool = False,
    values: Mapping[str, Any] | None = None,
) -> Path:
    """Write preferences to a file; comments, order and formatting of a file that exists survive.

    The file then states what `preferences` states: changed values are replaced where they stand, new ones take the
    place of their commented-out default, others are removed. Values that came from the user file, `tuned.lock` or the
    environment are not written and left as the file has them, since they hold on one machine alone; so are values of
    the file that it `extends`. In another folder, `extends` is resolved and relative paths of preferences that
    were read from a file are written as seen from there. With `values` only the keys named there are touched.

    The file is replaced at once: a reader, or a power cut, finds the old or the new one.

    Args:
        preferences: What to write; a mapping (nested, or with dotted keys) is checked first. May be None with `values`.
        path: The file; in a pyproject.toml the table `[tool.embedprefs]` is written.
        force: Also write over a file that states another model, or that is not TOML.
        values: Dotted key -> value, to change these alone; None removes a key.

    Returns:
        The path that was written.

    Raises:
        InvalidPreferenceError: a value is not allowed, is a secret, or cannot stand in TOML.
        PreferencesFileError: the file cannot be read or written, lies in a model's folder, or states another model.
    """
    path = Path(path)
    refuse_model_folder(path)
    read = _existing(path, force=force)
    present = dict(_leaves(read.values, ())) if read is not None else {}
    if values is not None:
        wanted, removed = _changes(values, str(path))
    elif preferences is None:
        raise ValueError("write_preferences needs preferences, or values.")
    else:
        wanted, kept = _wanted(preferences, path, read)
        removed = [key for key in present if key not in wanted and key not in kept and key != ("schema_version",)]
        _refuse_other_model(path, present, wanted, force=force)
    if read is None and ("schema_version",) not in wanted:
        wanted = {("schema_version",): SCHEMA_VERSION, **wanted}
    _refuse_secrets(wanted, path)
    text = _edited(path, read, present, wanted, removed)
    if read is None or text != read.text:
        write_text(path, text)
    return path


def _existing(path: Path, *, force: bool) -> ReadFile | None:
    if not path.exists():
        return None
    if path.is_file() and path.stat().st_size == 0:
        return None
    try:
        return read_toml_file(path)
    except PreferencesFileError:
        if path.name == "pyproject.toml":
            return _project_without_table(path)
        if force and path.is_file():
            return None
        raise


def _project_without_table(path: Path) -> ReadFile:
    """Return a pyproject.toml that has no `[tool.embedprefs]` yet; one that is no TOML is never written over."""
    whole = read_toml_file(path, table=())
    table = table_of(path)
    if table_at(whole.values, table) is not None:
        raise PreferencesFileError(f"{path}: {'.'.join(table)} is no table.", file=path)
    return ReadFile(path, {}, {}, table, whole.text)


def _leaves(values: Mapping[str, Any], prefix: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for name, value in values.items():
        path = (*prefix, str(name))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        elif not isinstance(value, Mapping) or len(path) > 1:  # an empty section says nothing, an empty table may
            yield path, value


def _changes(values: Mapping[str, Any], source: str) -> tuple[dict[KeyPath, Any], list[KeyPath]]:
    wanted: dict[KeyPath, Any] = {}
    removed: list[KeyPath] = []
    for key, value in values.items():
        if value is None:
            removed.append(split_key(key))
        else:
            wanted.update(_leaves(nested({key: value}), ()))
    problems = problems_in(nested({dotted(path): value for path, value in wanted.items()}), lambda _key: (source, None))
    if problems:
        raise InvalidPreferenceError(problems)
    return wanted, removed


def _wanted(
    preferences: Preferences | Mapping[str, Any], path: Path, read: ReadFile | None
) -> tuple[dict[KeyPath, Any], set[KeyPath]]:
    """Return what the file is to state, and the keys that other layers hold."""
    if not isinstance(preferences, Preferences):
        tree = nested(preferences)
        problems = problems_in(tree, lambda _key: (str(path), None), complete="extends" not in tree)
        if problems:
            raise InvalidPreferenceError(problems)
        return {key: value for key, value in _leaves(tree, ()) if value is not None}, set()
    dumped = preferences.model_dump(exclude_unset=True, exclude_none=True)
    same_folder = path.absolute().parent == preferences.folder.absolute()
    extends = preferences.extends is not None and same_folder
    if not extends:
        dumped.pop("extends", None)
    if preferences.file is not None:
        dumped = rebased(dumped, preferences.folder.absolute(), path.absolute().parent)
    wanted: dict[KeyPath, Any] = {}
    kept: set[KeyPath] = set()
    for key, value in _leaves(dumped, ()):
        origin = preferences.origins.get(dotted(key))
        if origin is not None and origin.layer in _ELSEWHERE:
            kept.add(key)
            continue
        in_file = read is not None and table_at(read.values, key) is not None
        in_project = origin is not None and origin.layer is Layer.PROJECT_FILE
        from_base = in_project and origin is not None and Path(origin.source).absolute() != preferences.file
        if not (extends and from_base and not in_file):
            wanted[key] = value
    return wanted, kept


def _refuse_other_model(
    path: Path, present: Mapping[KeyPath, Any], wanted: Mapping[KeyPath, Any], *, force: bool
) -> None:
    stated, new = present.get(("model", "name")), wanted.get(("model", "name"))
    if stated is not None and new is not None and stated != new and not force:
        raise PreferencesFileError(
            f"{path}: states the model {stated!r}; these preferences are for {new!r}.\n"
            f"  One file is one embedding space: write another file, or use force to write over this one.",
            file=path,
        )


def _refuse_secrets(wanted: Mapping[KeyPath, Any], path: Path) -> None:
    problems: list[Problem] = []
    for key, value in wanted.items():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            problem = secret_problem(key, item, lambda _key: (str(path), None))
            if problem is not None:
                problems.append(problem)
    if problems:
        raise InvalidPreferenceError(problems)


def _edited(
    path: Path,
    read: ReadFile | None,
    present: Mapping[KeyPath, Any],
    wanted: Mapping[KeyPath, Any],
    removed: list[KeyPath],
) -> str:
    text = read.text if read is not None else ""
    root = table_of(path)
    changed = {key: value for key, value in wanted.items() if not _same(present, key, value)}
    for key in removed:
        text = without_key(text, root + key)
    for key, value in changed.items():
        try:
            rendered(value)
        except ValueError as error:
            raise InvalidPreferenceError(
                Problem(f"{dotted(key)}: {error}", key=dotted(key), source=str(path), fix="Write a text or a number.")
            ) from error
        text = with_value(text, root + key, value, root=root)
    left = {root + key for key in (*wanted, *present) if key not in removed}
    text = without_empty_tables(text, left, root=root)
    _verify(path, text, {key: value for key, value in {**present, **wanted}.items() if key not in removed}, root)
    return text


def _same(present: Mapping[KeyPath, Any], key: KeyPath, value: Any) -> bool:
    return key in present and type(present[key]) is type(value) and bool(present[key] == value)


def _verify(path: Path, text: str, expected: Mapping[KeyPath, Any], root: KeyPath) -> None:
    """Read what is about to be written, so that a file is never left saying something else."""
    problem: Exception | None = None
    found: dict[KeyPath, Any] = {}
    try:
        found = dict(_leaves(table_at(tomllib.loads(text), root) or {}, ()))
    except ValueError as error:
        problem = error
    if problem is not None or any(repr(found.get(key)) != repr(_plain(value)) for key, value in expected.items()):
        raise PreferencesFileError(
            f"{path}: cannot be changed in place, because of the way its tables are written.\n"
            f"  Write each section as a table of its own ([compute], then its keys), or write a new file.",
            file=path,
        ) from problem


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def write_text(path: Path | str, text: str) -> None:
    """Replace a file's content at once; its permissions are kept, and a link still points to it.

    Raises:
        PreferencesFileError: the file cannot be written.
    """
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    if target.exists() and not os.access(target, os.W_OK):
        raise _unwritable(path, PermissionError(errno.EACCES, "it is read-only"))
    try:
        with temporary.open("xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut; folders cannot be opened on Windows, where this is not needed."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path | str, error: OSError) -> PreferencesFileError:
    return PreferencesFileError(
        f"{path}: cannot be written ({error.strerror}).\n  Choose a folder that exists and that you may write to.",
        file=path,
    )
