"""A batch in parts of similar length: the same loss and gradients, and the whole batch where parts cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedprefs.layers import preferences_for_model
from embedprefs.testing import static_model_folder, tiny_bert_folder, tiny_modernbert_folder
from embedprefs.training import build_trainer, parts, read_training_data
from embedprefs.training.host_loss import build_loss
from embedprefs.training.losses import LossChoice
from embedprefs.training.parts import forward_in_parts, vectors_in_parts
from embedprefs.training.trainer import load_for_training

TEXTS = ["ba", "kola ri te", "mu sa lone bato rila kone " * 3, "te", "sato mula ne ba " * 5, "ri la", "lo ni te sa mu"]


@pytest.fixture(params=[tiny_bert_folder, tiny_modernbert_folder])
def model(request, tmp_path):
    """A model in training mode that drops nothing, so that two passes can be compared."""
    folder = request.param(tmp_path / "model")
    loaded = load_for_training(preferences_for_model(str(folder), {"compute.device": "cpu"}))
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = loaded[0].auto_model.config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return loaded.train()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_TEXTS_OF_A_PART", 2)


def choice(name="MultipleNegativesRankingLoss", wrapper=None):
    return LossChoice(name=name, parameters={}, wrapper=wrapper, reason="")


def gradients(model, loss):
    """Return the value of a loss and every gradient."""
    model.zero_grad()
    value = loss([dict(model.preprocess(TEXTS)), dict(model.preprocess(TEXTS[::-1]))], None)
    value.backward()
    return value.item(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def test_loss_and_gradients_are_those_of_the_whole_batch(model, monkeypatch):
    """Parts change the order of additions and nothing else."""
    loss = build_loss(model, choice())
    whole = gradients(model, loss)
    calls = []
    counted = type(model[0]).forward
    monkeypatch.setattr(
        type(model[0]),
        "forward",
        lambda self, features, **named: calls.append(features["input_ids"].shape) or counted(self, features, **named),
    )
    with forward_in_parts(model, choice(), compiled=False) as does:
        assert does
        divided = gradients(model, loss)
    assert len(calls) == 8  # two columns of seven texts, two at a time
    assert max(length for _, length in calls) > 2 * min(length for _, length in calls)
    assert divided[0] == pytest.approx(whole[0], abs=1e-5)
    assert divided[1].keys() == whole[1].keys()
    for name, gradient in divided[1].items():
        torch.testing.assert_close(gradient, whole[1][name], rtol=1e-3, atol=1e-5, msg=name)
    assert "forward" not in vars(model)


def test_vectors_stand_in_the_order_of_the_batch(model):
    """Each row is its text's vector, whatever part it was in; what else the features hold stays."""
    features = dict(model.preprocess(TEXTS))
    found = vectors_in_parts(type(model).forward.__get__(model), features)
    assert found is not None
    single = torch.cat([model(dict(model.preprocess([text])))["sentence_embedding"] for text in TEXTS])
    np.testing.assert_allclose(found["sentence_embedding"].detach(), single.detach(), rtol=0, atol=1e-5)
    assert found["input_ids"] is features["input_ids"]


def test_evaluation_and_other_features_stay_whole(model, tmp_path):
    """Only training is divided, and only right-padded token ids."""
    with forward_in_parts(model, choice(), compiled=False):
        model.eval()
        assert "token_embeddings" in model(dict(model.preprocess(TEXTS)))
        model.train()
        assert "token_embeddings" not in model(dict(model.preprocess(TEXTS)))
        assert "token_embeddings" in model(dict(model.preprocess(TEXTS[:1])))  # one part holds it
    padded_left = {
        name: value.flip(1) if value.ndim == 2 else value
        for name, value in model.preprocess(TEXTS).items()
        if hasattr(value, "ndim")
    }
    assert vectors_in_parts(model.forward, padded_left) is None
    static = load_for_training(
        preferences_for_model(str(static_model_folder(tmp_path / "static")), {"compute.device": "cpu"})
    )
    assert vectors_in_parts(static.forward, dict(static.preprocess(TEXTS))) is None


@pytest.mark.parametrize("name", ["AdaptiveLayerLoss", "Matryoshka2dLoss"])
def test_losses_that_look_inside_get_the_whole_batch(model, name):
    """A loss that reads layers or tokens sees the batch in one piece, and so does a compiled model."""
    with forward_in_parts(model, choice(wrapper=choice(name)), compiled=False) as does:
        assert not does
        assert "forward" not in vars(model)
    with forward_in_parts(model, choice(), compiled=True) as does:
        assert not does


def test_the_trainer_trains_in_parts(model, rows, tmp_path, monkeypatch):
    """A run on a processor computes parts, with mixed precision around them, and leaves the model's own method."""
    widths = []
    counted = parts.vectors_in_parts
    monkeypatch.setattr(
        parts, "vectors_in_parts", lambda forward, features: widths.append(counted(forward, features)) or widths[-1]
    )
    preferences = preferences_for_model(
        model.resolved.facts.name,
        {"compute.device": "cpu", "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2}},
    )
    trainer = build_trainer(preferences, read_training_data(rows), output=tmp_path / "run")
    trainer.train()
    assert any(found is not None for found in widths)
    assert "forward" not in vars(trainer.model)
