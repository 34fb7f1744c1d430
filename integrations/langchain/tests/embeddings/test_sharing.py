"""One model per process, copies that share it, pickles that do not carry it, dumps that LangChain reads."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
import warnings
import weakref

import pytest
from langchain_core.load import dumpd, dumps, load

from embedprefs import InvalidPreferenceError, PreferenceMismatchError, load_model, load_preferences
from embedprefs.testing import tiny_bert_folder
from langchain_embedprefs import EmbedPrefsEmbeddings


def reloaded(dumped):
    """What LangChain makes of a dump."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain marks `load` as beta
        return load(dumped, allowed_objects=[EmbedPrefsEmbeddings], valid_namespaces=["langchain_embedprefs"])


def test_construction_loads_nothing(bert_folder):
    """The model comes with the first vector."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    assert not embeddings.loaded
    assert embeddings.dimension == 32
    assert not embeddings.loaded
    embeddings.embed_query("red")
    assert embeddings.loaded


def test_equal_identity_and_compute_share_one_model(bert_folder, tmp_path):
    """Neither the name nor the path matters; a prompt or a number format does."""
    twin = shutil.copytree(bert_folder, tmp_path / "twin")
    one, two = EmbedPrefsEmbeddings(model=bert_folder), EmbedPrefsEmbeddings(model=str(twin))
    other_prompt = EmbedPrefsEmbeddings(model=bert_folder, overrides={"prompts.query": "ask: "})
    other_compute = EmbedPrefsEmbeddings(model=bert_folder, overrides={"compute.dtype": "bfloat16"})
    assert one.sentence_transformer is two.sentence_transformer
    assert other_prompt.sentence_transformer is not one.sentence_transformer
    assert other_compute.sentence_transformer is not one.sentence_transformer


def test_the_last_to_close_frees_the_model(bert_folder):
    """Closing one leaves the other's model; after the last the model is gone, and a later use loads it again."""
    one, two = EmbedPrefsEmbeddings(model=bert_folder), EmbedPrefsEmbeddings(model=bert_folder)
    expected = one.embed_query("red")
    model = weakref.ref(two.sentence_transformer)
    one.close()
    gc.collect()
    assert model() is not None
    two.close()
    gc.collect()
    assert model() is None
    assert one.embed_query("red") == expected


def test_embeddings_that_are_collected_let_go_of_the_model(bert_folder):
    """Forgetting to close leaks nothing."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    model = weakref.ref(embeddings.sentence_transformer)
    del embeddings
    gc.collect()
    assert model() is None


def test_a_handed_in_model_is_used_and_left_alone(bert_folder):
    """Closing does not take it from its owner."""
    model = load_model(bert_folder)
    with EmbedPrefsEmbeddings(model=model) as embeddings:
        assert embeddings.sentence_transformer is model
    assert model.encode_query("red").shape == (32,)


def test_copies_share_the_model(bert):
    """Copying a chain does not copy the weights."""
    model = bert.sentence_transformer
    for twin in (copy.copy(bert), copy.deepcopy(bert), bert.model_copy(deep=True)):
        assert twin == bert
        assert twin.sentence_transformer is model


@pytest.mark.parametrize("used", [False, True])
def test_a_pickle_is_light_and_gives_the_same_vectors(bert_folder, used):
    """It holds arguments, no weights."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder, query_batch_wait=0.0)
    expected = EmbedPrefsEmbeddings(model=bert_folder).embed_query("red")
    if used:
        embeddings.embed_query("red")
    data = pickle.dumps(embeddings)
    assert len(data) < 1000
    assert pickle.loads(data).embed_query("red") == expected
    assert pickle.loads(data).query_batch_wait == 0.0


