"""`init` writes what a model needs, and never over something."""

from __future__ import annotations

import tomllib

import pytest

from embedprefs import load_preferences
from embedprefs.testing import FLAGSHIP, published_modernbert_embed_folder, tiny_bert_folder


def test_the_flagship_gets_the_prompts_that_its_files_do_not_state(run, tmp_path, monkeypatch):
    """Published, it holds no prompts: without a preferences file queries and documents are embedded alike."""
    monkeypatch.chdir(tmp_path)
    published_modernbert_embed_folder(tmp_path / "model")
    ended = run("init", "./model")
    assert ended.code == 0, ended.err
    values = tomllib.loads((tmp_path / "embedprefs.toml").read_text())
    assert values["prompts"] == {"query": "search_query: ", "document": "search_document: "}
    assert values["model"] == {"name": "./model"}
    assert 'prompts.query = "search_query: "' in ended.out
    assert "embedprefs check" in ended.err
    assert run("check").code == 0


def test_every_default_is_commented_out(run, tmp_path, monkeypatch):
    """A default that stood in the file would hide every layer beneath it."""
    monkeypatch.chdir(tmp_path)
    tiny_bert_folder(tmp_path / "model")
    run("init", "./model")
    assert set(load_preferences("embedprefs.toml").stated()) == {"schema_version", "model.name"}
    text = (tmp_path / "embedprefs.toml").read_text()
    assert "#dtype = " in text
    assert "#truncate_dim = " in text


def test_a_model_that_is_not_here_gets_what_is_known_by_its_name(run, tmp_path, monkeypatch):
    """Offline, the commit cannot be pinned; the file says nothing about it and the reader is warned."""
    monkeypatch.chdir(tmp_path)
    ended = run("init", FLAGSHIP)
    assert ended.code == 0, ended.err
    values = tomllib.loads((tmp_path / "embedprefs.toml").read_text())
    assert values["model"] == {"name": FLAGSHIP}
    assert values["prompts"]["query"] == "search_query: "
    assert "Warning: the model's files are not here" in ended.err


def test_a_commit_in_the_cache_is_pinned(run, tmp_path, monkeypatch):
    """What was embedded today is embedded with the same weights tomorrow."""
    monkeypatch.chdir(tmp_path)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "cache"
    repository = cache / "models--your-name--your-model"
    tiny_bert_folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(cache))
    ended = run("init", "your-name/your-model")
    assert ended.code == 0, ended.err
    assert tomllib.loads((tmp_path / "embedprefs.toml").read_text())["model"]["revision"] == commit
    assert commit in ended.out


def test_a_file_that_exists_is_kept_unless_force_is_given(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_bert_folder(tmp_path / "model")
    file = tmp_path / "embedprefs.toml"
    file.write_text("# mine\n")
    ended = run("init", "./model")
    assert (ended.code, file.read_text()) == (2, "# mine\n")
    assert "--force" in ended.err
    assert run("init", "./model", "--force").code == 0
    assert load_preferences(file).model.name == "./model"


def test_a_folder_is_named_relative_to_the_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_bert_folder(tmp_path / "models" / "tiny")
    (tmp_path / "settings").mkdir()
    ended = run("init", "models/tiny", "--output", "settings/embedprefs.toml")
    assert ended.code == 0, ended.err
    assert load_preferences("settings/embedprefs.toml").model.name == "../models/tiny"
    assert run("check", "--preferences", "settings/embedprefs.toml").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["./nothing"], "nothing"),
        (["./empty"], "no model"),
        (["./model", "--output", "model/embedprefs.toml"], "model"),
        (["./model", "--output", "absent/embedprefs.toml"], "absent"),
        (["./model", "--output", "empty"], "is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(run, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    tiny_bert_folder(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    ended = run("init", *arguments)
    assert ended.code == 2
    assert expected in ended.err
    assert ended.out == ""
    assert sorted(tmp_path.rglob("*")) == before
