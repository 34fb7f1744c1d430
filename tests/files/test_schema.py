"""The JSON schema for editors, and the files of every schema version."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from embedprefs.files import commented_file, json_schema
from embedprefs.layers import load_preferences
from embedprefs.preferences import SCHEMA_VERSION, every_field

VERSIONS = sorted((Path(__file__).parent.parent / "preferences_files").glob("schema-*.toml"))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(json.loads(json.dumps(schema)))


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_files_of_every_version_load_and_fit_the_schema(file: Path, validator: Draft202012Validator) -> None:
    assert load_preferences(file, environment={}).model.name == "lightonai/modernbert-embed-large"
    assert list(validator.iter_errors(tomllib.loads(file.read_text(encoding="utf-8")))) == []


def test_there_is_a_file_for_every_version() -> None:
    assert {file.stem for file in VERSIONS} == {f"schema-{version}" for version in range(1, SCHEMA_VERSION + 1)}


def test_the_file_that_init_writes_fits_the_schema(validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(tomllib.loads(commented_file("m", stated={"prompts.query": ""})))) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[model]\nname = ""', "model.name"),
        ('[model]\nname = "m"\n[compute]\ndtype = "fp16"', "compute.dtype"),
        ('[model]\nname = "m"\n[compute]\ndevise = "cpu"', "compute"),
        ('[model]\nname = "m"\n[vectors]\ntruncate_dim = 0', "vectors.truncate_dim"),
        ("[compute]\nthreads = 2", ""),
    ],
)
def test_what_loading_refuses_the_schema_refuses_too(text: str, path: str, validator: Draft202012Validator) -> None:
    errors = list(validator.iter_errors(tomllib.loads(text)))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [path]


def test_a_file_that_extends_another_needs_no_model(validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors({"extends": "base.toml", "model": {"revision": "main"}})) == []


def test_the_schema_carries_description_default_and_kind() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"]
    for item in every_field():
        node: dict[str, Any] = schema
        for part in item.key.split("."):
            for candidate in [node, *node.get("anyOf", [])]:
                if "$ref" in candidate:
                    node = schema["$defs"][candidate["$ref"].rpartition("/")[2]]
            node = node["additionalProperties"] if part == "*" else node["properties"][part]
        assert node["description"].startswith(item.description[:40]), item.key
        assert node["x-kind"] == item.kind, item.key
        if item.default not in (None, {}, []):
            assert node["default"] == item.default, item.key
