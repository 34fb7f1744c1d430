"""A worker process computes its chunk with the engine of its own device, without padding where that is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedprefs import EmbedPrefsWarning, load_model, testing
from embedprefs.model.workers import vectors_in_worker, why_not_in_workers

TEXTS = [f"text {number} " + "and some more of it " * (number % 7) for number in range(30)]
ARGUMENTS = {
    "prompt": "passage: ",
    "batch_size": 4,
    "show_progress_bar": False,
    "output_value": "sentence_embedding",
    "save_to_cpu": True,
    "normalize_embeddings": True,
    "truncate_dim": 8,
    "device": "cpu",
    "task": "document",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.tiny_bert_folder(tmp_path_factory.mktemp("workers") / "bert")


def load(folder: Path, **overrides: Any) -> Any:
    values = {"compute.device": "cpu", "compute.backend": "torch", "compute.attention": "varlen"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        return load_model(folder, overrides={**values, **overrides})


def test_a_chunk_is_computed_as_the_call_asks_for(folder: Path) -> None:
    """With its prompt, length and scaling; a call that states a number of texts is kept to it."""
    model = load(folder)
    expected = model.encode(TEXTS, prompt="passage: ", truncate_dim=8, normalize_embeddings=True)
    found = vectors_in_worker(model, TEXTS, ARGUMENTS)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        (TEXTS, {"output_value": "token_embeddings"}),
        ([("a pair", "of texts")], {}),
        (TEXTS, {"processing_kwargs": {"text": {"padding": "max_length"}}}),
    ],
)
def test_what_the_engine_does_not_know_is_the_hosts(folder: Path, inputs: list[Any], arguments: dict[str, Any]) -> None:
    assert vectors_in_worker(load(folder), inputs, {**ARGUMENTS, **arguments}) is None


def test_why_workers_run_the_hosts_loop_is_said(folder: Path) -> None:
    model = load(folder)
    assert why_not_in_workers(model, {"task": "query"}) is None
    assert "processing_kwargs" in str(why_not_in_workers(model, {"processing_kwargs": {}}))
    model.train()
    assert "training" in str(why_not_in_workers(model, {}))


@pytest.mark.slow
def test_processes_on_two_devices_compute_without_padding(folder: Path) -> None:
    """Each has the attention, though it has not loaded the model."""
    model = load(folder)
    expected = model.encode_document(TEXTS)
    spread = load(folder, **{"compute.device": ["cpu", "cpu"]})
    assert spread.resolved["compute.attention"] == "varlen"
    with spread.collect_report() as report:
        np.testing.assert_allclose(spread.encode_document(TEXTS, chunk_size=7), expected, atol=1e-6)
    assert report.in_workers == len(TEXTS)
