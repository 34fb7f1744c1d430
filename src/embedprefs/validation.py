"""Values as written -> `Preferences`, or one problem for each key that is wrong."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.preferences import FieldDeclaration, Preferences, PromptsPreferences, Section, every_field, find_field
from embedprefs.preferences.declaration import allowed_words, section_of
from embedprefs.renamed import ARCHITECTURE_FIELDS, renamed_key
from embedprefs.toml_text import dotted, split_key

__all__ = [
    "Place",
    "kept",
    "merged_keys",
    "nearest_key",
    "nested",
    "no_place",
    "problems_in",
    "put",
    "secret_problem",
    "shown",
    "validated",
]

KeyPath = tuple[str, ...]
#: Dotted key -> where it was written: a source to show, and a line.
Place = Callable[[str], tuple[str | None, int | None]]

_LONGEST_SHOWN = 80
_SECRET_NAME = re.compile(
    r"(^|[_-])(api[_-]?key|(access|auth|hub|hf|bearer|api)[_-]?token|access[_-]?key|secret([_-]?key)?|private[_-]?key"
    r"|passwd|password|credentials?|authorization|bearer)$|^token$",
    re.IGNORECASE,
)
#: Values that are secrets under whatever key they stand.
_SECRET_VALUE = re.compile(r"^(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|Bearer\s+\S+)$")
_URL_WITH_PASSWORD = re.compile(r"^[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)

#: What others write for a value -> what it is called here.
_VALUE_WORDS: Mapping[str, str] = {
    "fp16": "float16",
    "half": "float16",
    "torch.float16": "float16",
    "bf16": "bfloat16",
    "torch.bfloat16": "bfloat16",
    "fp32": "float32",
    "float": "float32",
    "full": "float32",
    "torch.float32": "float32",
    "gpu": "cuda",
    "flash_attention": "flash_attention_2",
    "flash-attn": "flash_attention_2",
    "cos": "cosine",
    "cos_sim": "cosine",
    "cosine_similarity": "cosine",
    "dot_product": "dot",
    "dot_score": "dot",
    "l2": "euclidean",
    "l1": "manhattan",
    "max_pooling": "max",
    "average": "mean",
    "last": "lasttoken",
    "last_token": "lasttoken",
    "ov": "openvino",
    "pytorch": "torch",
}


def no_place(_key: str) -> tuple[str | None, int | None]:
    """Say that values were written nowhere that could be shown."""
    return None, None


def shown(value: Any) -> str:
    """Return a value as a message shows it: as TOML would write it, shortened, tables by their kind alone."""
    if isinstance(value, Mapping):
        return "a table" if value else "an empty table"
    if isinstance(value, (list, tuple)):
        return _short("[" + ", ".join(shown(item) for item in value[:20]) + "]")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if _SECRET_VALUE.match(value) or _URL_WITH_PASSWORD.match(value):
            return "a secret (not shown)"
        return json.dumps(value[:_LONGEST_SHOWN] + ("…" if len(value) > _LONGEST_SHOWN else ""), ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > 256:  # printing thousands of digits is an error in Python
        return "a number of more than 77 digits"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


# --- Secrets -------------------------------------------------------------------------------------------------------


def secret_problem(path: KeyPath, value: Any, place: Place = no_place) -> Problem | None:
    """Return the problem of a value that looks like a secret; None where it does not. The value is never part of it."""
    if not isinstance(value, str):
        return None
    named = bool(path) and bool(_SECRET_NAME.search(path[-1])) and find_field(dotted(path)) is None
    if not (named and value) and not _SECRET_VALUE.match(value) and not _URL_WITH_PASSWORD.match(value):
        return None
    key = dotted(path)
    source, line = place(key)
    store = path[:1] == ("index",) or bool(_URL_WITH_PASSWORD.match(value))
    variable = "QDRANT_API_KEY" if store else "WANDB_API_KEY" if "wandb" in key else "HF_TOKEN"
    return Problem(
        f"{key} holds a secret; secrets stand in no preferences.",
        key=key,
        fix=f"Remove it, and set the environment variable {variable} instead.",
        source=source,
        line=line,
    )


def _secrets(values: Any, path: KeyPath, place: Place) -> Iterator[tuple[KeyPath, Problem]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _secrets(value, (*path, str(name)), place)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _secrets(value, path, place)
    else:
        problem = secret_problem(path, values, place)
        if problem is not None:
            yield path, problem


# --- Names ---------------------------------------------------------------------------------------------------------


@cache
def _names_by_section() -> Mapping[str, tuple[str, ...]]:
    """Section -> the names that may stand in it, sub-tables included."""
    names: dict[str, list[str]] = {}
    for declaration in every_field():
        parts = declaration.key.split(".")
        for end in range(len(parts)):
            held = names.setdefault(".".join(parts[:end]), [])
            if parts[end] not in held:
                held.append(parts[end])
    return {section: tuple(held) for section, held in names.items()}


def _as_declared(path: KeyPath) -> KeyPath:
    """Return a path with the names that the user chose written as `*`."""
    names = _names_by_section()
    declared: list[str] = []
    for part in path:
        held = names.get(".".join(declared), ())
        declared.append(part if part in held or "*" not in held else "*")
    return tuple(declared)


def nearest_key(key: str) -> str | None:
    """Return the declared key that an unknown one most likely means; None where nothing is near.

    First the names of its own section, then those of every other.

    >>> nearest_key("compute.devise")
    'compute.device'
    >>> nearest_key("vectors.batch_tokens")
    'compute.batch_tokens'
    """
    renamed = renamed_key(key)
    if renamed is not None:
        return renamed
    section, _, name = key.rpartition(".")
    names = _names_by_section()
    own = names.get(".".join(_as_declared(tuple(section.split(".")))) if section else "", ())
    close = difflib.get_close_matches(name, own, n=1, cutoff=0.72)
    if close:
        return f"{section}.{close[0]}" if section else close[0]
    leaves: dict[str, str] = {}
    for declaration in every_field():
        if "*" not in declaration.key:
            leaves.setdefault(declaration.name, declaration.key)
    if name in leaves:
        return leaves[name]
    sections = [item for item in names.get("", ()) if item in names]
    if not section and (close := difflib.get_close_matches(name, sections, n=1, cutoff=0.72)):
        return close[0]
    if section and section not in names:
        # The section itself is misspelt: look for the name in the section it most likely means.
        for likely in difflib.get_close_matches(section, list(names), n=1, cutoff=0.72):
            return nearest_key(f"{likely}.{name}") if name not in names[likely] else f"{likely}.{name}"
    close = difflib.get_close_matches(name, list(leaves), n=1, cutoff=0.8)
    return leaves[close[0]] if close else None


def _unknown(path: KeyPath, value: Any, place: Place) -> Problem:
    key = dotted(path)
    source, line = place(key)
    table = path[:-1]
    names = _names_by_section().get(".".join(_as_declared(table)), ())
    if isinstance(value, Mapping):
        message = f"[{key}] is no table of the preferences."
    else:
        message = f"{key} is not a preference."
    near = nearest_key(key)
    renamed = renamed_key(key)
    if path[-1] in ARCHITECTURE_FIELDS and table in ((), ("model",)):
        fix = (
            f"The checkpoint's config.json fixes {path[-1]}; another value would give other vectors or random weights. "
            "Remove it. (An untrained model of another shape: [model.config] with model.from_scratch = true.)"
        )
    elif renamed is not None:
        fix = f"It is called {renamed} here."
    elif near is not None:
        fix = f"Did you mean {near}?"
    else:
        fix = "Remove it."
    allowed = ", ".join(names)
    return Problem(message, key=key, value=kept(value), allowed=allowed, fix=fix, source=source, line=line)


def kept(value: Any) -> Any:
    """Return a value as a problem may keep it: None where it is a secret or holds one."""
    return None if any(True for _ in _secrets(value, (), no_place)) else value


# --- From pydantic's errors to problems ----------------------------------------------------------------------------


def _mapping_values(annotation: Any) -> Any:
    """Return the annotation of a `dict`'s values; None where the annotation is no `dict`."""
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _located(location: Sequence[int | str]) -> tuple[KeyPath, FieldDeclaration | None, str | None]:
    """Return the dotted key that a pydantic location is about, its declaration if it has one, and what it allows.

    Pydantic adds the tried alternatives of a union and list positions to a location; a reader knows only keys.
    """
    section: type[Section] | None = Preferences
    path: list[str] = []
    rest = [str(item) for item in location]
    while rest and section is not None:
        path.append(rest.pop(0))
        info = section.model_fields.get(path[-1])
        if info is None:
            return tuple(path), None, None
        section = section_of(info.annotation)
        mapped = _mapping_values(info.annotation)
        if mapped is not None and rest:
            path.append(rest.pop(0))
            section = section_of(mapped)
            if section is None:
                return tuple(path), None, "a name" if rest[:1] == ["[key]"] else allowed_words(mapped)
    declaration = find_field(".".join(path))
    return tuple(path), declaration, declaration.allowed if declaration is not None else None


