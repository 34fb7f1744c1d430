"""`embedprefs compile`: an artefact that serves the model without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from embedprefs.cli.plugin import (
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    hush_other_bars,
    load,
    print_json,
    print_result,
    say,
)

__all__ = ["compile_", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "compile")(compile_)


def compile_(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The folder to write, to be copied to where it serves; one in the user's cache without it.",
        ),
    ] = None,
    *,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an artefact that lies there.")] = False,
    result_format: FormatOption = ResultFormat.TEXT,
) -> None:
    """Write the artefact that serves this model without torch, transformers and sentence-transformers.

    On this machine, embed, index, search and the LangChain provider then use it by themselves for as long as the
    preferences and the model's files stay as they are. Elsewhere, load_encoder(FOLDER) loads a copy of it.
    """
    from embedprefs.serving.compiling import compile_model, require_packages

    prefs = load(preferences, set_)
    require_packages()
    say("Loading the model.")
    hush_other_bars()
    artefact = compile_model(prefs, output, force=force)
    result: dict[str, Any] = {
        "folder": str(artefact.folder),
        "model": artefact.model,
        "fingerprint": artefact.fingerprint,
        "backend": artefact.backend,
        "numerics": artefact.numerics,
        "cosine_to_float32": artefact.cosine_to_float32,
        "dimensions": artefact.size,
        "bytes": sum(path.stat().st_size for path in artefact.folder.rglob("*") if path.is_file()),
    }
    if result_format is ResultFormat.JSON:
        print_json(result)
        return
    print_result(
        f"{artefact.folder}: {artefact.model} for {artefact.backend} in {artefact.numerics}, "
        f"{result['bytes'] / 1024**2:,.0f} MiB\n"
        f"  {artefact.size} dimensions, fingerprint {artefact.fingerprint[:12]}, cosine to float32 at least "
        f"{artefact.cosine_to_float32:.6f}"
    )
    say(
        "embed, index, search and LangChain use it on this machine by themselves. Elsewhere: "
        'pip install "embedprefs[serve]", and load_encoder(FOLDER).'
    )
