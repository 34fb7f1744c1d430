"""Medians, spreads and turns, with a clock that the test moves."""

from __future__ import annotations

import pytest

from embedprefs import InputError
from embedprefs.benchmarking import Timings, take_turns


def test_one_disturbed_round_does_not_move_the_median():
    timings = Timings((1.0, 1.1, 9.0, 1.0, 1.2))
    assert timings.median == 1.1
    assert (timings.fastest, timings.slowest) == (1.0, 9.0)
    assert timings.spread == pytest.approx((9.0 - 1.0) / 1.1)


def test_times_faster_is_by_the_medians_with_the_rounds_extremes():
    """A slow minute of the machine falls on both of a round, and so their ratio says more than either."""
    host, ours = Timings((4.0, 8.0, 4.4)), Timings((1.0, 2.5, 1.0))
    assert ours.times_faster_than(host) == pytest.approx((4.4, 3.2, 4.4))


def test_no_measurement_is_no_timing():
    with pytest.raises(ValueError, match="at least one"):
        Timings(())


def test_each_is_timed_by_itself_and_the_first_turn_goes_round(clock):
    """Whoever begins differs from round to round, and the others' seconds are not counted."""
    order = []

    def contestant(name, seconds):
        def run(number):
            order.append((number, name))
            clock.pass_seconds(seconds * (number + 1))

        return run

    seen = []
    slow, fast = take_turns(
        [contestant("slow", 4.0), contestant("fast", 1.0)],
        3,
        clock=clock,
        done=lambda done, total: seen.append((done, total)),
    )
    assert slow.seconds == (4.0, 8.0, 12.0)
    assert fast.seconds == (1.0, 2.0, 3.0)
    assert [name for number, name in order] == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert seen == [(number, 6) for number in range(1, 7)]


def test_no_round_is_refused():
    with pytest.raises(InputError, match="0 rounds"):
        take_turns([lambda _number: None], 0)
