"""The length of the vectors for every module of the host, and tokenizers of every kind."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from embedprefs.facts import read_facts
from embedprefs.facts.module_chain import default_pooling, pooling_modes
from embedprefs.facts.sources import FolderSource, SourceReader
from embedprefs.facts.tokenizer_files import read_tokenizer


def host_modules(name: str) -> list:
    """A module of the host that follows token vectors of length 32."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import (
        CNN,
        LSTM,
        Dropout,
        LayerNorm,
        Pooling,
        WeightedLayerPooling,
    )

    return {
        "CNN": [CNN(32, out_channels=7, kernel_sizes=[1, 3]), Pooling(14)],
        "LSTM": [LSTM(32, hidden_dim=5), Pooling(10)],
        "LSTM alone": [LSTM(32, hidden_dim=5, bidirectional=False)],
        "CNN alone": [CNN(32, out_channels=7, kernel_sizes=[1, 3, 5])],
        "LayerNorm": [Pooling(32), LayerNorm(32)],
        "Dropout": [Pooling(32), Dropout(0.1)],
        "Dense": [Pooling(32), Dense(32, 9)],
        "WeightedLayerPooling": [WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1)],
    }[name]


@pytest.mark.parametrize(
    "name", ["CNN", "LSTM", "LSTM alone", "CNN alone", "LayerNorm", "Dropout", "Dense", "WeightedLayerPooling"]
)
def test_the_length_is_the_hosts(name, bert_folder, tmp_path, load_host):
    """Whatever follows the transformer, the length of the vectors is what the host says, and all weights count."""
    from sentence_transformers import SentenceTransformer

    modules = [load_host(bert_folder)[0], *host_modules(name)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
    facts = read_facts(str(tmp_path / "saved"))
    loaded = load_host(tmp_path / "saved")
    assert facts.embedding_dimension == loaded.get_embedding_dimension()
    assert facts.parameter_count == sum(parameter.numel() for parameter in loaded.parameters())
    assert facts.problems == ()


def test_a_bag_of_words(tmp_path):
    """A bag of words has one dimension a word."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(["a", "b", "c"])], device="cpu").save(str(tmp_path / "saved"))
    facts = read_facts(str(tmp_path / "saved"))
    assert facts.embedding_dimension == 3
    assert facts.is_static is False
    assert facts.model_type is None


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({}, "mean"),
        ({"architectures": ["BertModel"]}, "mean"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
        ({"architectures": []}, "mean"),
    ],
)
def test_pooling_that_the_host_adds(config, pooling):
    """Last token for causal language models, mean for everything else."""
    assert default_pooling(config) == pooling


def test_todays_name_wins_over_older_switches():
    """A file with both is read by its newer name, as by the host."""
    assert pooling_modes({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}) == ("cls",)


def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("a", -1.0)], unk_id=0))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    elif kind == "byte level in a sequence":
        tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    else:
        tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("kind", ["unigram", "byte level in a sequence", "words"])
@pytest.mark.parametrize("post_processor", ["none", "template", "bert", "roberta", "sequence"])
def test_tokenizers_of_every_kind(tmp_path, kind, post_processor):
    """Size, largest id and added special tokens are what the tokenizer itself says."""
    tokenizer = tokenizer_of(kind)
    tokenizer.add_special_tokens(["<extra>"])
    begin, end = ("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))
    template = processors.TemplateProcessing(single="<s> $A </s> </s>", special_tokens=[begin, end])
    chosen = {
        "template": template,
        "bert": processors.BertProcessing(end, begin),
        "roberta": processors.RobertaProcessing(end, begin),
        "sequence": processors.Sequence([processors.ByteLevel(), template]),
    }
    if post_processor in chosen:
        tokenizer.post_processor = chosen[post_processor]
    tokenizer.enable_truncation(12, direction="left")
    tokenizer.enable_padding(direction="left", pad_token="<extra>", pad_id=tokenizer.token_to_id("<extra>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    facts = read_tokenizer(SourceReader(FolderSource(tmp_path, "folder")))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    assert (facts.size, facts.largest_id) == (len(vocabulary), max(vocabulary.values()))
    assert facts.specials_per_text == tokenizer.num_special_tokens_to_add(is_pair=False)
    assert facts.byte_level == (kind == "byte level in a sequence")
    assert (facts.padding_side, facts.truncation_side) == ("left", "left")
    assert facts.special_tokens == {"pad_token": "<extra>"}
    assert facts.special_ids == {"pad_token": vocabulary["<extra>"]}


def test_special_tokens_by_transformers_rule(bert_folder):
    """special_tokens_map.json wins, unless tokenizer_config.json has the newer list of added tokens."""
    config = bert_folder / "tokenizer_config.json"
    values = {**json.loads(config.read_text()), "cls_token": {"content": "[CLS]", "special": True}}
    (bert_folder / "special_tokens_map.json").write_text('{"cls_token": "[SEP]"}')
    config.write_text(json.dumps(values))
    assert read_facts(str(bert_folder)).tokenizer.special_tokens["cls_token"] == "[SEP]"
    config.write_text(json.dumps({**values, "added_tokens_decoder": {"99999": {"content": "<new>", "special": True}}}))
    facts = read_facts(str(bert_folder))
    assert facts.tokenizer.special_tokens["cls_token"] == "[CLS]"
    assert facts.tokenizer.largest_id == 99999


def test_a_tokenizer_without_a_vocabulary(bert_folder):
    """A file that holds none is a problem."""
    (bert_folder / "tokenizer.json").write_text('{"model": {}}')
    facts = read_facts(str(bert_folder))
    assert any("tokenizer.json holds no vocabulary" in problem for problem in facts.problems)
    assert facts.tokenizer.size is None


@pytest.mark.parametrize(
    "content", ['{"added_tokens": 5}', '{"added_tokens": [1, {}]}', '{"model": 3, "post_processor": []}']
)
def test_tokenizer_files_of_another_form(bert_folder, content):
    """Values of another type than tokenizers writes are left out, and nothing is raised."""
    (bert_folder / "tokenizer.json").write_text(content)
    (bert_folder / "tokenizer_config.json").write_text(
        '{"model_max_length": "many", "padding_side": 3, "cls_token": 4}'
    )
    facts = read_facts(str(bert_folder))
    assert facts.tokenizer.model_max_length is None
    assert facts.tokenizer.padding_side == "right"
