"""Preferences from every layer that a user writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.files.finding import find_preferences_file
from embedprefs.layers.environment import environment_layer, explicit_layer
from embedprefs.layers.project import project_layers
from embedprefs.layers.stated import StatedLayer
from embedprefs.layers.tuned import tuned_layer
from embedprefs.layers.user import user_layer
from embedprefs.preferences import Layer, Origin, Preferences
from embedprefs.validation import nested, problems_in, validated

__all__ = ["load_preferences", "preferences_for_model", "with_overrides"]


def load_preferences(
    path: Path | str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    start: Path | str | None = None,
    overrides_source: str = "overrides",
) -> Preferences:
    """Load preferences from the file that holds here, or from a given one.

    Weakest first: the user file, the project's file with those it extends, `tuned.lock` beside it, environment
    variables, `overrides`. `preferences.origin(key)` says which of them a value came from.

    Args:
        path: The preferences file; found as `find_preferences_file` does if not given.
        overrides: Values that win over every layer, by dotted key or nested: `{"compute.device": "cpu"}`.
        environment: Environment variables; those of this process if not given.
        start: Folder where the search for a file begins; the current one if not given.
        overrides_source: What to call `overrides` in origins and messages (the command line says `--set`).

    Raises:
        PreferencesFileError: a file is absent, unreadable or not TOML.
        InvalidPreferenceError: keys or values are not allowed, or no layer states `model.name`; every problem of
            every layer is listed.
    """
    environment = os.environ if environment is None else environment
    found = Path(path) if path is not None else find_preferences_file(start, environment=environment)
    project = project_layers(found) if found is not None else []
    layers = [
        user_layer(),
        *project,
        tuned_layer(found.absolute().parent) if found is not None else None,
        environment_layer(environment),
        explicit_layer(overrides, overrides_source) if overrides else None,
    ]
    return _merged([layer for layer in layers if layer is not None], found)


def preferences_for_model(
    name_or_folder: Path | str,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides_source: str = "overrides",
) -> Preferences:
    """Return the preferences for a model that was named in a call: no project file is searched.

    The user file, environment variables and `overrides` hold; the name itself wins over all of them.

    Raises:
        InvalidPreferenceError: as `load_preferences`; also where `overrides` names another model.
        PreferencesFileError: the user file cannot be read.
    """
    name = os.fspath(name_or_folder)
    stated = nested(overrides) if overrides else {}
    other = stated.get("model", {}).get("name", name) if isinstance(stated.get("model", {}), dict) else name
    if other != name:
        raise InvalidPreferenceError(
            Problem(
                f"model.name is stated twice: {name!r} in the call and {other!r} in the overrides.",
                key="model.name",
                value=other,
                fix="State it once.",
                source=overrides_source,
            )
        )
    environment = os.environ if environment is None else environment
    layers = [
        user_layer(),
        environment_layer(environment),
        explicit_layer(stated, overrides_source) if stated else None,
        StatedLayer(Layer.EXPLICIT, {"model": {"name": name}}, lambda _key: ("the call", None)),
    ]
    return _merged([layer for layer in layers if layer is not None], None)


def with_overrides(preferences: Preferences, overrides: Mapping[str, Any], *, source: str = "overrides") -> Preferences:
    """Return loaded preferences with some values replaced, as if they had been given when they were loaded.

    Raises:
        InvalidPreferenceError: an override is not allowed, or does not fit the other values.
    """
    stated = preferences.model_dump(exclude_unset=True)
    origins = preferences.origins
    beneath = StatedLayer(Layer.EXPLICIT, stated, lambda _key: ("the call", None))
    above = explicit_layer(overrides, source)
    problems = [*above.problems, *problems_in(above.values, above.place)]
    if problems:
        raise InvalidPreferenceError(problems)
    changed = validated(_over(stated, above.values), above.place)
    return changed.with_origins({**dict(beneath.origins()), **origins, **dict(above.origins())}, preferences.file)


def _merged(layers: Sequence[StatedLayer], file: Path | None) -> Preferences:
    problems: list[Problem] = []
    for layer in layers:
        problems += layer.problems
        problems += problems_in(layer.values, layer.place)
    if not any(_states_model(layer.values) for layer in layers):
        problems.append(_no_model(file))
    if problems:
        raise InvalidPreferenceError(problems)
    tree: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for layer in layers:
        tree = _over(tree, layer.values)
        origins.update(layer.origins())

    def place(key: str) -> tuple[str | None, int | None]:
        """Return where a key was written; one that is missing belongs where its table's other keys stand."""
        table = key
        while table:
            near = next(
                (origin for name, origin in origins.items() if name == table or name.startswith(f"{table}.")), None
            )
            if near is not None:
                return near.source, near.line
            table = table.rpartition(".")[0]
        return (str(file) if file is not None else None), None

    preferences = validated(tree, place)
    return preferences.with_origins(origins, file.absolute() if file is not None else None)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two layers' nested values as one; tables are merged key by key, everything else is replaced."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = (
            _over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else _copied(value)
        )
    return merged


def _copied(value: Any) -> Any:
    return _over({}, value) if isinstance(value, Mapping) else value


def _states_model(values: Mapping[str, Any]) -> bool:
    model = values.get("model")
    return isinstance(model, Mapping) and model.get("name") is not None


def _no_model(file: Path | None) -> Problem:
    if file is None:
        message = "No preferences file was found, and nothing else names a model."
        fix = (
            "Run `embedprefs init MODEL` in the project's folder, name a file with --preferences, "
            "or set EMBEDPREFS_MODEL__NAME."
        )
        return Problem(message, key="model.name", allowed="hub name or folder of a model", fix=fix)
    return Problem(
        "model.name is not stated, and nothing else names a model.",
        key="model.name",
        allowed="hub name or folder of a model",
        fix='Write, for instance:  [model]  name = "lightonai/modernbert-embed-large"',
        source=str(file),
    )
