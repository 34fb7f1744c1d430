"""Each rule fires where it should, and is silent beside it."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest

from embedprefs.checks import RULES
from embedprefs.checks.explaining import example_keys
from embedprefs.checks.table import PREFERENCE_RULES, SUBJECTS
from embedprefs.preferences import every_field, find_field

PAIRS = {}
for file in sorted((Path(__file__).parent / "pairs").glob("*.py")):
    PAIRS |= runpy.run_path(str(file))["PAIRS"]


def test_every_rule_has_a_pair():
    """A rule cannot be added without a situation in which it fires and one in which it does not."""
    assert {rule.code for rule in PREFERENCE_RULES} == set(PAIRS)


@pytest.mark.parametrize("code", sorted(PAIRS))
def test_rule_fires(code, ask):
    """The rule finds what it is for, and says what was found and what to do."""
    rule = RULES[code]
    findings = ask(rule, **PAIRS[code][0])
    assert findings, f"{code} found nothing"
    for finding in findings:
        assert finding.code == code
        assert finding.message.endswith((".", "?")), finding.message
        assert len(finding.fix) > 8
        assert finding.field is None or find_field(finding.field) or _within_a_table(finding.field), finding.field
    assert rule.severity in {finding.severity for finding in findings} or code in MILDER


@pytest.mark.parametrize("code", sorted(PAIRS))
def test_rule_stays_silent(code, ask):
    """The rule says nothing about what is right."""
    assert ask(RULES[code], **PAIRS[code][1]) == []


#: Rules whose pair shows their milder form.
MILDER = {"cuda-driver-too-old", "training-half-precision"}


def _within_a_table(key):
    """A key of a table whose names are free: `model.config.hidden_size`, `prompts.NAME`."""
    tables = ("model.config", "model.kwargs", "tokenizer.kwargs", "tokenizer.special_tokens", "training.arguments")
    named = ("training.loss_parameters", "prompts", "index.metadata_fields")
    return key.rpartition(".")[0] in (*tables, *named)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_rule_is_described(rule):
    """What a reader is told is whole sentences, and an example in TOML states keys that exist."""
    assert rule.code == rule.code.lower()
    assert " " not in rule.code
    assert rule.severity in {"error", "warning", "note"}
    for text in (rule.title, rule.why, rule.host_today, rule.fix):
        assert text.endswith("."), text
    if rule.example.startswith("["):
        tomllib.loads(rule.example)
    sections = {field.section for field in every_field()}
    for key in example_keys(rule):
        assert find_field(key) or key in sections or _within_a_table(key) or "training.arguments." in key, key


def test_every_module_of_rules_is_in_the_table():
    """No rule is left out because its module was forgotten."""
    folder = Path(next(iter(SUBJECTS)).__file__).parent
    holding = {
        path.stem
        for path in folder.glob("*.py")
        if any(f"\n@{kind}(" in path.read_text() for kind in ("rule", "loaded_rule", "training_rule"))
    }
    assert holding == {module.__name__.rpartition(".")[2] for module in SUBJECTS}


def test_titles_and_codes_are_told_apart():
    """No two rules say the same."""
    titles = [rule.title for rule in RULES.values()]
    assert len(set(titles)) == len(titles)
