"""How a command ends: its exit code, and the words that go with it."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn, TextIO

from embedprefs.cli.output import quiet, say, say_error, say_warning
from embedprefs.errors import EmbedPrefsError, EmbedPrefsWarning

__all__ = ["ExitCode", "end_quietly_without_reader", "run_safely"]


class ExitCode(IntEnum):
    """What a command exits with."""

    DONE = 0
    NEGATIVE = 1
    """Findings, a mismatch or a negative answer."""
    WRONG_REQUEST = 2
    """A file, key, value or path is wrong, or this machine lacks what was asked for."""
    OUTSIDE_FAILED = 3
    """A store, the network or the system failed."""
    PARTLY_DONE = 4
    """The named inputs failed; running again continues."""
    BUG = 70
    """A mistake in embedprefs."""
    INTERRUPTED = 130


def run_safely(function: Callable[[], int | None], *, be_quiet: bool = False, debug: bool = False) -> ExitCode | int:
    """Run a command and turn however it ends into an exit code, with words instead of a traceback.

    Args:
        function: The command; it returns its exit code, None for 0.
        be_quiet: Say nothing but results, warnings and errors.
        debug: Show tracebacks, and what embedprefs logs.
    """
    token = quiet.set(be_quiet)
    try:
        with _readable_warnings(), _visible_log(debug=debug):
            code = function() or ExitCode.DONE
            sys.stdout.flush()
            return code
    except EmbedPrefsError as error:
        _show_traceback(debug=debug)
        say_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _show_traceback(debug=debug)
        say_error("interrupted.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        end_quietly_without_reader()
    except MemoryError:
        _show_traceback(debug=debug)
        say_error(
            "this machine ran out of memory.\n"
            "  Set compute.memory_limit or a smaller compute.batch_tokens, or free some."
        )
        return ExitCode.WRONG_REQUEST
    except OSError as error:
        _show_traceback(debug=debug)
        place = f"{error.filename}: " if error.filename else ""
        say_error(f"{place}{error.strerror or error}")
        return ExitCode.OUTSIDE_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: said, with what to do, and exit code 70
        _show_traceback(debug=debug)
        say_error(
            f"this is a mistake in embedprefs, not in your request: {type(error).__name__}: {error}\n"
            "  Please report it, with the command line"
            + (" and the traceback above." if debug else " and what the same command prints with --debug.")
        )
        return ExitCode.BUG
    finally:
        quiet.reset(token)


def _show_traceback(*, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)


@contextmanager
def _readable_warnings() -> Iterator[None]:
    """Show each of our warnings once, as a sentence; those of other packages as Python does."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=EmbedPrefsWarning)
        python_shows = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, EmbedPrefsWarning):
                python_shows(message, category, filename, lineno, file, line)
            elif str(message) not in seen:
                seen.add(str(message))
                say_warning(str(message))

        warnings.showwarning = show
        yield


@contextmanager
def _visible_log(*, debug: bool) -> Iterator[None]:
    """Write what is logged under `embedprefs` to standard error: warnings, and everything with --debug.

    Whether a compiled artefact answers instead of the model is always said: it is another way to the same vectors.
    """
    logger, serving = logging.getLogger("embedprefs"), logging.getLogger("embedprefs.serving")
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    notices = _Notices()
    before = logger.level, serving.level
    logger.setLevel(handler.level)
    serving.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.addHandler(handler)
    if not debug:
        serving.addHandler(notices)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        serving.removeHandler(notices)
        logger.setLevel(before[0])
        serving.setLevel(before[1])


class _Notices(logging.Handler):
    """Says what is logged as information, as a plain line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to standard error, unless the command is to be quiet."""
        if record.levelno == logging.INFO:
            say(record.getMessage())


def end_quietly_without_reader() -> NoReturn:
    """End the process when nobody reads its output any more, as `| head` does; nothing went wrong."""
    # What is still buffered would be written when Python ends, and fail again: let it go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.DONE)
