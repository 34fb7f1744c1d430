"""The plain host and the preferences' way, in turns, over the same texts."""

from __future__ import annotations

import datetime as dt
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedprefs.benchmarking.agreement import agreement_of
from embedprefs.benchmarking.multiplication import PRECISIONS, Peak, measure_peak
from embedprefs.benchmarking.peer import is_float32, plain_host
from embedprefs.benchmarking.results import BenchmarkResult, Machine, MeasuredTexts, Measurement
from embedprefs.benchmarking.texts import built_in_questions
from embedprefs.benchmarking.timing import Timings, take_turns
from embedprefs.benchmarking.ways import HOST, PREFERRED, Way, dtype_of, host_way, our_way, token_counter
from embedprefs.benchmarking.work import ModelShape, shape_of
from embedprefs.cache import without_cache
from embedprefs.errors import InputError, InvalidPreferenceError, Problem

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.hardware import Hardware
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved

__all__ = ["benchmark"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int | None], None]

#: What is measured otherwise than preferred, so that both sides read the same tokens and give float vectors.
_MEASURED_AS: Mapping[str, Any] = {
    "vectors.precision": "float32",
    "vectors.calibration": None,
    "tokenizer.overflow": "truncate",
    "tokenizer.on_overflow": "count",
}
#: Queries that one way answers before the next one's turn.
_QUERIES_OF_A_TURN = 8
_VERSIONS = ("torch", "sentence-transformers", "transformers", "tokenizers", "openvino", "onnxruntime")


