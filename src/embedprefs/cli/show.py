"""`embedprefs show`: effective values, where each came from, what auto became and why."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs.cli.plugin import (
    ExitCode,
    PreferencesOption,
    SetOption,
    command,
    load,
    print_json,
    print_result,
    print_table,
    say_error,
    styled,
)
from embedprefs.errors import EmbedPrefsError, InputError

if TYPE_CHECKING:
    from embedprefs.resolve import Resolved

__all__ = ["ShowFormat", "register", "show"]


class ShowFormat(StrEnum):
    """How the values are written."""

    TEXT = "text"
    TOML = "toml"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "show")(show)


def show(
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    *,
    origins: Annotated[
        bool, typer.Option("--origins", help="Every preference with where it was written, defaults included.")
    ] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every effective value with the reason, and the fingerprint.")
    ] = False,
    facts: Annotated[bool, typer.Option("--facts", help="What the model's own files say.")] = False,
    result_format: Annotated[
        ShowFormat, typer.Option("--format", help="How the values are written.")
    ] = ShowFormat.TEXT,
) -> int:
    """Show what holds here: effective values, where each came from, what auto became and why.

    Without options: what is stated anywhere, and what the model and the machine decide.
    """
    from embedprefs.cli.showing import View, as_json, as_text, as_toml
    from embedprefs.resolve import resolve

    if facts and result_format is ShowFormat.TOML:
        raise InputError(
            "--facts is no preferences file, so it cannot be TOML.\n  Allowed: --format text, --format json."
        )
    prefs = load(preferences, set_)
    effective: Resolved | None = None
    problem: EmbedPrefsError | None = None
    try:
        effective = resolve(prefs)
    except EmbedPrefsError as error:
        if resolved or facts:
            raise
        # What is written can be shown without the model.
        problem = error
    view = View(prefs, effective, origins=origins, resolved=resolved, facts=facts)
    if result_format is ShowFormat.JSON:
        print_json(as_json(view))
    elif result_format is ShowFormat.TOML:
        print_result(as_toml(view))
    else:
        for title, rows in as_text(view):
            if title:
                print_result(styled(title, "bold"))
            if rows:
                print_table(("",) * len(rows[0]), rows)
    if problem is not None:
        say_error(f"what the model and the machine decide is not known: {problem}")
        return problem.exit_code
    return ExitCode.DONE
