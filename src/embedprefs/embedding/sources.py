"""Texts from a file, one at a time, each with the place to continue from after it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from embedprefs.errors import InputError, MissingExtraError

__all__ = ["BadLine", "ErrorHandling", "InputFormat", "Position", "Row", "SkippedLine", "TextSource", "open_source"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class InputFormat(StrEnum):
    """How texts lie in the input."""

    TXT = "txt"
    """One text a line."""
    JSONL = "jsonl"
    """One JSON object a line; `text_field` names the text in it."""
    CSV = "csv"
    """Comma-separated with a header line; `text_field` names the column."""
    PARQUET = "parquet"
    """A Parquet file; `text_field` names the column."""


class ErrorHandling(StrEnum):
    """What becomes of a line whose bytes are not UTF-8."""

    STRICT = "strict"
    """An error that names the line."""
    REPLACE = "replace"
    """Each unreadable byte becomes the replacement character, and the line is named in the report."""
    SKIP = "skip"
    """The line is left out, and named in the report."""


@dataclass(frozen=True)
class Position:
    """Where reading continues."""

    offset: int = 0
    """Bytes of the file that are consumed; rows, for Parquet."""
    line: int = 0
    """Lines that are consumed; rows, for Parquet."""


@dataclass(frozen=True)
class Row:
    """One text of the input."""

    id: int | str
    """Value of the id field; the line's number where there is none."""
    text: str
    line: int
    """Where it stands, from 1; for Parquet the row."""
    end: Position
    """Where reading continues after it."""
    replaced: bool = False
    """True where bytes that are not UTF-8 were replaced."""


