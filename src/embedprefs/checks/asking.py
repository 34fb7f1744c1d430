"""Asking the rules: `check` before anything is loaded, `check_loaded` on the loaded model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from embedprefs.checks.finding import Finding
from embedprefs.checks.subject import LoadedSubject, Subject
from embedprefs.errors import EmbedPrefsError, ModelFilesError, UnavailableError
from embedprefs.preferences import Preferences

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.resolve import Resolved

__all__ = ["Purpose", "check", "check_loaded"]

Purpose = Literal["all", "load"]

_SEVERITIES = ("error", "warning", "note")

#: Subjects that have no influence on the vectors of a model that is loaded.
_NOT_FOR_LOADING = frozenset({"training", "training_contradictions", "index"})

#: Subjects that each named vector has for itself; the others belong to the whole file or to the machine.
_OF_A_NAMED_VECTOR = frozenset(
    {"reading", "access", "weights", "configuration", "modules", "tokenizer", "prompts", "vectors"}
)


def check(
    preferences: Preferences,
    facts: ModelFacts | None = None,
    hardware: Hardware | None = None,
    *,
    resolved: Resolved | None = None,
    purpose: Purpose = "all",
) -> list[Finding]:
    """Say what would go wrong with these preferences, for this model, on this machine.

    No weights are read, and neither torch nor transformers is imported. Files that cannot be read become a finding,
    and the rules that need no model are asked all the same.

    Args:
        preferences: What is to be checked.
        facts: What the model's files say; read from where `model.name` points if not given.
        hardware: The machine; this one if not given.
        resolved: The effective values, where they are known already; facts and hardware are then taken from there.
        purpose: "load" leaves out the rules about fine-tuning and the index, which must not keep a model from
            being loaded.

    Returns:
        The findings, errors first. Warnings and notes whose code is in `checks.ignore` are left out; errors cannot be.
    """
    from embedprefs.checks.table import PREFERENCE_RULES

    subject = _subject(preferences, facts, hardware, resolved)
    findings: list[Finding] = []
    for rule in PREFERENCE_RULES:
        if purpose == "load" and rule.subject in _NOT_FOR_LOADING:
            continue
        if all(subject.has(need) for need in rule.needs):
            findings.extend(rule.findings(subject))
    if purpose == "all":
        for name in preferences.index.vectors:
            findings.extend(_named_vector(preferences, name, subject.hardware))
    return _reported(findings, preferences)


def _named_vector(preferences: Preferences, name: str, hardware: Hardware | None) -> Iterator[Finding]:
    """Ask the rules about the identity of a further named vector, as if it stood alone."""
    from embedprefs.checks.table import PREFERENCE_RULES

    prefix = f"index.vectors.{name}."
    vector = preferences.index.vectors[name]
    sections = {section: getattr(vector, section) for section in type(vector).model_fields}
    origins = {
        key.removeprefix(prefix): origin for key, origin in preferences.origins.items() if key.startswith(prefix)
    }
    alone = Preferences(**sections, compute=preferences.compute).with_origins(origins, preferences.file)
    subject = _subject(alone, None, hardware, None)
    for rule in PREFERENCE_RULES:
        if rule.subject in _OF_A_NAMED_VECTOR and all(subject.has(need) for need in rule.needs):
            for finding in rule.findings(subject):
                yield replace(finding, field=f"{prefix}{finding.field or 'model.name'}")


def check_loaded(model: Any, resolved: Resolved) -> list[Finding]:
    """Say where a loaded model is not what was asked for.

    Settings are compared with the model's own objects, and two short probe texts are embedded. Call it before a
    report of texts and tokens is begun.

    Args:
        model: The host's `SentenceTransformer`.
        resolved: What it was to become.

    Returns:
        The findings, errors first. Warnings and notes whose code is in `checks.ignore` are left out.
    """
    from embedprefs.checks.table import LOADED_RULES

    subject = LoadedSubject(model, resolved)
    findings = [finding for rule in LOADED_RULES for finding in rule.findings(subject)]
    return _reported(findings, resolved.preferences)


def _subject(
    preferences: Preferences, facts: ModelFacts | None, hardware: Hardware | None, resolved: Resolved | None
) -> Subject:
    problem: EmbedPrefsError | None = None
    if resolved is not None:
        facts = facts or resolved.facts
        hardware = hardware or resolved.hardware
    if facts is None:
        from embedprefs.facts import facts_for

        try:
            facts = facts_for(preferences)
        except (ModelFilesError, UnavailableError) as error:
            problem = error
    if hardware is None:
        from embedprefs.hardware import detect_hardware

        hardware = detect_hardware()
    if resolved is None and facts is not None:
        from embedprefs.resolve import resolve

        resolved = resolve(preferences, facts, hardware)
    return Subject(preferences, facts, hardware, resolved, problem)


def _reported(findings: Iterable[Finding], preferences: Preferences) -> list[Finding]:
    ignored = set(preferences.checks.ignore)
    kept = [finding for finding in findings if finding.severity == "error" or finding.code not in ignored]
    return sorted(kept, key=lambda finding: _SEVERITIES.index(finding.severity))