def benchmark(
    preferences: Preferences,
    texts: Sequence[str],
    *,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    source: str = "texts",
    questions: Sequence[str] | None = None,
    rounds: int = 5,
    queries: int = 24,
    peak: bool = True,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure what the preferences gain over the plain host, on this machine, with these texts.

    Every way embeds all texts once before anything is timed; those vectors are compared with the host's in float32.
    Then all take turns, round by round. Kept embeddings are neither asked nor added to.

    Args:
        preferences: What to measure.
        texts: Texts like those that are embedded in earnest.
        also: Further ways: name -> compute preferences that differ, by dotted key.
        source: What to call the texts.
        questions: Texts that a single query is timed with; built-in questions by default.
        rounds: How often each way embeds all texts.
        queries: How many single queries each way answers.
        peak: Whether to measure how fast matrices are multiplied here, and which share of it each way reaches.
        progress: Called with the passes that are done and with all of them.

    Returns:
        The measurements, the host's first.

    Raises:
        InputError: there are no texts, or fewer than one round or query.
        InvalidPreferenceError: an alternative changes what the vectors are, or this version cannot do it.
        EmbedPrefsError: whatever `load_model` raises.
    """
    questions = built_in_questions() if questions is None else questions
    _require(texts, questions, rounds, queries)
    ways = {PREFERRED: {}, **_checked(also or {})}
    with without_cache():
        return _Benchmark.of(preferences, ways, list(texts), list(questions), source).run(
            rounds, queries, with_peak=peak, progress=progress or (lambda _done, _total: None)
        )


def _require(texts: Sequence[str], questions: Sequence[str], rounds: int, queries: int) -> None:
    if not texts or not questions:
        raise InputError("There is nothing to embed.\n  Give at least one text and one question.")
    for name, value in (("rounds", rounds), ("queries", queries)):
        if value < 1:
            raise InputError(f"{name} is {value}.\n  Allowed: a whole number from 1.")


def _checked(also: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the alternatives; one that changes the vectors' meaning is refused, for that is no matter of speed."""
    from embedprefs.preferences import Kind, find_field

    problems = []
    for name, settings in also.items():
        for key, value in settings.items():
            declared = find_field(key)
            if declared is None or declared.kind is Kind.COMPUTE:
                continue  # an unknown key is refused, with the nearest known one, when the model is loaded
            problems.append(
                Problem(
                    f"{key} is no preference about speed: it changes what the vectors are.",
                    key=key,
                    value=value,
                    allowed="keys of [compute]",
                    fix="To compare quality, run embedprefs compare; to measure it as preferred, use --set.",
                    source=name,
                )
            )
    problems += [
        Problem(f"{name!r} is what the benchmark calls one of its own ways.", fix="Name it otherwise.")
        for name in {HOST, PREFERRED} & set(also)
    ]
    if problems:
        raise InvalidPreferenceError(problems)
    return {name: dict(settings) for name, settings in also.items()}


@dataclass
class _Benchmark:
    """One measurement under way: everything that can be refused has been."""

    resolved: Resolved
    host: SentenceTransformer
    ways: list[Way]
    texts: list[str]
    questions: list[str]
    source: str
    reference: Callable[[], Floats] | None
    """Gives the vectors of the float32 host, where the host's default is something else."""
    notes: list[str]
    load_before: float | None

    @classmethod
    def of(
        cls,
        preferences: Preferences,
        ways: Mapping[str, Mapping[str, Any]],
        texts: list[str],
        questions: list[str],
        source: str,
    ) -> _Benchmark:
        from embedprefs.layers import with_overrides
        from embedprefs.model import load_model

        load_before = _load()
        measured, notes = _measured(preferences)
        models = {
            name: load_model(with_overrides(measured, settings, source=name) if settings else measured)
            for name, settings in ways.items()
        }
        resolved = models[PREFERRED].resolved
        host = plain_host(measured, resolved)
        reference = None
        if not is_float32(host):
            notes.append(f"The host's default runs this model in {dtype_of(host)}; cosines are those to float32.")

            def reference() -> Floats:
                exact = plain_host(measured, resolved, dtype="float32")
                return host_way(exact, resolved).documents(texts)

        if len(resolved.devices) > 1 or resolved["compute.workers"] > 1:
            notes.append("The preferences use several processes; the host's default uses one.")
        both = [host_way(host, resolved), *(our_way(name, model) for name, model in models.items())]
        return cls(resolved, host, both, texts, questions, source, reference, notes, load_before)

    def run(self, rounds: int, queries: int, *, with_peak: bool, progress: Progress) -> BenchmarkResult:
        """Warm up, take turns, compare."""
        total = len(self.ways) * (rounds + 1)
        for number, way in enumerate(self.ways):
            progress(number, total)
            way.warm_up(self.texts)
        exact = self.reference() if self.reference is not None else self.ways[0].vectors
        lengths, texts = self._lengths()
        shape = self._shape() if lengths else None
        ran = [way.precision for way in self.ways if way.precision in PRECISIONS]  # several at once have no peak
        precisions = dict.fromkeys(ran) if with_peak and shape is not None else {}
        peaks = self._peaks(shape, precisions)
        gc.collect()
        passes = take_turns(
            [lambda _round, way=way: way.documents(self.texts) for way in self.ways],  # type: ignore[misc]
            rounds,
            done=lambda done, _all: progress(done + len(self.ways), total),
        )
        answered = self._answered(queries)
        # Measured before and after: what was seen at the quieter moment counts.
        later = self._peaks(shape, precisions)
        peaks = {precision: peaks[precision].joined(later[precision]) for precision in peaks}
        distinct = list(dict(zip(self.texts, lengths, strict=True)).values()) if lengths else []
        needed = (
            {name: shape.operations(read) for name, read in (("all", lengths), ("distinct", distinct))} if shape else {}
        )
        measurements = []
        for number, way in enumerate(self.ways):
            operations = needed.get("all" if way.model is None else "distinct")
            timings = (passes[number], passes[0], answered[number], answered[0])
            measurements.append(self._measured(way, timings, texts, exact, peaks.get(way.precision), operations))
        return BenchmarkResult(
            model=self.resolved.facts.name,
            fingerprint=self._preferred.fingerprint,
            dimension=int(exact.shape[1]),
            machine=_machine(self.resolved, self.load_before),
            texts=texts,
            measurements=tuple(measurements),
            peaks=tuple(peaks.values()),
            operations=needed.get("distinct"),
            notes=tuple(dict.fromkeys(self.notes)),
        )

    @property
    def _preferred(self) -> PreferredSentenceTransformer:
        model = self.ways[1].model
        if model is None:
            raise TypeError("The second way is the preferred one.")
        return model

    def _lengths(self) -> tuple[list[int], MeasuredTexts]:
        """Return the tokens that are read of each text, none where no tokenizer says it, and what they sum up to."""
        distinct = len(set(self.texts))
        counter, limit = token_counter(self.host)
        if counter is None:
            self.notes.append("Lengths are not known: the model's first module reads texts in a way of its own.")
            tokens = int(self.ways[1].report.get("tokens", 0))
            return [], MeasuredTexts(self.source, len(self.texts), distinct, tokens, 0, 0.0, 0, 0)
        prompt = self.resolved["prompts.document"]
        whole = counter.lengths([prompt + text for text in self.texts])
        read = [int(min(length, limit)) for length in whole]
        summary = MeasuredTexts(
            source=self.source,
            count=len(read),
            distinct=distinct,
            tokens=sum(read),
            shortest=min(read),
            median=statistics.median(read),
            longest=max(read),
            truncated=sum(length > limit for length in whole),
        )
        return read, summary

    def _shape(self) -> ModelShape | None:
        """Return the model's sizes; None for a static model, and for one that hides them."""
        counter, _ = token_counter(self.host)
        if counter is None:
            return None
        texts = ["a a a a", "a " * 16]
        return shape_of(self.host, list(zip(texts, counter.lengths(texts), strict=True)))

    def _peaks(self, shape: ModelShape | None, precisions: Mapping[str, None]) -> dict[str, Peak]:
        if shape is None:
            return {}
        return {
            precision: measure_peak(
                shape.hidden_size,
                shape.intermediate_size,
                precision,
                device=self.resolved.devices[0],
                threads=self.resolved["compute.threads"],
            )
            for precision in precisions
        }

    def _answered(self, queries: int) -> list[Timings]:
        """Time single queries; each question is asked once before, since a new length costs a backend more.

        The ways take turns of some queries each: threads that one library leaves waiting would slow the first query of
        the next, which nobody has who uses one of them.
        """
        for way in self.ways:
            for question in self.questions[:queries]:
                way.query(question)
        seconds: list[list[float]] = [[] for _ in self.ways]

        def turn_of(way: Way, measured: list[float]) -> Callable[[int], None]:
            def ask(turn: int) -> None:
                for number in range(turn * _QUERIES_OF_A_TURN, min(queries, (turn + 1) * _QUERIES_OF_A_TURN)):
                    began = time.perf_counter()
                    way.query(self.questions[number % len(self.questions)])
                    measured.append(time.perf_counter() - began)

            return ask

        turns = -(-queries // _QUERIES_OF_A_TURN)
        take_turns([turn_of(way, measured) for way, measured in zip(self.ways, seconds, strict=True)], turns)
        return [Timings(tuple(measured)) for measured in seconds]

    def _measured(
        self,
        way: Way,
        timings: tuple[Timings, Timings, Timings, Timings],
        texts: MeasuredTexts,
        exact: Floats,
        peak: Peak | None,
        operations: float | None,
    ) -> Measurement:
        passes, host_passes, answered, host_answered = timings
        times, least, most = passes.times_faster_than(host_passes)
        share = peak.share(operations, passes.median) if peak is not None and operations is not None else None
        if peak is not None and peak.runs and operations is not None and share is None:
            self.notes.append(
                f"{way.name}: it ran faster than matrices were multiplied here, so a share of the peak would mean "
                "nothing: the machine is too noisy."
            )
        read = way.report.get("tokens")
        distinct_only = texts.distinct == texts.count
        if read is not None and texts.longest and distinct_only and read and read != texts.tokens:
            self.notes.append(f"{way.name}: it read {read:,} tokens, the host {texts.tokens:,}.")
        return Measurement(
            name=way.name,
            backend=way.backend,
            precision=way.precision,
            attention=way.attention,
            passes=passes,
            queries=answered,
            texts_per_second=texts.count / passes.median,
            tokens_per_second=texts.tokens / passes.median,
            times_host=times,
            times_host_of_a_round=(least, most),
            query_times_host=answered.median / host_answered.median,
            share_of_peak=share,
            agreement=agreement_of(way.vectors, exact, way.exactness),
            report=way.report,
        )


def _measured(preferences: Preferences) -> tuple[Preferences, list[str]]:
    """Return the preferences as they are measured, and what that changes."""
    from embedprefs.layers import with_overrides

    changed = {key: value for key, value in _MEASURED_AS.items() if preferences.get(key) not in (value, None)}
    notes = []
    if "vectors.precision" in changed:
        notes.append(f"float32 vectors are measured, not {preferences.get('vectors.precision')} ones.")
    if "tokenizer.overflow" in changed:
        notes.append("Over-long texts are cut, as the host does, and not embedded in windows.")
    return (with_overrides(preferences, changed, source="bench") if changed else preferences), notes


# The machine ----------------------------------------------------------------------------------------------------------


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _machine(resolved: Resolved, load_before: float | None) -> Machine:
    hardware: Hardware = resolved.hardware
    device = resolved.devices[0]
    accelerator = next((item.name for item in hardware.accelerators if item.device == device), None)
    return Machine(
        processor=hardware.processor_name,
        processors=hardware.cpu_count,
        device=device,
        accelerator=accelerator,
        memory_total=hardware.memory_total,
        versions={name: hardware.packages[name] for name in _VERSIONS if name in hardware.packages},
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        load_before=load_before,
        load_after=_load(),
    )
