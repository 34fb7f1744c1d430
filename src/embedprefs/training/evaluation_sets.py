"""What a run is judged on: sets made from the user's own rows, or files that the preferences name."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedprefs.errors import InputError
from embedprefs.evaluation import (
    DEFAULT_METRICS,
    EmbeddingModel,
    PairsEvaluation,
    RetrievalEvaluation,
    RetrievalTask,
    evaluate_pairs,
    find_retrieval_files,
    parse_metrics,
    read_pairs,
)
from embedprefs.evaluation.retrieval import Progress
from embedprefs.evaluation.retrieval_data import text_digest
from embedprefs.training.arguments import best_metric_name
from embedprefs.training.data import TrainingData

__all__ = ["EvaluationSet", "set_from_files", "set_from_rows"]

SPEARMAN = "spearman"
#: The development set is looked at several times in a run: so many texts are enough to choose a checkpoint by.
DEVELOPMENT_QUERIES = 500
DEVELOPMENT_DOCUMENTS = 1_000
_DEVELOPMENT_RESAMPLES = 100


@dataclass(frozen=True)
class EvaluationSet:
    """Queries with judgements, or scored pairs; any number of models can be evaluated on it."""

    name: str
    """As it is called in the report: `test`, `development`, `guard`."""
    metric: str
    """What a verdict is about: `ndcg@10`, or `spearman` for scored pairs."""
    task: RetrievalTask | None
    """None for scored pairs."""
    pairs: tuple[tuple[str, str, float], ...] = ()
    notes: tuple[str, ...] = ()
    """What has to be known of the set."""

    @property
    def digest(self) -> str:
        """Stands for its texts and judgements; evaluations on the set have the same."""
        if self.task is not None:
            return self.task.digest
        parts = (part for first, second, score in self.pairs for part in (first, second, repr(score)))
        return text_digest(*parts).hex()

    @property
    def size(self) -> int:
        """Queries, or scored pairs."""
        return len(self.task.queries) if self.task is not None else len(self.pairs)

    def evaluate(
        self, model: EmbeddingModel, progress: Progress | None = None
    ) -> RetrievalEvaluation | PairsEvaluation:
        """Evaluate a model on the set."""
        if self.task is not None:
            return self.task.evaluate(model, progress)
        return evaluate_pairs(model, self.pairs, progress=progress)

    def metric_name(self, similarity: str) -> str:
        """Return the name under which the trainer reports the metric."""
        return best_metric_name(self.metric, similarity, scored_pairs=self.task is None)

    def values(self, model: EmbeddingModel) -> dict[str, float]:
        """Return the value of each metric alone: for evaluations in the course of training."""
        if self.task is not None:
            found = self.task.evaluate(model)
            return {name: found[name] for name in found.metrics}
        return {SPEARMAN: evaluate_pairs(model, self.pairs, resamples=_DEVELOPMENT_RESAMPLES)[SPEARMAN]}


def set_from_rows(
    data: TrainingData,
    rows: TrainingData,
    *,
    name: Literal["development", "test"],
    metric: str,
    seed: int = 0,
) -> EvaluationSet | None:
    """Make a set from rows that are not trained on.

    - Pairs, triplets and tuples: each anchor looks for its positives among every passage of the whole data, those that
      are trained on and the negatives included.
    - Scored pairs: the scores are compared with the similarities.
    - Labelled texts: each text looks for the others of its label.

    For the development set at most 500 queries and 1,000 documents are drawn, because it is asked several times.

    Args:
        data: All rows; their passages are the corpus.
        rows: The rows of this part.
        name: Which part it is.
        metric: `ndcg@10` ...; scored pairs have Spearman's correlation.
        seed: What is drawn for the development set.

    Returns:
        The set; None where the rows cannot be judged: they have no pairs and no labels, or there are too few.
    """
    development = name == "development"
    if not len(rows):
        return None
    if rows.kind == "scored_pairs":
        first, second = rows.text_roles[:2]
        pairs = [(row[first], row[second], row["score"]) for row in rows.rows if isinstance(row["score"], float)]
        return EvaluationSet(name, SPEARMAN, None, tuple(pairs)) if len(pairs) > 2 else None
    if rows.kind == "labelled":
        corpus, queries, qrels = _same_label(rows)
    elif rows.kind == "texts":
        return None
    else:
        corpus, queries, qrels = _questions(data, rows)
    if not qrels:
        return None
    notes: tuple[str, ...] = ()
    if development:
        whole = (len(queries), len(corpus))
        corpus, queries, qrels = _drawn(corpus, queries, qrels, seed)
        if (len(queries), len(corpus)) != whole:
            drawn = f"{len(queries):,} of {whole[0]:,} queries on {len(corpus):,} of {whole[1]:,} passages"
            notes = (f"The development set is {drawn}, drawn at random.",)
    return _retrieval(name, metric, corpus, queries, qrels, development=development, notes=notes)


def set_from_files(path: Path, *, name: str, metric: str, split: str | None = None) -> EvaluationSet:
    """Read a set from a folder in the BEIR layout, or from a file of scored pairs.

    Args:
        path: Folder or file.
        name: As it is called in the report.
        metric: `ndcg@10` ...; scored pairs have Spearman's correlation.
        split: Which judgements of the folder; "test" where it has such and nothing is stated.

    Raises:
        InputError: files are absent, cannot be read, or hold no judgements.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder.", file=path)
    if not path.is_dir():
        return EvaluationSet(name, SPEARMAN, None, tuple(read_pairs(path)))
    if split is None and _has_test(path):
        split = "test"
    files = find_retrieval_files(path, split=split)
    if files.qrels is None:
        raise InputError(
            f"{path}: there are no judgements (qrels.tsv).\n  Add them, or name another folder.", file=path
        )
    task = RetrievalTask.read(files.corpus, files.queries, files.qrels, metrics=_metrics(metric))
    notes = (f"Judgements: {files.qrels.name}.",)
    return EvaluationSet(name, str(parse_metrics([metric])[0]), task, notes=notes)


