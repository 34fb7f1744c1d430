"""The model's own modules without the host's loop: which models, and the same vectors."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import CNN, Dropout, LayerNorm, Pooling

from embedprefs import load_model, testing
from embedprefs.engine.batching import padded
from embedprefs.engine.torch_backend import TorchBackend, why_unfamiliar
from embedprefs.errors import EmbedPrefsWarning

TEXTS = ["a river", "The quick brown fox jumps over the lazy dog " * 3, "", "old town, 1234", "a"]
KINDS = ["bert", "roberta", "modernbert", "static"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(root / "bert"),
        "roberta": testing.tiny_roberta_folder(root / "roberta"),
        "modernbert": testing.tiny_modernbert_folder(root / "modernbert"),
        "static": testing.static_model_folder(root / "static"),
    }


@pytest.fixture(scope="module")
def ours(folders):
    """Models with preferences, loaded once."""
    models = {}

    def model(name, **overrides):
        key = (name, tuple(overrides.items()))
        if key not in models:
            values = {"compute.device": "cpu", **{key.replace("__", "."): value for key, value in overrides.items()}}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmbedPrefsWarning)
                models[key] = load_model(folders[name], overrides=values)
        return models[key]

    return model


@pytest.fixture(scope="module")
def host(folders):
    models = {}

    def model(name):
        if name not in models:
            models[name] = SentenceTransformer(str(folders[name]), device="cpu")
        return models[name]

    return model


@pytest.mark.parametrize("name", KINDS)
def test_the_tiny_models_run_on_torch_and_through_the_engine(name, ours, host):
    """Nothing is handed to the host's loop, and the vectors are the host's."""
    model = ours(name)
    with model.collect_report() as report:
        vectors = model.encode(TEXTS)
    assert (report.handed_over, report.backend, report.numerics) == (0, "torch", "float32")
    assert np.abs(vectors - host(name).encode(TEXTS)).max() <= 1e-6
    assert (model.engine.name, model.engine.cosine) == ("torch", None)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_text_has_the_same_vector_whatever_its_batch_mates(name, ours):
    model = ours(name)
    alone = model.encode(["old town, 1234"])[0]
    for mates in (["a"], ["a river " * 15] * 3, TEXTS):
        beside = model.encode([*mates, "old town, 1234"])[-1]
        assert np.abs(beside - alone).max() <= 1e-5


def test_token_vectors_are_the_hosts(ours, host):
    model = ours("bert")
    rows = model.text_tokenizer(64).tokenise(TEXTS).ids
    found = TorchBackend(model, autocast=nullcontext).token_vectors(*padded(rows, 0))
    for row, hidden, text in zip(rows, found, TEXTS, strict=True):
        expected = host("bert").encode(text, output_value="token_embeddings").numpy()
        assert np.abs(hidden[: len(row)] - expected).max() <= 1e-5


def test_vectors_follow_the_weights_as_they_are_at_each_call(folders):
    """Nothing of the model is copied: training, replaced modules and hooks are seen at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        model = load_model(folders["bert"], overrides={"compute.device": "cpu"})
    before = model.encode(["a river"])
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight.mul_(1.5)
    changed = model.encode(["a river"])
    assert np.abs(changed - before).max() > 1e-3
    assert np.abs(changed - SentenceTransformer.encode(model, ["a river"])).max() <= 1e-6
    handle = model.register_forward_hook(
        lambda module, inputs, output: {**output, "sentence_embedding": output["sentence_embedding"] * 2}
    )
    assert np.abs(model.encode(["a river"]) - 2 * changed).max() <= 1e-6
    handle.remove()


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_and_both_sides_of_padding_give_the_hosts_vectors(pooling, side, include_prompt, folders):
    """Also where the prompt's tokens are left out of the pooling."""
    transformer = Transformer(str(folders["modernbert"]))
    transformer.tokenizer.padding_side = side
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling, include_prompt=include_prompt)],
        device="cpu",
    )
    prompt = "query: "
    expected = model.encode(TEXTS, prompt=prompt, batch_size=8)
    from embedprefs.engine.pipeline import Settings, embed
    from embedprefs.engine.tokenising import TextTokenizer

    tokenizer = transformer.tokenizer
    found = embed(
        TEXTS,
        tokenizer=TextTokenizer(tokenizer.backend_tokenizer, limit=64, pad_id=tokenizer.pad_token_id),
        backend=TorchBackend(model.eval(), autocast=nullcontext),
        settings=Settings(4096, 8, leaves_prompt_out=not include_prompt),
        prompt=prompt,
    )
    assert np.abs(found - expected).max() <= 5e-6  # vectors of any length, numbers up to 5


