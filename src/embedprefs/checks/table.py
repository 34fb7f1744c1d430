"""The one table of all rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import cast

from embedprefs.checks import (
    access,
    backends,
    compute,
    configuration,
    index,
    loaded,
    loaded_probes,
    modules,
    prompts,
    reading,
    tokenizer,
    training,
    training_contradictions,
    training_rows,
    training_schedules,
    training_unused,
    vectors,
    weights,
)
from embedprefs.checks.rule import AnyRule, LoadedRule, PreferenceRule, Rule, TrainingRule

__all__ = ["LOADED_RULES", "PREFERENCE_RULES", "RULES", "SUBJECTS", "TRAINING_RULES"]

#: Module of rules -> its heading, in the order of the reference page.
SUBJECTS: Mapping[ModuleType, str] = MappingProxyType(
    {
        reading: "The check itself",
        access: "Access to the model's files",
        weights: "Weights and files",
        configuration: "Configuration",
        modules: "Module chain",
        tokenizer: "Tokenizer",
        prompts: "Prompts",
        vectors: "Vectors",
        compute: "Machine",
        backends: "Backend and attention",
        index: "Index",
        training: "Training",
        training_contradictions: "Training: settings that contradict each other",
        training_schedules: "Training: optimizer, schedule and ranges",
        training_unused: "Training: settings that nothing looks at",
        training_rows: "Training: settings and data",
        loaded: "Loaded model",
        loaded_probes: "Loaded model, with probe texts",
    }
)


def _rules() -> Iterator[AnyRule]:
    for module in SUBJECTS:
        yield from (value for value in vars(module).values() if isinstance(value, Rule))


def _by_code() -> dict[str, AnyRule]:
    table: dict[str, AnyRule] = {}
    for rule in _rules():
        if rule.code in table:
            raise ValueError(f"Two rules have the code {rule.code}.")
        table[rule.code] = rule
    return table


#: Code -> rule, in the order of the subjects.
RULES: Mapping[str, AnyRule] = MappingProxyType(_by_code())
PREFERENCE_RULES = tuple(
    cast("PreferenceRule", rule) for rule in RULES.values() if not rule.on_loaded_model and not rule.on_training_data
)
TRAINING_RULES = tuple(cast("TrainingRule", rule) for rule in RULES.values() if rule.on_training_data)
LOADED_RULES = tuple(cast("LoadedRule", rule) for rule in RULES.values() if rule.on_loaded_model)
