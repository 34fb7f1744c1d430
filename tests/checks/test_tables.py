"""The tables are whole: forty cases, the host's settings, its training arguments, the reference page."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from pathlib import Path

import pytest

from embedprefs import InvalidPreferenceError
from embedprefs.checks import RULES, check, explain
from embedprefs.checks.cases import CASES
from embedprefs.checks.host_settings import HOST_SETTINGS, find_host_setting
from embedprefs.checks.reference import render
from embedprefs.checks.training_arguments import (
    CHOICES,
    DEPRECATED,
    HOST_VERSIONS,
    IN_BATCH_NEGATIVES_LOSSES,
    LOSSES,
    NO_EFFECT,
    STALE,
    TRAINING_ARGUMENTS,
)
from embedprefs.checks.training_schedules import SCHEDULE_ARGUMENTS
from embedprefs.preferences import every_field, find_field

ROOT = Path(__file__).parent.parent.parent

#: Settings that guides name, as people look for them.
NAMED_IN_GUIDES = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "gradient_checkpointing",
    "position_embedding_type",
    "AutoModel.from_config",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "special_tokens",
    "init_kwargs",
    "batch_size",
    "sequence_length",
    "fp16",
    "bf16",
    "autocast",
    "mixed_precision",
    "device",
    "device_ids",
    "CUDA_VISIBLE_DEVICES",
    "cuda_version",
    "driver_version",
    "memory_limit",
    "distributed",
    "torchrun",
    "DataParallel",
    "evaluation_strategy",
    "logging_dir",
    "warmup_steps",
    "metric_for_best_model",
    "compute_metrics",
]


def installed(names):
    return {name: importlib.metadata.version(name) for name in names}


# --- the forty cases


def test_there_are_forty_cases():
    """Numbered without a gap."""
    assert [case.number for case in CASES] == list(range(1, 41))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02d}")
def test_a_case_is_covered(case):
    """By a rule, which has its two tests, or by a mechanism with two tests of its own."""
    assert case.codes or case.mechanism
    if case.mechanism:
        pattern = re.compile(rf"^\s*(?:async )?def {case.test_prefix}\w+", re.MULTILINE)
        found = [match for file in (ROOT / "tests").rglob("test_*.py") for match in pattern.findall(file.read_text())]
        assert len(found) >= 2, f"case {case.number} has {len(found)} tests that begin with {case.test_prefix}"


def test_rules_name_cases_that_exist():
    """A number in a rule is one of the forty."""
    assert {number for rule in RULES.values() for number in rule.cases} <= set(range(1, 41))


# --- settings of the host


@pytest.mark.parametrize("name", NAMED_IN_GUIDES)
def test_a_setting_that_guides_name_is_found(name):
    """By its name, in any case, and behind a dot."""
    setting = find_host_setting(name)
    assert setting is not None
    assert find_host_setting(name.upper()) == setting
    assert setting.preference or setting.rule or setting.command
    assert setting.explanation in explain(f"config.{name}")


@pytest.mark.parametrize("setting", HOST_SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_of_the_host_is_covered(setting, situation):
    """The preference exists, the rule exists and fires on the sample, or a command answers it."""
    if setting.preference is not None:
        known = find_field(setting.preference)
        assert known is not None, setting.preference
    if setting.rule is None:
        assert setting.command or setting.preference
        return
    assert setting.rule in RULES
    findings = check(*situation(stated=dict(setting.sample), model="modernbert"))
    assert setting.rule in {finding.code for finding in findings}, findings
    assert setting.rule not in {finding.code for finding in check(*situation(model="modernbert"))}


def test_names_of_settings_are_told_apart():
    """No name leads to two settings."""
    names = [name.casefold() for setting in HOST_SETTINGS for name in (setting.name, *setting.aliases)]
    assert len(set(names)) == len(names)


# --- explain


@pytest.mark.parametrize("code", RULES)
def test_every_rule_is_explained(code):
    """Why, example, fix."""
    text = explain(code)
    rule = RULES[code]
    for part in (rule.title, rule.why, rule.host_today, rule.fix):
        assert part in text


@pytest.mark.parametrize("field", every_field(), ids=lambda field: field.key)
def test_every_preference_is_explained(field):
    """What it is, what is allowed, what holds when it is not stated."""
    text = explain(field.key)
    assert field.description in text
    assert field.allowed in text


def test_a_preference_is_found_by_its_last_name():
    """Nobody remembers the section."""
    assert explain("truncate_dim") == explain("vectors.truncate_dim")
    assert explain("name").count("model.name") == 1


def test_a_section_is_explained_by_its_fields():
    """Every field of it is listed."""
    text = explain("vectors")
    for field in every_field():
        if field.section == "vectors":
            assert field.name in text


@pytest.mark.parametrize(
    "name", ["learning_rate", "evaluation_strategy", "TrainingArguments.no_cuda", "label_smoothing_factor"]
)
def test_training_arguments_are_explained(name):
    """Those of today and older ones."""
    assert name.rpartition(".")[2] in explain(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("prompt-missing", "prompts-missing"),
        ("vectors.trunkate_dim", "vectors.truncate_dim"),
        ("evalution_strategy", "evaluation_strategy"),
        ("normalize_embeddings", "vectors.normalize"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name, near):
    """The error says what was meant."""
    with pytest.raises(InvalidPreferenceError, match=re.escape(f"Did you mean {near}?")):
        explain(name)


def test_a_name_without_a_neighbour_says_where_names_are():
    """Nothing is made up."""
    with pytest.raises(InvalidPreferenceError, match="embedprefs check lists"):
        explain("zzzzqqqq")


# --- training arguments


def test_the_training_arguments_are_those_of_the_installed_host():
    """Names, defaults and types are compared with the dataclass itself."""
    if installed(HOST_VERSIONS) != HOST_VERSIONS:
        pytest.skip(f"the table is for {HOST_VERSIONS}, installed is {installed(HOST_VERSIONS)}")
    from sentence_transformers import SentenceTransformerTrainingArguments

    fields = dataclasses.fields(SentenceTransformerTrainingArguments)
    assert {field.name for field in fields} == set(TRAINING_ARGUMENTS)
    assert len(fields) == 120
    for field in fields:
        if field.default is not dataclasses.MISSING:
            default = getattr(field.default, "value", field.default)
            assert default == TRAINING_ARGUMENTS[field.name].default, field.name
            assert default is None or TRAINING_ARGUMENTS[field.name].accepts(default), field.name


def test_older_names_are_none_of_today():
    """A name is either stale or an argument; what is deprecated or without effect is one."""
    assert not set(STALE) & set(TRAINING_ARGUMENTS)
    assert set(DEPRECATED) | set(NO_EFFECT) | set(CHOICES) <= set(TRAINING_ARGUMENTS)


def test_choices_are_those_of_the_installed_host():
    """Closed lists are compared with the host's enumerations."""
    if installed(HOST_VERSIONS) != HOST_VERSIONS:
        pytest.skip(f"the table is for {HOST_VERSIONS}")
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers, MultiDatasetBatchSamplers
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    enumerations = {
        "eval_strategy": IntervalStrategy,
        "logging_strategy": IntervalStrategy,
        "save_strategy": SaveStrategy,
        "batch_sampler": BatchSamplers,
        "multi_dataset_batch_sampler": MultiDatasetBatchSamplers,
        "hub_strategy": HubStrategy,
        "optim": OptimizerNames,
        "lr_scheduler_type": SchedulerType,
    }
    known = {name: {item.value for item in values} for name, values in enumerations.items()}
    known["report_to"] = {"none", "all", *INTEGRATION_TO_CALLBACK}
    assert known == {name: set(values) for name, values in CHOICES.items()}