@dataclass(frozen=True)
class SkippedLine:
    """A line left out because its bytes are not UTF-8."""

    line: int
    end: Position


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be read as asked; reading goes on behind it."""

    line: int
    message: str
    """What is wrong with it and what to do, the line named."""
    end: Position


Item = Row | SkippedLine | BadLine


class TextSource(Protocol):
    """A file of texts that can be read from any of its positions."""

    name: str
    """As it is called in messages."""

    def rows(self, start: Position) -> Iterator[Item]:
        """Yield the texts from a position on, and what stands in their places where a line is not readable.

        Raises:
            InputError: the file as a whole cannot be read in its format.
        """
        ...


def open_source(
    source: Path | BinaryIO,
    input_format: InputFormat,
    *,
    name: str | None = None,
    text_field: str = "text",
    id_field: str | None = None,
    errors: ErrorHandling = ErrorHandling.STRICT,
) -> TextSource:
    """Return the texts of a file or of an open binary stream.

    Args:
        source: A file, or a stream that is read once from where it stands.
        input_format: How the texts lie in it.
        name: What messages call it; the path by default.
        text_field: Field or column with the text (JSON lines, CSV, Parquet).
        id_field: Field or column with the id; without one, a row's id is its line number.
        errors: What becomes of lines that are not UTF-8.

    Raises:
        InputError: the input does not fit the format.
        MissingExtraError: Parquet without pyarrow.
    """
    label = name or str(source)
    if input_format is InputFormat.PARQUET:
        if not isinstance(source, Path):
            raise InputError(
                f"{label}: Parquet is read from its end, which a stream does not offer.\n"
                "  Write it to a file and name the file."
            )
        return _ParquetSource(source, label, text_field, id_field)
    return _LineSource(source, label, input_format, _Fields(text_field, id_field), errors)


@dataclass(frozen=True)
class _Fields:
    text: str
    id: str | None


@dataclass(frozen=True)
class _Line:
    data: bytes
    number: int
    end: Position


class _LineSource:
    """Text, JSON lines and CSV: formats that are read line by line."""

    def __init__(
        self,
        source: Path | BinaryIO,
        name: str,
        input_format: InputFormat,
        fields: _Fields,
        errors: ErrorHandling,
    ) -> None:
        self._source = source
        self.name = name
        self._fields = fields
        self._errors = errors
        self._read = {
            InputFormat.TXT: self._text_rows,
            InputFormat.JSONL: self._json_rows,
            InputFormat.CSV: self._csv_rows,
        }[input_format]

    def rows(self, start: Position) -> Iterator[Item]:
        if not isinstance(self._source, Path):
            if start != Position():
                raise InputError(f"{self.name}: a stream cannot be read from its middle.")
            yield from self._read(self._source, start)
            return
        with self._source.open("rb") as stream:
            yield from self._read(stream, start)

    def _lines(self, stream: BinaryIO, start: Position) -> Iterator[_Line]:
        """Yield lines without their line ends; only LF and CR LF end a line."""
        offset, number = start.offset, start.line
        if offset:
            stream.seek(offset)
        for data in stream:
            offset += len(data)
            number += 1
            line = data
            if number == 1:
                self._refuse_other_encodings(line)
                line = line.removeprefix(_BYTE_ORDER_MARK)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield _Line(line, number, Position(offset, number))

    def _refuse_other_encodings(self, line: bytes) -> None:
        for mark, encoding in _OTHER_ENCODINGS.items():
            if line.startswith(mark):
                raise InputError(
                    f"{self.name}: the file is {encoding}, not UTF-8.\n"
                    f"  Convert it first: iconv -f {encoding} -t UTF-8 {self.name}",
                    file=self.name,
                    line=1,
                )

    def _decoded(self, line: _Line) -> tuple[str, bool] | None:
        """Return the line as text and whether bytes were replaced; None where it is left out."""
        try:
            return line.data.decode("utf-8"), False
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} of the line (0x{line.data[error.start]:02x})"
            return self._unreadable(line.number, place, lambda: line.data.decode("utf-8", "replace"))

    def _unreadable(self, number: int, place: str, replace: Callable[[], str]) -> tuple[str, bool] | None:
        if self._errors is ErrorHandling.SKIP:
            return None
        if self._errors is ErrorHandling.REPLACE:
            return replace(), True
        raise InputError(
            f"{self.name}:{number}: {place} is not UTF-8.\n"
            "  Convert the file to UTF-8, or choose --errors replace (keep the line with replacement characters) "
            "or --errors skip (leave the line out).",
            file=self.name,
            line=number,
        )

    def _text_rows(self, stream: BinaryIO, start: Position) -> Iterator[Item]:
        for line in self._lines(stream, start):
            yield self._item(line.number, line.end, partial(self._text_row, line))

    def _text_row(self, line: _Line) -> Row | SkippedLine:
        decoded = self._decoded(line)
        if decoded is None:
            return SkippedLine(line.number, line.end)
        return Row(line.number, decoded[0], line.number, line.end, replaced=decoded[1])

    def _item(self, number: int, end: Position, read: Callable[[], Row | SkippedLine]) -> Item:
        """Read one line; what is wrong with it takes its place, so that all bad lines can be named at once."""
        try:
            return read()
        except InputError as error:
            return BadLine(number, str(error), end)

    def _json_rows(self, stream: BinaryIO, start: Position) -> Iterator[Item]:
        for line in self._lines(stream, start):
            if line.data.strip():
                yield self._item(line.number, line.end, partial(self._json_row, line))

    def _json_row(self, line: _Line) -> Row | SkippedLine:
        decoded = self._decoded(line)
        if decoded is None:
            return SkippedLine(line.number, line.end)
        record = self._json_object(decoded[0], line.number)
        return self._row(record, "field", line.number, line.end, replaced=decoded[1])

    def _json_object(self, text: str, number: int) -> Mapping[str, Any]:
        try:
            record = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise self._error(number, f"not JSON: {message}", "Each line has to be one JSON object.") from error
        if not isinstance(record, dict):
            found = _json_type(record)
            raise self._error(
                number,
                f"the line holds {found}.",
                f'Each line has to be one JSON object, {{"{self._fields.text}": …}}.',
            )
        return record

    def _csv_rows(self, stream: BinaryIO, start: Position) -> Iterator[Item]:
        # The module's limit of 128 KiB a field is made for tables; a document may be longer.
        csv.field_size_limit(2**31 - 1)
        ends = [start]

        def texts(lines: Iterator[_Line]) -> Iterator[str]:
            for line in lines:
                ends[0] = line.end
                # Bytes that are not UTF-8 survive as lone surrogates, so that the record is cut first and judged then.
                yield line.data.decode("utf-8", "surrogateescape") + "\n"

        begin = start
        if isinstance(self._source, Path) and start.offset:
            with self._source.open("rb") as again:
                header = self._csv_header(csv.reader(texts(self._lines(again, Position())), strict=True))
            reader = csv.reader(texts(self._lines(stream, start)), strict=True)
        else:
            reader = csv.reader(texts(self._lines(stream, start)), strict=True)
            header = self._csv_header(reader)
            begin = ends[0]
        ends[0] = begin
        while True:
            number = ends[0].line + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._error(number, f"not CSV: {error}.", "Look for a quote that is not closed.") from error
            if not values:
                continue
            end = ends[0]
            yield self._item(number, end, partial(self._csv_row, header, values, number, end))

    def _csv_header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise self._error(1, f"not CSV: {error}.", "Look for a quote that is not closed.") from error
        if header:
            for name in (self._fields.text, self._fields.id):
                if name is not None and name not in header:
                    raise self._error(1, f'no column "{name}".', _choice("columns", header, name, self._option(name)))
        return header

    def _csv_row(self, header: list[str], values: list[str], number: int, end: Position) -> Row | SkippedLine:
        if len(values) != len(header):
            raise self._error(
                number,
                f"{len(values)} values, where the header names {len(header)} columns.",
                "A value that holds a comma has to stand in quotes.",
            )
        replaced = False
        try:
            "".join(values).encode("utf-8")
        except UnicodeEncodeError:
            kept = self._unreadable(number, "a byte of the record", str)
            if kept is None:
                return SkippedLine(number, end)
            replaced = True
            values = [value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in values]
        return self._row(dict(zip(header, values, strict=True)), "column", number, end, replaced=replaced)

    def _row(
        self, record: Mapping[str, Any], word: str, number: int, end: Position, *, replaced: bool
    ) -> Row | SkippedLine:
        for name in (self._fields.text, self._fields.id):
            if name is not None and name not in record:
                raise self._error(
                    number, f'no {word} "{name}".', _choice(f"{word}s", list(record), name, self._option(name))
                )
        text = record[self._fields.text]
        if not isinstance(text, str):
            raise self._error(number, f'"{self._fields.text}" holds {_json_type(text)}.', "It has to be a text.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            # JSON can spell half of a surrogate pair, which no encoding has.
            kept = self._unreadable(
                number, f'half of a surrogate pair in "{self._fields.text}"', lambda: _without_surrogates(text)
            )
            if kept is None:
                return SkippedLine(number, end)
            text, replaced = kept
        identifier: Any = number if self._fields.id is None else record[self._fields.id]
        if isinstance(identifier, bool) or not isinstance(identifier, (int, str)):
            raise self._error(
                number,
                f'"{self._fields.id}" holds {_json_type(identifier)}.',
                "An id has to be a text or a whole number.",
            )
        return Row(identifier, text, number, end, replaced=replaced)

    def _option(self, name: str) -> str:
        return "--text-field" if name == self._fields.text else "--id-field"

    def _error(self, number: int, found: str, advice: str) -> InputError:
        return InputError(f"{self.name}:{number}: {found}\n  {advice}", file=self.name, line=number)


class _ParquetSource:
    """A Parquet file, read a thousand rows at a time."""

    def __init__(self, path: Path, name: str, text_field: str, id_field: str | None) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError("pyarrow", extra="parquet", needed_for="Reading Parquet") from error
        self._path = path
        self.name = name
        self._text_field = text_field
        self._id_field = id_field
        try:
            with parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                self._group_rows = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        except pa.ArrowInvalid as error:
            raise InputError(f"{name}: not a Parquet file, or a damaged one: {error}", file=path) from error
        for field, option in ((text_field, "--text-field"), (id_field, "--id-field")):
            if field is not None and field not in schema.names:
                advice = _choice("columns", schema.names, field, option)
                raise InputError(f'{name}: no column "{field}".\n  {advice}', file=path)
        self._require(pa, schema, text_field, ("text",))
        if id_field is not None:
            self._require(pa, schema, id_field, ("text", "whole number"))

    def _require(self, pa: Any, schema: Any, field: str, kinds: tuple[Literal["text", "whole number"], ...]) -> None:
        kind = schema.field(field).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        tests = {
            "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
            "whole number": (pa.types.is_integer,),
        }
        if not any(test(kind) for name in kinds for test in tests[name]):
            allowed = " or ".join(f"{name}s" for name in kinds)
            raise InputError(
                f'{self.name}: the column "{field}" holds {kind}.\n  It has to hold {allowed}.', file=self._path
            )

    def rows(self, start: Position) -> Iterator[Item]:
        from pyarrow import parquet

        number = start.line
        first_group, skipped = 0, 0
        for rows in self._group_rows:
            if skipped + rows > start.line:
                break
            skipped += rows
            first_group += 1
        leftover = start.line - skipped
        columns = [self._text_field, *([self._id_field] if self._id_field else [])]
        # Buffering ahead would hold whole row groups in memory.
        with parquet.ParquetFile(self._path, pre_buffer=False) as file:
            groups = range(first_group, len(self._group_rows))
            for batch in file.iter_batches(batch_size=1024, row_groups=groups, columns=columns):
                if leftover >= batch.num_rows:
                    leftover -= batch.num_rows
                    continue
                kept = batch.slice(leftover)
                leftover = 0
                texts = kept.column(self._text_field).to_pylist()
                ids = kept.column(self._id_field).to_pylist() if self._id_field else [None] * len(texts)
                for text, identifier in zip(texts, ids, strict=True):
                    number += 1
                    yield self._row(text, identifier, number)

    def _row(self, text: str | None, identifier: int | str | None, number: int) -> Row | BadLine:
        missing = self._text_field if text is None else self._id_field
        if text is None or (self._id_field is not None and identifier is None):
            message = f'{self.name}: row {number}: "{missing}" is null.\n  Fill it, or leave the row out.'
            return BadLine(number, message, Position(number, number))
        return Row(number if identifier is None else identifier, text, number, Position(number, number))


def _choice(word: str, names: list[str], wanted: str, option: str) -> str:
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    near = get_close_matches(wanted, names, n=1)
    suggestion = f' Did you mean "{near[0]}"?' if near else ""
    return f"The {word} are: {shown or 'none'}. Name one with {option}.{suggestion}"


def _json_type(value: Any) -> str:
    words = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    return words.get(type(value), "an object")


def _without_surrogates(text: str) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
