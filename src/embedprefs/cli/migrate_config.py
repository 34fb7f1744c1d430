"""`embedprefs migrate-config`: bring an older preferences file up to date."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from embedprefs.cli.plugin import ExitCode, command, print_result, say, say_warning, styled
from embedprefs.errors import PreferencesFileError

__all__ = ["migrate_config", "register"]

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "migrate-config")(migrate_config)


def migrate_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The preferences file; the one that holds here by default.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the changes to the file.")] = False,
) -> int:
    """Show what brings a preferences file up to date, as a diff; with --write, do it. Comments stay.

    Exits 1 where changes are due and were not written, or where something is left for you to decide.
    """
    from embedprefs.files import find_preferences_file, migrate_text, read_toml_file, write_text

    path = file if file is not None else find_preferences_file()
    if path is None:
        raise PreferencesFileError(
            "There is no preferences file here or above.\n  Name one: embedprefs migrate-config FILE"
        )
    read = read_toml_file(path)
    text, changes = migrate_text(read.text, table=read.table)
    for line in difflib.unified_diff(
        read.text.splitlines(), text.splitlines(), f"{path} (now)", f"{path} (up to date)", lineterm=""
    ):
        print_result(styled(line, _STYLES.get(line[:1], "")))
    undecided = [change for change in changes if not change.done]
    for change in changes:
        if change.done:
            say(f"{path}: {change}")
        else:
            say_warning(f"{path}: {change}")
    changed = text != read.text
    if changed and write:
        write_text(path, text)
        say(f"Wrote {path}.")
    elif changed:
        say("Nothing is written yet: embedprefs migrate-config --write does it.")
    elif not undecided:
        say(f"{path} is up to date.")
    return ExitCode.NEGATIVE if undecided or (changed and not write) else ExitCode.DONE
