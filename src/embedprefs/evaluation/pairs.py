"""Scored pairs: how well similarities follow what people said of pairs of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InputError
from embedprefs.evaluation.lines import Problems, json_type, read_csv, read_jsonl, require_file, required_text
from embedprefs.evaluation.results import (
    EvaluatedData,
    EvaluatedModel,
    MetricResult,
    PairResult,
    PairsEvaluation,
    few_groups_note,
)
from embedprefs.evaluation.retrieval import Progress
from embedprefs.evaluation.retrieval_data import text_digest
from embedprefs.evaluation.statistics import DEFAULT_RESAMPLES, Groups, bootstrap_statistic
from embedprefs.evaluation.vectors import EmbeddingModel, VectorForm
from embedprefs.evaluation.wording import many

__all__ = ["PairsSource", "WeightedSpearman", "evaluate_pairs", "rank_products", "read_pairs", "spearman"]

Floats = npt.NDArray[np.float64]
Pair = tuple[str, str, float]
PairsSource = Sequence[tuple[str, str, float] | Mapping[str, Any]] | Path | str

SPEARMAN = "spearman"
_FIELDS = ("sentence1", "sentence2", "score")
_PAIRS_AT_A_TIME = 1024


def evaluate_pairs(
    model: EmbeddingModel,
    pairs: PairsSource,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairsEvaluation:
    """Measure how well a model's similarities rank pairs of texts as people did (Spearman's rank correlation).

    Both texts are embedded as documents: neither asks for the other. Equal values share the mean of their ranks.

    Args:
        model: What `load_model` returned, or anything with `encode_document`.
        pairs: A .jsonl or .csv file with `sentence1`, `sentence2` and `score`, or a list of such records or tuples.
        resamples: How often to resample for the interval.
        seed: The same seed gives the same interval.
        progress: Called with the texts that are embedded and with all of them.

    Raises:
        InputError: the file is absent, lines of it are wrong (all are named), or there are fewer than three pairs.
    """
    known = read_pairs(pairs)
    form = VectorForm.of(model)
    similarities: list[float] = []
    remaining = iter(known)
    while part := list(islice(remaining, _PAIRS_AT_A_TIME)):
        # Both sides in one call: a text that is in many pairs is computed once.
        rows = form.prepared(model.encode_document([text for first, second, _ in part for text in (first, second)]))
        similarities += [
            float(form.scores(rows[at : at + 1], rows[at + 1 : at + 2])[0, 0]) for at in range(0, len(rows), 2)
        ]
        if progress is not None:
            progress(2 * len(similarities), 2 * len(known))
    results = tuple(
        PairResult(str(number), first, second, score, similarity)
        for number, ((first, second, score), similarity) in enumerate(zip(known, similarities, strict=True), start=1)
    )
    described, notes = EvaluatedModel.of(model)
    return PairsEvaluation(
        model=described,
        data=EvaluatedData(
            digest=text_digest(*(part for pair in known for part in (pair[0], pair[1], repr(pair[2])))).hex(),
            documents=None,
            queries=0,
            judgements=len(known),
            grouped_by="pair",
            groups=len(known),
        ),
        metrics={SPEARMAN: _measured(results, resamples=resamples, seed=seed)},
        pairs=results,
        notes=(*notes, *_notes(results)),
        settings={"seed": seed, "resamples": resamples},
    )


def _measured(pairs: Sequence[PairResult], *, resamples: int, seed: int) -> MetricResult:
    scores, similarities = (np.array([getattr(pair, name) for pair in pairs]) for name in ("score", "similarity"))
    correlation = WeightedSpearman(scores, similarities)
    groups = Groups([pair.id for pair in pairs])
    return MetricResult.of(bootstrap_statistic(correlation, groups, resamples=resamples, seed=seed)[0])


def _notes(pairs: Sequence[PairResult]) -> list[str]:
    notes = []
    distinct = len({pair.similarity for pair in pairs})
    if distinct == 1:
        notes.append("Every pair has the same similarity, so that the correlation is taken as 0.")
    repeated = len(pairs) - len({(pair.sentence1, pair.sentence2) for pair in pairs})
    if repeated:
        notes.append(f"{many(repeated, 'pair')} repeated.")
    few = few_groups_note(len(pairs), "pair")
    return [*notes, few] if few else notes


def read_pairs(source: PairsSource) -> list[Pair]:
    """Return scored pairs from a .jsonl or .csv file, or from records.

    Raises:
        InputError: the file is absent, lines of it are wrong (all are named), or there are fewer than three pairs
            or a single score.
    """
    problems = Problems()
    records: Iterable[tuple[tuple[str, int | None], Any]]
    if isinstance(source, (str, Path)):
        path = Path(source)
        name = str(path)
        require_file(path, "the scored pairs")
        reader = {".jsonl": read_jsonl, ".json": read_jsonl, ".csv": read_csv}.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path}: scored pairs are read from .jsonl and .csv files.", file=path)
        records = (((name, line), record) for line, record in reader(path, problems))
    else:
        name = "pairs"
        records = (((name, number), record) for number, record in enumerate(source, start=1))
    pairs = [pair for place, record in records if (pair := _pair(record, place, problems)) is not None]
    problems.raise_if_any()
    if len(pairs) < 3 or len({score for *_, score in pairs}) == 1:
        raise InputError(
            f"{name}: {many(len(pairs), 'pair')} with {many(len({score for *_, score in pairs}), 'distinct score')}; a "
            "correlation needs at least three pairs and two scores."
        )
    return pairs


def _pair(record: Any, place: tuple[str, int | None], problems: Problems) -> Pair | None:
    if not isinstance(record, Mapping):
        if not isinstance(record, Sequence) or isinstance(record, str) or len(record) != 3:
            problems.add(*place, "a pair is a record or a tuple of sentence1, sentence2 and score.")
            return None
        record = dict(zip(_FIELDS, record, strict=True))
    first, second = (required_text(record, name, place, problems) for name in _FIELDS[:2])
    value = record.get("score")
    try:
        score = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        shown = f'"{value}"' if isinstance(value, str) else json_type(value)
        problems.add(*place, f'"score" holds {shown}. It has to be a number.' if "score" in record else 'no "score".')
        return None
    return None if first is None or second is None else (first, second, score)


class WeightedSpearman:
    """Spearman's rank correlation of two series, for any number of times that each pair counts."""

    def __init__(self, left: Floats, right: Floats) -> None:
        self._values = [np.unique(series, return_inverse=True) for series in (left, right)]

    def ranks(self, weights: Floats) -> list[Floats]:
        """Return the mean ranks of both series; shape (pairs,) each."""
        found = []
        for values, codes in self._values:
            counts = np.bincount(codes, weights=weights, minlength=len(values))
            found.append((np.cumsum(counts) - (counts - 1) / 2)[codes])
        return found

    def __call__(self, weights: Floats) -> Floats:
        """Return the correlation, shape (1,); 0 where one series is constant."""
        left, right = (ranks - np.average(ranks, weights=weights) for ranks in self.ranks(weights))
        variances = (weights @ left**2) * (weights @ right**2)
        return np.array([weights @ (left * right) / math.sqrt(variances) if variances > 0 else 0.0])


def spearman(left: Floats, right: Floats) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks, a constant series gives 0."""
    return float(WeightedSpearman(left, right)(np.ones(len(left)))[0])


def rank_products(scores: Floats, similarities: Floats) -> Floats:
    """Return each pair's part in Spearman's correlation: the product of both standardised ranks, whose mean it is."""
    weights = np.ones(len(scores))
    standardised = []
    for ranks in WeightedSpearman(scores, similarities).ranks(weights):
        deviation = float(ranks.std())
        standardised.append((ranks - ranks.mean()) / deviation if deviation > 0 else np.zeros(len(ranks)))
    return standardised[0] * standardised[1]
