"""The reference page of the checks, made from the tables."""

from __future__ import annotations

from embedprefs.checks.cases import CASES, Case
from embedprefs.checks.explaining import example_keys
from embedprefs.checks.host_settings import HOST_SETTINGS
from embedprefs.checks.rule import AnyRule
from embedprefs.checks.table import RULES, SUBJECTS

__all__ = ["render"]


def render() -> str:
    """Return docs/reference/checks.md as Markdown."""
    parts = [_introduction(), _cases(), _host_settings()]
    for module, heading in SUBJECTS.items():
        name = module.__name__.rpartition(".")[2]
        rules = [rule for rule in RULES.values() if rule.subject == name]
        parts.append("\n".join([f"## {heading}", "", *(line for rule in rules for line in _rule(rule))]))
    return "\n".join(parts).rstrip("\n") + "\n"


def _introduction() -> str:
    counts = {severity: sum(rule.severity == severity for rule in RULES.values()) for severity in _SEVERITIES}
    counted = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts.items())
    return "\n".join(
        [
            "# Checks",
            "",
            "Every rule that `embedprefs check` and `load_model` ask, generated from their table.",
            "",
            *(f"- **{severity}**: {words}" for severity, words in _SEVERITIES.items()),
            "",
            f"There are {len(RULES)} rules ({counted}, by what they usually report). `embedprefs check` needs no",
            "weights and no network; the rules on the loaded model run in `load_model`. `embedprefs explain CODE`",
            'prints one of them. A warning or note is left out of reports by `ignore = ["code"]` under `[checks]`;',
            "errors cannot be ignored.",
            "",
        ]
    )


_SEVERITIES = {
    "error": "vectors would be wrong, or it would fail later. `load_model` refuses to load.",
    "warning": "likely unwanted.",
    "note": "worth knowing.",
}


def _cases() -> str:
    return "\n".join(
        [
            "## Forty settings that go wrong without an error",
            "",
            "Observed with sentence-transformers 6.2 and transformers 5.23. Each has two tests: one where it is found",
            "or prevented, one where nothing is said. In `tests/checks` those of a rule are `test_rule_fires` and",
            "`test_rule_stays_silent` with its code; those of a mechanism begin as the last column says.",
            "",
            "| # | setting | what the host does | rules | made impossible by |",
            "| --- | --- | --- | --- | --- |",
            *(_case(case) for case in CASES),
            "",
        ]
    )


def _case(case: Case) -> str:
    rules = ", ".join(f"[`{code}`](#{code})" for code in case.codes)
    mechanism = f"{case.mechanism} (`{case.test_prefix}...`)" if case.mechanism else ""
    return f"| {case.number} | {_cell(case.title)} | {_cell(case.host_today)} | {rules} | {_cell(mechanism)} |"


def _host_settings() -> str:
    lines = [
        "## Settings of the host",
        "",
        "Settings that guides name, and where each is found here.",
        "",
        "| setting | preference | rule or command | today |",
        "| --- | --- | --- | --- |",
    ]
    for setting in HOST_SETTINGS:
        rule = f"[`{setting.rule}`](#{setting.rule})" if setting.rule else ""
        command = f"`{setting.command}`" if setting.command else ""
        preference = f"`{setting.preference}`" if setting.preference else ""
        lines.append(f"| `{setting.name}` | {preference} | {rule or command} | {_cell(setting.explanation)} |")
    return "\n".join([*lines, ""])


def _rule(rule: AnyRule) -> list[str]:
    language = "toml" if example_keys(rule) else "text"
    cases = ", ".join(str(number) for number in rule.cases)
    return [
        f"### {rule.code}",
        "",
        f"**{rule.severity}**. {rule.title}",
        "",
        rule.why,
        "",
        f"Without this rule: {rule.host_today}",
        "",
        f"```{language}",
        rule.example,
        "```",
        "",
        f"What to do: {rule.fix}{f' (Cases {cases}.)' if cases else ''}",
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
