"""`embedprefs calibrate`: ranges for int8 and uint8 vectors, measured on texts like those to come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from embedprefs.cli.embed import Errors, Role, TextFormat
from embedprefs.cli.plugin import (
    PreferencesOption,
    SetOption,
    command,
    hush_other_bars,
    load,
    print_result,
    progress,
    say,
)
from embedprefs.errors import InputError

__all__ = ["calibrate", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "calibrate")(calibrate)


def calibrate(
    texts: Annotated[
        Path, typer.Argument(metavar="TEXTS", help="A .txt, .jsonl, .csv or .parquet file with a few thousand texts.")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write; calibration.json beside the preferences file."
        ),
    ] = None,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    role: Annotated[Role, typer.Option("--role", help="Which prompt the texts get.")] = Role.DOCUMENT,
    input_format: Annotated[
        TextFormat | None, typer.Option("--input-format", help="How the texts lie in the input, if not by its name.")
    ] = None,
    text_field: Annotated[str, typer.Option("--text-field", help="Field or column with the text.")] = "text",
    errors: Annotated[
        Errors, typer.Option("--errors", help="What becomes of lines that are not UTF-8.")
    ] = Errors.STRICT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Measure the ranges that int8 and uint8 vectors need, on texts like those that will be embedded.

    The ranges are part of what the vectors are: vectors made with other ranges cannot be compared.
    """
    from embedprefs.calibration import calibrate as measure
    from embedprefs.embedding import open_texts
    from embedprefs.files import write_text
    from embedprefs.model import load_model

    # Ranges are measured on float32 vectors, whatever the file says they will become.
    prefs = load(preferences, [*(set_ or []), "vectors.precision=float32"])
    target = output if output is not None else prefs.folder / "calibration.json"
    if target.exists() and not force:
        raise InputError(f"{target}: exists already.\n  Replace it with --force, or name another file.", file=target)
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist.\n  Create it first.", file=target)
    source = open_texts(
        texts,
        input_format=input_format.value if input_format is not None else None,
        text_field=text_field,
        errors=errors.value,
    )
    say("Loading the model.")
    hush_other_bars()
    model = load_model(prefs)
    with progress("Measuring", unit="texts") as show:

        def shown(lines: Iterator[str]) -> Iterator[str]:
            for count, text in enumerate(lines, start=1):
                show(count, None)
                yield text

        calibration = measure(model, shown(source), role=role.value)
    write_text(target, json.dumps(calibration.to_json(), indent=1) + "\n")
    print_result(f"{target}: ranges of {calibration.dimensions} dimensions, measured on {calibration.count:,} texts")
    say(f'Use it with [vectors] precision = "int8" and calibration = "{target.name}".')
