"""Retrieval quality: exact search over the whole corpus, metrics of every query, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from embedprefs.errors import InputError
from embedprefs.evaluation.index import (
    AUTO,
    CorpusIndex,
    Duplicates,
    MissingDocuments,
    group_queries,
    index_corpus,
)
from embedprefs.evaluation.lines import Problems
from embedprefs.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metrics, score
from embedprefs.evaluation.results import (
    EvaluatedData,
    EvaluatedModel,
    Hit,
    MetricResult,
    QueryResult,
    RetrievalEvaluation,
    interval_notes,
)
from embedprefs.evaluation.retrieval_data import (
    Corpus,
    CorpusSource,
    Judgements,
    QrelsSource,
    QueriesSource,
    open_corpus,
    read_qrels,
    read_queries,
    text_digest,
)
from embedprefs.evaluation.search import ExactSearch, Found
from embedprefs.evaluation.statistics import DEFAULT_RESAMPLES, Groups, bootstrap
from embedprefs.evaluation.vectors import EmbeddingModel, VectorForm, chunks, encode_all
from embedprefs.evaluation.wording import many

__all__ = ["Progress", "Rankings", "RetrievalTask", "evaluate", "evaluate_rankings"]

#: Called with the texts that are embedded and with those there are.
Progress = Callable[[int, int], None]
Rankings = Mapping[str, Mapping[str, float] | Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class _Settings:
    metrics: tuple[Metric, ...]
    relevance_level: int
    keep_hits: int
    resamples: int
    seed: int
    group_by: str

    def __post_init__(self) -> None:
        least = {"relevance_level": 1, "keep_hits": 0, "resamples": 100}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(f"{name} is {getattr(self, name)}.\n  Allowed: a whole number from {lowest}.")

    @property
    def depth(self) -> int:
        """How many hits of a query are needed."""
        return max(self.keep_hits, *(metric.k for metric in self.metrics))


def evaluate(
    model: EmbeddingModel,
    corpus: CorpusSource,
    queries: QueriesSource,
    qrels: QrelsSource,
    *,
    metrics: Iterable[str] = DEFAULT_METRICS,
    group_by: str = AUTO,
    relevance_level: int = 1,
    duplicates: Duplicates = "merge",
    missing_documents: MissingDocuments = "error",
    keep_hits: int = 10,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> RetrievalEvaluation:
    """Measure how well a model finds the documents that were judged relevant.

    Every query is compared with every document, as the vectors' form asks for; no index is in between. The corpus is
    read twice and embedded a chunk at a time: memory holds ids, the queries' vectors and the best hits, no texts. Of
    equal scores the larger id comes first, as in trec_eval. A document that is the query itself, by id and text, is no
    hit of it.

    Args:
        model: What `load_model` returned, or anything with `encode_query` and `encode_document`.
        corpus: corpus.jsonl of the BEIR layout (`_id`, `title`, `text`), or a mapping from id to text or record. Title
            and text are joined by a space.
        queries: queries.jsonl (`_id`, `text`), or a mapping from id to text. Those without judgements are left out.
        qrels: qrels.tsv, or a mapping from query id to a mapping from document id to grade.
        metrics: `ndcg@K`, `mrr@K`, `recall@K`, `map@K`; the first is the one that verdicts are about.
        group_by: By what queries are resampled: a field of the corpus that names the source document, "query", or
            "auto": the source where the corpus says it, else the relevant document.
        relevance_level: From which grade on a document is relevant, for MRR, Recall and MAP.
        duplicates: "merge" takes documents with one text as one, with the best of their grades; "keep" does not.
        missing_documents: "error" refuses relevant documents that are not in the corpus; "count" counts them as
            relevant and not found.
        keep_hits: How many hits of each query to keep.
        resamples: How often to resample for the intervals.
        seed: The same seed gives the same intervals.
        progress: Called with the texts that are embedded and with all of them.

    Raises:
        InputError: files are absent, lines of them are wrong (all are named), or they do not fit together.
    """
    task = RetrievalTask.read(
        corpus,
        queries,
        qrels,
        metrics=metrics,
        group_by=group_by,
        relevance_level=relevance_level,
        duplicates=duplicates,
        missing_documents=missing_documents,
        keep_hits=keep_hits,
        resamples=resamples,
        seed=seed,
    )
    return task.evaluate(model, progress)


@dataclass(frozen=True)
class RetrievalTask:
    """Corpus, queries and judgements that were read and fit together; any number of models can be evaluated on them."""

    corpus: Corpus
    queries: Mapping[str, str]
    """The judged ones."""
    judgements: Judgements
    index: CorpusIndex
    settings: _Settings
    unjudged: int
    """Queries that were left out."""

    @classmethod
    def read(
        cls,
        corpus: CorpusSource,
        queries: QueriesSource,
        qrels: QrelsSource,
        *,
        metrics: Iterable[str] = DEFAULT_METRICS,
        group_by: str = AUTO,
        relevance_level: int = 1,
        duplicates: Duplicates = "merge",
        missing_documents: MissingDocuments = "error",
        keep_hits: int = 10,
        resamples: int = DEFAULT_RESAMPLES,
        seed: int = 0,
    ) -> Self:
        """Read everything once, without a model; arguments and errors are those of `evaluate`."""
        settings = _Settings(parse_metrics(metrics), relevance_level, keep_hits, resamples, seed, group_by)
        documents, judgements = open_corpus(corpus), read_qrels(qrels)
        texts, unjudged = _judged_queries(read_queries(queries), judgements)
        index = index_corpus(
            documents,
            texts,
            judgements,
            duplicates=duplicates,
            missing_documents=missing_documents,
            group_by=group_by,
        )
        group_queries(judgements, index, group_by)  # what cannot be grouped is refused before a model is loaded
        return cls(documents, texts, judgements, index, settings, unjudged)

    @property
    def digest(self) -> str:
        """Stands for texts and judgements; evaluations of one digest can be compared."""
        return _data_digest(self.queries, self.judgements, self.index)

    def evaluate(self, model: EmbeddingModel, progress: Progress | None = None) -> RetrievalEvaluation:
        """Evaluate one model."""
        found = _search(model, self.corpus, self.index, self.queries, self.settings.depth, progress)
        described, notes = EvaluatedModel.of(model)
        if self.unjudged:
            notes = (*notes, f"{many(self.unjudged, 'query', 'queries')} without judgements left out.")
        return _evaluation(described, found, self.queries, self.judgements, self.index, self.settings, notes)


def evaluate_rankings(
    rankings: Rankings,
    qrels: QrelsSource,
    *,
    queries: QueriesSource | None = None,
    corpus: CorpusSource | None = None,
    name: str = "rankings",
    metrics: Iterable[str] = DEFAULT_METRICS,
    group_by: str = AUTO,
    relevance_level: int = 1,
    keep_hits: int = 10,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> RetrievalEvaluation:
    """Measure rankings that something else made: a vector database, a search engine.

    Args:
        rankings: Query id -> documents with scores, larger is nearer. A judged query without a ranking found nothing.
        qrels: As for `evaluate`.
        queries: Texts of the queries, to be shown.
        corpus: Where given, sources are read from it, and relevant documents have to be in it.
        name: What to call where the rankings come from.
        metrics: As for `evaluate`.
        group_by: As for `evaluate`.
        relevance_level: As for `evaluate`.
        keep_hits: As for `evaluate`.
        resamples: As for `evaluate`.
        seed: As for `evaluate`.

    Raises:
        InputError: as `evaluate`; also where a ranking holds a document twice or a score that is no number.
    """
    settings = _Settings(parse_metrics(metrics), relevance_level, keep_hits, resamples, seed, group_by)
    judgements = read_qrels(qrels)
    texts = dict.fromkeys(judgements.grades, "")
    if queries is not None:
        texts = _judged_queries(read_queries(queries), judgements)[0]
    index = None
    if corpus is not None:
        index = index_corpus(open_corpus(corpus), texts, judgements, duplicates="keep", group_by=group_by)
    found = {query: _ranked(query, rankings.get(query, ()))[: settings.depth] for query in texts}
    unknown = len(rankings.keys() - texts.keys())
    notes = (f"{many(unknown, 'ranking')} of queries without judgements left out.",) if unknown else ()
    model = EvaluatedModel(name, precision="unknown", similarity="unknown")
    return _evaluation(model, found, texts, judgements, index, settings, notes)


def _ranked(query: str, ranking: Mapping[str, float] | Sequence[tuple[str, float]]) -> Found:
    pairs = list(ranking.items()) if isinstance(ranking, Mapping) else list(ranking)
    if len({document for document, _ in pairs}) != len(pairs):
        raise InputError(f'The ranking of query "{query}" holds a document twice.\n  Leave one of them out.')
    if not all(np.isfinite(score) for _, score in pairs):
        raise InputError(f'The ranking of query "{query}" holds a score that is NaN or infinite.')
    return sorted(((str(document), float(score)) for document, score in pairs), key=_best_first, reverse=True)


def _best_first(pair: tuple[str, float]) -> tuple[float, str]:
    return pair[1], pair[0]


def _judged_queries(queries: Mapping[str, str], judgements: Judgements) -> tuple[dict[str, str], int]:
    """Return the judged queries in the order of the judgements, and how many others there are."""
    problems = Problems()
    for query, documents in judgements.grades.items():
        if query not in queries:
            lines = [judgements.lines.get((query, document)) for document in documents]
            problems.add(judgements.name, lines[0] if lines else None, f'query "{query}" is not among the queries.')
    problems.raise_if_any()
    return {query: queries[query] for query in judgements.grades}, len(queries) - len(judgements.grades)


def _search(
    model: EmbeddingModel,
    corpus: Corpus,
    index: CorpusIndex,
    queries: Mapping[str, str],
    depth: int,
    progress: Progress | None,
) -> dict[str, Found]:
    """Return the hits of each query; the corpus is embedded a chunk at a time."""
    total, done = len(queries) + len(index.ids), 0

    def embedded(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    form = VectorForm.of(model)
    rows = {query: row for row, query in enumerate(queries)}
    search = ExactSearch(
        form,
        encode_all(model.encode_query, list(queries.values()), form, done=embedded),
        index.ids,
        depth,
        left_out={rows[query]: query for query in index.own_text},
    )
    documents = (document for document in corpus if document.id not in index.same_as)
    for chunk in chunks(documents, model, length=lambda document: len(document.text)):
        search.add([document.id for document in chunk], model.encode_document([document.text for document in chunk]))
        embedded(len(chunk))
    return dict(zip(queries, search.found(), strict=True))


def _evaluation(
    model: EvaluatedModel,
    found: Mapping[str, Found],
    queries: Mapping[str, str],
    judgements: Judgements,
    index: CorpusIndex | None,
    settings: _Settings,
    notes: tuple[str, ...],
) -> RetrievalEvaluation:
    grades = {query: _searched_grades(judgements.grades[query], index) for query in queries}
    groups, grouped_by = group_queries(judgements, index, settings.group_by)
    results = tuple(
        _query_result(query, text, groups[query], found[query], grades[query], settings)
        for query, text in queries.items()
    )
    names = [str(metric) for metric in settings.metrics]
    values = np.array([[result.values[name] for name in names] for result in results])
    labels = Groups([result.group for result in results])
    resampled = bootstrap(values, labels, resamples=settings.resamples, seed=settings.seed)
    found_metrics = {name: MetricResult.of(item) for name, item in zip(names, resampled, strict=True)}
    data = EvaluatedData(
        digest=_data_digest(queries, judgements, index),
        documents=len(index.ids) if index is not None else None,
        queries=len(queries),
        judgements=judgements.count,
        grouped_by=grouped_by,
        groups=labels.count,
    )
    return RetrievalEvaluation(
        model=model,
        data=data,
        metrics=found_metrics,
        queries=results,
        notes=(*notes, *_notes(grades, index, found_metrics, settings)),
        settings={
            "seed": settings.seed,
            "resamples": settings.resamples,
            "relevance_level": settings.relevance_level,
            "depth": settings.depth,
        },
    )


def _searched_grades(documents: Mapping[str, int], index: CorpusIndex | None) -> dict[str, int]:
    """Return the grades of documents as they are searched: those with one text have the best of theirs."""
    grades: dict[str, int] = {}
    for document, grade in documents.items():
        known = index.searched(document) if index is not None else document
        grades[known] = max(grade, grades.get(known, grade))
    return grades


def _query_result(
    query: str, text: str, group: str, found: Found, grades: Mapping[str, int], settings: _Settings
) -> QueryResult:
    gains = [grades.get(document, 0) for document, _ in found]
    level = settings.relevance_level
    values = {str(metric): score(metric, gains, grades.values(), relevance_level=level) for metric in settings.metrics}
    first = next((rank for rank, grade in enumerate(gains, start=1) if grade >= level), None)
    hits = tuple(
        Hit(document, value, grade)
        for (document, value), grade in zip(found[: settings.keep_hits], gains, strict=False)
    )
    return QueryResult(query, text, group, values, hits, first)


def _data_digest(queries: Mapping[str, str], judgements: Judgements, index: CorpusIndex | None) -> str:
    judged = sorted(
        (query, document, str(grade))
        for query, documents in judgements.grades.items()
        for document, grade in documents.items()
    )
    parts = [part for judgement in judged for part in judgement]
    texts = [part for query in sorted(queries) for part in (query, queries[query])]
    return text_digest(index.digest if index is not None else "", *texts, *parts).hex()


def _notes(
    grades: Mapping[str, Mapping[str, int]],
    index: CorpusIndex | None,
    metrics: Mapping[str, MetricResult],
    settings: _Settings,
) -> list[str]:
    notes = []
    if index is not None and index.same_as:
        notes.append(f"{many(len(index.same_as), 'document')} with the text of another one counted as that one.")
    if index is not None and index.empty:
        notes.append(f"{many(index.empty, 'document')} without text, embedded as they are.")
    level = settings.relevance_level
    hopeless = sum(not any(grade >= level for grade in documents.values()) for documents in grades.values())
    if hopeless:
        notes.append(f"{many(hopeless, 'query', 'queries')} without a relevant document, for which every model gets 0.")
    if index is not None:
        known = set(index.ids)
        missing = sum(
            grade > 0 and doc not in known for documents in grades.values() for doc, grade in documents.items()
        )
        if missing:
            notes.append(f"{many(missing, 'relevant document')} not in the corpus, counted as not found.")
    return [*notes, *interval_notes(metrics)]
