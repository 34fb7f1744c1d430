"""What uses an artefact by itself: only where it is there and current, and never without saying so."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, load_preferences, resolve, testing
from embedprefs.serving import automatic_encoder, compile_model, find_artefact
from embedprefs.serving.register import compiled_folder, entries

FILE = '[model]\nname = "./model"\n[compute]\ndevice = "cpu"\nexactness = "exact"\n'


@pytest.fixture
def project(tmp_path, own_cache, monkeypatch):
    """A project with a static model, the current folder, compiled into the user's cache."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".git").mkdir()
    testing.static_model_folder(folder / "model")
    (folder / "embedprefs.toml").write_text(FILE)
    monkeypatch.chdir(folder)
    return folder


def resolved(**overrides):
    return resolve(load_preferences("embedprefs.toml", overrides=overrides))


def test_without_an_artefact_there_is_nothing_to_find(project):
    assert find_artefact(resolved()) is None
    assert not compiled_folder().exists()


def test_the_artefact_of_these_preferences_is_found(project, caplog):
    artefact = compile_model(load_preferences("embedprefs.toml"))
    assert artefact.folder.parent == compiled_folder()
    found = find_artefact(resolved())
    assert found is not None
    assert found.folder == artefact.folder
    with caplog.at_level(logging.INFO, "embedprefs.serving"):
        encoder = automatic_encoder(resolved())
    assert encoder is not None
    assert encoder.fingerprint == artefact.fingerprint
    assert f"Using the compiled artefact in {artefact.folder} (numpy, float32)." in caplog.messages


def test_what_is_no_identity_is_taken_from_the_preferences_of_now(project):
    compile_model(load_preferences("embedprefs.toml"))
    encoder = automatic_encoder(resolved(**{"tokenizer.on_overflow": "error", "compute.max_batch_size": 7}))
    assert encoder is not None
    assert encoder.runtime.on_overflow == "error"
    assert encoder.runtime.max_batch_size == 7


@pytest.mark.parametrize(
    "overrides",
    [
        {"vectors.truncate_dim": 4},
        {"prompts.query": "query: "},
        {"compute.exactness": "close"},
        {"compute.backend": "torch"},
        {"compute.workers": 2},
        {"compute.autocast": True},
    ],
)
def test_other_preferences_do_not_use_it(project, overrides):
    compile_model(load_preferences("embedprefs.toml"))
    assert find_artefact(resolved(**overrides)) is None


def test_other_weights_do_not_use_it_and_say_so(project, caplog):
    compile_model(load_preferences("embedprefs.toml"))
    testing.static_model_folder(project / "model", words={"red": (0.0, 1.0), "green": (1.0, 0.0)})
    with caplog.at_level(logging.INFO, "embedprefs.serving"):
        assert find_artefact(resolved()) is None
    assert any("other preferences or weights" in message for message in caplog.messages)


def test_a_damaged_artefact_is_not_used_and_warned_of(project):
    artefact = compile_model(load_preferences("embedprefs.toml"))
    with (artefact.folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.warns(EmbedPrefsWarning, match="is not used, and the model itself is loaded"):
        assert find_artefact(resolved()) is None


def test_canaries_that_moved_are_warned_of_and_the_model_is_loaded(project):
    artefact = compile_model(load_preferences("embedprefs.toml"))
    table = artefact.model_folder / "embeddings.npy"
    np.save(table, np.load(table) * np.float32(2))
    with pytest.warns(EmbedPrefsWarning, match="gives other vectors"):
        assert automatic_encoder(resolved()) is None


def test_an_artefact_that_was_removed_is_forgotten_without_a_warning(project, recwarn):
    """Who deletes the folder does not want to hear of it at every command."""
    artefact = compile_model(load_preferences("embedprefs.toml"))
    shutil.rmtree(artefact.folder)
    assert find_artefact(resolved()) is None
    assert not [warning for warning in recwarn if "artefact" in str(warning.message)]
    assert not list(compiled_folder().glob("*.json"))


def test_a_damaged_entry_of_the_register_costs_only_the_artefact(project, caplog):
    compile_model(load_preferences("embedprefs.toml"))
    (entry,) = compiled_folder().glob("*.json")
    entry.write_text("{")
    assert list(entries()) == []
    assert find_artefact(resolved()) is None
    assert "no entry of a compiled artefact" in caplog.text


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs a command in this process."""
    from typer.testing import CliRunner

    from embedprefs.cli.main import create_app

    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments):
        result = CliRunner().invoke(create_app(), [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run_command


def test_compile_writes_an_artefact_and_says_what_it_is(project, run):
    ended = run("compile", "-o", "artefact")
    assert ended.exit_code == 0, ended.stderr
    assert "numpy in float32" in ended.stdout
    assert "load_encoder(FOLDER)" in ended.stderr
    again = run("compile", "-o", "artefact")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    forced = run("compile", "-o", "artefact", "--force", "--format", "json")
    values = json.loads(forced.stdout)
    assert values["folder"] == str(project / "artefact")
    assert values["dimensions"] == 8
    assert values["cosine_to_float32"] == pytest.approx(1)


def test_compile_refuses_what_no_artefact_serves(project, run):
    ended = run("compile", "--set", "compute.workers=2")
    assert ended.exit_code == 2
    assert "compute.workers" in ended.stderr


def test_embed_uses_it_and_says_so_in_one_line(project, run):
    """The same command writes the same vectors before and after; `--quiet` says nothing."""
    (project / "texts.txt").write_text("red apple\ngreen tree\nblue sky\n")
    before = run("embed", "texts.txt", "-o", "before.npy")
    assert "Loading the model." in before.stderr
    assert run("compile").exit_code == 0
    after = run("embed", "texts.txt", "-o", "after.npy")
    assert after.exit_code == 0, after.stderr
    assert "Loading the model." not in after.stderr
    assert after.stderr.count("Using the compiled artefact in") == 1
    assert np.abs(np.load("before.npy") - np.load("after.npy")).max() <= 1e-6
    assert run("embed", "texts.txt", "-o", "quiet.npy", "--quiet").stderr == ""
    changed = run("embed", "texts.txt", "-o", "changed.npy", "--set", "vectors.truncate_dim=4")
    assert "Loading the model." in changed.stderr
    assert "other preferences or weights" in changed.stderr
