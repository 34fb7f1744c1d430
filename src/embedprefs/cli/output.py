"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = [
    "Show",
    "hush_other_bars",
    "message_console",
    "print_json",
    "print_result",
    "print_table",
    "progress",
    "quiet",
    "result_console",
    "say",
    "say_error",
    "say_warning",
    "styled",
]

#: Whether the running command was asked to say nothing but results, warnings and errors.
quiet: ContextVar[bool] = ContextVar("quiet", default=False)

_SECONDS_BETWEEN_LINES = 15.0
_WIDEST_CELL = 44
#: From so many a second on, a rate is told without a decimal.
_WHOLE_FROM = 10


class Show(Protocol):
    """Shows how far something is."""

    def __call__(self, done: int, total: int | None, words: str = "", /) -> None:
        """Show what is done of what there is (None where nobody knows), and words beside it."""


def result_console() -> Console:
    """Return the console for results; plain text where standard output is no terminal."""
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def message_console() -> Console:
    """Return the console for everything that is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def styled(text: str, style: str = "") -> Text:
    """Return text in a style; brackets in it stay what they are."""
    from rich.text import Text

    return Text(text, style=style)


def print_result(result: RenderableType) -> None:
    """Write a result to standard output. Text is never cut or wrapped, so that a program can read it."""
    if isinstance(result, str):
        sys.stdout.write(result if result.endswith("\n") else f"{result}\n")
        return
    result_console().print(result, soft_wrap=not sys.stdout.isatty())


def print_json(value: Any) -> None:
    """Write a result as JSON to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Write a table to standard output: aligned and folded on a terminal, whole lines everywhere else.

    Args:
        columns: Headings; an empty one has no heading.
        rows: The cells of each row.
        title: A line above it.
    """
    if title is not None:
        print_result(styled(title, "bold"))
    if not sys.stdout.isatty():
        for line in _aligned([columns, *rows] if any(columns) else rows):
            sys.stdout.write(line + "\n")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(columns), header_style="bold", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        section = not any(row[1:])
        first = styled(row[0], "bold" if section else "cyan")
        table.add_row(first, *(styled(cell) for cell in row[1:]))
    result_console().print(table)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    # One long cell must not push the others out of sight.
    widths = [min(max(len(row[index]) for row in rows), _WIDEST_CELL) for index in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def say(message: str, *, style: str = "") -> None:
    """Write a message to standard error, unless the command is to be quiet."""
    if not quiet.get():
        message_console().print(styled(message, style), soft_wrap=True)


def say_warning(message: str) -> None:
    """Write a warning to standard error; a finding, which begins with its own mark, gets no second one."""
    mark, closing, words = message.partition("] ")
    if closing and message.startswith("warning["):
        _say_marked(f"{mark}{closing}", "yellow", words)
    else:
        _say_marked("Warning: ", "yellow", message)


def say_error(message: str) -> None:
    """Write an error to standard error."""
    _say_marked("Error: ", "bold red", message)


def _say_marked(mark: str, style: str, message: str) -> None:
    message_console().print(styled(mark, style).append(message, style="default"), soft_wrap=True)


def hush_other_bars() -> None:
    """Keep the progress bars of downloads and of loading weights from where they are not wanted: a log, --quiet."""
    if quiet.get() or not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars
        from transformers.utils import logging as transformers_logging

        disable_progress_bars()
        transformers_logging.disable_progress_bar()


@contextlib.contextmanager
def progress(description: str, *, unit: str) -> Iterator[Show]:
    """Show on standard error how far something is: done, rate and remaining time.

    On a terminal it is a bar; elsewhere a line every quarter of a minute, so that a log stays short.

    Args:
        description: What is being done, `Embedding`.
        unit: What is counted, `texts`.

    Yields:
        A function to call with what is done, with what there is (None where nobody knows), and with words to add.
    """
    console = message_console()
    if quiet.get():
        yield lambda _done, _total, _words="": None
        return
    if not console.is_terminal:
        yield _line_writer(description, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(description, total=None, rate="")
        rate = _Rate()

        def show(done: int, total: int | None, words: str = "") -> None:
            per_second = rate.of(done)
            parts = [_rate_words(per_second), words] if per_second else [words]
            bars.update(task, completed=done, total=total, rate=", ".join(filter(None, parts)))

        yield show


class _Rate:
    """How many a second since the first call; what earlier runs did is not counted."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def of(self, done: int) -> float | None:
        if self._first is None:
            self._first = done
            self._began = time.monotonic()
            return None
        seconds = time.monotonic() - self._began
        return (done - self._first) / seconds if seconds > 0 else None


def _rate_words(per_second: float) -> str:
    """Return a rate to read: `1,200/s`, `3.4/s`, and for what takes longer than a second `2.5 s each`."""
    if per_second < 1:
        return f"{1 / per_second:,.1f} s each"
    return f"{per_second:,.0f}/s" if per_second >= _WHOLE_FROM else f"{per_second:.1f}/s"


def _line_writer(description: str, unit: str) -> Show:
    rate = _Rate()
    last: float | None = None

    def write(done: int, total: int | None, words: str = "") -> None:
        nonlocal last
        per_second = rate.of(done)
        now = time.monotonic()
        last = now if last is None else last
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        parts = [f"{done:,} of {total:,} {unit}" if total is not None else f"{done:,} {unit}"]
        if per_second:
            parts.append(_rate_words(per_second))
            if total is not None:
                parts.append(f"{_duration((total - done) / per_second)} left")
        say(f"{description}: {', '.join(filter(None, [*parts, words]))}")

    return write


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
