"""What an evaluation has to know of a corpus before it embeds it: ids, duplicates, sources, a digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from embedprefs.errors import InputError
from embedprefs.evaluation.lines import Problems
from embedprefs.evaluation.retrieval_data import Corpus, Judgements, text_digest

__all__ = [
    "AUTO",
    "BY_QUERY",
    "SOURCE_FIELDS",
    "CorpusIndex",
    "Duplicates",
    "MissingDocuments",
    "group_queries",
    "index_corpus",
]

Duplicates = Literal["merge", "keep"]
MissingDocuments = Literal["error", "count"]

AUTO = "auto"
BY_QUERY = "query"
#: Fields that say which document a passage was cut from, in the order in which they are looked for.
SOURCE_FIELDS = ("source_id", "document_id", "doc_id", "parent_id", "document", "source", "title")


@dataclass
class CorpusIndex:
    """What was seen in one pass over a corpus."""

    ids: list[str] = field(default_factory=list)
    """Of the documents that are searched, in the order of the corpus."""
    same_as: dict[str, str] = field(default_factory=dict)
    """Id of a document that repeats an earlier text -> id of that one."""
    empty: int = 0
    """Documents without text."""
    digest: str = ""
    """Stands for ids and texts, whatever their order."""
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    """Field -> id -> value, for the documents that are relevant to a query."""
    own_text: set[str] = field(default_factory=set)
    """Ids that are also a query's id, with the same text: the query itself."""

    def searched(self, document: str) -> str:
        """Return the id under which a document is searched."""
        return self.same_as.get(document, document)


def index_corpus(
    corpus: Corpus,
    queries: Mapping[str, str],
    judgements: Judgements,
    *,
    duplicates: Duplicates = "merge",
    missing_documents: MissingDocuments = "error",
    group_by: str = AUTO,
) -> CorpusIndex:
    """Read a corpus once, keeping no texts.

    Args:
        corpus: The documents.
        queries: The judged queries.
        judgements: Whose documents have to be in the corpus.
        duplicates: merge: documents with one text are one document; keep: they are as many as they are.
        missing_documents: What becomes of relevant documents that the corpus does not hold.
        group_by: A field to read in any case.

    Raises:
        InputError: an id stands there twice, relevant documents are missing, or there are no documents.
    """
    relevant = {doc for documents in judgements.grades.values() for doc, grade in documents.items() if grade > 0}
    fields = SOURCE_FIELDS if group_by in (AUTO, BY_QUERY) else (group_by,)
    found, problems = CorpusIndex(sources={name: {} for name in fields}), Problems()
    first: dict[bytes, str] = {}
    lines: dict[str, int | None] = {}
    total = 0
    for document in corpus:
        if document.id in lines:
            earlier = lines[document.id]
            where = f" (line {earlier})" if earlier is not None else ""
            problems.add(corpus.name, document.line, f'the id "{document.id}" stands there already{where}.')
            continue
        lines[document.id] = document.line
        found.empty += not document.text.strip()
        total = (total + int.from_bytes(text_digest(document.id, document.text))) % 2**128
        same = first.setdefault(text_digest(document.text), document.id) if duplicates == "merge" else document.id
        if same == document.id:
            found.ids.append(document.id)
        else:
            found.same_as[document.id] = same
        if queries.get(document.id) in (document.text, document.fields.get("text")) and document.id in queries:
            found.own_text.add(document.id)
        if document.id in relevant:
            for name in fields:
                if (value := _field(document.fields, name)) is not None:
                    found.sources[name][document.id] = value
    problems.raise_if_any()
    if not found.ids:
        raise InputError(f"{corpus.name}: there are no documents.")
    if missing_documents == "error":
        _require_all(judgements, lines.keys(), corpus.name)
    found.digest = f"{total:032x}"
    return found


def _field(record: Mapping[str, Any], name: str) -> str | None:
    """Return a field of a record or of its metadata as text; None where it is absent or empty."""
    metadata = record.get("metadata")
    value = record.get(name, metadata.get(name) if isinstance(metadata, Mapping) else None)
    return None if value is None or isinstance(value, (dict, list)) or not str(value).strip() else str(value)


def _require_all(judgements: Judgements, known: Iterable[str], corpus: str) -> None:
    known = set(known)
    problems = Problems()
    for query, documents in judgements.grades.items():
        for document, grade in documents.items():
            if grade > 0 and document not in known:
                problems.add(
                    judgements.name,
                    judgements.lines.get((query, document)),
                    f'document "{document}", relevant to query "{query}", is not in {corpus}. Complete the corpus, or '
                    "count such documents as not found (missing documents: count).",
                )
    problems.raise_if_any()


def group_queries(judgements: Judgements, index: CorpusIndex | None, group_by: str) -> tuple[dict[str, str], str]:
    """Return each query's group, and what the groups are.

    A query belongs to the source of its relevant documents; where they are of several, to the one that carries most of
    the relevance (of equals, the first by name). Without a source it belongs to its main relevant document, which
    several queries may share.

    Args:
        judgements: The judgements.
        index: What is known of the corpus; None where there is none.
        group_by: "auto", "query", or the name of a field of the corpus.

    Raises:
        InputError: the field that was asked for is not in every relevant document.
    """
    if group_by == BY_QUERY:
        return {query: query for query in judgements.grades}, "query"
    values = _source_values(judgements, index, group_by)
    groups = {}
    for query, documents in judgements.grades.items():
        weights: Counter[str] = Counter()
        for document, grade in documents.items():
            if grade > 0:
                own = index.searched(document) if index is not None else document
                weights[values[1].get(document, own)] += grade
        groups[query] = min(weights, key=lambda name: (-weights[name], name)) if weights else f"query {query}"
    if len(set(groups.values())) == len(groups):
        return groups, "query"
    return groups, values[0]


def _source_values(judgements: Judgements, index: CorpusIndex | None, group_by: str) -> tuple[str, Mapping[str, str]]:
    """Return what queries are grouped by, and the value of each relevant document."""
    relevant = {doc for documents in judgements.grades.values() for doc, grade in documents.items() if grade > 0}
    sources = index.sources if index is not None else {}
    if group_by != AUTO:
        values = sources.get(group_by, {})
        absent = sorted(relevant - values.keys())
        if absent:
            raise InputError(
                f'{len(absent):,} of {len(relevant):,} relevant documents have no field "{group_by}", among them '
                f'"{absent[0]}".\n  Group by another field, or by "auto" or "query".'
            )
        return group_by, values
    for name, values in sources.items():
        # A field that is different in every document names the document, no source of several.
        if len(values) == len(relevant) and len(set(values.values())) < len(values):
            return name, values
    return "relevant document", {}
