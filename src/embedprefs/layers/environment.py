"""Preferences from environment variables and from `--set`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.layers.stated import StatedLayer
from embedprefs.preferences import Layer, every_field, find_field
from embedprefs.toml_text import KeyPath, dotted, split_key
from embedprefs.validation import merged_keys, nearest_key, problems_in, put, secret_problem

__all__ = ["RESERVED_VARIABLES", "environment_layer", "explicit_layer", "parse_set_option", "variable_of"]

PREFIX = "EMBEDPREFS_"
#: Variables that are no preferences -> what they are for.
RESERVED_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "EMBEDPREFS_PREFERENCES": "the preferences file to use",
        "EMBEDPREFS_CACHE": "the folder for what is computed once and kept, such as hashes of weights",
        "EMBEDPREFS_TEST_DATA": "the folder with the texts that the tests and benchmarks use",
        "EMBEDPREFS_DEBUG": "show the traceback of an error",
    }
)
#: Keys that say something about a file and have no meaning outside one.
_FILE_KEYS = ("schema_version", "extends")


def variable_of(key: str) -> str:
    """Return the environment variable of a dotted key.

    >>> variable_of("compute.device")
    'EMBEDPREFS_COMPUTE__DEVICE'
    """
    return PREFIX + key.replace(".", "__").upper()


def environment_layer(environment: Mapping[str, str]) -> StatedLayer:
    """Return what variables such as `EMBEDPREFS_COMPUTE__DEVICE=cpu` state.

    A value is read as TOML where that gives something the preference accepts, else as the text it is. Names are not
    case-sensitive; `__` separates section and key.
    """
    values: dict[str, Any] = {}
    variables: dict[str, str] = {}
    problems: list[Problem] = []
    for variable in sorted(environment):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in RESERVED_VARIABLES:
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        source = f"environment variable {variable}"
        if path[0] in _FILE_KEYS:
            problems.append(_not_here(path, source))
        elif not _is_settable(path):
            problems.append(_unknown_variable(variable, path, environment[variable], source))
        else:
            value = parsed(path, environment[variable])
            if put(values, path, value):
                variables[dotted(path)] = source
            else:
                text = f"{variable} contradicts another variable for the same preference."
                problems.append(Problem(text, key=dotted(path), fix="Unset one of them.", source=source))

    def place(key: str) -> tuple[str | None, int | None]:
        around = key
        while around:
            if around in variables:
                return variables[around], None
            around = around.rpartition(".")[0]
        beneath = next((source for name, source in variables.items() if name.startswith(f"{key}.")), None)
        return beneath, None

    return StatedLayer(Layer.ENVIRONMENT, values, place, tuple(problems))


def _not_here(path: KeyPath, source: str) -> Problem:
    key = dotted(path)
    return Problem(
        f"{key} says something about a file; it cannot come from here.",
        key=key,
        fix="Write it at the top of the preferences file.",
        source=source,
    )


def _is_settable(path: KeyPath) -> bool:
    """Return True for a preference, for a prompt of any name, and for what lies in a free table."""
    if any(not part for part in path):
        return False
    if len(path) == 2 and path[0] == "prompts":
        return True
    return any(
        (declaration := find_field(".".join(path[:end]))) is not None
        and (end == len(path) or "a table" in declaration.type)
        for end in range(1, len(path) + 1)
    )


def _unknown_variable(variable: str, path: KeyPath, value: str, source: str) -> Problem:
    secret = secret_problem(path, value)
    if secret is not None:
        return Problem(secret.message, key=secret.key, fix=secret.fix, source=source)
    near = nearest_key(dotted(path)) if all(path) else None
    reserved = difflib.get_close_matches(variable.upper(), RESERVED_VARIABLES, n=1, cutoff=0.85)
    words = [variable_of(item.key) for item in every_field() if "*" not in item.key]
    close = difflib.get_close_matches(variable.upper(), words, n=1, cutoff=0.75) if all(path) else []
    if reserved:
        fix = f"Did you mean {reserved[0]}?"
    elif near is not None and find_field(near) is not None:
        fix = f"Did you mean {variable_of(near)}?"
    elif close:
        fix = f"Did you mean {close[0]}?"
    else:
        fix = "Unset it."
    return Problem(
        f"{variable} names no preference.",
        key=dotted(path),
        allowed="EMBEDPREFS_SECTION__KEY, such as EMBEDPREFS_COMPUTE__DEVICE, or " + ", ".join(RESERVED_VARIABLES),
        fix=fix,
        source=source,
    )


def parsed(path: KeyPath, text: str) -> Any:
    """Return a text as the TOML value it spells, where the preference accepts that; else the text itself.

    So `cpu` needs no quotes, `512` is a number, and the revision `1234567` stays a text.
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if document.keys() != {"value"}:
        return text
    value = document["value"]
    if isinstance(value, str) or not _problems_of(path, value):
        return value
    return value if _problems_of(path, text) else text


def _problems_of(path: KeyPath, value: Any) -> list[Problem]:
    tree: dict[str, Any] = {}
    put(tree, path, value)
    return problems_in(tree)


def parse_set_option(option: str) -> tuple[str, Any]:
    """Return key and value of one `--set KEY=VALUE`.

    >>> parse_set_option("compute.max_batch_size=16")
    ('compute.max_batch_size', 16)

    Raises:
        InvalidPreferenceError: there is no `=`, or what stands before it is no key.
    """
    key, sign, text = option.partition("=")
    try:
        path = split_key(key.strip()) if sign else ()
    except ValueError:
        path = ()
    if not path:
        problem = Problem(
            f"--set takes KEY=VALUE; found {option if sign else key!r}.",
            allowed="KEY=VALUE with a dotted key, such as compute.device=cpu",
            source="--set",
        )
        raise InvalidPreferenceError(problem)
    return dotted(path), parsed(path, text)


def explicit_layer(overrides: Mapping[str, Any], source: str) -> StatedLayer:
    """Return what a call or a command line states itself."""
    values, misstated = merged_keys(overrides)
    problems = [replace(problem, source=source) for problem in misstated]
    for name in _FILE_KEYS:
        if name in values:
            del values[name]
            problems.append(_not_here((name,), source))
    return StatedLayer(Layer.EXPLICIT, values, lambda _key: (source, None), tuple(problems))
