"""Copies have the weights; pickles leave them out only while they are those that were loaded."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from embedprefs import PreferenceMismatchError


def one_step(model, *, fused=True):
    """Train one step by hand, as a trainer does: its fused AdamW does not raise torch's own counter of changes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    model.train()
    features = model.preprocess(["a river", "the town"])
    model(features)["sentence_embedding"].sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_deep_copy_has_weights_of_its_own(load, texts):
    model = load("bert", prompts__query="query: ")
    other = copy.deepcopy(model)
    before = model.encode_query(texts)
    assert other.encode_query(texts) == pytest.approx(before, abs=1e-6)
    one_step(other)
    assert model.encode_query(texts) == pytest.approx(before, abs=1e-6)
    assert np.abs(other.encode_query(texts) - before).max() > 1e-3
    assert other.report.calls == 2
    assert model.fingerprint
    with pytest.raises(PreferenceMismatchError, match="weights"):
        _ = other.fingerprint


def test_a_shallow_copy_shares_the_weights(load, texts):
    model = load("bert")
    other = copy.copy(model)
    assert next(other.parameters()) is next(model.parameters())
    assert np.array_equal(other.encode(texts), model.encode(texts))


def test_a_pickle_of_a_loaded_model_leaves_the_weights_out(load, texts):
    model = load("minilm", prompts__query="query: ")
    data = pickle.dumps(model)
    assert len(data) < 100_000
    again = pickle.loads(data)
    assert again.fingerprint == model.fingerprint
    assert again.encode_query(texts) == pytest.approx(model.encode_query(texts), abs=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_a_pickle_of_a_trained_model_has_the_weights(fused, load, texts):
    model = load("bert")
    loaded = model.encode(texts)
    one_step(model, fused=fused)
    again = pickle.loads(pickle.dumps(model))
    assert again.training
    assert again.encode(texts) == pytest.approx(model.encode(texts), abs=1e-6)
    assert np.abs(again.encode(texts) - loaded).max() > 1e-3
    assert again.resolved["vectors.normalize"] is True


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}),
        lambda model: next(model.parameters()).data.view(-1)[3].add_(1e-3),
        lambda model: model.double(),
        lambda model: setattr(model, "max_seq_length", 8),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: setattr(model, "similarity_fn_name", "dot"),
        lambda model: model[0].model.embeddings.word_embeddings.weight.data[7].neg_(),
    ],
    ids=["load_state_dict", "one number", "dtype", "length", "dimension", "similarity", "embeddings"],
)
def test_whatever_changes_a_model_is_noticed(change, load, texts):
    """Weights travel then, and the fingerprint of what was loaded is not given for something else."""
    model = load("bert")
    assert model.is_as_loaded()
    change(model)
    assert not model.is_as_loaded()
    with pytest.raises(PreferenceMismatchError):
        _ = model.fingerprint
    again = pickle.loads(pickle.dumps(model))
    assert again.encode(texts) == pytest.approx(model.encode(texts), abs=1e-6)


def test_moving_and_training_mode_change_nothing(load):
    model = load("bert")
    model.train()
    model.to("cpu")
    assert model.is_as_loaded()
    again = pickle.loads(pickle.dumps(model))
    assert again.training


def test_an_unpickled_model_that_became_another_is_refused(tmp_path):
    from embedprefs import load_model, testing

    folder = testing.tiny_bert_folder(tmp_path / "model", seed=1)
    data = pickle.dumps(load_model(folder))
    testing.tiny_bert_folder(tmp_path / "model", seed=2)
    with pytest.raises(PreferenceMismatchError, match="is another model here"):
        pickle.loads(data)


def test_a_model_without_preferences_is_pickled_and_copied_as_the_hosts(folders, texts):
    from embedprefs import PreferredSentenceTransformer

    model = PreferredSentenceTransformer(str(folders["bert"]), device="cpu")
    vectors = model.encode(texts)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.encode(texts), vectors)


def test_copied_prompts_stay_frozen(load):
    model = load("bert", prompts__query="query: ")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(PreferenceMismatchError):
            other.prompts["query"] = ""


def test_the_hosts_trainer_trains_it_and_loads_the_best_checkpoint(load, tmp_path, texts):
    """The whole round with the host's own trainer: steps, evaluation, checkpoints, the best one loaded at the end."""
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = load("bert", prompts__query="query: ")
    before = model.encode_query(texts)
    pairs = datasets.Dataset.from_dict(
        {"anchor": [f"the river {n}" for n in range(16)], "positive": [f"the town {n}" for n in range(16)]}
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2, eval_strategy="steps",
        eval_steps=2, save_strategy="steps", save_steps=2, load_best_model_at_end=True, report_to="none", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=pairs, eval_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
    )
    trainer.train()
    trained = model.encode_query(texts)
    assert np.abs(trained - before).max() > 1e-3
    assert not model.is_as_loaded()
    assert pickle.loads(pickle.dumps(model)).encode_query(texts) == pytest.approx(trained, abs=1e-6)
    best = trainer.state.best_model_checkpoint
    assert best is not None
    from sentence_transformers import SentenceTransformer

    host = SentenceTransformer(best, device="cpu")
    assert host.prompts["query"] == "query: "
    assert host.encode_query(texts) == pytest.approx(trained, abs=1e-6)
