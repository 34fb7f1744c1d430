"""What a command says of how far it is."""

from __future__ import annotations

import pytest

from embedprefs.cli import output


def test_a_line_tells_what_is_done_and_what_was_measured(capsys, monkeypatch):
    """Beside count, rate and time left stand the words of who reports: a loss, a metric."""
    monkeypatch.setattr(output, "_SECONDS_BETWEEN_LINES", 0.0)
    with output.progress("Training", unit="steps") as show:
        show(1, 10)
        show(2, 10, "loss 0.500, development 0.7000")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Training: 2 of 10 steps, ")
    assert last.endswith("left, loss 0.500, development 0.7000")


def test_nothing_is_said_where_that_was_asked_for(capsys):
    """--quiet leaves results, warnings and errors."""
    token = output.quiet.set(True)
    try:
        with output.progress("Training", unit="steps") as show:
            show(2, 10, "loss 0.500")
    finally:
        output.quiet.reset(token)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("per_second", "words"), [(1234.4, "1,234/s"), (10.0, "10/s"), (3.44, "3.4/s"), (0.4, "2.5 s each")]
)
def test_a_rate_is_never_zero(per_second, words):
    """What takes longer than a second is told by the time of each: "0/s" would say that nothing happens."""
    assert output._rate_words(per_second) == words