def test_preferences_and_handed_in_models_are_pickled_light(bert_folder, tmp_path):
    """Also where they were not given by name; relative paths in a file keep their meaning."""
    shutil.copytree(bert_folder, tmp_path / "model")
    file = tmp_path / "embedprefs.toml"
    file.write_text('[model]\nname = "model"\n', encoding="utf-8")
    for embeddings in (
        EmbedPrefsEmbeddings(preferences=load_preferences(file)),
        EmbedPrefsEmbeddings(model=load_model(load_preferences(file))),
    ):
        data = pickle.dumps(embeddings)
        assert len(data) < 20_000
        assert pickle.loads(data).embed_query("red") == embeddings.embed_query("red")


def test_another_model_where_a_pickle_arrives_is_refused(tmp_path):
    """The fingerprint travels with embeddings that were used."""
    folder = tmp_path / "model"
    embeddings = EmbedPrefsEmbeddings(model=str(tiny_bert_folder(folder)))
    embeddings.embed_query("red")
    data = pickle.dumps(embeddings)
    embeddings.close()
    shutil.rmtree(folder)
    tiny_bert_folder(folder, seed=1)
    with pytest.raises(PreferenceMismatchError, match="other vectors would come out"):
        pickle.loads(data).embed_query("red")


def test_langchain_dumps_and_loads_it(bert_folder, tmp_path):
    """The constructor's arguments come back, whichever way the model was given."""
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{bert_folder}"\n[prompts]\nquery = "ask: "\n', encoding="utf-8")
    for embeddings in (
        EmbedPrefsEmbeddings(model=bert_folder, overrides={"prompts.query": "ask: "}),
        EmbedPrefsEmbeddings(preferences=file),
        EmbedPrefsEmbeddings(preferences=load_preferences(file)),
        EmbedPrefsEmbeddings(model=load_model(load_preferences(file))),
    ):
        dumped = dumpd(embeddings)
        assert dumped["type"] == "constructor"
        twin = reloaded(dumped)
        assert twin.embed_query("red sky") == embeddings.embed_query("red sky")
        assert twin.fingerprint == embeddings.fingerprint


def test_a_model_that_was_changed_is_not_dumped_as_if_it_were_not(bert_folder):
    """Arguments cannot describe it: LangChain is told so, and a pickle carries the weights."""
    import torch

    model = load_model(bert_folder)
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    embeddings = EmbedPrefsEmbeddings(model=model)
    assert dumpd(embeddings)["type"] == "not_implemented"
    assert pickle.loads(pickle.dumps(embeddings)).embed_query("red") == embeddings.embed_query("red")


def test_no_secret_reaches_a_dump(bert_folder, monkeypatch):
    """Tokens come from the environment; one among the preferences is refused without being repeated."""
    secret = "hf_" + "a" * 30
    monkeypatch.setenv("HF_TOKEN", secret)
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    assert secret not in dumps(embeddings)
    assert secret not in repr(embeddings)
    assert secret.encode() not in pickle.dumps(embeddings)
    with pytest.raises(InvalidPreferenceError) as caught:
        EmbedPrefsEmbeddings(model=bert_folder, overrides={"model.kwargs": {"token": secret}})
    assert secret not in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


def _vector_in_child(embeddings, results):
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        results.put(embeddings.embed_query("red sky"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_the_same(bert_folder):
    """torch's threads do not survive a fork, so that a child which used them would never answer."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder, overrides={"compute.threads": 2})
    texts = ["sky " * 60] * 8
    embeddings.embed_documents([f"{text} {place}" for place, text in enumerate(texts)])
    expected = embeddings.embed_query("red sky")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_vector_in_child, args=(embeddings, results))
    child.start()
    try:
        assert results.get(timeout=120) == pytest.approx(expected, abs=1e-6)
    finally:
        child.kill()
        child.join()


def test_a_spawned_process_gets_the_embeddings_and_loads_the_model_itself(bert_folder):
    """The pickle is what travels."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    expected = embeddings.embed_query("red sky")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(embeddings.embed_query, ("red sky",)) == pytest.approx(expected, abs=1e-6)
