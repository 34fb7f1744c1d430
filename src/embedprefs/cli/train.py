"""`embedprefs train`: a plan before any weights, or the whole run with a verdict at the end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    progress,
    say,
    say_error,
)
from embedprefs.errors import InputError

if TYPE_CHECKING:
    from embedprefs.cli.output import Show
    from embedprefs.preferences import Preferences
    from embedprefs.training import TrainingProgress

__all__ = ["register", "train"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "train")(train)


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="A .jsonl, .csv or .parquet file, or a folder with corpus.jsonl, queries.jsonl and judgements. "
            "Without it, training.data of the preferences.",
        ),
    ] = None,
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be done and what is wrong; no weights are read.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="The run's folder: model, report and checkpoints."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Continue an interrupted run in the folder, or refuse; as training.resume says.",
        ),
    ] = None,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Fine-tune the model, and say whether it got better.

    With --plan: columns, loss, batches, steps, time, memory, leakage and every setting that would be ignored. Without:
    a baseline, the training, and a verdict on the same test. Started again, an interrupted run continues.
    """
    prefs = load(preferences, set_)
    if plan:
        return _plan(prefs, data, result_format)
    if output is None:
        raise InputError(
            "A run needs a folder for its model, report and checkpoints.\n"
            "  Name it: --output runs/first. Or see first what would be done: --plan."
        )
    return _run(prefs, data, output, resume, result_format)


def _plan(prefs: Preferences, data: Path | None, result_format: ResultFormat) -> int:
    from embedprefs.training import plan_training

    planned = plan_training(prefs, data)
    if result_format is ResultFormat.JSON:
        print_json(planned.to_json())
    else:
        print_result(planned.to_text())
    return ExitCode.NEGATIVE if planned.has_errors else ExitCode.DONE


def _run(prefs: Preferences, data: Path | None, output: Path, resume: bool | None, result_format: ResultFormat) -> int:
    from embedprefs.training import train as run_training

    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        say("Loading data and model.")
    hush_other_bars()
    try:
        with contextlib.ExitStack() as stack:
            result = run_training(
                prefs,
                data,
                output=output,
                resume=resume,
                progress=_Shown(stack) if first else None,
            )
    except KeyboardInterrupt as error:
        if not str(error):
            raise
        say_error(str(error))
        return ExitCode.INTERRUPTED
    if not first:
        return ExitCode.DONE
    if result_format is ResultFormat.JSON:
        print_json(result.to_json())
    else:
        print_result(result.to_text())
    return ExitCode.DONE if result.is_acceptable else ExitCode.NEGATIVE


class _Shown:
    """Shows how far a run is: one bar, or one kind of line, for each of its stages."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._stage: str | None = None
        self._show: Show | None = None

    def __call__(self, state: TrainingProgress) -> None:
        """Show a state."""
        if state.stage != self._stage or self._show is None:
            self._stack.close()
            self._stage = state.stage
            unit = "steps" if state.stage == "training" else "texts"
            self._show = self._stack.enter_context(progress(state.stage.capitalize(), unit=unit))
        self._show(state.done, state.total, state.values_text())
