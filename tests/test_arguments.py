"""What preferences become as arguments of the host, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections import Counter
from pathlib import Path

import pytest

from embedprefs.arguments import (
    PLACEMENTS,
    CallSite,
    encode_arguments,
    load_arguments,
    multi_process_arguments,
    refused_overrides,
)
from embedprefs.config_overrides import judge_override, meaningful_configuration
from embedprefs.errors import InvalidPreferenceError
from embedprefs.facts import read_facts
from embedprefs.hardware import Hardware
from embedprefs.preferences import Layer, Origin, Preferences, every_field, find_field
from embedprefs.resolve import resolve
from embedprefs.testing import (
    published_modernbert_embed_folder,
    static_model_folder,
    tiny_bert_folder,
    tiny_modernbert_folder,
)

HARDWARE = Hardware(
    cpu_count=2, packages={"torch": "2.13.0", "sentence-transformers": "6.2.0", "transformers": "5.23.0"}
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_bert_folder(root / "bert", prompts={"query": "query: ", "passage": "passage: "}),
        "modernbert": tiny_modernbert_folder(root / "modernbert"),
        "flagship": published_modernbert_embed_folder(root / "flagship"),
        "static": static_model_folder(root / "static"),
    }


def resolved_for(folder, facts=None, **sections):
    values = {**sections, "model": {"name": str(folder), **sections.get("model", {})}}
    return resolve(Preferences.model_validate(values), facts or read_facts(str(folder)), HARDWARE)


# ------------------------------------------------------------------------------------------------------ placements


def test_every_preference_is_placed_at_every_call_site():
    """No preference is dropped: at each site it becomes something, or there is a reason why not."""
    for declared in every_field():
        for site in CallSite:
            placement = PLACEMENTS[declared.key, site]
            assert (placement.becomes is None) != (placement.reason is None), (declared.key, site)
            if placement.reason is not None:
                assert placement.reason.endswith("."), (declared.key, site)
                assert len(placement.reason.split()) >= 4, (declared.key, site)
    assert len(PLACEMENTS) == len(every_field()) * len(CallSite)


def test_every_preference_becomes_something_somewhere():
    """A preference that reaches no call site would be decoration, but for those about the file and "auto"."""
    placed = Counter(key for (key, _), placement in PLACEMENTS.items() if placement.becomes)
    nowhere = {declared.key for declared in every_field()} - set(placed)
    assert nowhere == {"schema_version", "extends", "checks.ignore", "compute.exactness"}


def test_what_a_preference_becomes_at_load_is_an_argument_of_the_host():
    """The names are the host's own, read from the installed version."""
    from sentence_transformers import SentenceTransformer

    parameters = set(inspect.signature(SentenceTransformer.__init__).parameters)
    applied_around_the_call = {"model", "torch", "AutoModel", "engine"}
    for (key, site), placement in PLACEMENTS.items():
        if site is CallSite.LOAD and placement.becomes is not None:
            name = placement.becomes.partition(".")[0]
            assert name in parameters | applied_around_the_call, (key, placement.becomes)


@pytest.mark.parametrize("site", [CallSite.ENCODE_QUERY, CallSite.ENCODE_DOCUMENT, CallSite.MULTI_PROCESS])
def test_what_a_preference_becomes_when_encoding_is_an_argument_of_the_host(site):
    """Beside what embedprefs does itself around the call."""
    from sentence_transformers import SentenceTransformer

    parameters = {*inspect.signature(SentenceTransformer.encode).parameters, "task"}
    around_the_call = {"inputs", "result", "model.report", "torch.autocast"}
    for (key, placed), placement in PLACEMENTS.items():
        if placed is site and placement.becomes is not None:
            assert placement.becomes in parameters | around_the_call, (key, placement.becomes)


# ---------------------------------------------------------------------------------------------------------- loading