def test_arguments_of_schedules_are_those_of_the_installed_host():
    """Each schedule's own arguments, and whether one without a default is left to the user."""
    if installed(HOST_VERSIONS) != HOST_VERSIONS:
        pytest.skip(f"the table is for {HOST_VERSIONS}")
    import inspect

    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    given = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    functions = {name.value: function for name, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    assert set(functions) - set(SCHEDULE_ARGUMENTS) == {"reduce_lr_on_plateau", "greedy"}
    for name, known in SCHEDULE_ARGUMENTS.items():
        assert set(inspect.signature(functions[name]).parameters) - given == set(known), name


def test_losses_are_those_of_the_installed_host():
    """Every loss of the table exists, and none of the host's is missing."""
    if installed(HOST_VERSIONS) != HOST_VERSIONS:
        pytest.skip(f"the table is for {HOST_VERSIONS}")
    import torch
    from sentence_transformers.sentence_transformer import losses

    classes = {
        name for name, value in vars(losses).items() if isinstance(value, type) and issubclass(value, torch.nn.Module)
    }
    assert classes >= set(LOSSES)
    assert {name for name in classes if "Loss" in name} == set(LOSSES)
    assert set(LOSSES) >= IN_BATCH_NEGATIVES_LOSSES


# --- the reference page


def test_the_reference_page_is_current():
    """What is committed is what the tables say."""
    page = ROOT / "docs" / "reference" / "checks.md"
    assert page.read_text(encoding="utf-8") == render(), "docs/reference/checks.md is stale: run make docs"


def test_the_reference_page_lists_everything():
    """Every rule, case and setting."""
    page = render()
    for code in RULES:
        assert f"\n### {code}\n" in page
    for case in CASES:
        assert f"\n| {case.number} | " in page
    for setting in HOST_SETTINGS:
        assert f"\n| `{setting.name}` | " in page
