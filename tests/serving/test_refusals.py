"""An artefact that no longer gives the model's vectors is refused, with what differs and what to do."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from embedprefs import (
    InputError,
    InvalidPreferenceError,
    ModelFilesError,
    PreferenceMismatchError,
    load_encoder,
    load_preferences,
    testing,
)
from embedprefs.layers import preferences_for_model
from embedprefs.serving import compile_model
from embedprefs.serving.artefact import ARTEFACT_FILE
from embedprefs.serving.canaries import furthest


def changed(folder, name, change):
    """Change an artefact's small file, and have the artefact agree with it: only canaries and identity can tell."""
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, change(np.load(path)))
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    described(folder, lambda values: values["files"].update({name: digest}))


def described(folder, change):
    """Change what an artefact says of itself."""
    path = folder / ARTEFACT_FILE
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", ["static", "bert"])
def test_canaries_that_moved_are_refused(kind, copy_of):
    """One stored vector turned by a few degrees: what the artefact computes is no longer what the model gave."""
    folder = copy_of(kind)

    def turn(vectors):
        vectors[0, 1] += 0.1 * np.abs(vectors[0, 1]).max() * np.resize([1, -1], vectors.shape[-1])
        return vectors

    changed(folder, "canaries.npy", turn)
    with pytest.raises(PreferenceMismatchError, match="gives other vectors than the model") as error:
        load_encoder(folder)
    assert "The harbour froze over" in str(error.value)
    assert "embedprefs compile --force" in str(error.value)
    assert error.value.differences == ("canary",)
    assert error.value.right["cosine"] < 0.9999


def test_vectors_of_another_length_are_refused(copy_of):
    """A cosine does not see that every vector became longer; the canaries' lengths do."""
    folder = copy_of("bert")
    changed(folder, "canaries.npy", lambda vectors: vectors * np.float32(1.5))
    with pytest.raises(PreferenceMismatchError, match=r"0\.667 times its length"):
        load_encoder(folder)


def test_weights_that_were_changed_are_refused(copy_of):
    """The converted weights are not hashed at each start, which takes longer than the canaries that tell."""
    folder = copy_of("bert")
    shutil.rmtree(folder / "compiled")
    weights = folder / "model" / "model.bin"
    values = np.fromfile(weights, dtype=np.uint8)
    floats = values[: len(values) // 4 * 4].view(np.float32)
    floats[np.isfinite(floats) & (np.abs(floats) < 10) & (np.abs(floats) > 1e-3)] *= 1.3
    values.tofile(weights)
    with pytest.raises(PreferenceMismatchError, match="gives other vectors"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "preferences.json", "record.json", "canaries.npy"])
def test_a_file_that_was_changed_or_lost_is_named(name, copy_of):
    folder = copy_of("bert")
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ModelFilesError, match=f"{name}: was changed"):
        load_encoder(folder)
    (folder / name).unlink()
    with pytest.raises(ModelFilesError, match=f"{name}: is absent"):
        load_encoder(folder)


def test_a_record_of_other_vectors_is_refused(copy_of):
    """The artefact's own word for its fingerprint is compared with the fields of its record."""
    folder = copy_of("bert")
    described(folder, lambda values: values.update(fingerprint="0" * 64))
    encoder = load_encoder(folder)
    with pytest.raises(PreferenceMismatchError, match="its record says"):
        _ = encoder.record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(version=99), "version 99"),
        (lambda values: values.pop("encoding"), "damaged"),
        (lambda values: values["encoding"].update(colour="red"), "colour"),
        (lambda values: values["files"].pop("canaries.npy"), "says nothing of canaries.npy"),
        (lambda values: values.update(backend="abacus"), "for abacus"),
    ],
)
def test_an_artefact_of_another_kind_is_refused(change, said, copy_of):
    folder = copy_of("bert")
    described(folder, change)
    with pytest.raises(ModelFilesError, match=said) as error:
        load_encoder(folder)
    assert "embedprefs compile" in str(error.value)


def test_a_model_folder_is_no_artefact(sources):
    with pytest.raises(ModelFilesError, match="load_model"):
        load_encoder(sources["bert"])


@pytest.mark.parametrize("source", ["owner/name", 7, None])
def test_what_names_no_artefact_is_refused(source):
    with pytest.raises(InputError, match="artefact"):
        load_encoder(source)


def test_overrides_cannot_change_what_is_compiled(compiled):
    with pytest.raises(InputError, match="overrides cannot change"):
        load_encoder(compiled("static"), overrides={"vectors.truncate_dim": 4})


# The model it came from ----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, own_cache):
    """A preferences file beside its model, compiled into a folder."""
    testing.tiny_bert_folder(tmp_path / "model")
    file = tmp_path / "embedprefs.toml"
    file.write_text('[model]\nname = "./model"\n[compute]\ndevice = "cpu"\nexactness = "exact"\n')
    compile_model(load_preferences(file), tmp_path / "artefact")
    return tmp_path


