"""Rows as documents: the lines of .jsonl, the records of .csv and .parquet, and the mappings a program holds."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import MissingExtraError
from embedprefs_qdrant.documents.document import Document, SourceError, hash_text, to_metadata

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["ROW_READERS", "RowFields", "read_rows"]

#: Names under which a text is looked for, first found first taken.
TEXT_FIELDS = ("text", "content", "page_content", "body", "document")
#: Names under which a row's own id is looked for.
ID_FIELDS = ("id", "_id", "doc_id", "document_id")
#: A csv field may hold a whole document; the standard library's own limit is 128 KiB.
_CSV_FIELD_LIMIT = 2**31 - 1
#: Rows of a parquet file held in memory at a time.
_PARQUET_ROWS = 512


@dataclass(frozen=True)
class RowFields:
    """Which fields of a row are its text, its id and its metadata."""

    text: str | None = None
    """The text's field; None looks for the usual names."""
    id: str | None = None
    """The id's field; None looks for the usual names."""
    metadata: frozenset[str] | None = None
    """The metadata fields to keep; None keeps all."""

    def text_name(self, names: Sequence[str]) -> str:
        """The field that holds the text.

        Raises:
            SourceError: There is none among these names.
        """
        wanted = TEXT_FIELDS if self.text is None else (self.text,)
        for name in wanted:
            if name in names:
                return name
        raise SourceError(
            f"No text field. Found: {', '.join(names) or 'nothing'}. Looked for: {', '.join(wanted)}. "
            "Name it with text_field.",
            "malformed",
        )

    def id_name(self, names: Sequence[str]) -> str | None:
        """The field that holds the id; None where there is none and none was asked for.

        Raises:
            SourceError: The field that the caller named is absent.
        """
        if self.id is not None and self.id not in names:
            raise SourceError(f'No id field "{self.id}". Found: {", ".join(names) or "nothing"}.', "malformed")
        wanted = ID_FIELDS if self.id is None else (self.id,)
        return next((name for name in wanted if name in names), None)

    def document(
        self,
        row: Mapping[str, Any],
        *,
        prefix: str = "",
        id_names: Sequence[str] = (),
        seen: Counter[str] | None = None,
    ) -> Document:
        """One row as a document.

        A row without an id is known by its text's hash, so that inserting a row renames no other; the second row of the
        same text gets `-2`.

        Args:
            row: Field names to values.
            prefix: What stands before the row's id in the source: the file's name and `#`.
            id_names: Further field names that hold an id, tried after the usual ones.
            seen: How often each text hash came before in this file.

        Raises:
            SourceError: The row has no text, or holds what JSON cannot.
        """
        names = list(row)
        text_name = self.text_name(names)
        text = row[text_name]
        if not isinstance(text, str) and text is not None:
            raise SourceError(f'Field "{text_name}" is a {type(text).__name__}, not text.', "malformed")
        id_name = self.id_name(names) or next((name for name in id_names if name in names), None)
        identifier = row[id_name] if id_name is not None else None
        if text is None or not text.strip():
            where = f"{prefix}{identifier}" if identifier not in (None, "") else None
            raise SourceError("Empty.", "empty", source=where)
        try:
            content_hash = hash_text(text)
        except UnicodeEncodeError as error:
            raise SourceError(
                f'Field "{text_name}" holds half a surrogate pair at character {error.start}, which is no text.',
                "malformed",
            ) from error
        if identifier in (None, ""):
            if id_name is not None:
                raise SourceError(f'Field "{id_name}" is empty. Give every row an id, or none.', "malformed")
            identifier = content_hash[:16]
            if seen is not None:
                seen[identifier] += 1
                if seen[identifier] > 1:
                    identifier = f"{identifier}-{seen[identifier]}"
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            identifier = str(identifier)
        nested = row.get("metadata")
        rest = {name: value for name, value in row.items() if name != text_name}
        if isinstance(nested, Mapping):
            rest = {**{name: value for name, value in rest.items() if name != "metadata"}, **nested}
        title = row.get("title")
        return Document(
            source=f"{prefix}{identifier}",
            text=text,
            metadata=to_metadata(rest, self.metadata),
            content_hash=content_hash,
            title=title if isinstance(title, str) and title else None,
        )


def read_rows(path: Path, source: str, fields: RowFields) -> Iterator[Document | SourceError]:
    """Yield each row of a table file as a document, one at a time; a row that cannot be used as an error.

    Raises:
        SourceError: The file as a whole cannot be read (further).
    """
    seen: Counter[str] = Counter()
    try:
        for line, row in ROW_READERS[path.suffix.lower()](path, fields):
            if isinstance(row, SourceError):
                yield row
                continue
            try:
                yield fields.document(row, prefix=f"{source}#", seen=seen)
            except SourceError as error:
                error.line = line
                yield error
    except OSError as error:
        raise SourceError(f"The file cannot be read: {error.strerror or error}.", "unreadable") from error


_Rows = Iterator[tuple[int, Mapping[str, Any] | SourceError]]


def _read_jsonl(path: Path, fields: RowFields) -> _Rows:
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
            if not line.strip():
                continue
            try:
                yield number, _json_row(line, fields)
            except SourceError as error:
                error.line = number
                yield number, error


def _json_row(line: bytes, fields: RowFields) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise SourceError(
            f"Not UTF-8: {error.reason} at byte {error.start} of the line. Save the file as UTF-8.", "undecodable"
        ) from error
    except json.JSONDecodeError as error:
        raise SourceError(f"Not JSON: {error.msg} at column {error.colno}.", "malformed") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise SourceError(f"The JSON cannot be read: {error}.", "malformed") from error
    if isinstance(row, str):
        return {fields.text or TEXT_FIELDS[0]: row}
    if not isinstance(row, dict):
        raise SourceError(f"The line holds a {type(row).__name__}. Allowed is an object or a text.", "malformed")
    return row


def _read_csv(path: Path, fields: RowFields) -> _Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = _next_record(reader)
            if header is None:
                raise SourceError("Empty.", "empty")
            repeated = [name for name, count in Counter(header).items() if count > 1]
            if repeated:
                raise SourceError(f"Columns named twice: {', '.join(repeated)}. Rename one.", "malformed", line=1)
            fields.text_name(header)
            fields.id_name(header)
            while True:
                try:
                    record = _next_record(reader)
                except csv.Error as error:
                    line = reader.line_num
                    yield line, SourceError(f"Not csv: {error}.", "malformed", line=line)
                    continue
                if record is None:
                    return
                line = reader.line_num
                if not record:
                    continue  # a blank line
                if len(record) != len(header):
                    reason = f"The record has {len(record)} fields, the header {len(header)}."
                    yield line, SourceError(reason, "malformed", line=line)
                    continue
                yield line, dict(zip(header, record, strict=True))
        except UnicodeDecodeError as error:
            raise SourceError(
                f"Not UTF-8: {error.reason}, after line {reader.line_num}; the rest of the file was not read. "
                "Save the file as UTF-8.",
                "undecodable",
            ) from error


def _next_record(reader: Reader) -> list[str] | None:
    # The limit is one for the whole process, so it is raised for each record alone.
    limit = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, fields: RowFields) -> _Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="parquet", needed_for="Reading .parquet files", distribution="embedprefs-qdrant"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            text_name = fields.text_name(names)
            id_name = fields.id_name(names)
            columns = None
            if fields.metadata is not None:
                columns = [name for name in names if name in {text_name, id_name, "title", *fields.metadata}]
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise SourceError(f"The parquet file cannot be read: {error}", "malformed") from error


#: What reads the rows of each file name extension.
ROW_READERS = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
