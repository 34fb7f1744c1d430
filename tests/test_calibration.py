"""Ranges for int8 and uint8 vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedprefs.calibration import Calibration, calibrate
from embedprefs.errors import InputError, ModelFilesError, PreferenceMismatchError


def ranges(low=(-255, 0), high=(255, 255)):
    return Calibration(np.array(low, np.float32), np.array(high, np.float32), 3, "abc")


def test_ends_of_the_ranges_become_the_ends_of_the_codes():
    vectors = np.array([[-255, 0], [255, 255], [0, 127.5]], dtype=np.float32)
    codes, clipped = ranges().quantize(vectors, "uint8")
    assert codes.tolist() == [[0, 0], [255, 255], [127, 127]]
    assert ranges().quantize(vectors, "int8")[0].tolist() == [[-128, -128], [127, 127], [-1, -1]]
    assert clipped == 0


def test_values_outside_are_clipped_and_counted():
    codes, clipped = ranges().quantize(np.array([[-256, 127], [254, 300]], dtype=np.float32), "int8")
    assert codes.tolist() == [[-128, -1], [126, 127]]
    assert clipped == 2


def test_codes_are_those_of_the_host_with_the_same_ranges():
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    calibration = Calibration(vectors.min(axis=0), vectors.max(axis=0), 50, "abc")
    for precision in ("int8", "uint8"):
        expected = quantize_embeddings(vectors, precision=precision, ranges=calibration.ranges)
        assert np.array_equal(calibration.quantize(vectors, precision)[0], expected)


def test_codes_lead_back_to_within_half_a_step():
    vectors = np.random.default_rng(1).uniform(-1, 1, (40, 8)).astype(np.float32)
    calibration = Calibration(vectors.min(axis=0), vectors.max(axis=0), 40, "abc")
    for precision in ("int8", "uint8"):
        codes, _ = calibration.quantize(vectors, precision)
        step = (calibration.maximum - calibration.minimum) / 255
        assert (np.abs(calibration.dequantize(codes) - vectors) <= step * 0.51).all()


def test_a_dimension_that_never_changes_divides_by_nothing():
    codes, clipped = ranges(low=(0.5, 0), high=(0.5, 1)).quantize(np.array([[0.5, 0.5]], np.float32), "uint8")
    assert codes.tolist() == [[0, 127]]
    assert clipped == 0


def test_vectors_of_another_length_are_refused():
    with pytest.raises(PreferenceMismatchError, match="2 dimensions; these have 3"):
        ranges().quantize(np.zeros((1, 3), np.float32), "int8")


def test_a_file_keeps_every_digit(tmp_path):
    written = Calibration(np.array([-0.1, 1 / 3], np.float32), np.array([0.1, 2 / 3], np.float32), 7, "fingerprint")
    written.save(tmp_path / "c.json")
    read = Calibration.load(tmp_path / "c.json")
    assert np.array_equal(read.ranges, written.ranges)
    assert (read.count, read.fingerprint) == (7, "fingerprint")


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        json.dumps({"version": 2}),
        json.dumps({"version": 1, "minimum": [0], "maximum": [1], "count": 3}),
        json.dumps({"version": 1, "minimum": [0, 1], "maximum": [1], "count": 3, "fingerprint": "f"}),
        json.dumps({"version": 1, "minimum": [2], "maximum": [1], "count": 3, "fingerprint": "f"}),
        '{"version": 1, "minimum": [NaN], "maximum": [1], "count": 3, "fingerprint": "f"}',
        json.dumps({"version": 1, "minimum": "x", "maximum": [1], "count": 3, "fingerprint": "f"}),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(content, tmp_path):
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelFilesError, match=r"c.json: .*\n  Make it with: embedprefs calibrate"):
        Calibration.load(tmp_path / "c.json")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ModelFilesError, match="no such calibration file"):
        Calibration.load(tmp_path / "absent.json")


class Model:
    """A model whose vectors are given; only what `calibrate` uses."""

    float32_fingerprint = "of the model"

    def __init__(self):
        self.asked = []

    def encode_document(self, texts, precision):
        self.asked.append((len(texts), precision))
        return np.array([[float(text), -float(text)] for text in texts], np.float32)


def test_ranges_are_measured_chunk_by_chunk():
    """The texts are read once, and never held together."""
    model = Model()
    found = calibrate(model, (str(number) for number in [3, 1, 4, 1, 5]), chunk_size=2)
    assert found.ranges.tolist() == [[1, -5], [5, -1]]
    assert (found.count, found.fingerprint) == (5, "of the model")
    assert model.asked == [(2, "float32"), (2, "float32"), (1, "float32")]


@pytest.mark.parametrize("texts", [[], ["1"]])
def test_too_few_texts_are_refused(texts):
    with pytest.raises(InputError, match="too few"):
        calibrate(Model(), texts)
