"""In float32 the vectors are the plain host's to 1e-6, whichever of its arguments are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

TRANSFORMERS = ["bert", "roberta", "modernbert", "minilm"]
EVERY_KIND = [*TRANSFORMERS, "static"]

ARGUMENTS = {
    "nothing": {},
    "prompt": {"prompt": "search_query: "},
    "empty prompt": {"prompt": ""},
    "prompt_name": {"prompt_name": "query"},
    "batch_size 1": {"batch_size": 1},
    "batch_size 3": {"batch_size": 3},
    "batch_size 100": {"batch_size": 100},
    "progress bar": {"show_progress_bar": True},
    "no progress bar": {"show_progress_bar": False},
    "tensor": {"convert_to_tensor": True},
    "list of tensors": {"convert_to_numpy": False},
    "device": {"device": "cpu"},
    "normalize": {"normalize_embeddings": True},
    "not normalize": {"normalize_embeddings": False},
    "chunk_size": {"chunk_size": 2},
    "precision float32": {"precision": "float32"},
    "precision None": {"precision": None},
    "processing_kwargs": {"processing_kwargs": {"text": {"max_length": 6}}},
    "task": {"task": "query"},
}


def assert_same(left, right, tolerance=1e-6):
    """Compare what two `encode` return: arrays, tensors, or lists of tensors."""
    assert type(left) is type(right)
    if isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other, tolerance)
        return
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    difference = np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64))
    assert difference.max(initial=0) <= tolerance


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_argument_gives_the_hosts_vectors(name, arguments, ours, host, texts):
    """Each argument of the host's `encode` works, and the vectors are the same."""
    if name == "static" and "processing_kwargs" in arguments:
        pytest.skip("the host's static module has no processor")
    assert_same(ours(name).encode(texts, **arguments), host(name).encode(texts, **arguments))


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_roles_without_prompts_give_the_hosts_vectors(name, method, ours, host, texts):
    assert_same(getattr(ours(name), method)(texts), getattr(host(name), method)(texts))


@pytest.mark.parametrize("name", EVERY_KIND)
def test_one_text_gives_one_vector(name, ours, host):
    assert_same(ours(name).encode("a river"), host(name).encode("a river"))
    assert_same(
        ours(name).encode("a river", convert_to_tensor=True), host(name).encode("a river", convert_to_tensor=True)
    )


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("form", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_no_texts_give_what_the_host_gives(name, form, ours, host):
    ours_result, host_result = ours(name).encode([], **form), host(name).encode([], **form)
    assert type(ours_result) is type(host_result)
    assert len(ours_result) == len(host_result) == 0


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_truncation_is_the_hosts_when_it_normalises(name, ours, host, texts):
    """With `truncate_dim` the host must be told to normalise; here the shorter vectors have length 1 by themselves."""
    left = ours(name).encode(texts, truncate_dim=16)
    assert_same(left, host(name).encode(texts, truncate_dim=16, normalize_embeddings=True))
    assert np.linalg.norm(left, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(ours(name).encode(texts, truncate_dim=np.int64(16)), left)
    unscaled = {"truncate_dim": 16, "normalize_embeddings": False}
    assert_same(ours(name).encode(texts, **unscaled), host(name).encode(texts, **unscaled))


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("form", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_binary_precision_is_the_hosts(precision, form, ours, host, texts):
    """Duplicates are put back before bits are packed, and every form of result is the host's."""
    arguments = {"precision": precision, **form}
    assert_same(ours("minilm").encode(texts, **arguments), host("minilm").encode(texts, **arguments), tolerance=0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_token_embeddings_are_the_hosts(name, ours, host, texts):
    arguments = {"output_value": "token_embeddings", "batch_size": 4}
    assert_same(ours(name).encode(texts, **arguments), host(name).encode(texts, **arguments), tolerance=1e-5)


def test_everything_the_model_computes_is_the_hosts(ours, host, texts):
    left = ours("bert").encode(texts, output_value=None, batch_size=4)
    right = host("bert").encode(texts, output_value=None, batch_size=4)
    assert [set(item) for item in left] == [set(item) for item in right]
    for one, other in zip(left, right, strict=True):
        assert_same(one["sentence_embedding"], other["sentence_embedding"])
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_positional_arguments_are_the_hosts(ours, host, texts):
    """Arguments may be given by position, in the host's order."""
    positional = (None, "passage: ", 4, False, "sentence_embedding", "float32", False, True, "cpu", True, 8)
    left, right = ours("bert").encode(texts, *positional), host("bert").encode(texts, *positional)
    assert_same(left, right)
    assert_same(ours("bert").encode_query(texts, None, "q: "), host("bert").encode_query(texts, None, "q: "))
    assert_same(ours("bert").encode_query(texts, None), host("bert").encode_query(texts, None))


def test_the_hosts_old_name_of_the_texts_still_works(ours, host, texts):
    assert_same(ours("bert").encode(sentences=texts), host("bert").encode(sentences=texts))
    assert_same(ours("bert").encode_document(sentences=texts), host("bert").encode_document(sentences=texts))


def test_an_unknown_argument_is_refused_as_by_the_host(ours):
    with pytest.raises(ValueError, match="nonsense"):
        ours("bert").encode(["a"], nonsense=1)
    with pytest.raises(ValueError, match="batch_size"):
        ours("bert").encode(["a"], batch_size=0)


def test_batches_of_a_token_budget_give_the_same_vectors(load, host, texts):
    """Texts are divided into bands of their own batch size; nothing but speed changes."""
    model = load("modernbert", compute__batch_tokens=64, compute__max_batch_size=4)
    with model.collect_report() as report:
        vectors = model.encode(texts)
    assert_same(vectors, host("modernbert").encode(texts))
    assert report.batches > 2
    assert_same(model.encode(texts, convert_to_tensor=True), host("modernbert").encode(texts, convert_to_tensor=True))


def test_a_pair_of_texts_is_the_hosts_own_kind_of_input(ours, host):
    pairs = [("a river", "runs"), ("the town", "sleeps")]
    assert_same(ours("bert").encode(pairs), host("bert").encode(pairs))


def test_without_preferences_it_is_the_host(folders, host, texts):
    """Constructed with the host's arguments it has no preferences, and nothing is added or checked."""
    from embedprefs import PreferenceMismatchError, PreferredSentenceTransformer

    model = PreferredSentenceTransformer(str(folders["bert"]), device="cpu", prompts={"query": "search: "})
    model.prompts = {"query": "query: ", "document": ""}
    plain = host("bert")
    assert_same(model.encode_query(texts), plain.encode(texts, prompt="query: "))
    assert_same(model.encode_document(texts), plain.encode(texts))
    assert_same(model.encode(texts, truncate_dim=8), plain.encode(texts, truncate_dim=8))
    assert_same(model.encode(texts, precision="int8"), plain.encode(texts, precision="int8"), tolerance=1)
    with pytest.raises(PreferenceMismatchError, match="without preferences"):
        _ = model.resolved


@pytest.mark.slow
def test_worker_processes_give_the_hosts_vectors(ours, host, texts):
    """A list of devices starts one process each; the model stays where it was and is not parked."""
    model = ours("bert")
    before = model.device
    with model.collect_report() as report:
        vectors = model.encode(texts, device=["cpu", "cpu"], chunk_size=3)
    assert_same(vectors, host("bert").encode(texts))
    assert model.device == before
    assert report.in_workers == len(texts)
    pool = model.start_multi_process_pool(["cpu"])
    try:
        assert_same(model.encode(texts, pool=pool), host("bert").encode(texts))
    finally:
        model.stop_multi_process_pool(pool)
