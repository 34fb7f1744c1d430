"""Two evaluations on the same data: is the second one better, worse, or within the margin?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InputError
from embedprefs.evaluation.pairs import SPEARMAN, WeightedSpearman, rank_products
from embedprefs.evaluation.results import Hit, PairsEvaluation, RetrievalEvaluation, few_groups_note
from embedprefs.evaluation.saved import load_evaluation
from embedprefs.evaluation.statistics import (
    DEFAULT_RESAMPLES,
    Groups,
    Interval,
    Resampled,
    bootstrap,
    bootstrap_statistic,
    detectable_difference,
    randomization_test,
    unseen_share,
)
from embedprefs.evaluation.wording import figure, interval_words, many, p_value_words, shortened, table

if TYPE_CHECKING:
    from embedprefs.record import FieldDifference

__all__ = ["ChangedQuery", "MetricDifference", "PairedComparison", "Verdict", "compare", "require_margin"]

Evaluated = RetrievalEvaluation | PairsEvaluation
Floats = npt.NDArray[np.float64]

Verdict = Literal["better", "equivalent", "worse", "undecided"]

_ONE_SIDED = 0.05
_SHOWN_HITS = 3
_SHOWN_TEXT = 100
_SHOWN_VALUE = 60
_IDENTICAL = "both sides gave the same results to the last digit."


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both sides; differences are B minus A."""

    a: float
    b: float
    difference: float
    interval: Interval | None
    """Of the difference, 95 %, two-sided; None with fewer than two groups."""
    lower_bound: float | None
    """The difference is above this, with 95 % confidence (one-sided). Where nothing lost in this sample, it allows for
    what so few observations may not have shown."""
    p_value: float
    """Of the paired randomisation test, two-sided."""
    detectable_difference: float | None
    """The smallest true difference that this comparison shows, with 80 % power at the 5 % level."""


@dataclass(frozen=True)
class ChangedQuery:
    """One query whose value changed, with what both sides found."""

    id: str
    text: str
    a: float
    b: float
    hits_a: tuple[Hit, ...]
    hits_b: tuple[Hit, ...]
    first_relevant_a: int | None
    """Rank of the first relevant document, None where none was found."""
    first_relevant_b: int | None

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a


