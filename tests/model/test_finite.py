"""Vectors that hold NaN or infinity do not leave a model unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedprefs import EmbedPrefsWarning, load_model
from embedprefs.errors import ModelFilesError
from embedprefs.model.finite import look_for_broken_vectors
from embedprefs.testing import static_model_folder

WORDS = {"red": (1.0, 0.0), "blue": (0.0, 1.0), "broken": (float("nan"), 1.0)}


@pytest.fixture
def model(tmp_path):
    return load_model(static_model_folder(tmp_path / "damaged", WORDS))


def test_some_broken_vectors_are_named_in_a_warning_at_the_callers_line(model):
    """The others are as they should be, and the warning points at the user's file."""
    with pytest.warns(EmbedPrefsWarning, match="1 of 3 vectors hold NaN or infinity: input 1") as caught:
        vectors = model.encode_document(["red", "broken", "blue"])
    assert caught[0].filename == __file__
    assert np.isfinite(vectors[[0, 2]]).all()


def test_a_call_without_one_finite_vector_is_refused(model):
    """The checkpoint is damaged; no vector of it is of use."""
    with pytest.raises(ModelFilesError, match=r"no vector of this call is finite \(1 of 1\)[^$]*use another one"):
        model.encode_query("broken")


@pytest.mark.parametrize("wanted", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_tensors_are_looked_at_too(model, wanted):
    """Whatever the form of the result."""
    with pytest.warns(EmbedPrefsWarning, match="input 0"):
        model.encode_document(["broken", "red"], **wanted)


def test_many_are_counted_and_a_half_is_told_to_use_float32():
    """Five are named."""
    vectors = torch.ones(9, 2, dtype=torch.bfloat16)
    vectors[1:8] = float("inf")
    with pytest.warns(EmbedPrefsWarning, match=r"7 of 9 .*: input 11, 12, 13, 14, 15 and 2 more\. .*\"float32\""):
        look_for_broken_vectors(vectors, model="m", dtype="bfloat16", first_position=10)


def test_codes_and_tokens_are_left_alone(model):
    """Codes hold no such numbers."""
    look_for_broken_vectors(np.zeros((2, 4), dtype=np.int8), model="m", dtype="float32")
    look_for_broken_vectors([{"token_embeddings": torch.full((1, 2), float("nan"))}], model="m", dtype="float32")
