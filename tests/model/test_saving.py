"""What is saved says the same again: to embedprefs, and to a plain SentenceTransformer."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, load_model


def reloaded(folder, **overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        return load_model(folder, overrides={"compute.device": "cpu", **overrides})


def plain(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "static", "flagship"])
def test_a_saved_model_keeps_vectors_and_fingerprint(name, load, texts, tmp_path):
    """Saving rewrites the files; what the vectors are stays, and so does the fingerprint."""
    model = load(name, prompts__query="query: ", prompts__document="", vectors__truncate_dim=8)
    model.save_pretrained(str(tmp_path / "saved"))
    again = reloaded(tmp_path / "saved")
    for method in ("encode", "encode_query", "encode_document"):
        assert getattr(again, method)(texts) == pytest.approx(getattr(model, method)(texts), abs=1e-6)
    assert again.prompts == model.prompts
    assert again.fingerprint == model.fingerprint


def test_a_plain_host_finds_prompts_similarity_and_dimension(load, texts, tmp_path):
    model = load(
        "bert", prompts__query="query: ", prompts__document="passage: ", prompts__title="title: ",
        vectors__similarity_fn_name="dot", vectors__truncate_dim=16, tokenizer__max_seq_length=20,
    )  # fmt: skip
    model.save(str(tmp_path))
    host = plain(tmp_path)
    assert host.prompts == {"query": "query: ", "document": "passage: ", "title": "title: "}
    assert (host.similarity_fn_name, host.truncate_dim, host.max_seq_length) == ("dot", 16, 20)
    found = host.encode_document(texts, normalize_embeddings=True)
    assert found == pytest.approx(model.encode_document(texts), abs=1e-6)


def test_the_saved_copy_of_a_model_without_normalize_gets_one(tmp_path, texts):
    """Normalisation that only a preference asks for is written into the copy, and the model itself stays as it is."""
    from embedprefs import testing

    folder = testing.tiny_bert_folder(tmp_path / "model", normalize=False)
    model = reloaded(folder, **{"vectors.normalize": True})
    kinds = [type(module).__name__ for module in model]
    model.save(str(tmp_path / "saved"))
    host = plain(tmp_path / "saved")
    assert [type(module).__name__ for module in host] == [*kinds, "Normalize"]
    assert [type(module).__name__ for module in model] == kinds
    vectors = model.encode(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert host.encode(texts) == pytest.approx(vectors, abs=1e-6)
    again = reloaded(tmp_path / "saved")
    assert again.encode(texts) == pytest.approx(vectors, abs=1e-6)
    assert again.fingerprint == model.fingerprint


def test_what_no_file_of_the_host_holds_is_restored(load, tmp_path):
    """Windows, and a prompt that is deliberately none."""
    model = load("flagship", tokenizer__overflow="window", tokenizer__window_overlap=7, prompts__query="",
                 tokenizer__max_seq_length=64)  # fmt: skip
    model.save(str(tmp_path))
    again = reloaded(tmp_path)
    assert again.resolved["tokenizer.overflow"] == "window"
    assert again.resolved["tokenizer.window_overlap"] == 7
    assert again.prompts == {"query": "", "document": "search_document: "}
    text = "the river runs " * 80
    assert again.encode_document(text) == pytest.approx(model.encode_document(text), abs=1e-6)


def test_the_saved_fingerprint_is_that_of_the_saved_model(load, tmp_path):
    load("bert").save(str(tmp_path))
    saved = json.loads((tmp_path / "config_embedprefs.json").read_text(encoding="utf-8"))
    assert saved["fingerprint"] == reloaded(tmp_path).fingerprint


def test_files_replaced_after_loading_are_noticed(tmp_path):
    """The record is made when it is first asked for, of the files that were loaded and no others."""
    from embedprefs import PreferenceMismatchError, testing

    model = reloaded(testing.tiny_bert_folder(tmp_path, seed=1))
    testing.tiny_bert_folder(tmp_path, seed=2)
    with pytest.raises(PreferenceMismatchError, match="changed after the model was loaded"):
        _ = model.record


def test_nothing_of_this_machine_is_saved(load, folders, tmp_path):
    load("bert", compute__threads=1, model__cache_folder="some/cache").save(str(tmp_path))
    text = (tmp_path / "config_embedprefs.json").read_text(encoding="utf-8")
    assert str(folders["bert"]) not in text
    assert "some/cache" not in text
    assert "compute" not in json.loads(text)["preferences"]


def test_a_trained_model_gets_a_fingerprint_of_its_own(load, tmp_path):
    import torch

    model = load("bert")
    before = model.fingerprint
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    model.save(str(tmp_path))
    assert reloaded(tmp_path).fingerprint != before


def test_a_checkpoint_is_loaded_as_the_hosts_trainer_does(load, tmp_path, texts):
    """The trainer constructs the class with the host's arguments and takes over the weights."""
    from embedprefs import PreferredSentenceTransformer

    model = load("bert", prompts__query="query: ")
    model.save(str(tmp_path))
    loaded = PreferredSentenceTransformer._load_with_module_classes(str(tmp_path), {}, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict())
    assert loaded.encode(texts) == pytest.approx(model.encode(texts), abs=1e-6)
    assert model.is_as_loaded()


def test_calibrated_ranges_travel_with_the_model(load, tmp_path, texts):
    from embedprefs.calibration import calibrate

    calibrate(load("bert"), texts).save(tmp_path / "ranges.json")
    model = load("bert", vectors__precision="int8", vectors__calibration=str(tmp_path / "ranges.json"))
    model.save(str(tmp_path / "saved"))
    (tmp_path / "ranges.json").unlink()
    again = reloaded(tmp_path / "saved")
    assert again.encode(texts).dtype == np.int8
    assert np.abs(again.encode(texts).astype(int) - model.encode(texts)).max() <= 1