def _value_problem(
    key: str, value: Any, *, declaration: FieldDeclaration | None, allowed: str | None, text: str, place: Place
) -> Problem:
    source, line = place(key)
    fix = _value_fix(declaration, value) if declaration is not None else None
    message = f"{key} is {shown(value)}."
    if text:
        message = text if key in text else f"{key}: {text}"
    return Problem(message, key=key, value=kept(value), allowed=allowed, fix=fix, source=source, line=line)


def _value_fix(declaration: FieldDeclaration, value: Any) -> str | None:
    if not isinstance(value, str):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "a text" in declaration.type:
            return f'Write it in quotes: {declaration.name} = "{shown(value)}"'
        return None
    plain = value.strip().lower()
    words = [*map(str, declaration.choices), *re.findall(r"[A-Za-z0-9_]+", declaration.allowed)]
    meant = _VALUE_WORDS.get(plain)
    if meant is not None and meant in words:
        return f'Did you mean "{meant}"?'
    if plain in ("true", "false", "yes", "no", "on", "off") and "true or false" in declaration.allowed:
        return f"Write it without quotes: {declaration.name} = {'true' if plain in ('true', 'yes', 'on') else 'false'}"
    if re.fullmatch(r"[+-]?\d+", plain) and "whole number" in declaration.allowed:
        return f"Write it without quotes: {declaration.name} = {plain}"
    choices = [str(choice) for choice in declaration.choices if isinstance(choice, str)]
    close = difflib.get_close_matches(plain, choices, n=1, cutoff=0.6)
    return f'Did you mean "{close[0]}"?' if close else None


