"""`embedprefs schema`: the JSON schema of a preferences file, for editors."""

from __future__ import annotations

import typer

from embedprefs.cli.plugin import command, print_json

__all__ = ["register", "schema"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "schema")(schema)


def schema() -> None:
    """Print the JSON schema of a preferences file, for editors that complete and check TOML."""
    from embedprefs.files import json_schema

    print_json(json_schema())
