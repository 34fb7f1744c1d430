"""What `embedprefs explain` says: about a rule, a preference, or a setting of the host."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from embedprefs.checks.host_settings import HOST_SETTINGS, HostSetting, find_host_setting
from embedprefs.checks.rule import AnyRule, nearest
from embedprefs.checks.table import RULES
from embedprefs.checks.training_arguments import DEPRECATED, NO_EFFECT, STALE, TRAINING_ARGUMENTS
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.preferences import FieldDeclaration, every_field, find_field

__all__ = ["explain"]

_KIND_WORDS = {
    "identity": "identity: changing it changes the vector space",
    "compute": "compute: changing it changes speed, and the vectors by rounding at most",
    "access": "access: how the model's files are reached",
    "report": "report: what is said, not what is computed",
    "training": "training",
    "index": "index",
    "file": "the file itself",
}


def explain(name: str) -> str:
    """Explain a rule by its code, a preference by its key, or a setting of the host by its name.

    Args:
        name: `"prompts-missing"`, `"vectors.truncate_dim"`, `"truncate_dim"`, `"vectors"`, `"evaluation_strategy"`,
            `"config.hidden_size"` ...

    Returns:
        Why it matters, an example, and what to do, as text of several paragraphs.

    Raises:
        InvalidPreferenceError: nothing has that name; the nearest name is suggested.
    """
    wanted = name.strip()
    rule = RULES.get(wanted.lower())
    if rule is not None:
        return _rule_text(rule)
    field = find_field(wanted)
    if field is not None:
        return _field_text(field)
    section = [declared for declared in every_field() if declared.section == wanted]
    if section:
        return _section_text(wanted, section)
    setting = find_host_setting(wanted)
    argument = wanted.rpartition(".")[2]
    if setting is not None:
        return _setting_text(setting)
    if argument in TRAINING_ARGUMENTS or argument in STALE:
        return _argument_text(argument)
    by_name = [declared for declared in every_field() if declared.name == argument and "*" not in declared.key]
    if by_name:
        return "\n\n".join(_field_text(declared) for declared in by_name)
    raise InvalidPreferenceError(_unknown(wanted))


def _unknown(name: str) -> Problem:
    from embedprefs.renamed import renamed_key

    keys = [declared.key for declared in every_field() if "*" not in declared.key]
    names = [*RULES, *keys, *(setting.name for setting in HOST_SETTINGS), *TRAINING_ARGUMENTS, *STALE]
    leaves = {key.rpartition(".")[2]: key for key in keys}
    close = renamed_key(name) or nearest(name, names)
    if close is None:
        leaf = nearest(name.rpartition(".")[2], leaves)
        close = leaves[leaf] if leaf is not None else None
    return Problem(
        f'"{name}" is neither a rule, nor a preference, nor a setting of the host that is known here.',
        key=name,
        allowed="a code (embedprefs check names them), a key of the preferences file, or a host's setting",
        fix=f"Did you mean {close}?" if close else "embedprefs check lists the findings with their codes.",
    )


def _rule_text(rule: AnyRule) -> str:
    parts = [
        f"{rule.code} ({rule.severity}): {rule.title}",
        rule.why,
        f"Without this rule: {rule.host_today}",
        "Example:\n" + "\n".join(f"    {line}" for line in rule.example.splitlines()),
        f"What to do: {rule.fix}",
    ]
    if rule.severity == "error":
        parts.append("Errors cannot be ignored: the vectors would be wrong, or it would fail later.")
    else:
        parts.append(f'To leave it out of reports: ignore = ["{rule.code}"] under [checks].')
    return "\n\n".join(parts)


def _field_text(field: FieldDeclaration) -> str:
    parts = [
        f"{field.key} ({_KIND_WORDS[field.kind.value]})",
        field.description,
        f"Allowed: {field.allowed}\nWhen not stated: {field.effective_default}",
    ]
    if field.example is not None:
        table = f"[{field.section}]\n    " if field.section else ""
        parts.append(f"Example:\n    {table}{field.name} = {_toml(field.example)}")
    codes = _rules_about(field.key)
    if codes:
        lines = "\n".join(f"    {code}: {RULES[code].title}" for code in codes)
        parts.append(f"Rules:\n{lines}")
    return "\n\n".join(parts)


def _section_text(section: str, fields: list[FieldDeclaration]) -> str:
    lines = "\n".join(f"    {field.name}: {field.description}" for field in fields)
    return f"[{section}]\n\n{lines}"


def _setting_text(setting: HostSetting) -> str:
    parts = [f"{setting.name} (a setting of the host: {setting.group})", setting.explanation]
    if setting.preference is not None:
        field = find_field(setting.preference)
        described = f": {field.description}" if field is not None else ""
        parts.append(f"Preference: {setting.preference}{described}")
    if setting.rule is not None:
        rule = RULES[setting.rule]
        parts.append(f"Rule: {rule.code} ({rule.severity}): {rule.title}\nWhat to do: {rule.fix}")
    if setting.command is not None:
        parts.append(f"Command: {setting.command}")
    return "\n\n".join(parts)


def _argument_text(name: str) -> str:
    if name in STALE:
        return f"{name} (an older training argument of the host)\n\n{STALE[name]}"
    argument = TRAINING_ARGUMENTS[name]
    parts = [
        f"{name} (a training argument of the host)",
        f"It takes: {argument.kinds}\nThe host's default: {_toml(argument.default)}",
        f"Write it under [training.arguments]: {name} = ...",
    ]
    if name in NO_EFFECT:
        parts.append(f"It has no effect on embedding models. {NO_EFFECT[name]}")
    if name in DEPRECATED:
        parts.append(DEPRECATED[name])
    return "\n\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _rules_about(key: str) -> list[str]:
    """Return the codes of the rules whose example states a key."""
    return [code for code, rule in RULES.items() if key in example_keys(rule)]


def example_keys(rule: AnyRule) -> frozenset[str]:
    """Return the dotted keys that a rule's example states; none where the example is an outline in words."""
    try:
        values = tomllib.loads(rule.example)
    except tomllib.TOMLDecodeError:
        return frozenset()
    return frozenset(_keys(values, ""))


def _keys(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        yield key
        if isinstance(value, dict):
            yield from _keys(value, f"{key}.")