def _has_test(folder: Path) -> bool:
    return (folder / "qrels" / "test.tsv").is_file() or (folder / "qrels_test.tsv").is_file()


def _metrics(metric: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((str(parse_metrics([metric])[0]), *DEFAULT_METRICS)))


def _retrieval(
    name: str,
    metric: str,
    corpus: Mapping[str, Mapping[str, Any]],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    development: bool,
    notes: tuple[str, ...],
) -> EvaluationSet:
    options: dict[str, Any] = {"metrics": _metrics(metric)}
    if development:
        options |= {
            "metrics": [metric],
            "resamples": _DEVELOPMENT_RESAMPLES,
            "keep_hits": 0,
            "group_by": "query",
        }
    task = RetrievalTask.read(corpus, queries, qrels, **options)
    return EvaluationSet(name, str(parse_metrics([metric])[0]), task, notes=notes)


Sets = tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, dict[str, int]]]


def _questions(data: TrainingData, rows: TrainingData) -> Sets:
    """Return corpus, queries and judgements of rows with an anchor and a positive."""
    corpus: dict[str, dict[str, Any]] = {}
    known: dict[str, str] = {}

    def passage(text: str, document: str | None) -> str:
        if text not in known:
            known[text] = f"p{len(known) + 1}"
            corpus[known[text]] = {"text": text} if document is None else {"text": text, "document_id": document}
        return known[text]

    roles = [role for role in data.text_roles if role != "anchor"]
    for index, row in enumerate(data.rows):
        for role in roles:
            # Of a negative nobody says which document it is from.
            passage(row[role], data.documents[index] if data.documents is not None and role == "positive" else None)
    queries: dict[str, str] = {}
    asked: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row in rows.rows:
        query = asked.setdefault(row["anchor"], f"q{len(asked) + 1}")
        queries[query] = row["anchor"]
        qrels.setdefault(query, {})[passage(row["positive"], None)] = 1
    return corpus, queries, qrels


def _same_label(rows: TrainingData) -> Sets:
    """Return corpus, queries and judgements where texts of one label answer each other."""
    corpus = {f"t{number}": {"text": row["text"]} for number, row in enumerate(rows.rows, start=1)}
    members: dict[Any, list[str]] = {}
    for identifier, row in zip(corpus, rows.rows, strict=True):
        members.setdefault(row["label"], []).append(identifier)
    queries, qrels = {}, {}
    for identifier, row in zip(corpus, rows.rows, strict=True):
        others = [other for other in members[row["label"]] if other != identifier]
        if others:
            queries[identifier] = row["text"]
            qrels[identifier] = dict.fromkeys(others, 1)
    return corpus, queries, qrels


def _drawn(
    corpus: Mapping[str, dict[str, Any]], queries: Mapping[str, str], qrels: Mapping[str, dict[str, int]], seed: int
) -> Sets:
    """Draw queries, and documents among which their answers are."""
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    asked = _sample(list(queries), DEVELOPMENT_QUERIES, chance)
    relevant = dict.fromkeys(document for query in asked for document in qrels[query])
    others = [document for document in corpus if document not in relevant]
    kept = set(relevant) | set(_sample(others, max(0, DEVELOPMENT_DOCUMENTS - len(relevant)), chance))
    return (
        {identifier: record for identifier, record in corpus.items() if identifier in kept},
        {query: queries[query] for query in asked},
        {query: qrels[query] for query in asked},
    )


def _sample(items: Sequence[str], count: int, chance: random.Random) -> Iterable[str]:
    return items if len(items) <= count else sorted(chance.sample(items, count))