def test_load_arguments_leave_nothing_to_the_hosts_defaults(models):
    """Number format, attention (by the name transformers knows), safetensors and both prompts are always explicit."""
    arguments = load_arguments(resolved_for(models["modernbert"], compute={"device": "cpu"}))
    assert arguments == {
        "model_name_or_path": str(models["modernbert"]),
        "device": "cpu",
        "prompts": {"query": "", "document": ""},
        "similarity_fn_name": "cosine",
        "truncate_dim": None,
        "trust_remote_code": False,
        "local_files_only": False,
        "cache_folder": None,
        "backend": "torch",
        "model_kwargs": {"dtype": "float32", "attn_implementation": "embedprefs_local", "use_safetensors": True},
        "processor_kwargs": {"model_max_length": 256, "padding_side": "right", "truncation_side": "right"},
        "config_kwargs": {},
    }


def test_a_prompt_under_a_name_the_host_never_applies_is_given_as_document(models):
    """`passage` of the model's own file becomes the document prompt, which the host does apply."""
    arguments = load_arguments(resolved_for(models["bert"], prompts={"topic": "t: "}))
    assert arguments["prompts"] == {"query": "query: ", "document": "passage: ", "topic": "t: "}


def test_the_flagship_gets_its_prompts(models):
    """modernbert-embed-large publishes none."""
    arguments = load_arguments(resolved_for(models["flagship"]))
    assert arguments["prompts"] == {"query": "search_query: ", "document": "search_document: "}


def test_a_static_model_gets_no_transformer_arguments(models):
    """It has neither attention nor a number format to choose."""
    arguments = load_arguments(resolved_for(models["static"]))
    assert not {"model_kwargs", "processor_kwargs", "config_kwargs"} & set(arguments)


def test_a_revision_goes_to_the_hub_alone(models):
    """The host ignores one for a folder; for the hub, the commit that was checked is the one that is loaded."""
    folder = resolved_for(models["bert"], model={"revision": "abc"})
    assert "revision" not in load_arguments(folder)
    facts = dataclasses.replace(folder.facts, source="cache", name="someone/model", revision="0" * 40)
    arguments = load_arguments(resolved_for("someone/model", facts))
    assert arguments["model_name_or_path"] == "someone/model"
    assert arguments["revision"] == "0" * 40


def test_pickle_is_allowed_only_where_it_is_stated(models):
    """safetensors otherwise."""
    assert (
        "use_safetensors"
        not in load_arguments(resolved_for(models["bert"], model={"allow_pickle": True}))["model_kwargs"]
    )


def test_the_host_loads_with_these_arguments(models):
    """Everything asked for is in effect on the host's own object."""
    from sentence_transformers import SentenceTransformer

    resolved = resolved_for(
        models["bert"],
        tokenizer={"max_seq_length": 17, "truncation_side": "left", "special_tokens": {"sep_token": "[MASK]"}},
        vectors={"truncate_dim": 16, "similarity_fn_name": "dot"},
        compute={"device": "cpu", "dtype": "bfloat16", "attention": "eager"},
        model={"config": {"hidden_dropout_prob": 0.25}},
    )
    model = SentenceTransformer(**load_arguments(resolved))
    transformer = model[0].auto_model
    assert (model.prompts["query"], model.prompts["document"]) == ("query: ", "passage: ")
    assert model.max_seq_length == 17
    assert model.tokenizer.truncation_side == "left"
    assert model.tokenizer.sep_token == "[MASK]"
    assert model.similarity_fn_name == "dot"
    assert str(transformer.dtype) == "torch.bfloat16"
    assert transformer.config._attn_implementation == "eager"
    assert transformer.config.hidden_dropout_prob == 0.25
    vectors = model.encode(["one", "two"], **encode_arguments(resolved, "query"))
    assert vectors.shape == (2, 16)


