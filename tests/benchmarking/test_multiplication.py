"""The peak: arithmetic with an injected clock, and the real libraries."""

from __future__ import annotations

import itertools

import pytest

from embedprefs import InputError
from embedprefs.benchmarking import MatrixShape, Multiplication, Peak, measure_peak
from embedprefs.benchmarking.multiplication import shapes_of


def run_of(seconds, *, library="torch"):
    return Multiplication(library, "float32", MatrixShape(10, 20, 30), fastest=seconds, median=2 * seconds)


def test_a_product_is_counted_as_a_multiplication_and_an_addition_for_each_term():
    assert MatrixShape(10, 20, 30).operations == 2 * 10 * 20 * 30
    assert [shape.operations for shape in shapes_of(4, 16, rows=3)] == [2 * 3 * 16, 2 * 3 * 64, 2 * 3 * 64]


def test_the_peak_is_the_fastest_run_of_all_libraries_and_shapes():
    peak = Peak("float32", (run_of(2.0), run_of(0.5, library="openvino"), run_of(1.0)))
    assert peak.best.library == "openvino"
    assert peak.operations_per_second == 12_000 / 0.5


def test_a_later_and_quieter_measurement_raises_the_peak_and_never_lowers_it():
    slow, fast = Peak("float32", (run_of(2.0),)), Peak("float32", (run_of(1.0),))
    assert slow.joined(fast).operations_per_second == fast.joined(slow).operations_per_second == 12_000
    with pytest.raises(ValueError, match="are two"):
        slow.joined(Peak("bfloat16", ()))


def test_a_share_is_of_the_peak_and_one_above_it_is_none():
    """More than everything cannot be: then the multiplication was disturbed, and no share is reported."""
    peak = Peak("float32", (run_of(1.0),))
    assert peak.share(6_000, 1.0) == 0.5
    assert peak.share(12_000, 1.0) == 1.0
    assert peak.share(12_001, 1.0) is None
    assert peak.share(0, 1.0) is None
    assert Peak("int8", ()).share(6_000, 1.0) is None


def test_the_rate_is_operations_by_the_seconds_of_the_injected_clock():
    """A clock that shows 0.1 s more at each look: every run takes 0.1 s, whatever it really took."""
    ticks = itertools.count(0, 0.1)
    peak = measure_peak(8, 16, "float32", rows=4, threads=1, clock=lambda: next(ticks))
    for run in peak.runs:
        assert run.fastest == pytest.approx(0.1)
        assert run.operations_per_second == pytest.approx(run.shape.operations / 0.1)
    assert {(run.shape.inner, run.shape.columns) for run in peak.runs} == {(8, 8), (8, 16), (16, 8)}


def test_torch_keeps_its_number_of_threads():
    import torch

    before = torch.get_num_threads()
    measure_peak(4, 8, "float32", rows=2, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("precision", "libraries"), [("bfloat16", {"torch", "openvino"}), ("int8", {"openvino"})])
def test_every_library_that_multiplies_in_a_precision_is_asked(precision, libraries):
    """torch's int8 product is none of its public functions, so OpenVINO alone is asked for that."""
    pytest.importorskip("openvino")
    peak = measure_peak(16, 32, precision, rows=8, threads=1)
    assert {run.library for run in peak.runs} == libraries
    assert all(run.fastest > 0 for run in peak.runs)
    assert len(peak.runs) == 3 * len(libraries)


def test_what_cannot_be_multiplied_is_refused():
    with pytest.raises(InputError, match="float32, bfloat16, float16, int8"):
        measure_peak(4, 8, "float8")
    with pytest.raises(InputError, match="nothing to multiply"):
        measure_peak(0, 8, "float32")
