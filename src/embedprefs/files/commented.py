"""The file that `init` writes: what a model needs, and every other preference commented out with what it does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from embedprefs.errors import InvalidPreferenceError
from embedprefs.files.editing import rendered
from embedprefs.preferences import SCHEMA_VERSION, FieldDeclaration, Kind, Preferences, every_field
from embedprefs.preferences.declaration import section_of
from embedprefs.toml_text import KeyPath, dotted, split_key
from embedprefs.validation import problems_in, put

__all__ = ["commented_file"]

_WIDTH = 100
#: Values to show for preferences that have neither a default nor an example of their own.
_PLACEHOLDERS: Mapping[str, Any] = {
    "extends": "base.toml",
    "model.revision": "main",
    "model.adapter": {"name": "your-name/your-adapter", "revision": "main"},
    "model.cache_folder": "models",
    "training.evaluation_data": "evaluation",
    "training.distill_from": "your-name/a-larger-model",
    "training.split.document_column": "source",
    "index.hnsw.m": 16,
    "index.hnsw.ef_construct": 100,
    "index.hnsw.ef": 128,
    "index.tenant_field": "tenant",
    "index.vectors": {"title": {"model": {"name": "your-name/your-model"}, "prompts": {"query": "title: "}}},
    "rerank.revision": "main",
    "sparse.revision": "main",
}


def commented_file(
    model_name: str, *, stated: Mapping[str, Any] | None = None, notes: Mapping[str, str] | None = None
) -> str:
    """Return the text of a preferences file for a model.

    Only `model.name` and what is stated are active. Every other preference stands there commented out (`#key = value`)
    with its description and what is allowed, so that the file hides no layer beneath it.

    Args:
        model_name: Hub name or folder.
        stated: Dotted key -> value, to stand there actively: the revision, the prompts the model needs.
        notes: Dotted key -> a sentence to write above the value; `""` for one at the top of the file.

    Raises:
        InvalidPreferenceError: a stated value is not allowed.
        ValueError: a note is about a key that is not stated.
    """
    active: dict[KeyPath, Any] = {("model", "name"): model_name}
    active.update({split_key(key): value for key, value in (stated or {}).items()})
    tree: dict[str, Any] = {}
    for path, value in active.items():
        put(tree, path, value)
    problems = problems_in(tree, complete=True)
    if problems:
        raise InvalidPreferenceError(problems)
    remarks = {split_key(key) if key else (): text for key, text in (notes or {}).items()}
    misplaced = [dotted(path) for path in remarks if path and path not in active]
    if misplaced:
        raise ValueError(f"notes about keys that are not stated: {', '.join(misplaced)}")
    lines = [
        *_prose(f"Preferences for {model_name}."),
        *_prose(remarks.get((), "")),
        *_prose(
            "A line that begins with # directly before a key is a default or, where there is none, an example; take "
            "the # away to change it. `embedprefs explain KEY` says more, `embedprefs check` checks the file."
        ),
        "",
        f"schema_version = {SCHEMA_VERSION}",
    ]
    sections = list(dict.fromkeys(path[0] for path, _ in _shown_fields() if len(path) > 1))
    lines += _section((), active, remarks)
    for section in sections:
        title = (Preferences.model_fields[section].description or "").strip()
        lines += ["", f"# {'-' * 3} {title}", f"[{section}]", *_section((section,), active, remarks)]
    return "\n".join(lines).rstrip() + "\n"


def _prose(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), _WIDTH)]


@cache
def _shown_fields() -> tuple[tuple[KeyPath, FieldDeclaration], ...]:
    """Return what the file shows, by path: every preference, and tables with names of the user's as one line."""
    whole = {split_key(key) for key in ("model.adapter", "index.vectors")}
    found: dict[KeyPath, FieldDeclaration] = {}
    for declaration in every_field():
        path: KeyPath = tuple(declaration.key.split("."))
        around = next((key for key in whole if path[: len(key)] == key), None)
        if around is None:
            found[path] = declaration
        elif around not in found:
            found[around] = _as_one_line(around, declaration)
    return tuple(found.items())


def _as_one_line(path: KeyPath, declaration: FieldDeclaration) -> FieldDeclaration:
    section = Preferences
    for part in path[:-1]:
        inner = section_of(section.model_fields[part].annotation)
        assert inner is not None  # noqa: S101 - the path is declared
        section = inner  # type: ignore[assignment]
    description = section.model_fields[path[-1]].description or ""
    return FieldDeclaration(
        key=dotted(path),
        kind=declaration.kind,
        type="a table",
        allowed="a table",
        default=None,
        effective_default="none",
        description=" ".join(description.split()),
        example=None,
        choices=(),
        required=False,
    )


def _section(table: KeyPath, active: Mapping[KeyPath, Any], remarks: Mapping[KeyPath, str]) -> Iterator[str]:
    """Yield the lines of one table: described preferences, then active keys that no declaration names."""
    written: set[KeyPath] = set()
    for path, declaration in _shown_fields():
        inside = path[0] == table[0] and len(path) > 1 if table else len(path) == 1
        if not inside or declaration.key == "schema_version":
            continue
        yield ""
        yield from _prose(declaration.description)
        yield from _prose(_allowed(declaration))
        held = [key for key in active if key[: len(path)] == path]
        for key in held:
            yield from _prose(remarks.get(key, ""))
            yield _line(key, active[key], len(table))
        if not held:
            yield f"#{_line(path, _shown_value(declaration), len(table))}"
        written.update(held)
    for key, value in active.items():
        if table and key[: len(table)] == table and key not in written:
            yield ""
            yield from _prose(remarks.get(key, ""))
            yield _line(key, value, len(table))


def _line(path: KeyPath, value: Any, depth: int) -> str:
    return f"{dotted(path[depth:])} = {rendered(value)}"


def _allowed(declaration: FieldDeclaration) -> str:
    parts = [] if declaration.allowed == "a table" else [f"Allowed: {declaration.allowed}."]
    if declaration.required:
        return " ".join([*parts, "Required."])
    if declaration.default is None and declaration.effective_default not in ("not stated", "none"):
        parts.append(f"Not stated: {declaration.effective_default}.")
    if declaration.kind is Kind.IDENTITY:
        parts.append("Changes the vectors.")
    return " ".join(parts)


def _shown_value(declaration: FieldDeclaration) -> Any:
    """Return the default where there is one that TOML can write; otherwise an example."""
    if declaration.default is not None and declaration.default not in ({}, []):
        return declaration.default
    if declaration.key in _PLACEHOLDERS:
        return _PLACEHOLDERS[declaration.key]
    if declaration.default is not None:
        return declaration.default
    if declaration.example is not None:
        return declaration.example
    if declaration.choices:
        return declaration.choices[0]
    return {"true or false": True, "a whole number": 1, "a number": 1.0}.get(declaration.type, "...")
