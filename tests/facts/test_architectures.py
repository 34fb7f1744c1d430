"""Expected tensors: equal to the host's own for every supported type, and the same verdict as the host's loader."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from embedprefs.facts import TensorFacts, read_facts
from embedprefs.facts.architectures import (
    absolute_positions,
    architecture_of,
    hidden_size,
    max_position_embeddings,
    position_limit,
    with_defaults,
)
from embedprefs.facts.tensor_shapes import ARCHITECTURES

SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
}
VARIANTS = {
    "electra": [{"embedding_size": 24}, {"embedding_size": 8}],
    "albert": [{"embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 2}],
    "distilbert": [{"dim": 24, "hidden_dim": 20, "n_layers": 3, "n_heads": 4}],
    "modernbert": [{}, {"norm_bias": True, "attention_bias": True, "mlp_bias": True}],
    "llama": [{}, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2, "head_dim": 10}],
    "eurobert": [{}, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}],
    "mistral": [{"num_key_value_heads": 2}, {"num_key_value_heads": 4, "head_dim": 10}],
    "qwen2": [{"num_key_value_heads": 2}],
    "qwen3": [{"num_key_value_heads": 2, "head_dim": 10}, {"num_key_value_heads": 4, "attention_bias": True}],
    "gemma3_text": [{"num_key_value_heads": 2, "head_dim": 10}, {"num_key_value_heads": 4, "attention_bias": True}],
}
CASES = [(model_type, variant) for model_type in ARCHITECTURES for variant in VARIANTS.get(model_type, [{}])]


def config_of(model_type: str, variant: dict) -> dict:
    values = {**SMALL, **variant, "model_type": model_type}
    if model_type == "distilbert":
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            del values[name]
    return values


def host_shapes(config):
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("model_type", "variant"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_names_and_shapes_equal_the_hosts(model_type, variant, tmp_path):
    """For a configuration in a file, what is expected here is exactly the host's state_dict."""
    from transformers import AutoConfig

    values = config_of(model_type, variant)
    (tmp_path / "config.json").write_text(json.dumps(values))
    architecture = architecture_of(values)
    assert architecture is not None
    assert dict(architecture.shapes) == host_shapes(AutoConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_defaults_equal_the_hosts(model_type):
    """What a configuration leaves out is filled in with the values of the host's configuration class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    host = CONFIG_MAPPING[model_type]()
    names = {"intermediate_size": "hidden_dim"} if model_type == "distilbert" else {}
    mine = with_defaults({"model_type": model_type})
    assert mine == {name: getattr(host, names.get(name, name)) for name in mine}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_prefix_is_the_hosts(model_type):
    """The prefix of a task model's names is the one that the host strips."""
    import torch
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with torch.device("meta"):
        values = {**with_defaults({"model_type": model_type}), "num_hidden_layers": 1}
        values.pop("model_type")
        model = AutoModel.from_config(CONFIG_MAPPING[model_type](**values))
    assert ARCHITECTURES[model_type].prefix == model.base_model_prefix


def test_published_sizes_are_met():
    """ModernBERT-large's configuration gives the 394,781,696 parameters that its published file holds."""
    values = {
        "model_type": "modernbert",
        "hidden_size": 1024,
        "intermediate_size": 2624,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    }
    architecture = architecture_of(values)
    assert architecture is not None
    assert sum(int(np.prod(shape)) for shape in architecture.shapes.values()) == 394_781_696


def test_an_unknown_type_claims_nothing():
    """For a type that is not known here there is no architecture, and its facts are not verified."""
    assert architecture_of({"model_type": "something-new", "hidden_size": 8}) is None
    assert architecture_of({}) is None
    assert architecture_of({"model_type": "bert", "hidden_size": "wide"}) is None
    assert architecture_of({"model_type": "nomic_bert", "n_embd": 768}) is None
    assert architecture_of({"model_type": "bert", "num_hidden_layers": 10**12}) is None
    assert architecture_of({"model_type": "bert", "num_attention_heads": 0}) is None


def tensors_of(shapes, prefix=""):
    return {
        prefix + name: TensorFacts(prefix + name, "F32", shape, "model.safetensors") for name, shape in shapes.items()
    }


class TestComparison:
    """Missing, unexpected and mismatched tensors of a BERT."""

    @pytest.fixture
    def architecture(self):
        return architecture_of(config_of("bert", {"type_vocab_size": 2}))

    def test_a_whole_checkpoint(self, architecture):
        """Nothing is wrong with what is expected."""
        comparison = architecture.compare(tensors_of(architecture.shapes))
        assert (comparison.missing, comparison.unexpected, comparison.mismatched) == ((), (), ())

    def test_a_task_models_prefix_and_head(self, architecture):
        """A masked language model's checkpoint loads whole: its prefix is stripped, its head left out."""
        tensors = tensors_of(architecture.shapes, "bert.")
        tensors.update(tensors_of({"cls.predictions.bias": (40,), "bert.embeddings.position_ids": (1, 30)}))
        comparison = architecture.compare(tensors)
        assert (comparison.missing, comparison.unexpected, comparison.mismatched) == ((), (), ())
        assert comparison.harmless == {"cls.predictions.bias", "bert.embeddings.position_ids"}

    def test_the_oldest_names(self, architecture):
        """LayerNorm's gamma and beta are its weight and bias."""
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): shape
            for name, shape in architecture.shapes.items()
        }
        assert architecture.compare(tensors_of(old)).missing == ()

    def test_a_missing_pooler_is_no_fault(self, architecture):
        """The host's embedding models do not use the pooler."""
        shapes = {name: shape for name, shape in architecture.shapes.items() if not name.startswith("pooler")}
        assert architecture.compare(tensors_of(shapes)).missing == ()

    def test_more_layers_than_counted(self, architecture):
        """Layers that the configuration leaves out are unexpected, not harmless."""
        extra = {"encoder.layer.3.output.dense.bias": (24,)}
        assert architecture.compare(tensors_of({**architecture.shapes, **extra})).unexpected == tuple(extra)

    def test_fewer_layers_than_counted(self, architecture):
        """Layers that the checkpoint lacks are missing."""
        shapes = {name: shape for name, shape in architecture.shapes.items() if "layer.2." not in name}
        missing = architecture.compare(tensors_of(shapes)).missing
        assert len(missing) == 16
        assert all(name.startswith("encoder.layer.2.") for name in missing)

    def test_another_shape(self, architecture):
        """Both shapes are said."""
        shapes = {**architecture.shapes, "embeddings.word_embeddings.weight": (41, 24)}
        assert architecture.compare(tensors_of(shapes)).mismatched == (
            "embeddings.word_embeddings.weight: [41, 24] in model.safetensors, [40, 24] needed",
        )

    def test_a_foreign_prefix(self, architecture):
        """A checkpoint under another prefix has every tensor missing, as the host finds when it loads at random."""
        comparison = architecture.compare(tensors_of(architecture.shapes, "model.encoder_model."))
        assert len(comparison.missing) == len(architecture.shapes) - 2
        assert len(comparison.unexpected) == len(architecture.shapes)


