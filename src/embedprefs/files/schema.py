"""The JSON schema of a preferences file, for editors."""

from __future__ import annotations

from typing import Any

from embedprefs.preferences import SCHEMA_VERSION, Preferences

__all__ = ["SCHEMA_ID", "json_schema"]

SCHEMA_ID = f"urn:embedprefs:preferences:{SCHEMA_VERSION}"


def json_schema() -> dict[str, Any]:
    """Return the schema of `embedprefs.toml` (JSON Schema, draft 2020-12), derived from the declarations.

    Each preference carries its description, default, bounds and `x-kind`: what changing it changes. Nothing is
    required but a model or a file that is extended, since another layer may state the rest.
    """
    schema = Preferences.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    for definition in definitions.values():
        definition.pop("required", None)
        _tidy(definition)
    schema.pop("required", None)
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "embedprefs preferences",
        "description": "One embedding space: the model, its prompts, the form of its vectors, and how it is run.",
        "anyOf": [{"required": ["model"]}, {"required": ["extends"]}],
        "$defs": dict(sorted(definitions.items())),
    }


def _tidy(schema: dict[str, Any]) -> None:
    """Take out what TOML cannot write: null as a type and as a default."""
    for declared in schema.get("properties", {}).values():
        alternatives = [item for item in declared.get("anyOf", []) if item != {"type": "null"}]
        if len(alternatives) == 1 and "anyOf" in declared:
            del declared["anyOf"]
            declared.update({name: value for name, value in alternatives[0].items() if name not in declared})
        elif alternatives:
            declared["anyOf"] = alternatives
        if "default" in declared and declared["default"] is None:
            del declared["default"]
        if "description" in declared:
            declared["description"] = " ".join(declared["description"].split())