def chain(folders, *further):
    transformer = Transformer(str(folders["bert"]))
    size = transformer.get_embedding_dimension()
    return SentenceTransformer(modules=[transformer, Pooling(size, "mean"), *further], device="cpu")


def test_dense_layers_behind_the_pooling_run_here(folders):
    model = chain(folders, Dense(32, 8), LayerNorm(8), Dropout(0.5), Normalize())
    backend = TorchBackend(model.eval(), autocast=nullcontext)
    assert why_unfamiliar(model) is None
    assert backend.dimension == 8
    features = model.preprocess(["a river", "old town, old town"])
    found = backend.vectors(features["input_ids"].numpy(), features["attention_mask"].numpy())
    assert np.abs(found - model.encode(["a river", "old town, old town"])).max() <= 1e-6


def test_what_is_not_known_is_named(folders):
    """A module with inputs of its own, a Router, a replaced method, and a decoder's head."""
    assert "CNN" in why_unfamiliar(chain(folders, CNN(32, 8)))
    router = Router.for_query_document([chain(folders)[0]], [chain(folders)[0]])
    assert "Router" in why_unfamiliar(SentenceTransformer(modules=[router, Pooling(32, "mean")], device="cpu"))
    model = chain(folders)
    model.preprocess = model.preprocess
    assert "preprocess was replaced" in why_unfamiliar(model)
    own = type("OwnTransformer", (Transformer,), {})(str(folders["bert"]))
    assert "OwnTransformer" in why_unfamiliar(SentenceTransformer(modules=[own, Pooling(32, "mean")], device="cpu"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"output_value": "token_embeddings"},
        {"device": "cpu"},
        {"processing_kwargs": {"text": {"max_length": 6}}},
    ],
    ids=str,
)
def test_calls_that_the_engine_does_not_know_are_handed_over(arguments, ours):
    model = ours("bert")
    with model.collect_report() as report:
        model.encode(TEXTS, **arguments)
    assert report.handed_over == len(TEXTS)


def test_a_model_in_training_mode_is_handed_over(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        model = load_model(folders["bert"], overrides={"compute.device": "cpu"})
    expected = model.encode(TEXTS)
    model.train()
    with model.collect_report() as report:
        found = model.encode(TEXTS)
    assert report.handed_over == len(TEXTS)
    assert np.abs(found - expected).max() <= 1e-6
    assert model.training


def test_half_precision_gives_float32_vectors(ours, host):
    model = ours("bert", compute__dtype="bfloat16")
    with model.collect_report() as report:
        vectors = model.encode(TEXTS)
    assert (vectors.dtype, report.numerics, report.handed_over) == (np.float32, "bfloat16", 0)
    expected = host("bert").encode(TEXTS)
    assert ((vectors * expected).sum(axis=1) > 0.99).all()


def test_a_limit_that_is_set_later_is_obeyed(folders):
    """It is read at each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        model = load_model(folders["bert"], overrides={"compute.device": "cpu"})
    model.encode(["old river " * 20])
    model.max_seq_length = 8
    with model.collect_report() as report:
        model.encode(["old river " * 20, "river"])
    assert (report.truncated, report.tokens) == (1, 8 + 3)
    assert report.overlong[0].tokens == 42