@pytest.mark.parametrize(
    ("table", "keyword", "preference"),
    [
        ("model", "torch_dtype", "compute.dtype"),
        ("model", "attn_implementation", "compute.attention"),
        ("model", "device_map", "compute.device"),
        ("model", "trust_remote_code", "model.trust_remote_code"),
        ("tokenizer", "model_max_length", "tokenizer.max_seq_length"),
        ("tokenizer", "padding_side", "tokenizer.padding_side"),
        ("tokenizer", "pad_token", "tokenizer.special_tokens"),
    ],
)
def test_a_keyword_that_a_preference_stands_for_is_refused(models, table, keyword, preference):
    """Nothing can be said twice; the message names the preference, and the preference exists."""
    with pytest.raises(InvalidPreferenceError, match=preference) as caught:
        load_arguments(resolved_for(models["bert"], **{table: {"kwargs": {keyword: "x"}}}))
    assert caught.value.key == f"{table}.kwargs.{keyword}"
    assert find_field(preference) is not None


def test_every_covered_keyword_names_a_preference():
    """The tables point to preferences that exist."""
    from embedprefs.arguments.keywords import COVERED_MODEL_KEYWORDS, COVERED_TOKENIZER_KEYWORDS

    for preference in {*COVERED_MODEL_KEYWORDS.values(), *COVERED_TOKENIZER_KEYWORDS.values()}:
        assert find_field(preference) is not None, preference


def test_all_refusals_come_at_once_with_their_places(models):
    """And a token is never repeated in a message."""
    values = {
        "model": {
            "name": str(models["bert"]),
            "kwargs": {"dtype": "float16", "token": "hf_secret"},
            "config": {"hidden_size": 8},
        },
        "tokenizer": {"kwargs": {"truncation_side": "left"}},
    }
    origins = {"model.kwargs": Origin(Layer.PROJECT_FILE, "embedprefs.toml", 4)}
    preferences = Preferences.model_validate(values).with_origins(origins, Path("embedprefs.toml"))
    with pytest.raises(InvalidPreferenceError) as caught:
        load_arguments(resolve(preferences, read_facts(str(models["bert"])), HARDWARE))
    keys = [problem.key for problem in caught.value.problems]
    assert keys == [
        "model.kwargs.dtype",
        "model.kwargs.token",
        "tokenizer.kwargs.truncation_side",
        "model.config.hidden_size",
    ]
    assert str(caught.value).startswith("embedprefs.toml:4: ")
    assert "hf_secret" not in str(caught.value)
    assert "hf_secret" not in repr([problem.value for problem in caught.value.problems])


def test_further_keywords_are_passed_on(models):
    """What no preference covers reaches the host."""
    resolved = resolved_for(
        models["bert"], model={"kwargs": {"add_pooling_layer": False}}, tokenizer={"kwargs": {"strip_accents": True}}
    )
    arguments = load_arguments(resolved)
    assert arguments["model_kwargs"]["add_pooling_layer"] is False
    assert arguments["processor_kwargs"]["strip_accents"] is True


# --------------------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize(("role", "prompt"), [("query", "query: "), ("document", "passage: ")])
def test_encode_arguments(models, role, prompt):
    """The role's prompt, the effective form of the vectors, the batch of this machine."""
    resolved = resolved_for(models["bert"], vectors={"truncate_dim": 16, "precision": "binary"})
    assert encode_arguments(resolved, role) == {
        "prompt": prompt,
        "batch_size": 16,  # 1,024 tokens of texts of 64
        "normalize_embeddings": True,
        "truncate_dim": 16,
        "precision": "binary",
        "task": role,
    }


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_the_host_never_quantises_with_ranges_of_its_own(models, precision):
    """Its ranges change with every call; ours are stored."""
    resolved = resolved_for(models["bert"], vectors={"precision": precision, "calibration": "ranges.json"})
    assert encode_arguments(resolved, "query")["precision"] == "float32"


def test_a_stated_task_takes_the_place_of_the_role(models):
    """Models with tasks are told theirs."""
    assert encode_arguments(resolved_for(models["bert"], prompts={"task": "retrieval"}), "query")["task"] == "retrieval"


