"""What an evaluation found, as values that can be shown, saved and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from embedprefs.evaluation.statistics import Interval, Resampled, detectable_difference
from embedprefs.evaluation.vectors import EmbeddingModel, VectorForm
from embedprefs.evaluation.wording import figure, interval_words, many, table

__all__ = [
    "CORRELATIONS",
    "EvaluatedData",
    "EvaluatedModel",
    "Hit",
    "MetricResult",
    "PairResult",
    "PairsEvaluation",
    "QueryResult",
    "RetrievalEvaluation",
    "few_groups_note",
    "interval_notes",
]

#: How alike two models' values over queries may be; it decides what their paired comparison can show.
CORRELATIONS = (0.9, 0.5)
#: With fewer, an interval rests on too little to be trusted.
_FEW_GROUPS = 20


@dataclass(frozen=True)
class MetricResult:
    """One metric over all queries."""

    value: float
    """The mean over queries; for Spearman the correlation."""
    interval: Interval | None
    """Where the value would lie for other queries of this kind; None where nothing can be resampled: with fewer than
    two groups, or with one value for all of them."""
    standard_error: float | None
    """None where there is no interval."""
    groups: int

    @classmethod
    def of(cls, resampled: Resampled) -> MetricResult:
        """Return the result of resampling a metric."""
        if not resampled.varies:
            return cls(resampled.value, None, None, resampled.groups)
        return cls(resampled.value, resampled.interval(), resampled.standard_error, resampled.groups)

    def detectable_difference(self, correlation: float) -> float | None:
        """Return the smallest true difference that a paired comparison on these queries would show.

        With 80 % power at the 5 % level, for two models whose values have this standard error and correlate so much.
        What it really is depends on the two models; `compare` says it for them.

        Args:
            correlation: Of the two models' values over the queries, from -1 to 1.
        """
        if self.standard_error is None:
            return None
        return detectable_difference(self.standard_error * math.sqrt(2 * (1 - correlation)), self.groups)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "value": self.value,
            "interval": asdict(self.interval) if self.interval is not None else None,
            "standard_error": self.standard_error,
            "groups": self.groups,
            "detectable_difference": {str(known): self.detectable_difference(known) for known in CORRELATIONS},
        }


@dataclass(frozen=True)
class Hit:
    """One document that was found for a query."""

    id: str
    score: float
    grade: int
    """Its judgement; 0 where it is not judged."""


@dataclass(frozen=True)
class QueryResult:
    """One query: its values and what was found."""

    id: str
    text: str
    group: str
    """Queries of one group are resampled together."""
    values: Mapping[str, float]
    """Metric -> value."""
    hits: tuple[Hit, ...]
    """The first hits, best first."""
    first_relevant: int | None
    """Rank of the first relevant document, None where none was found."""


@dataclass(frozen=True)
class PairResult:
    """One scored pair."""

    id: str
    """Its number in the data, from 1."""
    sentence1: str
    sentence2: str
    score: float
    """What people said."""
    similarity: float
    """What the model says."""


@dataclass(frozen=True)
class EvaluatedModel:
    """Which vectors were evaluated."""

    name: str
    precision: str
    similarity: str
    fingerprint: str | None = None
    """None for a model without preferences, or one that was changed since it was loaded."""
    record: Mapping[str, Any] | None = None
    """Identity and numerics, as `Record.to_json()`."""

    @classmethod
    def of(cls, model: EmbeddingModel) -> tuple[EvaluatedModel, tuple[str, ...]]:
        """Describe a model, and say why if its vectors cannot be named."""
        from embedprefs.errors import PreferenceMismatchError

        form = VectorForm.of(model)
        # Of the class: asking the model itself would compute the record.
        if not hasattr(type(model), "record"):
            return cls(type(model).__name__, form.precision, form.similarity), ()
        try:
            record = cast("Any", model).record.to_json()
        except PreferenceMismatchError as error:
            # A model in training has no identity yet; it can be evaluated all the same.
            reason = str(error).splitlines()[0]
            return cls(type(model).__name__, form.precision, form.similarity), (f"No fingerprint: {reason}",)
        name = str(record["provenance"].get("model"))
        return cls(name, form.precision, form.similarity, str(record["fingerprint"]), record), ()

    @property
    def title(self) -> str:
        """Name, form and the first digits of the fingerprint."""
        words = f"{self.name}, {self.precision} vectors compared by {self.similarity}"
        return f"{words}, fingerprint {self.fingerprint[:12]}" if self.fingerprint else words


@dataclass(frozen=True)
class EvaluatedData:
    """On what it was evaluated."""

    digest: str
    """Stands for texts and judgements; evaluations of one digest can be compared."""
    documents: int | None
    """None where only rankings were given."""
    queries: int
    judgements: int
    grouped_by: str
    """What queries were resampled by: "query", or where those of a group come from."""
    groups: int


@dataclass(frozen=True)
class RetrievalEvaluation:
    """How well a model finds what people judged relevant."""

    model: EvaluatedModel
    data: EvaluatedData
    metrics: Mapping[str, MetricResult]
    """By name; the first is the one that a verdict is about."""
    queries: tuple[QueryResult, ...]
    notes: tuple[str, ...] = ()
    """What has to be known to read the figures."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Seed, resamples, relevance level, depth."""

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric by its name."""
        return self.metrics[metric].value

    def to_text(self) -> str:
        """Return the evaluation as a table to read."""
        documents = "" if self.data.documents is None else f"{many(self.data.documents, 'document')}, "
        data = f"{documents}{many(self.data.queries, 'query', 'queries')}, {many(self.data.judgements, 'judgement')}"
        return _text(self.model, data, self.data, self.metrics, self.notes)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the queries as JSON values; `save` writes these too."""
        return _json("retrieval", self)

    def save(self, path: Path | str) -> None:
        """Write one JSON object a line: the summary first, then the queries. `load_evaluation` reads it back."""
        from embedprefs.evaluation.saved import save_evaluation

        save_evaluation(self, path)


