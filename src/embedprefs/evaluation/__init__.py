"""Quality on your own texts: retrieval metrics with intervals, paired comparisons, fidelity to a reference.

evaluation = evaluate(model, "corpus.jsonl", "queries.jsonl", "qrels.tsv")
print(evaluation.to_text())
print(compare(evaluation, evaluate(other_model, "corpus.jsonl", "queries.jsonl", "qrels.tsv")).verdict)
"""

from __future__ import annotations

from embedprefs.evaluation.agreement import Drift, Fidelity, fidelity, rank_biased_overlap
from embedprefs.evaluation.comparison import ChangedQuery, MetricDifference, PairedComparison, Verdict, compare
from embedprefs.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metrics, score
from embedprefs.evaluation.pairs import evaluate_pairs, read_pairs
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
from embedprefs.evaluation.retrieval import RetrievalTask, evaluate, evaluate_rankings
from embedprefs.evaluation.retrieval_data import (
    RetrievalFiles,
    find_retrieval_files,
    open_corpus,
    read_qrels,
    read_queries,
)
from embedprefs.evaluation.saved import load_evaluation
from embedprefs.evaluation.statistics import Interval
from embedprefs.evaluation.vectors import EmbeddingModel

__all__ = [
    "DEFAULT_METRICS",
    "ChangedQuery",
    "Drift",
    "EmbeddingModel",
    "EvaluatedData",
    "EvaluatedModel",
    "Fidelity",
    "Hit",
    "Interval",
    "Metric",
    "MetricDifference",
    "MetricResult",
    "PairResult",
    "PairedComparison",
    "PairsEvaluation",
    "QueryResult",
    "RetrievalEvaluation",
    "RetrievalFiles",
    "RetrievalTask",
    "Verdict",
    "compare",
    "evaluate",
    "evaluate_pairs",
    "evaluate_rankings",
    "fidelity",
    "find_retrieval_files",
    "load_evaluation",
    "open_corpus",
    "parse_metrics",
    "rank_biased_overlap",
    "read_pairs",
    "read_qrels",
    "read_queries",
    "score",
]
