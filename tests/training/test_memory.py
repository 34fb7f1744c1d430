"""What training keeps in memory: measured on shapes alone, bounded without torch, compared with real tensors."""

from __future__ import annotations

import pytest

from embedprefs import testing
from embedprefs.facts import read_facts
from embedprefs.training.activations import activation_bound, keeps_scores


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models, and the flagship's shape without weights."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(folder / "bert"),
        "modernbert": testing.tiny_modernbert_folder(folder / "modernbert"),
    }


def really_kept(folder, rows, length, attention):
    """Bytes that autograd keeps of a forward pass on real tensors, each storage once."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(folder), attn_implementation=attention).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(input_ids=torch.ones((rows, length), dtype=torch.long))
    assert result.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_shapes_alone_say_what_real_tensors_take(folders, kind):
    """Within a tenth, without reading a weight."""
    from embedprefs.training.memory import measure_activations

    facts = read_facts(str(folders[kind]))
    for rows, length in ((4, 16), (8, 48)):
        measured = measure_activations(facts, rows=rows, length=length, scores=True)
        assert measured == pytest.approx(really_kept(folders[kind], rows, length, "eager"), rel=0.1)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@pytest.mark.parametrize("scores", [True, False])
def test_the_bound_is_above_what_is_measured(folders, kind, scores):
    """By a quarter at most, for texts that are not tiny: a bound far above would be of no use."""
    from embedprefs.training.memory import measure_activations

    facts = read_facts(str(folders[kind]))
    measured = measure_activations(facts, rows=16, length=48, scores=scores)
    bound = activation_bound(facts, 16 * 48, 48, scores=scores)
    assert measured <= bound * 1.05
    assert bound <= 1.6 * measured


def test_the_flagship_takes_what_was_measured_before(tmp_path):
    """395 million parameters, 32 texts of 128 tokens: between 8 and 9 GiB in float32, and no weight is read."""
    from embedprefs.training.memory import measure_activations

    facts = read_facts(str(testing.modernbert_large_folder(tmp_path / "large")))
    measured = measure_activations(facts, rows=32, length=128)
    assert 7.9 < measured / 2**30 < 9.0


def test_an_unknown_architecture_is_not_measured(folders):
    """The caller then takes the bound."""
    from dataclasses import replace

    from embedprefs.training.memory import measure_activations

    facts = replace(read_facts(str(folders["bert"])), model_type="never_heard_of")
    assert measure_activations(facts, rows=1, length=8) is None


def test_dropout_on_a_processor_keeps_the_scores(folders):
    """Its fast kernel has no dropout; a GPU's has."""
    bert, modernbert = (read_facts(str(folders[kind])) for kind in ("bert", "modernbert"))
    assert keeps_scores(bert, device="cpu", attention="sdpa") == (
        bert.config.get("attention_probs_dropout_prob", 0) > 0
    )
    assert not keeps_scores(bert, device="cuda:0", attention="sdpa")
    assert not keeps_scores(modernbert, device="cpu", attention="sdpa")
    assert keeps_scores(modernbert, device="cuda:0", attention="eager")
