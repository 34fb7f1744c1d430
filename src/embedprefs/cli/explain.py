"""`embedprefs explain`: a rule, a preference, or a setting of the host: why, an example, what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from embedprefs.cli.plugin import command, print_result

__all__ = ["explain", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "explain")(explain)


def explain(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="CODE-OR-FIELD",
            help="A finding's code, a preference (vectors.normalize), or a host setting's name.",
        ),
    ],
) -> None:
    """Say what a finding, a preference or a setting of sentence-transformers is about: why, example, fix."""
    from embedprefs.checks import explain as explanation

    print_result(explanation(subject))
