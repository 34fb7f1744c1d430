"""What was measured, as values, as JSON and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from embedprefs.benchmarking.multiplication import Peak
from embedprefs.benchmarking.timing import Timings

__all__ = ["COLUMNS", "RESULT_VERSION", "Agreement", "BenchmarkResult", "Machine", "MeasuredTexts", "Measurement"]

#: Version of what `BenchmarkResult.to_json` returns.
RESULT_VERSION = 1

COLUMNS = (
    "way",
    "runs",
    "texts/s",
    "tokens/s",
    "times host",
    "ms per query",
    "share of peak",
    "cosine mean",
    "least",
)

#: Spread of rounds above which a machine was busy with something else.
_NOISY = 0.15
#: Load for each processor, before anything was measured, above which it was busy already.
_BUSY = 0.25


@dataclass(frozen=True)
class Agreement:
    """How near vectors are to those of the float32 host for the same texts."""

    cosine_mean: float
    cosine_least: float
    largest_difference: float
    """Of any value of any vector."""
    promise: str | None = None
    """What `compute.exactness` promises of them, as a sentence; None where it promises nothing: a stated number format
    is obeyed."""
    promise_kept: bool | None = None


@dataclass(frozen=True)
class MeasuredTexts:
    """The texts that were embedded in every round."""

    source: str
    """The file, or `built-in mix`."""
    count: int
    distinct: int
    tokens: int
    """Tokens that are read in a round, special tokens and prompt included, every text counted."""
    shortest: int
    """Tokens of the shortest text."""
    median: float
    longest: int
    """Tokens that are read of the longest text."""
    truncated: int
    """Texts that are longer than the model reads."""


@dataclass(frozen=True)
class Machine:
    """Where and under what load it was measured."""

    processor: str
    processors: int
    """Those this process may use."""
    device: str
    accelerator: str | None
    memory_total: int | None
    """Bytes of RAM."""
    versions: Mapping[str, str]
    date: str
    """Day of the measurement, ISO 8601."""
    load_before: float | None
    """Load average of the last minute when it began; None where the system keeps none."""
    load_after: float | None

    @property
    def was_busy(self) -> bool:
        """True where something else kept the processors busy before the measurement began."""
        return self.load_before is not None and self.load_before > _BUSY * self.processors


@dataclass(frozen=True)
class Measurement:
    """One way to run the model."""

    name: str
    """`host default`, `as preferred`, or the settings of an alternative."""
    backend: str
    precision: str
    """float32, bfloat16, float16 or int8."""
    attention: str | None
    passes: Timings
    """Seconds for all the texts."""
    queries: Timings
    """Seconds for one query at a time."""
    texts_per_second: float
    tokens_per_second: float
    times_host: float
    """How many times faster than the host's default, by the medians."""
    times_host_of_a_round: tuple[float, float]
    """The least and the most of any one round."""
    query_times_host: float
    """Time of a query as a share of the host's: 0.25 is four times faster."""
    share_of_peak: float | None
    """Of the fastest multiplication of matrices in the same precision; None where nobody can say."""
    agreement: Agreement
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the library counted in one pass; empty for the host."""

    @property
    def runs(self) -> str:
        """What ran, in two words: `torch float32`."""
        return f"{self.backend} {self.precision}"

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        low, high = self.times_host_of_a_round
        return (
            self.name,
            self.runs,
            _rate(self.texts_per_second),
            _rate(self.tokens_per_second),
            f"{self.times_host:.2f} ({low:.2f} to {high:.2f})",
            f"{self.queries.median * 1000:.2f}",
            f"{self.share_of_peak:.0%}" if self.share_of_peak is not None else "-",
            f"{self.agreement.cosine_mean:.6f}",
            f"{self.agreement.cosine_least:.6f}",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        values = asdict(self)
        for name, timings in (("passes", self.passes), ("queries", self.queries)):
            values[name] = {
                "seconds": list(timings.seconds),
                "median": timings.median,
                "fastest": timings.fastest,
                "slowest": timings.slowest,
                "spread": timings.spread,
            }
        values["times_host_of_a_round"] = list(self.times_host_of_a_round)
        values["report"] = dict(self.report)
        return values


@dataclass(frozen=True)
class BenchmarkResult:
    """The host's default beside what the preferences make of it, on one machine, with the same texts."""

    model: str
    fingerprint: str
    dimension: int
    machine: Machine
    texts: MeasuredTexts
    measurements: tuple[Measurement, ...]
    """The host first."""
    peaks: tuple[Peak, ...]
    """One for each precision that ran."""
    operations: float | None
    """Floating-point operations that the distinct texts need at least; None where nobody can say."""
    notes: tuple[str, ...]
    """What a reader has to know, as sentences."""

    @property
    def host(self) -> Measurement:
        """The plain host with its own defaults."""
        return self.measurements[0]

    @property
    def preferred(self) -> Measurement:
        """What the preferences say."""
        return self.measurements[1]

    def __getitem__(self, name: str) -> Measurement:
        """Return a measurement by its name.

        Raises:
            KeyError: nothing of that name was measured.
        """
        for measurement in self.measurements:
            if measurement.name == name:
                return measurement
        raise KeyError(name)

    @property
    def broken_promises(self) -> list[str]:
        """A sentence for each way whose vectors are farther from float32 than `compute.exactness` allows."""
        return [
            f"{measurement.name}: {measurement.agreement.promise} It was {measurement.agreement.cosine_least:.6f}, "
            f"and the largest difference of a value {measurement.agreement.largest_difference:.1e}."
            for measurement in self.measurements
            if measurement.agreement.promise_kept is False
        ]

    @property
    def spread(self) -> float:
        """The largest spread of any contestant's rounds."""
        return max(measurement.passes.spread for measurement in self.measurements)

    def rows(self) -> Sequence[Sequence[str]]:
        """Return the cells of `COLUMNS` for each way."""
        return [measurement.row() for measurement in self.measurements]

    def heading(self) -> list[str]:
        """Return what was measured, in lines."""
        texts, machine = self.texts, self.machine
        lengths = f"{texts.shortest} to {texts.longest}, median {texts.median:.0f}"
        repeated = f", {texts.count - texts.distinct:,} of them repeated" if texts.distinct < texts.count else ""
        cut = f", {texts.truncated:,} cut at the model's length" if texts.truncated else ""
        where = machine.accelerator or f"{machine.processor or 'processor'}, {machine.processors} processors"
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
        return [
            f"model    {self.model}, {self.dimension} dimensions, fingerprint {self.fingerprint}",
            f"texts    {texts.source}: {texts.count:,} texts, {texts.tokens:,} tokens ({lengths}){repeated}{cut}",
            f"machine  {where}; {machine.date}; {versions}",
        ]

    def remarks(self) -> list[str]:
        """Return what belongs beneath the table: the peak, how noisy it was, notes."""
        lines = []
        for peak in self.peaks:
            best = peak.best
            if best is not None:
                lines.append(
                    f"Peak in {peak.precision}: {best.operations_per_second / 1e9:,.0f} GFLOP/s, the best of "
                    f"{len(peak.runs)} measurements ({best.library}, {best.shape})."
                )
            else:
                lines.append(f"Peak in {peak.precision}: nothing here multiplies matrices in it by itself.")
        return [*lines, self.noise(), *(f"Note: {note}" for note in self.notes)]

    def noise(self) -> str:
        """Say how far the figures can be trusted."""
        rounds = len(self.host.passes.seconds)
        if rounds == 1:
            words = "One round only: how noisy the machine was is not known."
        else:
            words = (
                f"Rounds of one way differ by up to {self.spread:.0%} ({rounds} rounds, fastest to slowest): smaller "
                "differences between ways say nothing."
            )
            if self.spread > _NOISY:
                words += " The machine is noisy; measure again when it is quiet, or with more rounds."
        machine = self.machine
        if machine.load_before is None or machine.load_after is None:
            return words
        load = f"Load average {machine.load_before:.2f} before and {machine.load_after:.2f} after"
        busy = ": something else was running." if machine.was_busy else "."
        return f"{words}\n{load}, on {machine.processors} processors{busy}"

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "version": RESULT_VERSION,
            "kind": "benchmark",
            "model": {"name": self.model, "fingerprint": self.fingerprint, "dimension": self.dimension},
            "machine": {**asdict(self.machine), "versions": dict(self.machine.versions)},
            "texts": asdict(self.texts),
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "peaks": [peak.to_json() for peak in self.peaks],
            "operations": self.operations,
            "spread": self.spread,
            "broken_promises": self.broken_promises,
            "notes": list(self.notes),
        }


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