@pytest.mark.parametrize(
    ("compute", "devices"),
    [
        ({"device": "cpu", "workers": 3}, ["cpu", "cpu", "cpu"]),
        ({"device": ["cuda:0", "cuda:1"]}, ["cuda:0", "cuda:1"]),
        ({"device": ["cuda:0", "cuda:1"], "workers": 3}, ["cuda:0", "cuda:1", "cuda:0"]),
        ({"device": "cpu"}, ["cpu"]),
    ],
)
def test_workers_share_the_devices(models, compute, devices):
    """One process for each device, or as many as are asked for."""
    assert multi_process_arguments(resolved_for(models["bert"], compute=compute), "document")["device"] == devices


# ------------------------------------------------------------------------------------------ configuration overrides

#: Setting that guides give -> on which model -> what to use instead (None: there is nothing).
GUIDES = {
    "hidden_size": ("modernbert", "model.from_scratch"),
    "intermediate_size": ("modernbert", "model.from_scratch"),
    "num_hidden_layers": ("modernbert", "model.from_scratch"),
    "num_attention_heads": ("modernbert", "model.from_scratch"),
    "max_position_embeddings": ("modernbert", "tokenizer.max_seq_length"),
    "type_vocab_size": ("modernbert", None),
    "initializer_range": ("modernbert", "model.from_scratch"),
    "layer_norm_eps": ("modernbert", "norm_eps"),
    "norm_eps": ("modernbert", "model.from_scratch"),
    "gradient_checkpointing": ("modernbert", "training.activation_checkpointing"),
    "position_embedding_type": ("modernbert", "rope_parameters"),
    "global_rope_theta": ("modernbert", "rope_parameters"),
    "local_rope_theta": ("modernbert", "rope_parameters"),
    "global_attn_every_n_layers": ("modernbert", "layer_types"),
    "reference_compile": ("modernbert", "compute.compile"),
    "local_attention": ("modernbert", "model.from_scratch"),
    "hidden_act": ("modernbert", "hidden_activation"),
    "torch_dtype": ("modernbert", "compute.dtype"),
    "attn_implementation": ("modernbert", "compute.attention"),
    "model_max_length": ("modernbert", "tokenizer.max_seq_length"),
    "padding_side": ("modernbert", "tokenizer.padding_side"),
    "num_labels": ("modernbert", None),
}


@pytest.mark.parametrize("name", GUIDES)
def test_settings_of_guides_are_refused_with_what_to_use(models, name):
    """Every stale or harmful name has a reason and, where there is one, the right place."""
    model, use_instead = GUIDES[name]
    verdict = judge_override("modernbert", name, 12345, read_facts(str(models[model])))
    assert not verdict.allowed
    assert verdict.use_instead == use_instead
    assert verdict.reason.endswith(".")
    if use_instead is not None and "." in use_instead:
        assert find_field(use_instead) is not None


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ("modernbert", "attention_dropout", 0.1),
        ("modernbert", "embedding_dropout", 0.1),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_type": "yarn", "factor": 2.0}}),
        ("bert", "hidden_dropout_prob", 0.0),
        ("bert", "attention_probs_dropout_prob", 0.0),
        ("bert", "num_attention_heads", 4),  # what it has anyway
    ],
)
def test_overrides_that_keep_the_checkpoints_meaning_are_allowed(models, model, name, value):
    """Dropouts, scaled rotary positions, and what the file says anyway."""
    assert judge_override(model, name, value, read_facts(str(models[model]))).allowed


