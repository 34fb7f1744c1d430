"""`show` says what holds, where it came from and why."""

from __future__ import annotations

import json
import tomllib

import pytest

from embedprefs import Record, fingerprint, load_preferences, resolve
from embedprefs.preferences import every_field
from embedprefs.testing import tiny_bert_folder


@pytest.fixture
def project(project):
    tiny_bert_folder(project / "model", prompts={"query": "find: "})
    (project / "embedprefs.toml").write_text(
        '[model]\nname = "./model"\n\n[vectors]\ntruncate_dim = 16\n\n[index]\ncollection = "notes"\n'
    )
    return project


def line_of(text, name):
    return next(line for line in text.splitlines() if line.strip().startswith(f"{name} "))


def test_values_stand_with_the_place_they_were_written(run, project):
    ended = run("show")
    assert ended.code == 0, ended.err
    assert "embedprefs.toml:5" in line_of(ended.out, "truncate_dim")
    assert "embedprefs.toml:8" in line_of(ended.out, "collection")
    assert "the model's config_sentence_transformers.json" in line_of(ended.out, "query")
    assert "16 dimensions, the first of 32" in ended.out


def test_what_auto_became_stands_with_the_reason(run, project):
    out = run("show", "--set", "compute.device=cpu").out
    assert line_of(out, "device").split() == ["device", '"cpu"', "--set"]
    backend = line_of(out, "backend")
    assert "auto → " in backend
    assert len(backend.split()) > 6, "a reason is given"


def test_the_overview_says_how_much_it_leaves_out(run, project):
    """No default is shown that nobody asked about, and none is hidden without a word."""
    out = run("show").out
    assert "lora_alpha" not in out
    assert "preferences at their defaults are not shown: embedprefs show --origins" in out
    assert "lora_alpha" in run("show", "--origins").out


def test_origins_lists_every_preference(run, project):
    out = run("show", "--origins").out
    for declared in every_field():
        if "*" not in declared.key:
            assert f"  {declared.name} " in out


def test_what_an_absent_table_would_require_is_not_called_required(run, project):
    """There is no adapter, and none is needed."""
    adapter = run("show", "--origins").out.partition("[model.adapter]")[2].lstrip().splitlines()[0]
    assert adapter.split(maxsplit=1)[1].startswith("none; required where [model.adapter] is written")


def test_resolved_shows_every_choice_with_its_reason_and_the_fingerprint(run, project):
    out = run("show", "--resolved").out
    resolved = resolve(load_preferences("embedprefs.toml"))
    assert line_of(out, "fingerprint").split()[1] == fingerprint(resolved)
    assert line_of(out, "in a collection").split()[3] == Record.for_collection(resolved).fingerprint
    for choice in resolved.choices.values():
        assert choice.reason.split("%")[0][:30] in out


def test_facts_says_what_the_models_files_say(run, project):
    out = run("show", "--facts").out
    assert line_of(out, "modules").split()[1:] == ["Transformer", "→", "Pooling", "→", "Normalize"]
    assert 'query: "find: "' in line_of(out, "prompts")
    assert "names and shapes are those the architecture needs" in line_of(out, "tensors")


def test_as_toml_it_is_a_file_that_states_the_same(run, project):
    """Also with everything resolved: the file can be kept as the record of what ran."""
    (project / "stated.toml").write_text(run("show", "--format", "toml").out)
    before, after = load_preferences("embedprefs.toml"), load_preferences("stated.toml")
    assert {**before.stated(), "schema_version": 1} == {**after.stated(), "schema_version": 1}
    text = run("show", "--format", "toml", "--resolved").out
    assert tomllib.loads(text)["compute"]["device"] != "auto"
    (project / "resolved.toml").write_text(text)
    assert fingerprint(resolve(load_preferences("resolved.toml"))) == fingerprint(resolve(before))


def test_as_json_values_stand_with_origins_and_reasons(run, project):
    shown = json.loads(run("show", "--format", "json", "--resolved", "--facts", "--origins").out)
    assert shown["stated"]["vectors.truncate_dim"] == {
        "value": 16,
        "origin": f"{project / 'embedprefs.toml'}:5",
    }
    assert shown["resolved"]["prompts.query"]["value"] == "find: "
    assert shown["facts"]["embedding_dimension"] == 32
    assert shown["origins"]["vectors.truncate_dim"] == f"{project / 'embedprefs.toml'}:5"
    assert len(shown["fingerprint"]) == 64


def test_without_the_model_what_is_written_is_still_shown(run, project):
    (project / "embedprefs.toml").write_text('[model]\nname = "./gone"\n\n[vectors]\ntruncate_dim = 16\n')
    ended = run("show")
    assert ended.code == 2
    assert "embedprefs.toml:5" in line_of(ended.out, "truncate_dim")
    assert "gone" in ended.err


def test_facts_cannot_be_toml(run, project):
    ended = run("show", "--facts", "--format", "toml")
    assert ended.code == 2
    assert "--format json" in ended.err
