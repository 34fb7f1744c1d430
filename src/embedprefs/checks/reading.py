"""Rules about the check itself: what could not be looked at, and what is not reported."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject
from embedprefs.errors import UnavailableError

__all__: list[str] = []


@rule(
    "model-not-readable",
    "error",
    host_today="An error at load; the message names files that were looked for.",
    example='[model]\nname = "models/no-such-folder"',
    fix="Correct model.name, or download the model.",
)
def model_not_readable(subject: Subject) -> Iterator[Found]:
    """The model's files cannot be read, so the rules about the model were not asked.

    An absent or damaged folder is an error. A model of the hub that is not in the cache while the hub cannot be
    reached is a warning: nothing is known to be wrong with it.
    """
    problem = subject.facts_problem
    if problem is None:
        return
    away = isinstance(problem, UnavailableError)
    advice = "Correct model.name."
    if away:
        advice = "Run the check again where the hub can be reached, or download the model."
        if subject.preferences.model.revision is not None:
            advice += " If model.revision was written for another model, remove it or run embedprefs init --force."
    yield Found(
        "model.name",
        f"{' '.join(str(problem).split())} The rules about the model were not asked.",
        advice,
        "warning" if away else None,
    )


@rule(
    "ignored-code-unknown",
    "warning",
    host_today="Not a setting of the host.",
    example='[checks]\nignore = ["prompt-missing"]',
    fix="Correct the code, or remove it.",
)
def ignored_code_unknown(subject: Subject) -> Iterator[Found]:
    """A code that is to be ignored does not exist.

    What it was meant to silence is reported all the same.
    """
    from embedprefs.checks.table import RULES

    for code in subject.preferences.checks.ignore:
        if code not in RULES:
            close = nearest(code, RULES)
            yield Found(
                "checks.ignore",
                f'There is no rule "{code}".',
                f"Did you mean {close}?" if close else "Remove it; docs/reference/checks.md lists the codes.",
            )


@rule(
    "ignored-code-stays",
    "note",
    host_today="Not a setting of the host.",
    example='[checks]\nignore = ["prompts-missing"]',
    fix="Correct what the finding is about.",
)
def ignored_code_stays(subject: Subject) -> Iterator[Found]:
    """An error cannot be ignored.

    Errors are findings with which the vectors would be wrong, or it would fail later. Warnings and notes of the same
    rule are left out.
    """
    from embedprefs.checks.table import RULES

    for code in subject.preferences.checks.ignore:
        if code in RULES and RULES[code].severity == "error":
            yield Found(
                "checks.ignore",
                f'"{code}" stands for errors, which are reported all the same.',
                f"Remove it; embedprefs explain {code} says what to do.",
            )
