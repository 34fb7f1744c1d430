"""Evaluations as files: one JSON object a line, the summary first, then every query or pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from embedprefs.errors import InputError
from embedprefs.evaluation.lines import Problems, read_jsonl, require_file
from embedprefs.evaluation.results import (
    EvaluatedData,
    EvaluatedModel,
    Hit,
    MetricResult,
    PairResult,
    PairsEvaluation,
    QueryResult,
    RetrievalEvaluation,
)
from embedprefs.evaluation.statistics import Interval

__all__ = ["SAVED_VERSION", "load_evaluation", "save_evaluation"]

SAVED_VERSION = 1
_MARK = "embedprefs_evaluation"

Result = TypeVar("Result")


def save_evaluation(evaluation: RetrievalEvaluation | PairsEvaluation, path: Path | str) -> None:
    """Write an evaluation; the file appears in one step, and replaces one that is there."""
    from embedprefs.files import write_text

    lines = [json.dumps(line, ensure_ascii=False) for line in _lines(evaluation)]
    write_text(Path(path), "\n".join(lines) + "\n")


def _lines(evaluation: RetrievalEvaluation | PairsEvaluation) -> Iterator[dict[str, Any]]:
    yield {_MARK: SAVED_VERSION, **evaluation.to_json()}
    if isinstance(evaluation, RetrievalEvaluation):
        yield from (asdict(query) for query in evaluation.queries)
    else:
        yield from (asdict(pair) for pair in evaluation.pairs)


def load_evaluation(path: Path | str) -> RetrievalEvaluation | PairsEvaluation:
    """Read an evaluation that `save` wrote.

    Raises:
        InputError: there is no such file, it is no saved evaluation, is of a newer version, or is damaged.
    """
    path = Path(path)
    require_file(path, "a saved evaluation")
    problems = Problems()
    records = list(read_jsonl(path, problems))
    problems.raise_if_any()
    if not records or _MARK not in records[0][1]:
        raise InputError(
            f"{path}: is no saved evaluation.\n  Write one with: embedprefs evaluate DATA --output {path}", file=path
        )
    summary = records[0][1]
    if summary[_MARK] != SAVED_VERSION:
        raise InputError(
            f"{path}: a saved evaluation of version {summary[_MARK]!r}; {SAVED_VERSION} can be read here.", file=path
        )
    try:
        evaluation = _evaluation(summary, records[1:])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: the saved evaluation is damaged: {type(error).__name__}: {error}.\n  Evaluate again.", file=path
        ) from error
    _require_whole(evaluation, path)
    return evaluation


def _evaluation(
    summary: Mapping[str, Any], records: list[tuple[int, Mapping[str, Any]]]
) -> RetrievalEvaluation | PairsEvaluation:
    common: dict[str, Any] = {
        "model": _made(EvaluatedModel, summary["model"]),
        "data": _made(EvaluatedData, summary["data"]),
        "metrics": {name: _metric(value) for name, value in summary["metrics"].items()},
        "notes": tuple(summary["notes"]),
        "settings": summary["settings"],
    }
    if summary["kind"] == "pairs":
        return PairsEvaluation(pairs=tuple(_made(PairResult, record) for _, record in records), **common)
    queries = tuple(
        _made(QueryResult, {**record, "hits": tuple(_made(Hit, hit) for hit in record["hits"])})
        for _, record in records
    )
    return RetrievalEvaluation(queries=queries, **common)


def _made(kind: Callable[..., Result], values: Mapping[str, Any]) -> Result:
    """Build a value from the entries it knows; others were written by a newer version of the same format."""
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})  # type: ignore[arg-type]


def _metric(value: Mapping[str, Any]) -> MetricResult:
    interval = Interval(**value["interval"]) if value["interval"] is not None else None
    return MetricResult(value["value"], interval, value["standard_error"], value["groups"])


def _require_whole(evaluation: RetrievalEvaluation | PairsEvaluation, path: Path) -> None:
    """Raise where lines are missing or were changed, so that the queries no longer give the summary's figures."""
    if isinstance(evaluation, PairsEvaluation):
        found, stated = len(evaluation.pairs), evaluation.data.judgements
        agrees = True
    else:
        found, stated = len(evaluation.queries), evaluation.data.queries
        agrees = found > 0 and all(
            math.isclose(
                math.fsum(query.values[name] for query in evaluation.queries) / found, result.value, abs_tol=1e-9
            )
            for name, result in evaluation.metrics.items()
        )
    if found != stated or not agrees:
        reason = f"it holds {found:,} of {stated:,} results" if found != stated else "its queries give other figures"
        raise InputError(f"{path}: the saved evaluation is damaged: {reason}.\n  Evaluate again.", file=path)
