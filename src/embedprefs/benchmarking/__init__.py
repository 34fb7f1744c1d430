"""How fast this machine embeds these texts with this model, beside the plain host: `embedprefs bench`.

    result = benchmark(load_preferences("embedprefs.toml"), texts)
    print(result.preferred.times_host, result.preferred.agreement.cosine_mean)

Everything that is compared runs in this process, in turns, and medians are reported with their spread: a ratio that was
measured this way says more than seconds.
"""

from __future__ import annotations

from embedprefs.benchmarking.agreement import agreement_of, compare_vectors
from embedprefs.benchmarking.multiplication import MatrixShape, Multiplication, Peak, measure_peak
from embedprefs.benchmarking.results import (
    COLUMNS,
    Agreement,
    BenchmarkResult,
    Machine,
    MeasuredTexts,
    Measurement,
)
from embedprefs.benchmarking.texts import built_in_questions, built_in_texts, read_some, short_texts
from embedprefs.benchmarking.throughput import benchmark
from embedprefs.benchmarking.timing import Timings, take_turns
from embedprefs.benchmarking.ways import HOST, PREFERRED

__all__ = [
    "COLUMNS",
    "HOST",
    "PREFERRED",
    "Agreement",
    "BenchmarkResult",
    "Machine",
    "MatrixShape",
    "MeasuredTexts",
    "Measurement",
    "Multiplication",
    "Peak",
    "Timings",
    "agreement_of",
    "benchmark",
    "built_in_questions",
    "built_in_texts",
    "compare_vectors",
    "measure_peak",
    "read_some",
    "short_texts",
    "take_turns",
]
