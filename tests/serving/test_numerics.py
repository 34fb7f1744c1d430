"""The number format of an artefact is the fastest one that the preferences allow, as it was measured."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from embedprefs import ModelFilesError, load_encoder, load_model
from embedprefs.layers import preferences_for_model
from embedprefs.serving import compile_model
from embedprefs.serving.loading import load_backend

needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed")


def test_exact_is_float32_and_its_record_says_how_it_was_measured(encoders):
    encoder = encoders("bert")
    assert encoder.numerics == "float32"
    numerics = encoder.record.numerics
    assert (numerics["backend"], numerics["dtype"], numerics["device"]) == ("openvino", "float32", "cpu")
    assert numerics["cosine_to_float32"] == pytest.approx(1, abs=1e-6)


def test_identity_and_numerics_stand_beside_the_models(encoders, models):
    """A collection that the model filled takes the encoder's vectors: rounding differs, and nothing else."""
    comparison = encoders("prompted").record.compare(models("prompted").record)
    assert comparison.status == "soft"
    assert all(difference.field.startswith("numerics.") for difference in comparison.differences)


def test_a_conversion_that_went_wrong_is_never_written(preferences_of, tmp_path, monkeypatch):
    """Not even in float32: what is measured decides, whatever the table of architectures says."""
    from embedprefs.engine.openvino.backend import OpenVINOBackend

    right = OpenVINOBackend.vectors
    monkeypatch.setattr(
        OpenVINOBackend, "vectors", lambda self, ids, mask, **named: np.roll(right(self, ids, mask, **named), 1, axis=1)
    )
    with pytest.raises(ModelFilesError, match="does not give the vectors of torch") as error:
        compile_model(preferences_of("bert"), tmp_path / "artefact")
    assert "float32: its vectors differ" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("native", "pays", "stated", "numerics"),
    [
        (True, True, "auto", "bfloat16"),
        (True, False, "auto", "float32"),
        (True, False, "bfloat16", "bfloat16"),
        (False, False, "bfloat16", "float32"),
    ],
)
def test_an_artefact_in_bfloat16_computes_in_what_is_fast_where_it_is_loaded(
    encoders, monkeypatch, native, pays, stated, numerics
):
    """It may have been written on a processor of another kind. What was stated is obeyed where it can be computed."""
    backends = []

    def open_backend(folder, *, numerics, **_):
        backends.append(numerics)

    monkeypatch.setattr("embedprefs.engine.openvino.backend.native_bfloat16", lambda: native)
    monkeypatch.setattr("embedprefs.engine.openvino.backend.OpenVINOBackend", open_backend)
    monkeypatch.setattr("embedprefs.serving.loading.bfloat16_pays_here", lambda: pays)
    artefact = encoders("bert").artefact
    demand = {**artefact.demand, "dtype": stated}
    load_backend(dataclasses.replace(artefact, numerics="bfloat16", demand=demand), artefact.runtime)
    assert backends == [numerics]


@pytest.mark.slow
@needs_nncf
def test_int8_is_written_where_it_is_asked_for(preferences_of, models, texts, tmp_path):
    values = {"compute.exactness": "fast", "compute.weights": "int8"}
    artefact = compile_model(preferences_of("bert", **values), tmp_path / "artefact")
    assert artefact.numerics == "int8"
    assert not (artefact.folder / "model").exists()
    encoder = load_encoder(artefact.folder)
    assert encoder.record.numerics["weights"] == "int8"
    rows, expected = encoder.encode(texts), models("bert").encode(texts)
    cosines = (rows * expected).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.95
    assert cosines.min() < 1 - 1e-6


@pytest.mark.slow
def test_the_real_model_keeps_its_vectors(minilm_folder, texts, tmp_path):
    """all-MiniLM-L6-v2 as its defaults say: a cosine of 0.9999 on average, also where that is bfloat16."""
    preferences = preferences_for_model(minilm_folder, {"compute.device": "cpu"})
    encoder = load_encoder(compile_model(preferences, tmp_path / "artefact").folder)
    model = load_model(minilm_folder, overrides={"compute.device": "cpu", "compute.backend": "torch"})
    assert encoder.fingerprint == model.fingerprint
    cosines = (encoder.encode_document(texts) * model.encode_document(texts)).sum(axis=1)
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.9995
