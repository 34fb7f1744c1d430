"""How small a difference an evaluation can show, before anything is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.evaluation.index import group_queries
from embedprefs.evaluation.statistics import detectable_difference

if TYPE_CHECKING:
    from embedprefs.training.evaluation_sets import EvaluationSet

__all__ = ["ASSUMED_DEVIATION", "EvaluationPower", "evaluation_power"]

#: Standard deviation of the difference of two models' nDCG@10 for one query: the middle of what paired comparisons of
#: embedding models show (0.15 to 0.35). After a baseline, `embedprefs evaluate` says it for the model itself.
ASSUMED_DEVIATION = 0.25


@dataclass(frozen=True)
class EvaluationPower:
    """How small a difference a set of queries can show."""

    queries: int
    groups: int
    """Source documents, or relevant passages, that the queries belong to."""
    detectable: tuple[float, float]
    """Smallest true difference that is shown with 80 % power at the 5 % level: where queries of one document are
    independent, and where they all succeed or fail together. What is true lies between."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "queries": self.queries,
            "groups": self.groups,
            "detectable_difference": list(self.detectable),
            "assumed_standard_deviation": ASSUMED_DEVIATION,
        }


def evaluation_power(item: EvaluationSet | None) -> EvaluationPower | None:
    """Return how small a difference a set can show; None for scored pairs, and where there are too few queries."""
    if item is None or item.task is None:
        return None
    task = item.task
    groups, _ = group_queries(task.judgements, task.index, "auto")
    sizes = np.unique([groups[query] for query in task.queries], return_counts=True)[1].astype(np.float64)
    count = int(sizes.sum())
    if count < 2 or len(sizes) < 2:
        return None
    apart = ASSUMED_DEVIATION / math.sqrt(count)
    together = ASSUMED_DEVIATION * float(np.sqrt((sizes**2).sum())) / count
    return EvaluationPower(
        count, len(sizes), (detectable_difference(apart, count), detectable_difference(together, len(sizes)))
    )
