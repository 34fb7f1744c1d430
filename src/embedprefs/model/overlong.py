"""What is said of texts that are longer than the model reads, and of prompts that stand in them already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedprefs.errors import OverlongTextError
from embedprefs.model.callers import warn_caller
from embedprefs.model.report import NAMED_TEXTS, EncodeReport, OverlongText

__all__ = ["report_overlong", "warn_of_doubled_prompt"]


def warn_of_doubled_prompt(texts: Sequence[str], prompt: str) -> None:
    """Warn where texts begin with the prompt that is put before them."""
    stem = prompt.strip()
    if stem and (doubled := sum(text.startswith(stem) for text in texts)):
        warn_caller(
            f"{doubled} of {len(texts)} texts begin with the prompt {prompt!r} already, which is put before them "
            'once more. Take it out of the texts, or pass prompt="".'
        )


def report_overlong(
    report: EncodeReport,
    overlong: Mapping[int, int],
    order: Sequence[int],
    *,
    limit: int,
    on_overflow: str,
    windows: bool,
    first_position: int = 0,
    at_least: frozenset[int] = frozenset(),
) -> None:
    """Name over-long texts in a report, and count, warn or refuse those that are cut.

    Args:
        report: The report of the call.
        overlong: Position among the distinct texts -> tokens.
        order: For each input, the position of its text among the distinct ones.
        limit: Tokens that are read of a text.
        on_overflow: "count", "warn" or "error".
        windows: Whether over-long texts are embedded in windows, so that nothing is cut.
        first_position: Number of the first input, for streams.
        at_least: Positions among the distinct texts whose tokens were not counted to the end.

    Raises:
        OverlongTextError: `on_overflow` is "error", and texts would be cut.
    """
    named = [
        OverlongText(place + first_position, overlong[at], at in at_least)
        for place, at in enumerate(order)
        if at in overlong
    ]
    report.overlong = tuple(named[:NAMED_TEXTS])
    if windows:
        return
    some = ", ".join(str(text) for text in named[:NAMED_TEXTS])
    more = f" and {len(named) - NAMED_TEXTS} more" if len(named) > NAMED_TEXTS else ""
    message = (
        f"{len(named)} of {report.texts} inputs are longer than the {limit} tokens the model reads: input {some}{more}."
    )
    advice = 'Shorten them, raise tokenizer.max_seq_length, or write tokenizer.overflow = "window".'
    if on_overflow == "error":
        raise OverlongTextError(
            f"{message}\n  {advice}",
            positions=[text.position for text in named],
            tokens=[text.tokens for text in named],
        )
    report.truncated = len(named)
    if on_overflow == "warn":
        warn_caller(f"{message} They are cut. {advice}")
