"""The test models are what they say they are."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from embedprefs import testing
from embedprefs.facts import read_facts

TINY = {
    "bert": testing.tiny_bert_folder,
    "roberta": testing.tiny_roberta_folder,
    "modernbert": testing.tiny_modernbert_folder,
}


def host(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def test_a_static_models_vectors_can_be_computed_by_hand(tmp_path):
    model = host(testing.static_model_folder(tmp_path))
    assert model.encode("red").tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert model.encode("Red, green!").tolist() == pytest.approx(
        ((np.array(testing.STATIC_WORDS["red"]) + testing.STATIC_WORDS["green"] + 2 * np.full(8, 0.25)) / 4).tolist()
    )
    assert model.encode("unheard").tolist() == [0.25] * 8
    assert not model.encode("").any()


def test_a_static_model_takes_words_of_ones_own(tmp_path):
    model = host(testing.static_model_folder(tmp_path, {"left": (3, 4), "right": (0, 2)}, normalize=True))
    assert model.encode(["left", "right"]) == pytest.approx(np.array([[0.6, 0.8], [0, 1]]), abs=1e-6)
    with pytest.raises(ValueError, match="one common length"):
        testing.static_model_folder(tmp_path, {"a": (1,), "b": (1, 2)})


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_transformer_loads_whole_and_tells_texts_apart(name, tmp_path):
    folder = TINY[name](tmp_path, prompts={"query": "query: "})
    facts = read_facts(str(folder))
    assert facts.tensors_verified
    assert [facts.missing_tensors, facts.unexpected_tensors, facts.mismatched_tensors, facts.problems] == [()] * 4
    model = host(folder)
    assert model.prompts["query"] == "query: "
    vectors = model.encode(["the river runs", "a cold morning", "The River runs"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.99
    tokens = model.tokenizer("a vector ñ 日本")
    assert model.tokenizer.unk_token_id not in tokens["input_ids"] or name == "bert"


@pytest.mark.parametrize("name", TINY)
def test_the_seed_makes_a_model_the_same_everywhere(name, tmp_path):
    first, again, other = (
        TINY[name](tmp_path / str(number), seed=seed) / "model.safetensors" for number, seed in enumerate((5, 5, 6))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_can_be_stored_in_half_precision(dtype, tmp_path):
    import torch

    half = host(testing.tiny_bert_folder(tmp_path / "half", dtype=dtype))
    whole = host(testing.tiny_bert_folder(tmp_path / "whole"))
    stored, exact = next(half.parameters()), next(whole.parameters())
    assert stored.dtype == getattr(torch, dtype)
    assert torch.equal(stored, exact.to(stored.dtype))


def test_the_flagship_is_as_published(tmp_path):
    """No prompts, three modules, 8192 tokens, and the keys that nothing reads any more."""
    folder = testing.published_modernbert_embed_folder(tmp_path)
    model = host(folder)
    assert model.prompts == {"query": "", "document": ""}
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert model.max_seq_length == 8192
    assert model.similarity_fn_name == "cosine"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dead = {"layer_norm_eps", "position_embedding_type", "gradient_checkpointing", "reference_compile",
            "repad_logits_with_grad"}  # fmt: skip
    assert dead <= set(config)
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 8192,
        "do_lower_case": False,
    }


def test_byte_level_tokenizers_join_the_prompts_space_to_the_word(tmp_path):
    """So a prompt without its trailing space gives other tokens, as with the real model."""
    tokenizer = host(testing.published_modernbert_embed_folder(tmp_path)).tokenizer
    assert tokenizer.tokenize("search_query: river")[-1] == "Ġriver"
    assert tokenizer.tokenize("search_query:river")[-1] == "river"


def test_the_large_model_has_the_published_size_and_takes_no_space(tmp_path):
    folder = testing.modernbert_large_folder(tmp_path)
    facts = read_facts(str(folder))
    assert facts.parameter_count == 394_781_696
    assert facts.embedding_dimension == 1024
    assert [facts.missing_tensors, facts.unexpected_tensors, facts.mismatched_tensors, facts.problems] == [()] * 4
    status = (folder / "model.safetensors").stat()
    assert status.st_size > 1_579_000_000
    if hasattr(status, "st_blocks"):
        assert status.st_blocks * 512 < 10_000_000
    assert facts.tokenizer is not None
    assert facts.tokenizer.size == 50368


def test_writing_a_model_needs_neither_torch_nor_transformers(tmp_path):
    program = (
        "import sys; from embedprefs import testing\n"
        f"testing.tiny_modernbert_folder({str(tmp_path / 'a')!r})\n"
        f"testing.static_model_folder({str(tmp_path / 'b')!r})\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