@dataclass(frozen=True)
class PairsEvaluation:
    """How well a model's similarities follow people's scores of pairs."""

    model: EvaluatedModel
    data: EvaluatedData
    metrics: Mapping[str, MetricResult]
    """One entry: `spearman`."""
    pairs: tuple[PairResult, ...]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric by its name."""
        return self.metrics[metric].value

    def to_text(self) -> str:
        """Return the evaluation as a table to read."""
        return _text(self.model, many(self.data.judgements, "scored pair"), self.data, self.metrics, self.notes)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pairs as JSON values; `save` writes these too."""
        return _json("pairs", self)

    def save(self, path: Path | str) -> None:
        """Write one JSON object a line: the summary first, then the pairs. `load_evaluation` reads it back."""
        from embedprefs.evaluation.saved import save_evaluation

        save_evaluation(self, path)


def _json(kind: str, found: RetrievalEvaluation | PairsEvaluation) -> dict[str, Any]:
    return {
        "kind": kind,
        "metrics": {name: result.to_json() for name, result in found.metrics.items()},
        "data": asdict(found.data),
        "model": asdict(found.model),
        "notes": list(found.notes),
        "settings": dict(found.settings),
    }


def _text(
    model: EvaluatedModel,
    data_words: str,
    data: EvaluatedData,
    metrics: Mapping[str, MetricResult],
    notes: Sequence[str],
) -> str:
    rows = [("metric", "value", "95 % interval", "a comparison shows from")]
    for name, result in metrics.items():
        low, high = (result.detectable_difference(correlation) for correlation in CORRELATIONS)
        shown = "-" if low is None or high is None else f"{figure(low)} to {figure(high)}"
        rows.append((name, figure(result.value), interval_words(result.interval), shown))
    per_query = data.grouped_by in ("query", "pair")
    grouped = "" if per_query else f", resampled by {many(data.groups, 'group')} ({data.grouped_by})"
    lines = [f"model  {model.title}", f"data   {data_words}{grouped}", "", *table(rows), ""]
    high, low = CORRELATIONS
    lines += [
        '"A comparison shows from": the smallest true difference that comparing two models on this set would show',
        f"(80 % power, 5 % level), if their values correlate by {high} to {low}.",
    ]
    lines += [f"Note: {note}" for note in notes]
    return "\n".join(lines)


def few_groups_note(groups: int, noun: str = "group") -> str | None:
    """Return what has to be said of intervals that rest on few groups; None where there are enough."""
    if groups < 2:
        return f"A single {noun} gives no interval."
    if groups < _FEW_GROUPS:
        return f"The intervals rest on {groups} {noun}s only; take them as a rough guide."
    return None


def interval_notes(metrics: Mapping[str, MetricResult]) -> list[str]:
    """Return what has to be said of the intervals of metrics: too few groups, or one value for all of them."""
    few = few_groups_note(next(iter(metrics.values())).groups)
    constant = [name for name, item in metrics.items() if item.interval is None and item.groups > 1]
    notes = [few] if few else []
    if constant:
        notes.append(f"{', '.join(constant)}: one value for every group, from which no interval can be had.")
    return notes