@pytest.mark.parametrize(
    ("model", "name", "use_instead"),
    [
        ("bert", "max_position_embeddings", "model.from_scratch"),
        ("bert", "rope_parameters", None),
        ("bert", "position_embedding_type", None),
        ("bert", "hiden_dropout_prob", "hidden_dropout_prob"),
        ("modernbert", "mlp_dropuot", "mlp_dropout"),
        ("modernbert", "hidden_dropout_prob", "mlp_dropout"),
        ("bert", "something_else_entirely", None),
    ],
)
def test_overrides_without_effect_are_refused(models, model, name, use_instead):
    """A misspelt field would be dropped silently; the nearest name is suggested."""
    verdict = judge_override(model, name, 0.5, read_facts(str(models[model])))
    assert not verdict.allowed
    assert verdict.use_instead == use_instead


def test_from_scratch_may_change_the_architecture_and_nothing_stale(models):
    """An untrained model can have any shape; a name without effect stays one."""
    facts = read_facts(str(models["modernbert"]))
    assert judge_override("modernbert", "hidden_size", 64, facts, from_scratch=True).allowed
    assert judge_override("modernbert", "initializer_range", 0.1, facts, from_scratch=True).allowed
    assert not judge_override("modernbert", "layer_norm_eps", 0.1, facts, from_scratch=True).allowed
    assert not judge_override("modernbert", "hidden_sise", 64, facts, from_scratch=True).allowed
    overrides = {"hidden_size": 64, "num_hidden_layers": 2}
    assert (
        refused_overrides(resolved_for(models["modernbert"], model={"from_scratch": True, "config": overrides})) == []
    )
    assert len(refused_overrides(resolved_for(models["modernbert"], model={"config": overrides}))) == 2


def test_stale_names_are_really_without_effect(models):
    """What the table says about the host is so in the installed version."""
    from transformers import AutoConfig

    before = AutoConfig.from_pretrained(models["modernbert"]).to_dict()
    for name, value in [("global_attn_every_n_layers", 1), ("global_rope_theta", 5e5), ("local_rope_theta", 5e5)]:
        after = AutoConfig.from_pretrained(models["modernbert"], **{name: value}).to_dict()
        assert (after["layer_types"], after["rope_parameters"]) == (before["layer_types"], before["rope_parameters"]), (
            name
        )


@pytest.mark.parametrize("model", ["bert", "modernbert", "flagship"])
def test_the_host_writes_a_configuration_of_the_same_meaning(models, model, tmp_path):
    """Saving brings the file up to date; what it means stays, so the fingerprint does not change with it."""
    from transformers import AutoConfig

    before = read_facts(str(models[model])).config
    config = AutoConfig.from_pretrained(models[model])
    config.save_pretrained(tmp_path)
    after = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert after != before
    assert meaningful_configuration(after) == meaningful_configuration(before)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"model_type": "qwen3", "rope_theta": 1000000},
            {"model_type": "qwen3", "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}},
        ),
        (
            {"model_type": "llama", "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}},
            {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000}},
        ),
        ({"model_type": "bert"}, {"model_type": "bert", "is_decoder": False, "hidden_act": "gelu", "use_cache": True}),
        ({"model_type": "roberta"}, {"model_type": "roberta", "pad_token_id": 1}),
    ],
)
def test_two_spellings_of_one_configuration_mean_the_same(one, other):
    """Old and new files of one model."""
    assert meaningful_configuration(one) == meaningful_configuration(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model_type": "bert", "hidden_act": "gelu"}, {"model_type": "bert", "hidden_act": "relu"}),
        ({"model_type": "qwen3", "rope_theta": 1000000}, {"model_type": "qwen3", "rope_theta": 10000}),
        ({"model_type": "roberta", "pad_token_id": 1}, {"model_type": "roberta", "pad_token_id": 0}),
        (
            {"model_type": "modernbert", "num_hidden_layers": 4},
            {"model_type": "modernbert", "num_hidden_layers": 4, "global_attn_every_n_layers": 2},
        ),
        ({"model_type": "modernbert", "local_attention": 128}, {"model_type": "modernbert", "local_attention": 64}),
    ],
)
def test_another_computation_means_something_else(one, other):
    """The same weights would give other vectors."""
    assert meaningful_configuration(one) != meaningful_configuration(other)
