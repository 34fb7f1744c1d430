"""`embedprefs bench`: this machine, this model, these texts; the plain host beside what the preferences make of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from embedprefs.cli.embed import TextFormat
from embedprefs.cli.plugin import (
    ExitCode,
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    hush_other_bars,
    load,
    print_json,
    print_result,
    print_table,
    progress,
    say,
    say_warning,
)
from embedprefs.errors import InputError

__all__ = ["bench", "register"]

#: Between two settings of one alternative: white space before the next KEY=.
_BETWEEN = re.compile(r"\s+(?=[a-z_]+\.[\w.]+=)")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "bench")(bench)


def bench(
    texts: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TEXTS]",
            help="A .txt, .jsonl, .csv or .parquet file with texts like those you embed. Without it, a built-in mix of "
            "English texts, most of them short.",
        ),
    ] = None,
    *,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="'KEY=VALUE ...'",
            help="Measure this way too, as in --also compute.exactness=exact. May be given several times; one may hold "
            "several settings, with spaces between them.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=0, help="Texts to embed, spread evenly over the file; 0 for all."),
    ] = 240,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often each way embeds them.")] = 5,
    queries: Annotated[
        int, typer.Option("--queries", metavar="N", min=1, help="How many single queries each way answers.")
    ] = 24,
    peak: Annotated[
        bool,
        typer.Option("--peak/--no-peak", help="Measure how fast matrices are multiplied here, and the share reached."),
    ] = True,
    input_format: Annotated[
        TextFormat | None, typer.Option("--input-format", help="How the texts lie in the file, if not by its name.")
    ] = None,
    text_field: Annotated[str, typer.Option("--text-field", help="Field or column with the text.")] = "text",
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Measure speed here, beside the plain host with its own defaults, and the cosine to its float32 vectors.

    All ways take turns over the same texts; figures are medians. Kept embeddings are neither asked nor added to.
    Exits 1 where vectors are farther from float32 than compute.exactness promises.
    """
    from embedprefs.benchmarking import COLUMNS, benchmark, built_in_texts, read_some

    prefs = load(preferences, set_)
    ways = _alternatives(also or [])
    if texts is None:
        chosen, source = built_in_texts(limit or 240), "built-in mix"
    else:
        chosen = read_some(
            texts, limit, input_format=input_format.value if input_format is not None else None, text_field=text_field
        )
        source = str(texts)
    say("Loading the model, once for each way.")
    hush_other_bars()
    with progress("Measuring", unit="passes") as show:
        result = benchmark(
            prefs, chosen, also=ways, source=source, rounds=rounds, queries=queries, peak=peak, progress=show
        )
    if result_format is ResultFormat.JSON:
        print_json(result.to_json())
    else:
        print_result("\n".join([*result.heading(), "", ""]))
        print_table(COLUMNS, result.rows())
        print_result("\n".join(["", *result.remarks()]))
    for broken in result.broken_promises:
        say_warning(broken)
    return ExitCode.NEGATIVE if result.broken_promises else ExitCode.DONE


def _alternatives(options: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of each `--also`, under its own words."""
    from embedprefs.layers import parse_set_option

    ways: dict[str, dict[str, Any]] = {}
    for option in options:
        name = " ".join(option.split())
        if not name or name in ways:
            raise InputError(
                f"--also {option!r}: {'is given twice' if name else 'names no setting'}.\n"
                "  Name what differs, as in --also compute.exactness=exact."
            )
        ways[name] = dict(parse_set_option(part) for part in _BETWEEN.split(option.strip()))
    return ways