def _problem(error: Mapping[str, Any], values: Mapping[str, Any], place: Place) -> tuple[KeyPath, Problem]:
    path, declaration, allowed = _located(error["loc"])
    kind = error["type"]
    value = _at(values, path, error.get("input"))
    if kind == "missing":
        source, line = place(dotted(path))
        return path, Problem(
            f"{dotted(path)} is not stated, and nothing else says it.",
            key=dotted(path),
            allowed=allowed,
            source=source,
            line=line,
        )
    if kind == "extra_forbidden":
        return path, _unknown(path, value, place)
    section = dotted(path)
    if allowed is None and kind in ("model_type", "model_attributes_type", "dict_type"):
        source, line = place(section)
        return path, Problem(
            f"{section} is {shown(value)}, but it is a table.",
            key=section,
            value=kept(value),
            allowed="a table",
            fix=f"Write [{section}] on a line of its own, and its keys beneath.",
            source=source,
            line=line,
        )
    text = str(error["msg"]).removeprefix("Value error, ") if kind in ("value_error", "assertion_error") else ""
    if path[:1] == ("prompts",) and len(path) > 1 and declaration is None:
        source, line = place(section)
        return path, Problem(
            f"{section} is {shown(value)}.",
            key=section,
            value=kept(value),
            allowed='a text; "" for deliberately no prompt',
            source=source,
            line=line,
        )
    return path, _value_problem(section, value, declaration=declaration, allowed=allowed, text=text, place=place)


