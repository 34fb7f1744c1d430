"""What a rule is, and how one is written.

A rule is a small function with the decorator `rule`. Its docstring is what a reader gets: the first line is the
rule's title, the rest says why it matters. The function yields a `Found` for each thing it finds; the code, the
severity and the place the value was written are added here, so that a rule is only its condition and its words.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from embedprefs.checks.finding import Finding, Severity
from embedprefs.checks.subject import LoadedSubject, Subject, TrainingSubject

__all__ = [
    "AnyRule",
    "Found",
    "LoadedRule",
    "Need",
    "PreferenceRule",
    "Rule",
    "TrainingRule",
    "loaded_rule",
    "nearest",
    "rule",
    "training_rule",
]

Need = Literal["facts", "hardware", "resolved"]
SubjectT = TypeVar("SubjectT", Subject, LoadedSubject, TrainingSubject)


@dataclass(frozen=True)
class Found:
    """One thing a rule found, before it is known by its code."""

    field: str | None
    """Dotted key of the preference it is about; None where it is about the model or the machine."""
    message: str
    """What was found, with the values."""
    fix: str
    """What to do."""
    severity: Severity | None = None
    """Where it differs from the rule's own."""


@dataclass(frozen=True)
class Rule(Generic[SubjectT]):
    """One thing that is checked: its condition, and what a reader is told about it."""

    code: str
    """Readable name, `"prompts-missing"`."""
    severity: Severity
    title: str
    """What is the matter when it fires, as a sentence."""
    why: str
    """What goes wrong, in a few sentences."""
    host_today: str
    """What sentence-transformers does with it, without this rule."""
    example: str
    """A preferences file, or an outline of a model, that the rule fires on."""
    fix: str
    """What to do about it, in general."""
    cases: tuple[int, ...]
    """Numbers of the silent failures it covers, see `embedprefs.checks.cases`."""
    needs: tuple[Need, ...]
    """What must be known for the rule to be asked."""
    subject: str
    """The subject it belongs to, the name of its module: prompts, tokenizer, weights ..."""
    function: Callable[[SubjectT], Iterable[Found]]

    @property
    def on_training_data(self) -> bool:
        """True for a rule that only the training data can answer."""
        return self.subject == "training_rows"

    @property
    def on_loaded_model(self) -> bool:
        """True for a rule that only the loaded model can answer."""
        return self.subject.startswith("loaded")

    def findings(self, subject: SubjectT) -> Iterator[Finding]:
        """Ask the rule about a subject."""
        for found in self.function(subject):
            yield Finding(
                code=self.code,
                severity=found.severity or self.severity,
                field=found.field,
                message=found.message,
                fix=found.fix,
                origin=subject.origin(found.field),
            )


PreferenceRule = Rule[Subject]
LoadedRule = Rule[LoadedSubject]
TrainingRule = Rule[TrainingSubject]
AnyRule = PreferenceRule | LoadedRule | TrainingRule


def rule(
    code: str,
    severity: Severity,
    *,
    host_today: str,
    example: str,
    fix: str,
    cases: tuple[int, ...] = (),
    needs: tuple[Need, ...] = (),
) -> Callable[[Callable[[Subject], Iterable[Found]]], PreferenceRule]:
    """Make a rule of a function over preferences, facts and hardware; see the module's docstring."""

    def decorate(function: Callable[[Subject], Iterable[Found]]) -> PreferenceRule:
        title, why = _title_and_why(function)
        return Rule(code, severity, title, why, host_today, example, fix, cases, needs, _subject_of(function), function)

    return decorate


def loaded_rule(
    code: str,
    severity: Severity,
    *,
    host_today: str,
    example: str,
    fix: str,
    cases: tuple[int, ...] = (),
) -> Callable[[Callable[[LoadedSubject], Iterable[Found]]], LoadedRule]:
    """Make a rule of a function over the loaded model; see the module's docstring."""

    def decorate(function: Callable[[LoadedSubject], Iterable[Found]]) -> LoadedRule:
        title, why = _title_and_why(function)
        return Rule(code, severity, title, why, host_today, example, fix, cases, (), _subject_of(function), function)

    return decorate


def training_rule(
    code: str,
    severity: Severity,
    *,
    host_today: str,
    example: str,
    fix: str,
    cases: tuple[int, ...] = (),
) -> Callable[[Callable[[TrainingSubject], Iterable[Found]]], TrainingRule]:
    """Make a rule of a function over preferences and training data; see the module's docstring."""

    def decorate(function: Callable[[TrainingSubject], Iterable[Found]]) -> TrainingRule:
        title, why = _title_and_why(function)
        return Rule(code, severity, title, why, host_today, example, fix, cases, (), _subject_of(function), function)

    return decorate


def _title_and_why(function: Callable[..., object]) -> tuple[str, str]:
    text = inspect.getdoc(function)
    if not text or "\n\n" not in text:
        raise ValueError(f"{function.__name__} needs a docstring: a line with the title, then a paragraph saying why.")
    title, _, why = text.partition("\n\n")
    return " ".join(title.split()), "\n\n".join(" ".join(paragraph.split()) for paragraph in why.split("\n\n"))


def _subject_of(function: Callable[..., object]) -> str:
    return function.__module__.rpartition(".")[2]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most like `name`; None where none is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None
