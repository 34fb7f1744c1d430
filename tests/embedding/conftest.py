"""A loaded model that is exact and quick: a text's vector is the mean of its words' vectors."""

from __future__ import annotations

import pytest

from embedprefs import load_model
from embedprefs.testing import STATIC_WORDS, static_model_folder


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    words = {"a": (1,) * 8, "the": (0, 1) * 4, "quick": (0, 0, 1, 1) * 2}
    return static_model_folder(tmp_path_factory.mktemp("static") / "model", {**STATIC_WORDS, **words})


@pytest.fixture(scope="session")
def model(static_folder):
    return load_model(static_folder)
