"""The command line's entrance: it parses, finds the command, and nothing else."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo

from embedprefs import __version__
from embedprefs.cli import (
    bench,
    calibrate,
    check,
    compare,
    doctor,
    embed,
    evaluate,
    explain,
    init,
    migrate_config,
    schema,
    show,
    train,
)
from embedprefs.cli import compile as compile_artefact
from embedprefs.cli.exits import ExitCode, end_quietly_without_reader
from embedprefs.cli.output import say_error, say_warning

__all__ = ["added_commands", "create_app", "run"]

_ENTRY_POINTS = "embedprefs.commands"

#: Commands that a further distribution adds -> that distribution and the extra that installs it.
_ADDED_BY = dict.fromkeys(("index", "search", "status", "verify", "adopt", "export"), ("embedprefs-qdrant", "qdrant"))


#: Commands that people look for and that are done otherwise -> how.
_DONE_OTHERWISE = {
    "migrate": "To move a collection to other preferences, index its documents under them into another collection "
    "(embedprefs index --collection NAME), then name that one in index.collection. Searches go on in the old one until "
    "then; whoever searches by an alias is moved at once with Store.switch(ALIAS, NAME).",
}


class CommandGroup(TyperGroup):
    """The commands of embedprefs, and those that other distributions add when one of them is asked for."""

    _looked_for_plugins = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every command's name, ours first."""
        self._add_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; other distributions are imported only where it is none of ours."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            self._add_plugins()
            found = super().get_command(ctx, cmd_name)
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run; one that is not installed names the distribution that adds it."""
        name = args[0]
        if name in _ADDED_BY and self.get_command(ctx, name) is None:
            distribution, extra = _ADDED_BY[name]
            say_error(f'the command "{name}" comes with {distribution}.\n  {_advice(distribution, extra)}')
            raise typer.Exit(int(ExitCode.WRONG_REQUEST))
        if name in _DONE_OTHERWISE and self.get_command(ctx, name) is None:
            say_error(f'there is no command "{name}".\n  {_DONE_OTHERWISE[name]}')
            raise typer.Exit(int(ExitCode.WRONG_REQUEST))
        return super().resolve_command(ctx, args)

    def _add_plugins(self) -> None:
        if self._looked_for_plugins:
            return
        self._looked_for_plugins = True
        for entry_point in _entry_points():
            self._add_plugin(entry_point)

    def _add_plugin(self, entry_point: importlib.metadata.EntryPoint) -> None:
        owner = _owner(entry_point)
        try:
            added = _registered(entry_point)
            commands = cast("TyperGroup", typer.main.get_command(added)).commands
        except Exception as error:  # noqa: BLE001 - whatever a stranger's package raises, our commands must still work
            say_warning(
                f"the commands of {owner} are left out, because it cannot be imported: {type(error).__name__}: {error}"
            )
            return
        for name, command in commands.items():
            if name in self.commands:
                say_warning(f'{owner} adds a command "{name}", which exists already; it is left out.')
            else:
                self.commands[name] = command


def _owner(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value


def _registered(entry_point: importlib.metadata.EntryPoint) -> typer.Typer:
    """Let a distribution add its commands to an app of its own."""
    added = typer.Typer(callback=_nothing, add_completion=False)
    entry_point.load()(added)
    return added


def added_commands() -> Iterator[tuple[str, list[CommandInfo]]]:
    """Yield each installed distribution that adds commands, with these."""
    for entry_point in _entry_points():
        yield _owner(entry_point), _registered(entry_point).registered_commands


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group=_ENTRY_POINTS), key=lambda item: item.name)


def _nothing() -> None:
    """Make a Typer app a group, even with a single command."""


def _advice(distribution: str, extra: str) -> str:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f'Run: pip install "embedprefs[{extra}]"'
    return f"{distribution} {version} is installed and does not add it. Run: pip install --upgrade {distribution}"


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"embedprefs {__version__}\n")
        raise typer.Exit


def _embedprefs(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One preferences file for an embedding model: checked, resolved, obeyed and recorded.

    Results go to standard output, everything else to standard error.
    Exit codes: 0 done; 1 findings, a mismatch or a negative answer; 2 the request is wrong; 3 something outside
    failed; 4 done in part; 70 a mistake of ours; 130 interrupted.
    """


def create_app() -> typer.Typer:
    """Return the command line with the commands of this distribution."""
    app = typer.Typer(
        name="embedprefs",
        cls=CommandGroup,
        callback=_embedprefs,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (
        init,
        show,
        check,
        explain,
        doctor,
        embed,
        calibrate,
        evaluate,
        compare,
        train,
        compile_artefact,
        bench,
        schema,
        migrate_config,
    ):
        module.register(app)
    return app


def run() -> None:
    """Run the command line with the arguments of this process."""
    try:
        try:
            create_app()()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_quietly_without_reader()
