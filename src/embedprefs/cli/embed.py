"""`embedprefs embed`: a file of texts becomes a file of vectors."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
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
from embedprefs.errors import CheckFailedError
from embedprefs.wording import many

if TYPE_CHECKING:
    from embedprefs.embedding import EmbedFileReport, JobProgress
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.serving import Encoder

__all__ = ["Errors", "Role", "TextFormat", "embed", "register"]


class Role(StrEnum):
    """Whether texts are searched or search."""

    DOCUMENT = "document"
    QUERY = "query"


class TextFormat(StrEnum):
    """How texts lie in the input."""

    TXT = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Errors(StrEnum):
    """What becomes of lines that are not UTF-8."""

    STRICT = "strict"
    REPLACE = "replace"
    SKIP = "skip"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "embed")(embed)


def embed(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A .txt, .jsonl, .csv or .parquet file; - for standard input.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="A .npy, .npz, .parquet or .jsonl file to write.")
    ],
    *,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    role: Annotated[Role, typer.Option("--role", help="Which prompt the texts get.")] = Role.DOCUMENT,
    input_format: Annotated[
        TextFormat | None, typer.Option("--input-format", help="How the texts lie in the input, if not by its name.")
    ] = None,
    text_field: Annotated[str, typer.Option("--text-field", help="Field or column with the text.")] = "text",
    id_field: Annotated[
        str | None, typer.Option("--id-field", help="Field or column with the id; line numbers without one.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option("--ids", metavar="FILE", help="Also write the ids, one JSON value a line.")
    ] = None,
    errors: Annotated[
        Errors, typer.Option("--errors", help="What becomes of lines that are not UTF-8.")
    ] = Errors.STRICT,
    force: Annotated[bool, typer.Option("--force", help="Replace an output that exists.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted run has done.")] = False,
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Embed a file of texts. An interrupted run continues where it stopped when the same command is given again.

    A .txt holds a text a line. An .npy holds the vectors in the order of the input, an .npz and a .parquet the ids too.
    The output appears in one step when everything is done; until then the work is kept in OUT.partial.
    """
    from embedprefs.checks import check
    from embedprefs.embedding import chunk_sizes, plan_embedding
    from embedprefs.record import Record
    from embedprefs.resolve import resolve
    from embedprefs.serving import find_artefact, load_found

    prefs = load(preferences, set_)
    job = plan_embedding(
        sys.stdin.buffer if source == "-" else source,
        output,
        role=role.value,
        input_format=input_format.value if input_format is not None else None,
        text_field=text_field,
        id_field=id_field,
        errors=errors.value,
        ids_file=ids,
        force=force,
        restart=restart,
    )
    resolved = resolve(prefs)
    findings = check(prefs, resolved.facts, resolved.hardware, resolved=resolved, purpose="load")
    wrong = [finding for finding in findings if finding.severity == "error"]
    if wrong:
        raise CheckFailedError(wrong)
    job = job.with_chunks(*chunk_sizes(resolved))
    if not job.resumable:
        say("The input is a stream, which is read once: an interrupted run will have to begin again.")
    with _patient_signals() as signals, progress("Embedding", unit="texts") as show:
        artefact = find_artefact(resolved)

        def load_when_due() -> PreferredSentenceTransformer | Encoder:
            encoder = load_found(artefact, resolved) if artefact is not None else None
            if encoder is None:
                from embedprefs.model import load_model

                say("Loading the model.")
                hush_other_bars()
                encoder = load_model(prefs, facts=resolved.facts, hardware=resolved.hardware)
            signals.patient = True
            return encoder

        def report_progress(step: JobProgress) -> None:
            show(step.rows, step.total)

        try:
            record = artefact.record if artefact is not None else Record.of(resolved)
            report = job.run(load_when_due, record, progress=report_progress, stop=lambda: signals.asked)
        except KeyboardInterrupt:
            say_error(f"interrupted. {job.what_is_safe()}")
            return ExitCode.INTERRUPTED
    if not report.finished:
        say_error(f"interrupted. {job.what_is_safe()}")
        return ExitCode.INTERRUPTED
    _print_report(report, result_format)
    return ExitCode.DONE


def _print_report(report: EmbedFileReport, result_format: ResultFormat) -> None:
    if result_format is ResultFormat.JSON:
        print_json(report.to_json())
        return
    earlier = f" ({report.resumed:,} of them by an earlier run)" if report.resumed else ""
    rate = f", {_per_second(report.texts / report.seconds)} texts/s" if report.seconds > 0 else ""
    lines = [
        f"{report.output}: {many(report.texts, 'vector')} of {report.dimension} numbers, {report.dtype}{earlier}",
        f"  {_tokens(report)}, {many(report.truncated, 'text')} truncated, {report.seconds:.1f} s{rate}",
    ]
    if report.truncated or report.windowed:
        what = "cut at what the model reads" if report.truncated else "embedded in windows"
        count = report.truncated + report.windowed
        lines.append(f"  {many(count, 'text')} too long, {what}: {_lines(report.overlong_lines, count)}")
    if report.clipped:
        lines.append(f"  {many(report.clipped, 'number')} outside the calibrated ranges: calibrate on texts like these")
    unreadable = _lines(report.named_lines, report.skipped + report.replaced)
    if report.skipped:
        lines.append(f"  {many(report.skipped, 'line')} left out, not being UTF-8: {unreadable}")
    if report.replaced:
        lines.append(f"  {many(report.replaced, 'line')} with unreadable bytes replaced: {unreadable}")
    if report.empty:
        lines.append(f"  {many(report.empty, 'empty text')}, embedded as found")
    print_result("\n".join(lines))


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _tokens(report: EmbedFileReport) -> str:
    if not report.in_workers:
        return many(report.tokens, "token")
    if not report.tokens:
        return "tokens not counted in worker processes"
    return f"{many(report.tokens, 'token')}, not counting {many(report.in_workers, 'text')} in worker processes"


def _lines(named: Sequence[int], count: int) -> str:
    """Return the lines that are named, and that there are more."""
    word = "line" if len(named) == 1 else "lines"
    return f"{word} {', '.join(str(line) for line in named)}{', …' if count > len(named) else ''}"


@dataclass
class _Signals:
    patient: bool = False
    """True while a first signal lets the chunk in hand be finished."""
    asked: bool = False


@contextmanager
def _patient_signals() -> Iterator[_Signals]:
    """Let the first Ctrl-C or SIGTERM finish the chunk in hand; a second one, or one while loading, ends at once."""
    signals = _Signals()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if signals.asked or not signals.patient:
            raise KeyboardInterrupt
        signals.asked = True
        say("Finishing the texts in hand; press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