def retrain(folder):
    """Give a model other weights of the same shapes."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    values = np.frombuffer(bytes(data[header:]), dtype=np.float32) * np.float32(1.01)
    path.write_bytes(bytes(data[:header]) + values.tobytes())


def test_other_weights_of_the_model_are_refused_field_by_field(project):
    """By the artefact's folder, and by the preferences; both sides are shown."""
    before = load_encoder(project / "artefact").record.identity["weights"]
    retrain(project / "model")
    for source in (project / "artefact", project / "embedprefs.toml"):
        with pytest.raises(PreferenceMismatchError) as error:
            load_encoder(source)
        assert error.value.differences == ("weights",)
        assert error.value.left["weights"] == before
        assert error.value.right["weights"] != before
        assert f"sha256 {before[:16]}" in str(error.value)
        assert "embedprefs compile" in str(error.value)


def test_a_model_that_was_only_touched_is_the_same(project):
    (project / "model" / "model.safetensors").touch()
    (project / "model" / "README.md").write_text("Another card.")
    assert load_encoder(project / "artefact").encode("a river").shape == (32,)


def test_without_the_model_there_is_nothing_to_compare(project):
    shutil.rmtree(project / "model")
    assert load_encoder(project / "artefact").encode("a river").shape == (32,)


def test_other_preferences_are_refused_field_by_field(project):
    file = project / "embedprefs.toml"
    assert load_encoder(file).fingerprint == load_encoder(project / "artefact").fingerprint
    with pytest.raises(PreferenceMismatchError) as error:
        load_encoder(file, overrides={"vectors.truncate_dim": 16, "prompts.query": "query: "})
    assert set(error.value.differences) >= {"truncate_dim", "query_prompt"}
    assert '"query: "' in str(error.value)


def test_other_exactness_needs_another_artefact(project):
    with pytest.raises(InputError, match=r"exactness = exact.*exactness = close"):
        load_encoder(project / "embedprefs.toml", overrides={"compute.exactness": "close"})


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"compute.backend": "torch"}, "compute.backend"),
        ({"compute.workers": 2}, "compute.workers"),
    ],
)
def test_preferences_that_no_artefact_serves_say_why(project, overrides, reason):
    with pytest.raises(InputError, match=reason):
        load_encoder(project / "embedprefs.toml", overrides=overrides)


def test_preferences_that_were_never_compiled_name_the_command(tmp_path, own_cache):
    folder = testing.static_model_folder(tmp_path / "model")
    with pytest.raises(InputError, match="embedprefs compile"):
        load_encoder(preferences_for_model(folder, {"compute.device": "cpu"}))


# Compiling -----------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_left_alone(tmp_path, preferences_of):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        compile_model(preferences_of("static"), tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_artefact_is_replaced_only_when_asked(tmp_path, preferences_of):
    compile_model(preferences_of("static"), tmp_path / "artefact")
    other = preferences_of("static", **{"vectors.truncate_dim": 4, "checks.ignore": ["truncate-dim-not-trained"]})
    with pytest.raises(InputError, match="--force"):
        compile_model(other, tmp_path / "artefact")
    assert load_encoder(tmp_path / "artefact").get_embedding_dimension() == 8
    compile_model(other, tmp_path / "artefact", force=True)
    assert load_encoder(tmp_path / "artefact").get_embedding_dimension() == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".artefact")] == []


def test_a_model_that_no_test_proves_is_not_compiled(tmp_path, sources, preferences_of, monkeypatch):
    from embedprefs.engine.openvino import architectures

    monkeypatch.setattr(architectures, "PROVED", {})
    with pytest.raises(InvalidPreferenceError, match="no test proves"):
        compile_model(preferences_of("bert"), tmp_path / "artefact")
    assert not (tmp_path / "artefact").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_canary_that_moved_furthest_is_found():
    """By its angle, by its length, and where a vector is no number."""
    stored = np.eye(3, dtype=np.float32)[None]
    now = stored.copy()
    assert furthest(stored, now).is_within(1.0)
    now[0, 1] = [0.1, 1, 0]
    assert furthest(stored, now).position == 1
    assert not furthest(stored, now).is_within(0.999)
    now = stored.copy()
    now[0, 2] *= 3
    assert furthest(stored, now).position == 2
    assert furthest(stored, now).length == pytest.approx(3)
    now[0, 0] = np.nan
    assert furthest(stored, now).position == 0
    assert not furthest(stored, now).is_within(0.5)
    zeros = np.zeros((1, 1, 3), dtype=np.float32)
    assert furthest(zeros, zeros).is_within(1.0)
    assert not furthest(zeros, stored[:, :1]).is_within(0.999)
