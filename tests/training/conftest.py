"""A tiny ModernBERT with random weights, and questions about made-up documents."""

from __future__ import annotations

import random
import warnings

import pytest

from embedprefs.layers import preferences_for_model
from embedprefs.testing import tiny_modernbert_folder

PROMPTS = {"query": "search_query: ", "document": "search_document: "}


def made_up_rows(count, seed=0):
    """Two questions for each passage, two passages for each document; a passage's words answer its questions."""
    chance = random.Random(seed)
    words = [first + last for first in ("ba", "ko", "ri", "mu", "te", "sa", "lo", "ni") for last in ("la", "to", "ne")]
    rows = []
    while len(rows) < count:
        own = chance.sample(words, 6)
        for _ in range(2):
            question = " ".join(chance.sample(own, 2))
            rows.append({"anchor": question, "positive": " ".join(own), "document_id": f"d{len(rows) // 4}"})
    return rows


@pytest.fixture(scope="session")
def rows():
    return made_up_rows(64)


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory):
    return tiny_modernbert_folder(
        tmp_path_factory.mktemp("base") / "model", num_hidden_layers=2, prompts=PROMPTS, seed=3
    )


@pytest.fixture
def preferences_of():
    """Preferences for a model's folder, trained in a few small steps."""

    def made(folder, **overrides):
        values = {
            "compute.device": "cpu",
            "training.arguments": {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 1e-3},
        }
        return preferences_for_model(str(folder), {**values, **overrides})

    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory, modernbert, rows):
    """A whole run: LoRA, Matryoshka, activation checkpointing, a training length of its own; with what it reported."""
    from embedprefs.training import train

    preferences = preferences_for_model(str(modernbert), END_TO_END)
    states = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train(preferences, rows, output=tmp_path_factory.mktemp("runs") / "first", progress=states.append)
    return result, states


#: A run with everything in it, in a few seconds.
END_TO_END = {
    "compute.device": "cpu",
    "training.lora": {"r": 4, "lora_dropout": 0.1},
    "training.matryoshka_dims": [32, 16],
    "training.activation_checkpointing": "on",
    "training.max_seq_length": 24,
    "training.split": {"development": 0.2, "test": 0.3},
    "training.arguments": {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "learning_rate": 5e-3,
        "save_steps": 4,
        "logging_steps": 1,
    },
}


@pytest.fixture(scope="session")
def end_to_end():
    return END_TO_END
