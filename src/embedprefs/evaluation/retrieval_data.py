"""Corpus, queries and judgements: from files in the BEIR layout, or from mappings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from embedprefs.errors import InputError
from embedprefs.evaluation.lines import Problems, json_type, read_jsonl, read_tsv, require_file, required_text

__all__ = [
    "Corpus",
    "CorpusSource",
    "Document",
    "Judgements",
    "QrelsSource",
    "QueriesSource",
    "RetrievalFiles",
    "find_retrieval_files",
    "open_corpus",
    "read_qrels",
    "read_queries",
    "text_digest",
]

CorpusSource = Mapping[str, str | Mapping[str, Any]] | Path | str
QueriesSource = Mapping[str, str] | Path | str
QrelsSource = Mapping[str, Mapping[str, int]] | Path | str


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    id: str
    text: str
    """What is embedded: title and text, joined by a space."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The whole record."""
    line: int | None = None
    """Line in its file."""


class Corpus(Protocol):
    """Documents that can be read from the beginning any number of times."""

    @property
    def name(self) -> str:
        """As it is called in messages."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in their order, one at a time."""
        ...


@dataclass(frozen=True)
class _CorpusFile:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Document]:
        problems = Problems()
        for number, record in read_jsonl(self.path, problems):
            place = (self.name, number)
            identifier = required_text(record, "_id", place, problems, identifier=True)
            text = required_text(record, "text", place, problems)
            title = record.get("title") or ""
            if not isinstance(title, str):
                problems.add(*place, f'"title" holds {json_type(title)}. It has to be a text.')
            elif identifier is not None and text is not None:
                yield Document(identifier, _joined(title, text), record, number)
        problems.raise_if_any()


@dataclass(frozen=True)
class _CorpusMapping:
    documents: Mapping[str, str | Mapping[str, Any]]
    name: str = "corpus"

    def __iter__(self) -> Iterator[Document]:
        for identifier, value in self.documents.items():
            record = {"text": value} if isinstance(value, str) else value
            text, title = record.get("text"), record.get("title") or ""
            if not isinstance(text, str) or not isinstance(title, str):
                raise InputError(
                    f"{self.name}: document {identifier!r} has no text.\n"
                    '  Give a text, or a mapping {"title": ..., "text": ...}.'
                )
            yield Document(str(identifier), _joined(title, text), record)


def _joined(title: str, text: str) -> str:
    return f"{title} {text}" if title else text


def open_corpus(source: CorpusSource) -> Corpus:
    """Return the documents of a file of JSON lines (`_id`, `title`, `text`), or of a mapping from id to text or record.

    Raises:
        InputError: there is no such file.
    """
    if isinstance(source, Mapping):
        return _CorpusMapping(source)
    path = Path(source)
    require_file(path, "the corpus")
    return _CorpusFile(path)


def read_queries(source: QueriesSource) -> dict[str, str]:
    """Return queries by id, from a file of JSON lines (`_id`, `text`) or from a mapping.

    Raises:
        InputError: there is no such file, or lines of it are no queries; all of them are named.
    """
    if isinstance(source, Mapping):
        return {str(identifier): text for identifier, text in source.items()}
    path = Path(source)
    require_file(path, "the queries")
    problems = Problems()
    queries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, record in read_jsonl(path, problems):
        place = (str(path), number)
        identifier = required_text(record, "_id", place, problems, identifier=True)
        text = required_text(record, "text", place, problems)
        if identifier is None or text is None:
            continue
        if identifier in queries:
            problems.add(*place, f'the id "{identifier}" stands in line {lines[identifier]} already.')
        queries[identifier], lines[identifier] = text, number
    problems.raise_if_any()
    if not queries:
        raise InputError(f"{path}: there are no queries.", file=path)
    return queries