@dataclass(frozen=True)
class PairedComparison:
    """The verdict on B, measured against A on the same queries or pairs."""

    verdict: Verdict
    metric: str
    """What the verdict is about."""
    margin: float | None
    """The share of A's value that B may lose; None where none was stated."""
    metrics: Mapping[str, MetricDifference]
    name_a: str
    name_b: str
    observations: int
    """Queries, or pairs."""
    groups: int
    grouped_by: str
    identical: bool
    """Whether both sides gave the same results to the last digit; then nothing is left to chance."""
    improved: int
    """Queries with a larger value in B, or pairs that B ranks more like people did."""
    worsened: int
    differences: tuple[FieldDifference, ...] = ()
    """In what the two records differ: identity and numerics."""
    changed: tuple[ChangedQuery, ...] = ()
    """The queries that changed most; empty for scored pairs."""
    notes: tuple[str, ...] = ()

    @property
    def result(self) -> MetricDifference:
        """The metric that the verdict is about."""
        return self.metrics[self.metric]

    @property
    def within_margin(self) -> bool | None:
        """Whether it is shown that B loses at most the margin; None where no margin was stated."""
        if self.margin is None:
            return None
        bound = self.result.lower_bound
        return self.identical or (bound is not None and bound >= -self.margin * abs(self.result.a))

    @property
    def is_acceptable(self) -> bool:
        """With a margin: it is shown that B loses no more. Without one: it is not shown that B is worse."""
        return self.verdict != "worse" if self.margin is None else self.verdict in ("better", "equivalent")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "within_margin": self.within_margin, "is_acceptable": self.is_acceptable}

    def to_text(self, texts: Mapping[str, str] | None = None) -> str:
        """Return the comparison to read.

        Args:
            texts: Document id -> text, to be shown beside the hits.
        """
        found = self.result
        lines = [
            f"VERDICT {self.verdict}: {self._reason()}",
            f"  {self.metric} {figure(found.a)} -> {figure(found.b)}  {_difference_words(found)}",
            f"A  {self.name_a}",
            f"B  {self.name_b}",
            *(f"   {field}" for field in self._fields()),
            "",
            *table(
                [
                    ("metric", "A", "B", "B - A", "95 % interval", "randomisation"),
                    *(
                        (
                            name,
                            figure(item.a),
                            figure(item.b),
                            figure(item.difference, signed=True),
                            interval_words(item.interval, signed=True),
                            p_value_words(item.p_value),
                        )
                        for name, item in self.metrics.items()
                    ),
                ]
            ),
            "",
            self._basis(),
        ]
        for query in self.changed:
            lines += ["", *_changed_lines(query, texts or {})]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _fields(self) -> list[str]:
        """Return what differs between the two, both sides of it."""

        def shown(value: Any) -> str:
            return shortened(json.dumps(value, ensure_ascii=False, default=str), _SHOWN_VALUE)

        return [f"{item.field}: {shown(item.left)} -> {shown(item.right)}" for item in self.differences]

    def _basis(self) -> str:
        noun = ("pair", "pairs") if self.grouped_by == "pair" else ("query", "queries")
        grouped = ""
        if self.grouped_by not in ("query", "pair"):
            grouped = f" in {many(self.groups, 'group')} ({self.grouped_by})"
        same = self.observations - self.improved - self.worsened
        detectable = self.result.detectable_difference
        shows = "" if detectable is None else f" This comparison shows true differences from {figure(detectable)} on."
        counted = f"{self.improved:,} better in B, {self.worsened:,} worse, {same:,} as before"
        return f"{many(self.observations, *noun)}{grouped}: {counted}.{shows}"

    def _reason(self) -> str:
        found = self.result
        if self.verdict == "better":
            return "the whole interval of the difference is above 0."
        if self.identical:
            return _IDENTICAL
        if found.interval is None:
            return "a single group of queries shows nothing of others."
        loss = f"a loss of at most {100 * (self.margin or 0):g} %"
        if self.margin is None:
            words = {
                "worse": "the whole interval of the difference is below 0.",
                "equivalent": _IDENTICAL,
                "undecided": "the interval holds 0: these queries are too few to tell a difference of this size.",
            }
            return words[self.verdict]
        bound = f"the lower bound (95 %) is {figure(found.lower_bound or 0.0, signed=True)}"
        allowed = f"{figure(-self.margin * abs(found.a), signed=True)} is allowed"
        if self.verdict == "equivalent":
            return f"{loss} is shown: {bound}, {allowed}."
        if self.verdict == "worse":
            return f"{loss} is not shown, and B is worse: {bound}, {allowed}."
        return f"{loss} is not shown: {bound}, {allowed}. These queries are too few to tell."


