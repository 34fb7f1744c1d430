"""How fast this machine multiplies matrices of the sizes that a model has: the most that any engine could reach."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PRECISIONS", "MatrixShape", "Multiplication", "Peak", "measure_peak", "shapes_of"]

#: Rows of the left matrix: as many tokens as make a good batch.
_ROWS_ON_PROCESSOR = 2048
_ROWS_ON_GPU = 16_384
#: Repetitions of one product, and the seconds after which no further one is begun.
_MOST_RUNS = 15
_SECONDS = 0.25
#: Precisions each library multiplies in.
_BY_TORCH = ("float32", "bfloat16", "float16")
_BY_OPENVINO = ("float32", "bfloat16", "int8")
#: Those whose peak can be measured.
PRECISIONS = tuple(dict.fromkeys((*_BY_TORCH, *_BY_OPENVINO)))


@dataclass(frozen=True)
class MatrixShape:
    """A product of two matrices: (rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """Floating-point operations of the product: a multiplication and an addition for each term."""
        return 2 * self.rows * self.inner * self.columns

    def __str__(self) -> str:
        return f"({self.rows}, {self.inner}) x ({self.inner}, {self.columns})"


@dataclass(frozen=True)
class Multiplication:
    """How fast one library multiplied one shape."""

    library: str
    """torch or openvino."""
    precision: str
    shape: MatrixShape
    fastest: float
    """Seconds of the fastest run."""
    median: float
    """Seconds of the median run."""

    @property
    def operations_per_second(self) -> float:
        """Of the fastest run."""
        return self.shape.operations / self.fastest

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return {
            "library": self.library,
            "precision": self.precision,
            "shape": [self.shape.rows, self.shape.inner, self.shape.columns],
            "fastest_seconds": self.fastest,
            "median_seconds": self.median,
            "operations_per_second": self.operations_per_second,
        }


@dataclass(frozen=True)
class Peak:
    """The fastest multiplication of all that were measured in one precision."""

    precision: str
    runs: tuple[Multiplication, ...]
    """Every library and shape; empty where nothing here multiplies in this precision."""

    @property
    def best(self) -> Multiplication | None:
        """The fastest of them."""
        return max(self.runs, key=lambda run: run.operations_per_second, default=None)

    @property
    def operations_per_second(self) -> float | None:
        """What counts as this machine's peak; None where nothing was measured."""
        return self.best.operations_per_second if self.best is not None else None

    def joined(self, other: Peak) -> Peak:
        """Return this and a later measurement as one: a peak is the best that was seen."""
        if other.precision != self.precision:
            raise ValueError(f"A peak in {self.precision} and one in {other.precision} are two.")
        return Peak(self.precision, (*self.runs, *other.runs))

    def share(self, operations: float, seconds: float) -> float | None:
        """Return which share of the peak so many operations in so many seconds are; None where nobody can say.

        A share above 1 is none: then the multiplication was disturbed more than what it is compared with.
        """
        peak = self.operations_per_second
        if peak is None or seconds <= 0 or operations <= 0:
            return None
        share = operations / seconds / peak
        return share if share <= 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return the peak as JSON values."""
        return {
            "precision": self.precision,
            "operations_per_second": self.operations_per_second,
            "best": self.best.to_json() if self.best is not None else None,
            "runs": [run.to_json() for run in self.runs],
        }


def shapes_of(hidden_size: int, intermediate_size: int, *, rows: int) -> tuple[MatrixShape, ...]:
    """Return the three products that a transformer layer mostly consists of: projection, and up and down.

    Args:
        hidden_size: Length of a token's vector.
        intermediate_size: Length of it within the feed-forward part.
        rows: Tokens of a batch.
    """
    return (
        MatrixShape(rows, hidden_size, hidden_size),
        MatrixShape(rows, hidden_size, intermediate_size),
        MatrixShape(rows, intermediate_size, hidden_size),
    )


def measure_peak(
    hidden_size: int,
    intermediate_size: int,
    precision: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    rows: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Peak:
    """Multiply three shapes of a model with torch and, where it is installed, OpenVINO.

    Args:
        hidden_size: Length of a token's vector.
        intermediate_size: Length of it within the feed-forward part.
        precision: float32, bfloat16, float16 or int8. OpenVINO's int8 product holds the rounding of its left side too.
        device: Where to multiply, as torch names it; OpenVINO is asked on a processor only.
        threads: Threads that multiply on a processor; those of torch by default.
        rows: Tokens of a batch; 2,048 on a processor and 16,384 elsewhere by default.
        clock: Returns seconds.

    Raises:
        InputError: a size is no positive number, or the precision is none of these.
        MissingExtraError: torch is not installed.
    """
    if precision not in PRECISIONS:
        raise InputError(f"The precision {precision!r} is not known.\n  Allowed: {', '.join(PRECISIONS)}.")
    if min(hidden_size, intermediate_size) < 1:
        raise InputError(f"A model of sizes {hidden_size} and {intermediate_size} has nothing to multiply.")
    on_processor = device == "cpu"
    shapes = shapes_of(
        hidden_size, intermediate_size, rows=rows or (_ROWS_ON_PROCESSOR if on_processor else _ROWS_ON_GPU)
    )
    runs: list[Multiplication] = []
    if precision in _BY_TORCH:
        runs += _by_torch(shapes, precision, device, threads, clock)
    if precision in _BY_OPENVINO and on_processor:
        runs += _by_openvino(shapes, precision, threads, clock)
    return Peak(precision, tuple(runs))


def _timed(run: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, float]:
    """Return the fastest and the median seconds of several runs; a first one warms up."""
    run()
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < _MOST_RUNS and sum(seconds) < _SECONDS):
        began = clock()
        run()
        seconds.append(clock() - began)
    return max(min(seconds), 1e-9), statistics.median(seconds)


def _by_torch(
    shapes: Sequence[MatrixShape], precision: str, device: str, threads: int | None, clock: Callable[[], float]
) -> Iterable[Multiplication]:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", extra="sentence-transformers", needed_for="Measuring") from error

    dtype = getattr(torch, precision)
    wait = getattr(torch, device.partition(":")[0], None)
    synchronize: Callable[[], None] = getattr(wait, "synchronize", None) or (lambda: None)
    with torch.inference_mode(), _torch_threads(threads):
        for shape in shapes:
            left = torch.randn(shape.rows, shape.inner, device=device).to(dtype)
            # As a linear layer keeps its weights: (columns, inner).
            right = torch.randn(shape.columns, shape.inner, device=device).to(dtype)

            def run(left: Any = left, right: Any = right) -> None:
                torch.nn.functional.linear(left, right)
                synchronize()

            yield Multiplication("torch", precision, shape, *_timed(run, clock))


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_openvino(
    shapes: Sequence[MatrixShape], precision: str, threads: int | None, clock: Callable[[], float]
) -> Iterable[Multiplication]:
    openvino = _openvino()
    if openvino is None:
        return
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    properties |= {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    chance = np.random.default_rng(0)
    core = openvino.Core()
    for shape in shapes:
        model = _openvino_product(openvino, shape, precision, chance)
        request = core.compile_model(model, "CPU", properties).create_infer_request()
        left = chance.uniform(-1, 1, (shape.rows, shape.inner)).astype(np.float32)
        request.set_input_tensor(openvino.Tensor(left, shared_memory=True))
        yield Multiplication("openvino", precision, shape, *_timed(request.infer, clock))


def _openvino() -> Any:
    """Return the package, None where it is not installed."""
    from embedprefs.engine.openvino.telemetry import import_openvino

    try:
        return import_openvino()
    except MissingExtraError:
        return None


def _openvino_product(openvino: Any, shape: MatrixShape, precision: str, chance: np.random.Generator) -> Any:
    from embedprefs.engine.openvino.telemetry import without_telemetry

    with without_telemetry():
        operations = importlib.import_module("openvino.opset13")
    left = operations.parameter([shape.rows, shape.inner], np.float32)
    if precision != "int8":
        weights = operations.constant(chance.uniform(-1, 1, (shape.columns, shape.inner)).astype(np.float32))
        return openvino.Model([operations.matmul(left, weights, False, True)], [left])
    # The form that a quantised model has, by which OpenVINO knows an int8 product.
    codes = operations.constant(chance.integers(-127, 128, (shape.columns, shape.inner)).astype(np.int8))
    weights = operations.multiply(operations.convert(codes, np.float32), operations.constant(np.float32(1 / 127)))
    ends = [operations.constant(np.float32(value)) for value in (-1, 127 / 128, -1, 127 / 128)]
    rounded = operations.fake_quantize(left, *ends, 256)
    return openvino.Model([operations.matmul(rounded, weights, False, True)], [left])