@dataclass(frozen=True)
class Judgements:
    """Which documents answer which queries, and how well."""

    name: str
    """As they are called in messages."""
    grades: Mapping[str, Mapping[str, int]]
    """Query id -> document id -> grade; 0 and below say that the document does not answer the query."""
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Where each judgement stands, if in a file."""

    @property
    def count(self) -> int:
        """How many judgements there are."""
        return sum(len(documents) for documents in self.grades.values())


def read_qrels(source: QrelsSource) -> Judgements:
    """Return judgements from a table or a mapping.

    A table has the columns `query-id`, `corpus-id` and `score` (BEIR, with or without the header), or the four columns
    of TREC: query, iteration, document, grade.

    Raises:
        InputError: there is no such file, or lines of it are no judgements; all of them are named.
    """
    if isinstance(source, Mapping):
        return Judgements("qrels", _grades_of(source))
    path = Path(source)
    require_file(path, "the judgements")
    problems = Problems()
    grades: dict[str, dict[str, int]] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, cells in read_tsv(path, problems):
        if number == 1 and cells[0].strip().lower() in ("query-id", "query_id", "qid"):
            continue
        judged = _judgement(cells, (str(path), number), problems)
        if judged is None:
            continue
        query, document, grade = judged
        earlier = grades.setdefault(query, {}).setdefault(document, grade)
        if earlier != grade:
            problems.add(
                str(path),
                number,
                f'query "{query}" and document "{document}" have grade {grade} here and {earlier} '
                f"in line {lines[query, document]}.",
            )
        lines.setdefault((query, document), number)
    problems.raise_if_any()
    if not grades:
        raise InputError(f"{path}: there are no judgements.", file=path)
    return Judgements(str(path), grades, lines)


def _judgement(cells: list[str], place: tuple[str, int], problems: Problems) -> tuple[str, str, int] | None:
    values = [cell.strip() for cell in cells]
    if len(values) == 4:
        del values[1]
    if len(values) != 3:
        problems.add(*place, f"{len(cells)} columns. A judgement has three: query id, document id, grade.")
        return None
    query, document, grade = values
    try:
        number = float(grade)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        problems.add(*place, f'the grade is "{grade}". It has to be a whole number; 0 is not relevant.')
        return None
    return query, document, int(number)


def _grades_of(source: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for query, documents in source.items():
        if not isinstance(documents, Mapping):
            raise InputError(
                f"qrels: the judgements of query {query!r} are {type(documents).__name__}.\n"
                '  Give a mapping from document id to grade: {"q1": {"d1": 1}}.'
            )
        for document, grade in documents.items():
            if isinstance(grade, bool) or int(grade) != grade:
                raise InputError(
                    f"qrels: query {query!r}, document {document!r}: the grade is {grade!r}, no whole number."
                )
        grades[str(query)] = {str(document): int(grade) for document, grade in documents.items()}
    if not grades:
        raise InputError("qrels: there are no judgements.")
    return grades


@dataclass(frozen=True)
class RetrievalFiles:
    """The files of one evaluation set."""

    corpus: Path
    queries: Path
    qrels: Path | None
    """None where the folder holds no judgements."""


def find_retrieval_files(
    folder: Path | str,
    *,
    queries: Path | str | None = None,
    qrels: Path | str | None = None,
    split: str | None = None,
) -> RetrievalFiles:
    """Return the files of a folder in the BEIR layout: corpus.jsonl, queries.jsonl, and the judgements.

    Judgements are `qrels.tsv`, or the one file in `qrels/`; with a split, `qrels/SPLIT.tsv` or `qrels_SPLIT.tsv`.

    Args:
        folder: The folder.
        queries: Another file of queries.
        qrels: Another file of judgements.
        split: Which judgements, where the folder holds several.

    Raises:
        InputError: a file is absent, or there are several files of judgements and nothing says which.
    """
    folder = Path(folder)
    files = RetrievalFiles(
        corpus=folder / "corpus.jsonl",
        queries=Path(queries) if queries is not None else folder / "queries.jsonl",
        qrels=Path(qrels) if qrels is not None else _qrels_in(folder, split),
    )
    require_file(files.corpus, "the corpus")
    require_file(files.queries, "the queries")
    if files.qrels is not None:
        require_file(files.qrels, "the judgements")
    return files


def _qrels_in(folder: Path, split: str | None) -> Path | None:
    inside = sorted((folder / "qrels").glob("*.tsv"))
    beside = sorted(folder.glob("qrels_*.tsv"))
    if split is not None:
        named = [folder / "qrels" / f"{split}.tsv", folder / f"qrels_{split}.tsv"]
        for path in named:
            if path.is_file():
                return path
        splits = [path.stem for path in inside] + [path.stem.removeprefix("qrels_") for path in beside]
        raise InputError(
            f'{folder}: there are no judgements of a split "{split}".\n'
            f"  Splits: {', '.join(splits) or 'none'}. Or name the file with --qrels.",
            file=folder,
        )
    whole = folder / "qrels.tsv"
    if whole.is_file():
        return whole
    found = inside or beside
    if len(found) > 1:
        raise InputError(
            f"{folder}: there are judgements for several splits: {', '.join(path.name for path in found)}.\n"
            "  Say which with --split, or name the file with --qrels.",
            file=folder,
        )
    return found[0] if found else None


def text_digest(*parts: str) -> bytes:
    """Return 16 bytes that stand for texts in this order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
