"""Calls side by side, and a model that is left as it was found."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from embedprefs.model.guard import CallGuard


@pytest.mark.parametrize("name", ["bert", "modernbert", "minilm"])
def test_many_threads_get_the_vectors_of_one(name, load, texts):
    """Prompts, limits and forms differ between the threads, so that settings of the tokenizer would clash."""
    model = load(name, prompts__query="query: ", prompts__document="passage: ")
    calls = [
        lambda: model.encode_query(texts),
        lambda: model.encode_document(texts),
        lambda: model.encode(texts, processing_kwargs={"text": {"max_length": 7}}),
        lambda: model.encode(texts, output_value="token_embeddings")[1],
        lambda: model.encode(texts[:2], convert_to_tensor=True).numpy(),
        lambda: model.encode(texts[3]),
    ]
    expected = [np.asarray(call()) for call in calls]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: np.asarray(calls[number % len(calls)]()), range(48)))
    for number, vectors in enumerate(found):
        assert vectors == pytest.approx(expected[number % len(calls)], abs=1e-6)


def test_training_mode_is_left_as_found(load):
    """Also where only a part of the model is in training mode."""
    model = load("bert")
    model.train()
    model[0].model.encoder.layer[0].eval()
    before = [module.training for module in model.modules()]
    evaluated = load("bert").encode(["a river"])
    assert np.array_equal(model.encode(["a river"]), evaluated)
    assert [module.training for module in model.modules()] == before


def test_no_thread_switches_dropout_on_under_another(load, texts):
    model = load("bert")
    expected = model.encode(texts)
    model.train()
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda size: model.encode(texts, batch_size=size), [1, 2, 3, 4, 5, 6] * 4))
    assert all(np.abs(vectors - expected).max() < 1e-6 for vectors in found)
    assert model.training


def test_a_failed_call_leaves_the_model_as_found(load):
    model = load("bert")
    model.train()
    with pytest.raises(ValueError, match="nonsense"):
        model.encode(["a"], nonsense=1)
    assert model.training


def test_the_number_of_threads_is_put_back(load):
    model = load("bert", compute__threads=2)
    before = torch.get_num_threads()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(1)
    try:
        model.encode("a")
        assert torch.get_num_threads() == 1
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


class Model:
    """What the guard looks at."""

    device = "cpu"

    def modules_in_training(self):
        return []

    def to(self, device):
        self.device = device


def test_a_call_that_moves_the_model_has_it_to_itself():
    guard, model = CallGuard(), Model()
    running, most = [], []

    def call(alone):
        with guard.call(model, alone=alone, threads=None):
            running.append(alone)
            most.append(list(running))
            if alone:
                model.device = "elsewhere"
            else:
                assert model.device == "cpu"
            time.sleep(0.002)
            running.remove(alone)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, [False, False, True, False] * 10))
    assert all(len(side_by_side) == 1 for side_by_side in most if True in side_by_side)
    assert max(len(side_by_side) for side_by_side in most) > 1
    assert model.device == "cpu"


def test_a_failed_call_lets_the_next_one_in():
    guard, model = CallGuard(), Model()
    with pytest.raises(RuntimeError, match="broken"), guard.call(model, alone=True, threads=None):
        raise RuntimeError("broken")
    done = threading.Event()

    def next_call():
        with guard.call(model, alone=True, threads=None):
            done.set()

    threading.Thread(target=next_call, daemon=True).start()
    assert done.wait(5)
