"""Every architecture that may leave torch computes there what it computes in torch."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import testing
from embedprefs.engine.openvino.architectures import (
    CHAIN_MODULES,
    PROVED,
    objection,
    objection_to_config,
    objection_to_facts,
)
from embedprefs.engine.openvino.backend import OpenVINOBackend, native_bfloat16
from embedprefs.facts import read_facts

#: Lengths of padded batches: alone, equal, short beside long, longer than the local layers' windows.
BATCHES = [(9,), (40, 40), (128, 77, 16, 3, 2), (5, 31, 33, 64)]
#: Every pooling in one model, each in a part of the vector, so that one conversion proves all of them.
ALL_POOLINGS = ("mean", "mean_sqrt_len_tokens", "cls", "max", "lasttoken", "weightedmean")


def _parts(vectors: np.ndarray) -> np.ndarray:
    """Return the parts of the vectors that the poolings made, each scaled to length 1."""
    parts = vectors.reshape(len(vectors), len(ALL_POOLINGS), -1)
    return parts / np.linalg.norm(parts, axis=2, keepdims=True)


@pytest.mark.parametrize("model_type", sorted(PROVED))
def test_vectors_equal_torch_in_float32(model_type, converted, tiny):
    """Vectors and token vectors of padded batches of several lengths are torch's within 1e-5, for every pooling."""
    model, folder = converted(model_type, pooling=ALL_POOLINGS)
    backend = OpenVINOBackend(folder, numerics="float32", threads=1)
    padding = tiny.configurations[model_type]["pad_token_id"]
    assert set(ALL_POOLINGS) == PROVED[model_type]
    for seed, lengths in enumerate(BATCHES):
        ids, mask = tiny.batch(lengths, padding=padding, seed=seed)
        host = tiny.host_vectors(model, ids, mask)
        vectors = backend.vectors(ids, mask)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, host["sentence_embedding"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(_parts(vectors), _parts(host["sentence_embedding"]), rtol=0, atol=1e-5)
        tokens = backend.token_vectors(ids, mask)
        assert tokens.shape == host["token_embeddings"].shape
        counted = mask.astype(bool)
        np.testing.assert_allclose(tokens[counted], host["token_embeddings"][counted], rtol=0, atol=2e-5)


@pytest.mark.parametrize("model_type", sorted(PROVED))
def test_vectors_are_close_in_bfloat16(model_type, converted, tiny):
    """In bfloat16 every pooling's vectors have a cosine of at least 0.999 to torch's float32, and are not the same."""
    if not native_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    model, folder = converted(model_type, pooling=ALL_POOLINGS)
    backend = OpenVINOBackend(folder, numerics="bfloat16", threads=1)
    padding = tiny.configurations[model_type]["pad_token_id"]
    for seed, lengths in enumerate(BATCHES):
        ids, mask = tiny.batch(lengths, padding=padding, seed=seed)
        host = tiny.host_vectors(model, ids, mask)["sentence_embedding"]
        vectors = backend.vectors(ids, mask)
        cosines = (_parts(vectors) * _parts(host)).sum(axis=2)
        assert cosines.min() >= 0.999
        assert not np.allclose(vectors, host, rtol=0, atol=1e-6)


def test_local_layers_longer_than_their_blocks(converted, tiny):
    """ModernBERT's local layers, which go block by block, are torch's for texts of several blocks and odd lengths."""
    model, folder = converted("modernbert", pooling=ALL_POOLINGS)
    backend = OpenVINOBackend(folder, numerics="float32", threads=1)
    for lengths in ((401, 257, 130, 16), (128,), (129, 127)):
        ids, mask = tiny.batch(lengths, padding=0)
        host = tiny.host_vectors(model, ids, mask)["sentence_embedding"]
        np.testing.assert_allclose(backend.vectors(ids, mask), host, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", ["roberta", "mpnet"])
def test_padding_with_another_id_changes_nothing(model_type, converted, tiny):
    """What stands at padding has no influence, even where positions are counted by the padding's id."""
    _, folder = converted(model_type, pooling=ALL_POOLINGS)
    backend = OpenVINOBackend(folder, numerics="float32", threads=1)
    ids, mask = tiny.batch((30, 11, 4), padding=1)
    other = np.where(mask == 1, ids, 37)
    np.testing.assert_array_equal(backend.vectors(ids, mask), backend.vectors(other, mask))


def test_batch_mates_change_nothing(converted, tiny):
    """A text has the same vector alone as beside longer texts, within 1e-5."""
    _, folder = converted("bert", pooling=ALL_POOLINGS)
    backend = OpenVINOBackend(folder, numerics="float32", threads=1)
    ids, mask = tiny.batch((7, 90, 128), padding=0)
    together = backend.vectors(ids, mask)
    alone = backend.vectors(ids[:1, :7], mask[:1, :7])
    np.testing.assert_allclose(alone[0], together[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt_tokens", [0, 3, 6])
def test_prompt_is_left_out_of_pooling(prompt_tokens, converted, tiny):
    """With include_prompt off, pooling leaves out the prompt's tokens as the host does, up to the whole text."""
    poolings = tuple(name for name in ALL_POOLINGS if name != "max")  # the maximum of no token is minus infinity
    model, folder = converted("bert", pooling=poolings, include_prompt=False)
    backend = OpenVINOBackend(folder, numerics="float32", threads=1)
    ids, mask = tiny.batch((20, 9, 6), padding=0)
    features = {"prompt_length": prompt_tokens} if prompt_tokens else {}
    host = tiny.host_vectors(model, ids, mask, **features)["sentence_embedding"]
    np.testing.assert_allclose(backend.vectors(ids, mask, prompt_tokens=prompt_tokens), host, rtol=0, atol=1e-5)


def test_dense_and_layer_norm_are_converted(tmp_path, tiny):
    """Dense layers with and without a shortcut, LayerNorm and Dropout behind the pooling are part of the graph."""
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm

    from embedprefs.engine.openvino.conversion import convert

    model = tiny.model(tmp_path / "model", "bert")
    transformer, pooling, normalize = model.children()
    torch.manual_seed(3)
    chain = [
        transformer,
        pooling,
        Dense(32, 24, activation_function=torch.nn.Tanh()),
        Dropout(0.5),
        LayerNorm(24),
        Dense(24, 24, activation_function=torch.nn.GELU(), use_residual=True),
        Dense(24, 16, bias=False, activation_function=None),
        normalize,
    ]
    model = type(model)(modules=chain, device="cpu").eval()
    assert {type(module).__name__ for module in chain[2:]} == set(CHAIN_MODULES)
    (tmp_path / "converted").mkdir()
    description = convert(model, tmp_path / "converted")
    ids, mask = tiny.batch((20, 9, 6), padding=0)
    backend = OpenVINOBackend(tmp_path / "converted", numerics="float32", threads=1)
    assert (description.dimension, backend.dimension) == (16, 16)
    host = tiny.host_vectors(model, ids, mask)["sentence_embedding"]
    np.testing.assert_allclose(backend.vectors(ids, mask), host, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "modules", "poolings", "told"),
    [
        ("bert", ["Transformer", "Pooling", "Normalize"], ["mean"], None),
        ("qwen3", ["Transformer", "Pooling"], ["lasttoken"], "no test proves the conversion of model type qwen3"),
        (None, ["Transformer", "Pooling"], ["mean"], "model type unknown"),
        ("bert", ["Transformer", "Pooling"], ["median"], "the pooling median"),
        ("bert", ["Transformer", "Pooling"], [], "the pooling none"),
        ("bert", ["Transformer", "WordWeights", "Pooling"], ["mean"], "the module chain is Transformer, WordWeights"),
        ("bert", ["Transformer", "Pooling", "CNN"], ["mean"], "the module CNN is not converted"),
    ],
)
def test_unproved_models_stay_on_torch_with_a_reason(model_type, modules, poolings, told):
    """A model is converted only where a test proves it; the reason names what is not proved."""
    reason = objection(model_type, modules, poolings)
    assert reason is None if told is None else told in reason


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, None),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, None),
        ({"is_decoder": True}, "decoder"),
        ({"chunk_size_feed_forward": 8}, "chunk_size_feed_forward"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "type dynamic"),
        ({"rope_scaling": {"type": "longrope"}}, "type longrope"),
    ],
)
def test_configurations_that_depend_on_the_length_stay_on_torch(config, told):
    """What a trace would freeze is not converted."""
    reason = objection_to_config(config)
    assert reason is None if told is None else told in reason


def test_facts_tell_which_models_stay_on_torch(tmp_path):
    """The model's files alone tell it: a BERT may be converted, a static model may not."""
    assert objection_to_facts(read_facts(str(testing.tiny_bert_folder(tmp_path / "bert")))) is None
    static = read_facts(str(testing.static_model_folder(tmp_path / "static")))
    assert "a static model is a look-up" in str(objection_to_facts(static))
