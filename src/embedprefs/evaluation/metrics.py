"""Retrieval metrics of one query, as trec_eval defines them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from embedprefs.errors import InputError

__all__ = ["DEFAULT_METRICS", "Metric", "parse_metrics", "score"]

#: What is measured unless told otherwise; the first is the one that verdicts are about.
DEFAULT_METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")

_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "recall": "Recall", "map": "MAP"}


@dataclass(frozen=True)
class Metric:
    """A metric with its cut-off: `ndcg@10`.

    - `ndcg@k`: gain of the first k over the best possible one. A document's gain is its grade, divided by
      log2(rank + 1) (Järvelin and Kekäläinen 2002, in the linear form of trec_eval and BEIR).
    - `mrr@k`: 1 / rank of the first relevant document, 0 where it is not among the first k.
    - `recall@k`: the share of all relevant documents that are among the first k.
    - `map@k`: mean of the precision at each relevant document among the first k, over all relevant documents.
    """

    name: str
    """ndcg, mrr, recall or map."""
    k: int
    """How many of the first hits count."""

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"

    @property
    def title(self) -> str:
        """The metric as one writes it: nDCG@10."""
        return f"{_NAMES[self.name]}@{self.k}"


def parse_metrics(names: Iterable[str | Metric]) -> tuple[Metric, ...]:
    """Return metrics by their names, each once, in their order.

    Raises:
        InputError: a name is no metric; the nearest one is suggested.
    """
    metrics = tuple(dict.fromkeys(name if isinstance(name, Metric) else _parsed(name) for name in names))
    if not metrics:
        raise InputError(f"No metric is named.\n  Allowed: {', '.join(f'{name}@K' for name in _NAMES)}.")
    return metrics


def _parsed(text: str) -> Metric:
    match = re.fullmatch(r"([a-z]+)@([1-9]\d*)", text.strip().lower())
    if match and match[1] in _NAMES:
        return Metric(match[1], int(match[2]))
    word, _, number = text.strip().lower().partition("@")
    near = get_close_matches(word, _NAMES, n=1)
    hint = f" Did you mean {near[0]}@{number if number.isdecimal() and int(number) else 10}?" if near else ""
    raise InputError(f'"{text}" is no metric.\n  Allowed: {", ".join(f"{name}@K" for name in _NAMES)}.{hint}')


def score(metric: Metric, found: Sequence[int], judged: Iterable[int], *, relevance_level: int = 1) -> float:
    """Return one query's value of a metric.

    Args:
        metric: The metric.
        found: Grades of the hits, best first; 0 for those that are not judged.
        judged: Grades of all judged documents of the query.
        relevance_level: From which grade on a document is relevant, for MRR, Recall and MAP; nDCG takes every
            positive grade as its gain.

    Returns:
        From 0 to 1; 0 where no document is relevant.
    """
    first = found[: metric.k]
    if metric.name == "ndcg":
        ideal = _discounted(sorted((grade for grade in judged if grade > 0), reverse=True)[: metric.k])
        return _discounted(first) / ideal if ideal else 0.0
    ranks = [rank for rank, grade in enumerate(first, start=1) if grade >= relevance_level]
    relevant = sum(grade >= relevance_level for grade in judged)
    if not ranks:
        return 0.0
    if metric.name == "mrr":
        return 1.0 / ranks[0]
    if metric.name == "recall":
        return len(ranks) / relevant
    return math.fsum(count / rank for count, rank in enumerate(ranks, start=1)) / relevant


def _discounted(grades: Sequence[int]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade > 0)