@pytest.mark.parametrize(
    "change", ["none", "prefix", "foreign prefix", "fewer layers", "more layers", "no pooler", "head", "renamed"]
)
def test_the_same_verdict_as_the_hosts_loader(change, bert_folder, edit_json):
    """Missing and unexpected names are those that the host reports when it really loads the folder."""
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModel

    weights = bert_folder / "model.safetensors"
    tensors = load_file(weights)
    if change == "prefix":
        tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    elif change == "foreign prefix":
        tensors = {f"other.{name}": tensor for name, tensor in tensors.items()}
    elif change == "no pooler":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    elif change == "head":
        tensors["cls.predictions.bias"] = np.zeros(5, np.float32)
    elif change == "renamed":
        tensors = {name.replace("attention.self.query", "attention.self.q"): tensor for name, tensor in tensors.items()}
    elif change != "none":
        layers = json.loads((bert_folder / "config.json").read_text())["num_hidden_layers"]
        edit_json(bert_folder / "config.json", num_hidden_layers=layers + (1 if change == "more layers" else -1))
    save_file(tensors, weights, metadata={"format": "pt"})
    facts = read_facts(str(bert_folder))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    _, report = AutoModel.from_pretrained(bert_folder, output_loading_info=True, local_files_only=True)
    assert facts.tensors_verified
    assert set(facts.missing_tensors) == {name for name in report["missing_keys"] if not name.startswith("pooler.")}
    assert set(facts.unexpected_tensors) == {name for name in report["unexpected_keys"] if not name.startswith("cls.")}
    clean = change in ("none", "prefix", "no pooler", "head")
    assert (facts.missing_tensors == () and facts.unexpected_tensors == ()) == clean


def test_without_a_pooler_the_vectors_are_the_same(bert_folder, copy_of, load_host):
    """That a missing pooler is harmless is no claim: the host's vectors do not change."""
    from safetensors.numpy import load_file, save_file

    other = copy_of(bert_folder)
    tensors = {
        name: tensor for name, tensor in load_file(other / "model.safetensors").items() if not name.startswith("pooler")
    }
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    texts = ["red green", "blue"]
    np.testing.assert_array_equal(load_host(bert_folder).encode(texts), load_host(other).encode(texts))


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert"}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194}, 8192),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, 513),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "modernbert"}, None),
        ({"model_type": "unknown", "max_position_embeddings": 512}, None),
    ],
)
def test_position_limit(config, limit):
    """RoBERTa and its kin keep padding_idx + 1 places free; rotary positions set no hard limit."""
    assert position_limit(config) == limit


def test_a_roberta_reads_exactly_its_limit(roberta_folder, load_host):
    """The host embeds a text of `position_limit` tokens, and fails on one token more."""
    facts = read_facts(str(roberta_folder))
    assert facts.position_limit is not None
    model = load_host(roberta_folder)
    model.max_seq_length = facts.position_limit
    assert model.encode("a " * 500).shape == (32,)
    model.max_seq_length = facts.position_limit + 1
    with pytest.raises((IndexError, RuntimeError)):
        model.encode("a " * 500)


def test_values_under_other_names():
    """The host's own further names are understood, and nested text configurations."""
    assert hidden_size({"model_type": "distilbert", "dim": 24}) == 24
    assert hidden_size({"model_type": "new", "d_model": 24}) == 24
    assert (
        hidden_size({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 640}}) == 640
    )
    assert max_position_embeddings({"model_type": "gpt2", "n_positions": 1024}) == 1024
    assert absolute_positions({"model_type": "gpt2"}) is True
    assert absolute_positions({"model_type": "brand-new"}) is None
