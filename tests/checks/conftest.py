"""What the tests of the rules share: tiny models, a machine described by hand, and a way to ask one rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from embedprefs import testing
from embedprefs.checks.rule import PreferenceRule
from embedprefs.checks.subject import Subject
from embedprefs.errors import EmbedPrefsError
from embedprefs.facts import ModelFacts, facts_for
from embedprefs.hardware import Hardware
from embedprefs.preferences import Preferences
from embedprefs.resolve import resolve

#: A machine without accelerators, with the packages that are needed.
MACHINE = Hardware(
    system="Linux",
    machine="x86_64",
    python_version="3.12.1",
    cpu_count=4,
    memory_total=16 * 2**30,
    memory_available=12 * 2**30,
    native_bfloat16=True,
    torch_version="2.13.0+cpu",
    packages={"torch": "2.13.0", "sentence-transformers": "6.2.0", "transformers": "5.23.0"},
)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Name -> folder of a tiny model."""
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(root / "bert"),
        "roberta": testing.tiny_roberta_folder(root / "roberta"),
        "modernbert": testing.tiny_modernbert_folder(root / "modernbert"),
        "flagship": testing.published_modernbert_embed_folder(root / "flagship"),
        "static": testing.static_model_folder(root / "static"),
        "bare": testing.tiny_bert_folder(root / "bare", pooling=None),
        "unnormalized": testing.tiny_bert_folder(root / "unnormalized", normalize=False),
    }


def nested(stated: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into tables."""
    values: dict[str, Any] = {}
    for key, value in stated.items():
        table = values
        *sections, name = key.split(".")
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return values


@dataclasses.dataclass(frozen=True)
class Situation:
    """Preferences, a model and a machine to ask rules about."""

    stated: dict[str, Any]
    """Dotted key -> value; `model.name` is filled in."""
    model: str = "bert"
    """Which of the tiny models."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What its files say instead; `tokenizer.x` and `config.x` reach inwards."""
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the machine is instead."""
    problem: EmbedPrefsError | None = None
    """Why there are no facts."""

    def preferences(self, folders: dict[str, Any]) -> Preferences:
        """Return the preferences."""
        return Preferences.model_validate(nested({"model.name": str(folders[self.model]), **self.stated}))

    def subject(self, folders: dict[str, Any]) -> Subject:
        """Return what the rules are asked about."""
        preferences = self.preferences(folders)
        machine = dataclasses.replace(MACHINE, **self.hardware)
        if self.problem is not None:
            return Subject(preferences, None, machine, None, self.problem)
        facts = changed(facts_for(preferences), self.facts)
        return Subject(preferences, facts, machine, resolve(preferences, facts, machine))


def changed(facts: ModelFacts, changes: dict[str, Any]) -> ModelFacts:
    """Return facts with some values replaced."""
    for key, value in changes.items():
        first, _, inner = key.partition(".")
        current = getattr(facts, first)
        if not inner:
            facts = dataclasses.replace(facts, **{first: value})
        elif first == "config":
            facts = dataclasses.replace(facts, config={**current, inner: value})
        else:
            facts = dataclasses.replace(facts, **{first: dataclasses.replace(current, **{inner: value})})
    return facts


@pytest.fixture
def ask(model_folders):
    """Ask one rule about a situation: `ask(rule, stated={...}, model="bert")` returns its findings."""

    def ask_rule(rule: PreferenceRule, **situation: Any):
        subject = Situation(**{"stated": {}, **situation}).subject(model_folders)
        return list(rule.findings(subject)) if all(subject.has(need) for need in rule.needs) else []

    return ask_rule


@pytest.fixture
def situation(model_folders):
    """Return preferences, facts and hardware of a situation, as `check` takes them."""

    def make(**values: Any):
        subject = Situation(**{"stated": {}, **values}).subject(model_folders)
        return subject.preferences, subject.facts, subject.hardware

    return make


@pytest.fixture
def nest():
    """Turn dotted keys into tables."""
    return nested