def compare(
    a: Evaluated | Path | str,
    b: Evaluated | Path | str,
    *,
    metric: str | None = None,
    margin: float | None = None,
    changed: int = 10,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare two evaluations of the same queries, judgements and corpus.

    The paired differences are tested by randomisation and resampled for the interval, both by the groups of the
    evaluation. Verdicts:

    - better: the 95 % interval of B - A is above 0.
    - equivalent: B loses at most `margin` of A's value; it is the lower bound of the difference (95 %, one-sided) that
      says so, never the mean. With or without one: both gave the same results to the last digit.
    - worse: the interval is below 0, and the margin, if any, is not kept.
    - undecided: these queries are too few to tell.

    Args:
        a: The reference: an evaluation, or the file of a saved one.
        b: What is compared with it.
        metric: What the verdict is about; the first metric of `a` if not given.
        margin: The share of A's value that B may lose, 0.01 for 1 %.
        changed: How many of the queries that changed most to return.
        resamples: How often to resample, and how many sign patterns to draw.
        seed: The same seed gives the same figures.

    Raises:
        InputError: the two were evaluated on different data, or have no metric in common; or a file cannot be read.
    """
    left, right = (_loaded(side, name) for side, name in ((a, "a"), (b, "b")))
    require_margin(margin)
    if isinstance(left, RetrievalEvaluation) and isinstance(right, RetrievalEvaluation):
        return _compare_retrieval(left, right, metric, margin, changed, resamples, seed)
    if isinstance(left, PairsEvaluation) and isinstance(right, PairsEvaluation):
        return _compare_pairs(left, right, metric, margin, resamples, seed)
    raise InputError("One side was evaluated on a corpus with queries, the other on scored pairs; nothing to compare.")


def require_margin(margin: float | None) -> None:
    """Raise where a margin is no share.

    Raises:
        InputError: it is below 0, or not below 1.
    """
    if margin is not None and not 0 <= margin < 1:
        raise InputError(f"The margin is {margin}.\n  Allowed: a share from 0 up to 1; 0.01 is 1 %.")


def _loaded(side: Any, name: str) -> Evaluated:
    if isinstance(side, (str, Path)):
        return load_evaluation(side)
    if not isinstance(side, (RetrievalEvaluation, PairsEvaluation)):
        raise InputError(
            f"{name} is {type(side).__name__}; compare takes evaluations of quality, or files of them.\n"
            "  Fidelity to a reference is no quality and cannot be compared as one.\n"
            "  Use evaluate(model, corpus, queries, qrels)."
        )
    return side


def _common_metrics(a: Evaluated, b: Evaluated, metric: str | None) -> tuple[str, list[str]]:
    common = [name for name in a.metrics if name in b.metrics]
    if metric is None and common:
        metric = common[0]
    if metric not in common:
        raise InputError(
            f"The metric {metric or ''} is not in both evaluations.\n"
            f"  A has {', '.join(a.metrics)}; B has {', '.join(b.metrics)}."
        )
    return metric, [metric, *(name for name in common if name != metric)]


def _require_same_data(a: Evaluated, b: Evaluated, what: Sequence[tuple[str, set[str], set[str]]]) -> None:
    for noun, left, right in what:
        if left != right:
            only = sorted(left ^ right)
            raise InputError(
                f"The two were evaluated on different {noun}: {len(left - right):,} only in A, {len(right - left):,} "
                f'only in B, among them "{only[0]}".\n  Evaluate both on the same data.'
            )
    if a.data.digest != b.data.digest:
        raise InputError(
            "The two were evaluated on different data: texts, judgements or the corpus differ.\n"
            "  Evaluate both on the same files."
        )


def _compare_retrieval(
    a: RetrievalEvaluation,
    b: RetrievalEvaluation,
    metric: str | None,
    margin: float | None,
    changed: int,
    resamples: int,
    seed: int,
) -> PairedComparison:
    of_a, of_b = ({query.id: query for query in side.queries} for side in (a, b))
    _require_same_data(a, b, [("queries", set(of_a), set(of_b))])
    if a.settings.get("relevance_level") != b.settings.get("relevance_level"):
        raise InputError("The two were evaluated with different relevance levels.\n  Evaluate both with the same one.")
    metric, names = _common_metrics(a, b, metric)
    pairs = [(query, of_b[query.id]) for query in a.queries]
    groups = Groups([left.group for left, _ in pairs])
    values = np.array([[[side.values[name] for name in names] for side in pair] for pair in pairs], dtype=np.float64)
    differences = values[:, 1] - values[:, 0]
    resampled = bootstrap(differences, groups, resamples=resamples, seed=seed)
    identical = all(left.values == right.values and left.hits == right.hits != () for left, right in pairs)
    found = {
        name: _difference(a[name], b[name], resampled[at], differences[:, at], groups, resamples, seed)
        for at, name in enumerate(names)
    }
    most = sorted(
        (pair for pair in pairs if pair[0].values[metric] != pair[1].values[metric]),
        key=lambda pair: (-abs(pair[1].values[metric] - pair[0].values[metric]), pair[0].id),
    )
    return PairedComparison(
        verdict=_verdict(found[metric], margin, identical=identical),
        metric=metric,
        margin=margin,
        metrics=found,
        name_a=a.model.title,
        name_b=b.model.title,
        observations=len(pairs),
        groups=groups.count,
        grouped_by=a.data.grouped_by,
        identical=identical,
        improved=int((differences[:, 0] > 0).sum()),
        worsened=int((differences[:, 0] < 0).sum()),
        changed=tuple(
            ChangedQuery(
                id=left.id,
                text=left.text,
                a=left.values[metric],
                b=right.values[metric],
                hits_a=left.hits,
                hits_b=right.hits,
                first_relevant_a=left.first_relevant,
                first_relevant_b=right.first_relevant,
            )
            for left, right in most[:changed]
        ),
        differences=_record_differences(a, b),
        notes=_notes(a, b),
    )


def _compare_pairs(
    a: PairsEvaluation, b: PairsEvaluation, metric: str | None, margin: float | None, resamples: int, seed: int
) -> PairedComparison:
    _require_same_data(a, b, [])
    metric, _ = _common_metrics(a, b, metric)
    scores = np.array([pair.score for pair in a.pairs])
    left, right = (np.array([pair.similarity for pair in side.pairs]) for side in (a, b))
    of_a, of_b = WeightedSpearman(scores, left), WeightedSpearman(scores, right)
    groups = Groups([pair.id for pair in a.pairs])
    resampled = bootstrap_statistic(
        lambda weights: of_b(weights) - of_a(weights), groups, resamples=resamples, seed=seed
    )[0]
    # Spearman's correlation is the mean of these products: to exchange both sides' ranks of a pair flips a sign.
    differences = rank_products(scores, right) - rank_products(scores, left)
    identical = bool((left == right).all())
    found = _difference(a[SPEARMAN], b[SPEARMAN], resampled, differences, groups, resamples, seed)
    return PairedComparison(
        verdict=_verdict(found, margin, identical=identical),
        metric=metric,
        margin=margin,
        metrics={metric: found},
        name_a=a.model.title,
        name_b=b.model.title,
        observations=len(a.pairs),
        groups=groups.count,
        grouped_by="pair",
        identical=identical,
        improved=int((differences > 0).sum()),
        worsened=int((differences < 0).sum()),
        differences=_record_differences(a, b),
        notes=_notes(a, b),
    )


def _difference(
    a: float, b: float, resampled: Resampled, differences: Floats, groups: Groups, resamples: int, seed: int
) -> MetricDifference:
    enough = groups.count > 1
    interval = resampled.interval()
    lower = resampled.bound(_ONE_SIDED) if enough else None
    if lower is not None and interval is not None and interval.low <= 0 and not (differences < 0).any():
        # No observation lost: a share that so few may not have shown could lose all it has.
        lower = min(lower, -unseen_share(len(differences)) * abs(a))
    return MetricDifference(
        a=a,
        b=b,
        difference=b - a,
        interval=interval,
        lower_bound=lower,
        p_value=randomization_test(differences, groups, flips=resamples, seed=seed),
        detectable_difference=detectable_difference(resampled.standard_error, groups.count) if enough else None,
    )


def _verdict(found: MetricDifference, margin: float | None, *, identical: bool) -> Verdict:
    if identical:
        return "equivalent"
    if found.interval is None or found.lower_bound is None:
        return "undecided"
    if found.interval.low > 0:
        return "better"
    if margin is not None and found.lower_bound >= -margin * abs(found.a):
        return "equivalent"
    return "worse" if found.interval.high < 0 else "undecided"


def _record_differences(a: Evaluated, b: Evaluated) -> tuple[FieldDifference, ...]:
    if a.model.record is None or b.model.record is None:
        return ()
    from embedprefs.record import Record

    return Record.from_json(a.model.record).compare(Record.from_json(b.model.record)).differences


def _notes(a: Evaluated, b: Evaluated) -> tuple[str, ...]:
    notes = []
    if a.model.fingerprint is not None and a.model.fingerprint == b.model.fingerprint:
        notes.append("Both sides have one fingerprint: they differ at most in how the vectors were computed.")
    few = few_groups_note(a.data.groups, "pair" if isinstance(a, PairsEvaluation) else "group")
    return (*notes, few) if few else tuple(notes)


def _difference_words(found: MetricDifference) -> str:
    interval = interval_words(found.interval, signed=True)
    return f"{figure(found.difference, signed=True)}  95 % interval {interval}  {p_value_words(found.p_value)}"


def _changed_lines(query: ChangedQuery, texts: Mapping[str, str]) -> list[str]:
    change = f"{figure(query.difference, signed=True)} ({figure(query.a)} -> {figure(query.b)})"
    lines = [f"{change}  {query.id}  {shortened(query.text, _SHOWN_TEXT)}"]
    sides = (("A", query.hits_a, query.first_relevant_a), ("B", query.hits_b, query.first_relevant_b))
    for name, hits, relevant in sides:
        for rank, hit in enumerate(hits, start=1):
            if rank <= _SHOWN_HITS or rank == relevant:
                mark = "*" if rank == relevant else " "
                text = shortened(texts.get(hit.id, ""), _SHOWN_TEXT)
                lines.append(f"  {name} {rank:>3}{mark} {hit.id}  {text}".rstrip())
        if relevant is None or relevant > len(hits):
            where = (
                "found none that is relevant" if relevant is None else f"the first relevant one is at rank {relevant}"
            )
            lines.append(f"  {name}   …  {where}")
    return lines