def _at(values: Any, path: KeyPath, default: Any) -> Any:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values


def _refused_prompts(values: Mapping[str, Any], place: Place) -> Iterator[tuple[KeyPath, Problem]]:
    """Find prompts under names that the host never applies; said here, each with its own line."""
    prompts = values.get("prompts")
    if not isinstance(prompts, Mapping):
        return
    declared = PromptsPreferences.model_fields
    for name, value in prompts.items():
        renamed = renamed_key(f"prompts.{name}")
        if name in declared or renamed not in ("prompts.query", "prompts.document") or not isinstance(value, str):
            continue
        if renamed.rpartition(".")[2] in prompts and name not in ("passage", "corpus"):
            continue  # the role itself is stated, so this is a further prompt that goes by that name
        path = ("prompts", str(name))
        source, line = place(dotted(path))
        yield (
            path,
            Problem(
                f"{dotted(path)} would never be applied: the host knows the two roles as query and document.",
                key=dotted(path),
                value=value,
                fix=f"It is called {renamed} here.",
                source=source,
                line=line,
            ),
        )


def problems_in(values: Mapping[str, Any], place: Place = no_place, *, complete: bool = False) -> list[Problem]:
    """Return everything that is wrong with nested values, one problem for each key.

    Args:
        values: Nested tables as a file or another layer states them.
        place: Where each dotted key was written.
        complete: False for one layer of several, which need not state what is required.
    """
    found: dict[KeyPath, Problem] = {}
    secrets = dict(_secrets(values, (), place))
    found.update(_refused_prompts(values, place))
    try:
        Preferences.model_validate(values)
    except ValidationError as failure:
        for error in failure.errors(include_url=False):
            if error["type"] == "missing" and not complete:
                continue
            path, problem = _problem(error, values, place)
            found.setdefault(path, problem)
    except RecursionError:
        source, line = place("")
        found[()] = Problem("tables are nested too deeply.", source=source, line=line)
    # What a section's own rule says is left out where one of the section's keys already says it.
    beneath = {path[:end] for path in (*found, *secrets) for end in range(1, len(path))}
    kept = {path: problem for path, problem in found.items() if path not in beneath}
    problems = {**kept, **secrets}.values()
    return sorted(problems, key=lambda problem: problem.line or 0)


def validated(values: Mapping[str, Any], place: Place = no_place) -> Preferences:
    """Return nested values as preferences.

    Raises:
        InvalidPreferenceError: something is wrong; every problem is listed.
    """
    problems = problems_in(values, place, complete=True)
    if problems:
        raise InvalidPreferenceError(problems)
    return Preferences.model_validate(values)


# --- Dotted keys and nested tables ---------------------------------------------------------------------------------


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with dotted keys, nested tables or both as nested tables alone.

    Paths become texts, since TOML has none.

    Raises:
        InvalidPreferenceError: a key is no dotted key, or two keys contradict each other.
    """
    tree, problems = merged_keys(values)
    if problems:
        raise InvalidPreferenceError(problems)
    return tree


def merged_keys(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a mapping as `nested` does, with the problems of those keys that had to be left out."""
    tree: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in values.items():
        try:
            path = split_key(key) if isinstance(key, str) else ()
        except ValueError:
            path = ()
        if not path:
            problems.append(Problem(f"{key!r} is no key.", key=str(key), allowed="a dotted key such as compute.device"))
        elif not put(tree, path, _plain(value)):
            problems.append(
                Problem(f"{dotted(path)} is stated twice, with values that exclude each other.", key=dotted(path))
            )
    return tree, problems


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def put(tree: dict[str, Any], path: KeyPath, value: Any) -> bool:
    """Put a value at a path of nested tables; tables are merged. False where it contradicts what stands there."""
    name, rest = path[0], path[1:]
    if rest:
        inner = tree.setdefault(name, {})
        return isinstance(inner, dict) and put(inner, rest, value)
    if isinstance(value, dict):
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            return False
        results = [put(inner, (str(key),), item) for key, item in value.items()]
        return all(results)
    if name in tree:
        return False
    tree[name] = value
    return True
