"""The commands that this distribution adds to `embedprefs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs_qdrant.commands import adopt, export, index, search, status, verify

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add every command; called by `embedprefs`."""
    for module in (index, search, status, verify, adopt, export):
        module.register(app)
