"""Records of training data, from files, folders and objects, before anything is known of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedprefs.errors import InputError, MissingExtraError
from embedprefs.evaluation.index import SOURCE_FIELDS
from embedprefs.evaluation.lines import Problems, json_type, read_csv, read_jsonl, require_file
from embedprefs.evaluation.retrieval_data import Document, find_retrieval_files, open_corpus, read_qrels, read_queries

__all__ = ["FILE_ENDINGS", "Records", "read_records"]

FILE_ENDINGS = (".jsonl", ".csv", ".parquet")
_TRAINING_SPLITS = ("train", "training")


@dataclass(frozen=True)
class Records:
    """What was read, row by row."""

    name: str
    """As it is called in messages."""
    rows: Sequence[Mapping[str, Any]]
    places: Sequence[int]
    """Where each row stands: its line in the file, or its number, from 1."""
    notes: tuple[str, ...] = ()
    """What was decided while reading, in sentences."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))


def read_records(source: Any, *, split: str | None = None, document_column: str | None = None) -> Records:
    """Read rows from a file, a folder in the BEIR layout, a `datasets.Dataset`, or records.

    Args:
        source: .jsonl, .csv or .parquet; a folder with corpus.jsonl, queries.jsonl and judgements; a data set of the
            package datasets; or an iterable of mappings.
        split: Which judgements of a folder; "train" where it has such.
        document_column: A field of a folder's corpus that names the source document, where it is stated.

    Raises:
        InputError: there is nothing, or it cannot be read; every line that is wrong is named.
        MissingExtraError: Parquet without pyarrow.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return _folder(path, split, document_column)
        return _file(path)
    names = getattr(source, "column_names", None)
    if names is not None and not isinstance(names, list):
        raise InputError(
            f"The data set holds several parts: {', '.join(names)}.\n  Give one of them: data[{next(iter(names))!r}]."
        )
    rows = _checked_rows(list(source), "the data")
    return Records("the data", rows, range(1, len(rows) + 1))


def _checked_rows(rows: Sequence[Any], name: str) -> Sequence[Mapping[str, Any]]:
    problems = Problems()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            problems.add(
                name, number, f"the row is {json_type(row)}. Each row has to be a mapping from column to value."
            )
    problems.raise_if_any()
    return rows


def _file(path: Path) -> Records:
    require_file(path, "training data")
    ending = path.suffix.lower()
    problems = Problems()
    if ending in (".jsonl", ".ndjson"):
        found = list(read_jsonl(path, problems))
    elif ending == ".csv":
        found = list(read_csv(path, problems))
    elif ending == ".parquet":
        found = list(enumerate(_parquet(path), start=1))
    else:
        raise InputError(
            f'{path}: "{ending or path.name}" is no format of training data.\n  Formats: {", ".join(FILE_ENDINGS)}, '
            "or a folder with corpus.jsonl, queries.jsonl and qrels.tsv.",
            file=path,
        )
    problems.raise_if_any()
    return Records(str(path), [row for _, row in found], [number for number, _ in found])


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", needed_for="Reading Parquet") from error
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet: {error}", file=path) from error
    rows: list[Mapping[str, Any]] = table.to_pylist()
    return rows


def _folder(folder: Path, split: str | None, document_column: str | None) -> Records:
    """Return the rows of a folder: its training judgements, else its file `train`, else its only judgements."""
    if split is None:
        parts = _judged_parts(folder)
        split = next((part for part in parts if part in _TRAINING_SPLITS), None)
        files = [path for ending in FILE_ENDINGS if (path := folder / f"train{ending}").is_file()]
        if split is None and files:
            read = _file(files[0])
            others = [path.name for path in files[1:]]
            notes = [f"Read from {files[0].name} of the folder."]
            if parts or (folder / "qrels.tsv").is_file():
                notes.append("The folder's judgements are not trained on.")
            if others:
                notes.append(f"Not read: {', '.join(others)}.")
            return Records(read.name, read.rows, read.places, (*read.notes, *notes))
    return _judged(folder, split, document_column)


def _judged_parts(folder: Path) -> list[str]:
    inside = [path.stem for path in sorted((folder / "qrels").glob("*.tsv"))]
    return inside + [path.stem.removeprefix("qrels_") for path in sorted(folder.glob("qrels_*.tsv"))]


def _judged(folder: Path, split: str | None, document_column: str | None) -> Records:
    files = find_retrieval_files(folder, split=split)
    if files.qrels is None:
        raise InputError(
            f"{folder}: there are no judgements (qrels.tsv) and no file train.jsonl to train on.\n"
            "  Add one of them, or name the file with the training data.",
            file=folder,
        )
    judgements, queries = read_qrels(files.qrels), read_queries(files.queries)
    relevant = {doc for documents in judgements.grades.values() for doc, grade in documents.items() if grade > 0}
    passages = {document.id: document for document in open_corpus(files.corpus) if document.id in relevant}
    problems, rows, places, negative = Problems(), list[Mapping[str, Any]](), list[int](), 0
    for query, documents in judgements.grades.items():
        for identifier, grade in documents.items():
            line = judgements.lines.get((query, identifier))
            if grade <= 0:
                negative += 1
            elif query not in queries:
                problems.add(judgements.name, line, f'query "{query}" is not in {files.queries.name}.')
            elif identifier not in passages:
                problems.add(judgements.name, line, f'document "{identifier}" is not in {files.corpus.name}.')
            else:
                rows.append(_row(queries[query], passages[identifier], document_column))
                places.append(line or len(rows))
    problems.raise_if_any()
    notes = [f"Read from the judgements of {files.qrels.name}: {len(rows):,} relevant documents."]
    if negative:
        notes.append(f"{negative:,} judgements of documents that are not relevant are not used.")
    return Records(str(files.qrels), rows, places, tuple(notes))


def _row(query: str, passage: Document, document_column: str | None) -> Mapping[str, Any]:
    metadata = passage.fields.get("metadata")
    values = {**(metadata if isinstance(metadata, Mapping) else {}), **passage.fields}
    wanted = SOURCE_FIELDS if document_column is None else (document_column,)
    source = {name: str(values[name]) for name in wanted if values.get(name) not in (None, "")}
    # A passage of a corpus without any source is a document of its own.
    return {"anchor": query, "positive": passage.text, **(source or {"document_id": passage.id})}
