"""Codes that can be compared between calls, half precision that is pooled in float32, mixed precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedprefs import CheckFailedError, InvalidPreferenceError, PreferenceMismatchError
from embedprefs.calibration import calibrate


@pytest.fixture(scope="module")
def ranges(load, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "ranges.json"
    calibrate(load("bert"), texts).save(path)
    return path


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_codes_of_a_text_are_the_same_in_every_call(precision, load, ranges, texts):
    model = load("bert", vectors__precision=precision, vectors__calibration=str(ranges))
    together = model.encode(texts)
    assert together.dtype == np.dtype(precision)
    for position, text in enumerate(texts):
        assert np.abs(model.encode(text).astype(int) - together[position]).max() <= 1
    assert model.calibration.dequantize(together) == pytest.approx(load("bert").encode(texts), abs=0.01)


@pytest.mark.parametrize("form", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_codes_come_in_the_hosts_forms(form, load, ranges, host, texts):
    model = load("bert", vectors__precision="int8", vectors__calibration=str(ranges))
    left, right = model.encode(texts, **form), host("bert").encode(texts, precision="int8", **form)
    assert type(left) is type(right)
    assert (left[0].shape, left[0].dtype) == (right[0].shape, right[0].dtype)


def test_with_the_hosts_own_ranges_the_codes_are_the_hosts(load, host, texts, ranges):
    """Calibrated on the very texts that are encoded, the ranges are those the host would take."""
    model = load("bert", vectors__precision="uint8", vectors__calibration=str(ranges))
    left, right = model.encode(texts).astype(int), host("bert").encode(texts, precision="uint8").astype(int)
    assert np.abs(left - right).max() <= 1
    assert (left == right).mean() > 0.99


def test_values_outside_the_ranges_are_counted(load, tmp_path, texts):
    calibrate(load("bert"), texts[:2]).save(tmp_path / "narrow.json")
    model = load("bert", vectors__precision="int8", vectors__calibration=str(tmp_path / "narrow.json"))
    with model.collect_report() as report:
        model.encode(texts[:2])
    assert report.clipped == 0
    with model.collect_report() as report:
        codes = model.encode(texts[4:])
    assert report.clipped > 0
    assert np.isin([-128, 127], codes).all()


def test_the_precision_of_a_call_wins(load, ranges, ours, texts):
    model = load("bert", vectors__precision="int8", vectors__calibration=str(ranges))
    assert np.array_equal(model.encode(texts, precision="float32"), ours("bert").encode(texts))


def test_codes_without_ranges_are_refused(ours):
    with pytest.raises(InvalidPreferenceError, match=r"vectors.calibration names none"):
        ours("bert").encode(["a", "b"], precision="int8")


def test_ranges_of_other_vectors_are_refused(load, ranges):
    """The calibration knows the identity it was measured on, and the number of dimensions."""
    with pytest.raises(PreferenceMismatchError, match="measured on other vectors"):
        load("bert", vectors__precision="int8", vectors__calibration=str(ranges), tokenizer__max_seq_length=20)
    with pytest.raises(CheckFailedError, match="32 dimensions, and these have 8"):
        load("bert", vectors__precision="int8", vectors__calibration=str(ranges), vectors__truncate_dim=8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_half_precision_is_pooled_and_scaled_in_float32(name, dtype, load, host, texts):
    """Vectors are float32 of length 1, in every form, and close to those of float32 weights."""
    model = load(name, compute__dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    vectors = model.encode(texts)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert model.encode(texts, convert_to_tensor=True).dtype == torch.float32
    exact = host(name).encode(texts)
    assert (vectors * exact).sum(axis=1).min() > (0.98 if dtype == "bfloat16" else 0.9995)


def test_mixed_precision_keeps_float32_weights(load, ours, texts):
    model = load("bert", compute__autocast=True)
    assert model.dtype == torch.float32
    vectors = model.encode(texts)
    difference = np.abs(vectors - ours("bert").encode(texts)).max()
    assert 1e-6 < difference < 0.1
    assert vectors.dtype == np.float32


def test_the_dtype_is_stated_even_where_the_files_say_another(tmp_path):
    """A checkpoint saved in half precision is computed in float32 unless bfloat16 is asked for."""
    from embedprefs import load_model, testing

    folder = testing.tiny_bert_folder(tmp_path, dtype="bfloat16")
    model = load_model(folder, overrides={"compute.device": "cpu", "compute.dtype": "float32"})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
