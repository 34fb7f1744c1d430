"""Every proved architecture computes the same without padding as the host does with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedprefs import resolve, testing
from embedprefs.engine.gpu.architectures import PROVED, kernel_objection, objection_to_config, objection_to_facts
from embedprefs.engine.torch_backend import TorchBackend
from embedprefs.facts import read_facts
from embedprefs.hardware.description import Accelerator, Hardware
from embedprefs.layers import preferences_for_model

from .conftest import CONFIGURATIONS, our_attention, packed_backend, padded_batch

#: Around the window of the local layers (8 to either side) and around a block; two of one length, next to each other.
LENGTHS = (100, 83, 83, 66, 64, 18, 17, 9, 8, 2, 1)


def test_every_line_of_the_table_is_tested() -> None:
    assert set(CONFIGURATIONS) == set(PROVED)


@pytest.mark.parametrize("model_type", sorted(PROVED))
def test_vectors_and_token_vectors_are_the_hosts(model_of: Callable[..., Any], model_type: str) -> None:
    """The host computes with padding and its own attention; both in float32."""
    from contextlib import nullcontext

    model = model_of(model_type)
    ids, mask = padded_batch(LENGTHS, pad_id=model[0].config.pad_token_id)
    host = TorchBackend(model, autocast=nullcontext)
    vectors, tokens = host.vectors(ids, mask), host.token_vectors(ids, mask)
    with our_attention(model):
        backend = packed_backend(model)
        ours = backend.vectors(ids, mask)
        our_tokens = backend.token_vectors(ids, mask)
    assert np.abs(ours - vectors).max() <= 1e-5
    assert np.abs((our_tokens - tokens) * mask[..., None]).max() <= 1e-5
    assert np.linalg.norm(vectors - vectors[0], axis=1)[1:].min() > 1e-3, "the texts have vectors of their own"


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "roberta"])
def test_a_text_has_its_vector_whatever_its_batch_mates(model_of: Callable[..., Any], model_type: str) -> None:
    """Nothing is seen across the border of two texts, and the place in the batch does not count."""
    model = model_of(model_type)
    ids, mask = padded_batch(LENGTHS, pad_id=model[0].config.pad_token_id)
    with our_attention(model):
        backend = packed_backend(model)
        together = backend.vectors(ids, mask)
        turned = backend.vectors(ids[::-1].copy(), mask[::-1].copy())[::-1]
        alone = np.stack([backend.vectors(ids[at : at + 1], mask[at : at + 1])[0] for at in range(len(ids))])
    assert np.abs(together - turned).max() <= 1e-6
    assert np.abs(together - alone).max() <= 1e-6


@pytest.mark.parametrize("model_type", sorted(PROVED))
def test_padded_batches_are_the_hosts_too(model_of: Callable[..., Any], model_type: str) -> None:
    """What the host's own loop, training and the fall-back read goes through the same attention."""
    from contextlib import nullcontext

    model = model_of(model_type)
    ids, mask = padded_batch(LENGTHS, pad_id=model[0].config.pad_token_id)
    host = TorchBackend(model, autocast=nullcontext)
    vectors = host.vectors(ids, mask)
    with our_attention(model):
        assert np.abs(host.vectors(ids, mask) - vectors).max() <= 1e-5


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mpnet"}, "no test proves model type mpnet"),
        ({}, "no test proves model type unknown"),
        ({"model_type": "bert", "is_decoder": True}, "decoder"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "relative_key"),
        ({"model_type": "eurobert", "num_attention_heads": 4, "num_key_value_heads": 2}, "share keys and values"),
        ({"model_type": "bert", "chunk_size_feed_forward": 8}, "chunk_size_feed_forward"),
        ({"model_type": "modernbert", "rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "dynamic"),
    ],
)
def test_what_is_not_proved_is_named(config: dict[str, Any], said: str) -> None:
    assert said in str(objection_to_config(config))


def test_the_files_of_a_tiny_model_speak_for_it_and_a_static_one_against(tmp_path: Any) -> None:
    assert objection_to_facts(read_facts(str(testing.tiny_modernbert_folder(tmp_path / "a")))) is None
    assert "static" in str(objection_to_facts(read_facts(str(testing.static_model_folder(tmp_path / "b")))))


AMPERE = Accelerator("cuda", 0, "A", memory_total=2**35, memory_free=2**35, compute_capability=(8, 0))
MACHINE = Hardware(
    torch_version="2.13.0",
    torch_cuda_version="13.0",
    torch_varlen_attention=True,
    accelerators=(AMPERE,),
    packages={"torch": "2.13.0", "sentence-transformers": "6.2.0", "transformers": "5.23.0"},
)
OLD = dataclasses.replace(AMPERE, name="T", compute_capability=(7, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return testing.tiny_bert_folder(tmp_path_factory.mktemp("gpu") / "bert")


def test_a_gpu_gets_it_by_itself(folder: Any) -> None:
    """In bfloat16, with room for many short texts; `exact` asks for float32, which the kernel does not compute."""
    resolved = resolve(preferences_for_model(str(folder)), None, MACHINE)
    assert [resolved[f"compute.{name}"] for name in ("device", "dtype", "attention", "max_batch_size", "compile")] == [
        "cuda:0",
        "bfloat16",
        "varlen",
        4096,
        False,
    ]
    exact = resolve(preferences_for_model(str(folder), {"compute.exactness": "exact"}), None, MACHINE)
    assert (exact["compute.dtype"], exact["compute.attention"]) == ("float32", "sdpa")
    assert "float32" in exact.choice("compute.attention").reason


@pytest.mark.parametrize(
    ("hardware", "arguments", "said"),
    [
        ({}, {"device": "mps"}, "device is mps"),
        ({"torch_hip_version": "7.0"}, {}, "AMD"),
        ({"torch_varlen_attention": False}, {}, "torch 2.13.0 has no"),
        ({"accelerators": (OLD,)}, {}, "T has 7.5"),
        ({}, {"dtype": "float32"}, "runs in float32"),
        ({}, {"autocast": True}, "autocast"),
    ],
)
def test_what_the_kernel_does_not_take_is_said(
    folder: Any, hardware: dict[str, Any], arguments: dict[str, Any], said: str
) -> None:
    facts = read_facts(str(folder))
    machine = dataclasses.replace(MACHINE, **hardware)
    assert said in str(kernel_objection(facts, machine, **{"device": "cuda:0", "dtype": "bfloat16", **arguments}))
    assert kernel_objection(facts, machine, device="cpu", dtype="float32") is None


@pytest.mark.parametrize(
    ("config", "said"),
    [({"hidden_size": 36}, "have 9 numbers"), ({"hidden_size": 2048}, "have 512 numbers"), ({}, None)],
)
def test_heads_have_to_be_of_a_size_that_the_kernel_takes(
    folder: Any, config: dict[str, Any], said: str | None
) -> None:
    facts = read_facts(str(folder))
    facts = dataclasses.replace(facts, config={**facts.config, **config})
    found = kernel_objection(facts, MACHINE, device="cuda:0", dtype="bfloat16")
    assert found is None if said is None else said in str(found)
