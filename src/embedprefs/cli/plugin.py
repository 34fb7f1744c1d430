"""What a command is made of. Integrations add theirs through the entry-point group `embedprefs.commands`.

The entry point's name is free; it names a function `register(app)`:

    def register(app: typer.Typer) -> None:
        @command(app, "index")
        def index(paths: ..., preferences: PreferencesOption = None, set_: SetOption = None) -> int | None:
            \"\"\"Put documents into Qdrant.\"\"\"
            prefs = load(preferences, set_)
            ...

A command returns its exit code (None for 0) and raises `EmbedPrefsError` for what the user has to know; `--quiet`,
`--debug`, the exit codes and the words for errors come with the decorator. Results go through `print_result`,
`print_table` and `print_json`; everything else through `say` and `progress`. Import heavy packages inside the function:
`embedprefs --help` imports every command's module.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from embedprefs.cli.exits import ExitCode, run_safely
from embedprefs.cli.output import (
    hush_other_bars,
    print_json,
    print_result,
    print_table,
    progress,
    say,
    say_error,
    say_warning,
    styled,
)

if TYPE_CHECKING:
    from embedprefs.preferences import Preferences

__all__ = [
    "ExitCode",
    "FormatOption",
    "PreferencesOption",
    "ResultFormat",
    "SetOption",
    "command",
    "hush_other_bars",
    "load",
    "print_json",
    "print_result",
    "print_table",
    "progress",
    "say",
    "say_error",
    "say_warning",
    "styled",
]

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., int | None])


class ResultFormat(StrEnum):
    """How a result is written."""

    TEXT = "text"
    JSON = "json"


PreferencesOption = Annotated[
    Path | None,
    typer.Option(
        "--preferences",
        metavar="FILE",
        help="The preferences file. Without it, the nearest embedprefs.toml (or pyproject.toml) upwards.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one preference, as in compute.device=cpu. May be given several times.",
    ),
]
FormatOption = Annotated[ResultFormat, typer.Option("--format", help="How the result is written.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Say nothing but results, warnings and errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what is logged.")]


def command(app: typer.Typer, name: str, **options: Any) -> Callable[[CommandFunction], CommandFunction]:
    """Add a function to the command line under a name, with `--quiet`, `--debug` and the exit codes.

    Args:
        app: What `register` was given.
        name: Name of the command.
        **options: Passed to `typer.Typer.command`.
    """

    def decorate(function: CommandFunction) -> CommandFunction:
        signature = inspect.signature(function, eval_str=True)
        common = [
            inspect.Parameter("be_quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption),
            inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption),
        ]

        @functools.wraps(function)
        def run(*, be_quiet: bool = False, debug: bool = False, **values: Any) -> None:
            code = run_safely(lambda: function(**values), be_quiet=be_quiet, debug=debug)
            raise typer.Exit(int(code))

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()
        ]
        whole = signature.replace(parameters=[*parameters, *common])
        # Typer reads either of the two, depending on its version.
        run.__signature__ = whole  # type: ignore[attr-defined]
        run.__annotations__ = {item.name: item.annotation for item in whole.parameters.values()}
        app.command(name, **options)(run)
        return function

    return decorate


def load(preferences: Path | None, set_options: list[str] | None) -> Preferences:
    """Return the preferences that `--preferences` and `--set` ask for.

    Raises:
        PreferencesFileError: there is no file, or it cannot be read.
        InvalidPreferenceError: keys or values are not allowed; all of them are listed.
    """
    from embedprefs.layers import load_preferences, parse_set_option

    overrides = dict(parse_set_option(option) for option in set_options or [])
    return load_preferences(preferences, overrides=overrides, overrides_source="--set")
