"""What is known of well-known models, and how one is recognised."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from embedprefs.facts.model_facts import ModelFacts
from embedprefs.known_models import KNOWN_MODELS, KnownModel, find_known_model
from embedprefs.preferences.identity import Pooling
from embedprefs.validation import problems_in


def facts(name: str, *base_models: str) -> ModelFacts:
    values: dict[str, Any] = {
        "folder": None,
        "revision": None,
        "source": "folder",
        "files": (),
        "config": {},
        "sentence_transformers_config": {},
        "sentence_bert_config": {},
        "modules": (),
        "tokenizer": None,
        "tensors": {},
    }
    return replace(ModelFacts(name=name, **values), base_models=base_models)


def known(name: str) -> KnownModel:
    match = find_known_model(name)
    assert match is not None, name
    assert match.confidence == "certain"
    return match.model


@pytest.mark.parametrize("name", ["lightonai/modernbert-embed-large", "nomic-ai/modernbert-embed-base"])
def test_the_flagship_needs_both_prompts(name: str) -> None:
    model = known(name)
    assert model.prompts == {"query": "search_query: ", "document": "search_document: "}
    assert model.prompts_required
    assert model.supports_dimension(256)
    assert not model.supports_dimension(100)
    assert model.max_seq_length == 8192
    assert not model.query_only


@pytest.mark.parametrize(
    ("name", "query", "document", "required"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: ", True),
        ("intfloat/multilingual-e5-large", "query: ", "passage: ", True),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence for searching relevant passages: ", "", False),
        ("BAAI/bge-large-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", "", False),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: ", "", True),
        ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: ", True),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: ", True),
        ("sentence-transformers/all-MiniLM-L6-v2", None, None, False),
        ("BAAI/bge-m3", None, None, False),
    ],
)
def test_prompts_of_each_family(name: str, query: str | None, document: str | None, required: bool) -> None:
    model = known(name)
    assert (model.prompts.get("query"), model.prompts.get("document")) == (query, document)
    assert model.prompts_required is required
    assert model.query_only is (document == "")


def test_qwen_instructions_end_without_a_space() -> None:
    """The card's format is `Query:` followed by the text at once, other than e5's."""
    assert known("Qwen/Qwen3-Embedding-0.6B").prompts["query"].endswith("\nQuery:")
    assert known("intfloat/multilingual-e5-large-instruct").prompts["query"].endswith("\nQuery: ")
    assert known("Qwen/Qwen3-Embedding-4B").supports_dimension(100)
    assert not known("Qwen/Qwen3-Embedding-0.6B").supports_dimension(2000)


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.name)
def test_every_entry_is_complete_and_could_be_stated_as_preferences(model: KnownModel) -> None:
    """Each has a source, and prompts, length and similarity that a preferences file would accept."""
    assert model.source.startswith("https://")
    assert "{" not in model.source
    stated = {
        "model": {"name": model.name},
        "prompts": dict(model.prompts),
        "vectors": {"similarity_fn_name": model.similarity} if model.similarity else {},
        "tokenizer": {"max_seq_length": model.max_seq_length} if model.max_seq_length else {},
    }
    assert problems_in(stated, complete=True) == []
    assert model.pooling is None or model.pooling in Pooling.__args__
    assert not model.prompts_required or model.prompts.get("query")
    if model.matryoshka_dims:
        assert list(model.matryoshka_dims) == sorted(model.matryoshka_dims, reverse=True)
        assert model.matryoshka_range is None
    for prompt in model.prompts.values():
        # A prompt that is joined to the next word would become other tokens.
        assert prompt == "" or not prompt[-1].isalnum()


def test_names_are_unique_and_well_known_families_are_there() -> None:
    names = [name.casefold() for model in KNOWN_MODELS for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    for family in (
        "e5",
        "bge",
        "gte",
        "nomic",
        "mxbai",
        "arctic",
        "jina",
        "qwen3",
        "gemma",
        "granite",
        "minilm",
        "mpnet",
    ):
        assert any(family in name for name in names), family


def test_lists_became_tuples_so_that_entries_are_values() -> None:
    for model in KNOWN_MODELS:
        assert not [item.name for item in fields(model) if isinstance(getattr(model, item.name), list)]


@pytest.mark.parametrize(
    "name",
    [
        "lightonai/modernbert-embed-large",
        "LightOnAI/ModernBERT-embed-large",
        "/home/me/.cache/huggingface/hub/models--lightonai--modernbert-embed-large/snapshots/0123/",
        "lightonai/modernbert-embed-large/",
    ],
)
def test_a_model_is_recognised_by_its_name(name: str) -> None:
    match = find_known_model(name)
    assert match is not None
    assert (match.model.name, match.by, match.confidence) == ("lightonai/modernbert-embed-large", "name", "certain")


def test_a_name_that_the_host_completes_is_recognised() -> None:
    assert known("all-MiniLM-L6-v2").name == "sentence-transformers/all-MiniLM-L6-v2"
    assert known("dunzhang/stella_en_400M_v5").name == "NovaSearch/stella_en_400M_v5"


def test_a_card_is_nearer_than_a_base_model_and_less_certain_than_a_name() -> None:
    """What a card says may also be left over in a model that was trained on."""
    copy = replace(facts("./copy", "intfloat/e5-base-v2"), card_name="lightonai/modernbert-embed-large")
    match = find_known_model(copy)
    assert match is not None
    assert (match.model.name, match.by, match.confidence) == (copy.card_name, "model card", "likely")
    assert match.reason == "Its model card is that of lightonai/modernbert-embed-large."
    named = find_known_model(replace(copy, name="BAAI/bge-m3"))
    assert named is not None
    assert named.model.name == "BAAI/bge-m3"
    unknown = find_known_model(replace(copy, card_name="someone/own-model"))
    assert unknown is not None
    assert (unknown.model.name, unknown.by, unknown.confidence) == ("intfloat/e5-base-v2", "base model", "likely")


def test_a_fine_tune_is_recognised_by_what_it_was_made_from() -> None:
    match = find_known_model(facts("./my-model", "lightonai/modernbert-embed-large"))
    assert match is not None
    assert (match.by, match.confidence) == ("base model", "likely")
    assert "was made from lightonai/modernbert-embed-large" in match.reason
    further = find_known_model(facts("./my-model", "someone/unknown", "intfloat/e5-base-v2"))
    assert further is not None
    assert further.confidence == "possible"


def test_a_models_own_entry_wins_over_its_bases() -> None:
    """GIST was made from bge to work without bge's prompt."""
    match = find_known_model(facts("avsolatorio/GIST-Embedding-v0", "BAAI/bge-base-en-v1.5"))
    assert match is not None
    assert match.by == "name"
    assert match.model.prompts == {}


@pytest.mark.parametrize("name", ["answerdotai/ModernBERT-large", "modernbert-embed-large", "", "./models/e5-base-v2"])
def test_a_name_that_only_resembles_one_is_not_taken_for_it(name: str) -> None:
    assert find_known_model(name) is None
    assert find_known_model(facts(name, "bert-base-uncased")) is None
