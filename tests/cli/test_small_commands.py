"""explain, doctor, schema and migrate-config."""

from __future__ import annotations

import json

import pytest

from embedprefs.files import json_schema


def test_schema_prints_the_json_schema(run):
    ended = run("schema")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads(json.dumps(json_schema()))


def test_explain_knows_preferences_rules_and_the_hosts_settings(run):
    assert "vectors.normalize" in run("explain", "vectors.normalize").out
    assert "prompt" in run("explain", "prompts-missing").out
    assert "norm_eps" in run("explain", "layer_norm_eps").out


def test_explain_suggests_the_nearest_name(run):
    ended = run("explain", "vectors.normalise")
    assert ended.code == 2
    assert "vectors.normalize" in ended.err


def test_doctor_describes_this_machine(run):
    ended = run("doctor")
    assert ended.code in {0, 1}
    for words in ("Python", "torch", "memory", "processor"):
        assert words in ended.out
    described = json.loads(run("doctor", "--format", "json").out)
    assert described["hardware"]["cpu_count"] >= 1
    assert ended.code == int(any(item["status"] == "problem" for item in described["diagnoses"]))


@pytest.fixture
def old_file(tmp_path):
    file = tmp_path / "old.toml"
    file.write_text('# my model\n[model]\nname_or_path = "./model"  # the best\n')
    return file


def test_migrate_config_shows_a_diff_and_writes_nothing(run, old_file):
    before = old_file.read_text()
    ended = run("migrate-config", old_file)
    assert ended.code == 1
    assert "+schema_version = 1" in ended.out
    assert old_file.read_text() == before
    assert "--write" in ended.err


def test_migrate_config_writes_on_request_and_keeps_comments(run, old_file):
    run("migrate-config", old_file, "--write")
    text = old_file.read_text()
    assert "schema_version = 1" in text
    assert "# my model" in text
    assert "# the best" in text


def test_migrate_config_has_nothing_to_do_for_a_file_of_today(run, tmp_path):
    file = tmp_path / "new.toml"
    file.write_text('schema_version = 1\n\n[model]\nname = "./model"\n')
    ended = run("migrate-config", file)
    assert (ended.code, ended.out) == (0, "")
    assert "up to date" in ended.err


def test_migrate_config_without_a_file_says_how_to_name_one(run, tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    ended = run("migrate-config")
    assert ended.code == 2
    assert "migrate-config FILE" in ended.err
