"""Texts are read line by line, each with the place to continue from, and bad lines are named."""

from __future__ import annotations

import io
import json
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from embedprefs.embedding.sources import (
    BadLine,
    ErrorHandling,
    InputFormat,
    Position,
    Row,
    SkippedLine,
    open_source,
)
from embedprefs.errors import InputError


def rows_of(path, input_format, start=None, **options):
    return list(open_source(path, InputFormat(input_format), **options).rows(start or Position()))


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_text_file_has_a_text_a_line_and_keeps_empty_ones(tmp_path):
    """Row n of the output is line n of the input, so an empty line stays a text; only \\n and \\r\\n end a line."""
    path = written(tmp_path, "texts.txt", "red\r\n\na\u2028b\x0bc\n last ")
    assert [(row.id, row.text, row.line) for row in rows_of(path, "txt")] == [
        (1, "red", 1),
        (2, "", 2),
        (3, "a\u2028b\x0bc", 3),
        (4, " last ", 4),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_text(tmp_path):
    path = written(tmp_path, "texts.txt", b"\xef\xbb\xbfred\nblue\n")
    assert [row.text for row in rows_of(path, "txt")] == ["red", "blue"]


def test_a_utf_16_file_is_refused_with_the_command_that_converts_it(tmp_path):
    path = written(tmp_path, "texts.txt", "red\nblue\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"UTF-16.*\n.*iconv -f UTF-16 -t UTF-8"):
        rows_of(path, "txt")


FORMATS = {
    "txt": "red\nblue sky\n\ngreen\n",
    "jsonl": '{"text": "red", "id": "a"}\n\n{"id": "b", "text": "blue\\nsky"}\n{"text": "grün", "id": 3}\n',
    "csv": 'id,text\na,red\n\nb,"blue\nsky, ""wide"""\nc,grün\n',
}


@pytest.mark.parametrize("input_format", FORMATS)
def test_reading_continues_behind_any_row(tmp_path, input_format):
    """From the end of row n on come exactly the rows after n, with the same line numbers."""
    path = written(tmp_path, f"texts.{input_format}", FORMATS[input_format])
    rows = rows_of(path, input_format)
    assert len(rows) >= 3
    for number, row in enumerate(rows):
        assert rows_of(path, input_format, row.end) == rows[number + 1 :]


def test_a_parquet_file_continues_behind_any_row(tmp_path):
    """Also across row groups and batches."""
    path = tmp_path / "texts.parquet"
    table = pa.table({"id": list(range(100, 123)), "text": [f"text {number}" for number in range(23)]})
    parquet.write_table(table, path, row_group_size=5)
    rows = rows_of(path, "parquet", id_field="id")
    assert [(row.id, row.text, row.line) for row in rows[:2]] == [(100, "text 0", 1), (101, "text 1", 2)]
    assert len(rows) == 23
    for number, row in enumerate(rows):
        assert rows_of(path, "parquet", row.end, id_field="id") == rows[number + 1 :]


def test_json_lines_and_csv_give_ids_and_texts_with_line_ends_in_them(tmp_path):
    path = written(tmp_path, "texts.csv", FORMATS["csv"])
    found = [(row.id, row.text, row.line) for row in rows_of(path, "csv", id_field="id")]
    assert found == [("a", "red", 2), ("b", 'blue\nsky, "wide"', 4), ("c", "grün", 6)]
    path = written(tmp_path, "texts.jsonl", FORMATS["jsonl"])
    found = [(row.id, row.text, row.line) for row in rows_of(path, "jsonl", id_field="id")]
    assert found == [("a", "red", 1), ("b", "blue\nsky", 3), (3, "grün", 4)]


BAD_BYTES = {
    "txt": b"red\nbl\xffue\ngreen\n",
    "jsonl": b'{"text": "red"}\n{"text": "bl\xffue"}\n{"text": "green"}\n',
    "csv": b"text\nred\nbl\xffue\ngreen\n",
}
LINE_OF_BAD_BYTES = {"txt": 2, "jsonl": 2, "csv": 3}


@pytest.mark.parametrize("input_format", BAD_BYTES)
def test_bytes_that_are_not_utf8_are_named_replaced_or_left_out(tmp_path, input_format):
    """strict names the line and both ways out, replace keeps it marked, skip leaves it out; the rest is read."""
    path = written(tmp_path, f"texts.{input_format}", BAD_BYTES[input_format])
    line = LINE_OF_BAD_BYTES[input_format]
    first, bad, last = rows_of(path, input_format)
    assert (first.text, last.text) == ("red", "green")
    assert isinstance(bad, BadLine)
    assert bad.message.startswith(f"{path}:{line}: ")
    assert "not UTF-8" in bad.message
    assert "--errors replace" in bad.message
    _, kept, _ = rows_of(path, input_format, errors=ErrorHandling.REPLACE)
    assert (kept.text, kept.replaced, kept.line) == ("bl\ufffdue", True, line)
    _, skipped, _ = rows_of(path, input_format, errors=ErrorHandling.SKIP)
    assert skipped == SkippedLine(line, skipped.end)


def test_half_a_surrogate_pair_in_json_is_handled_like_unreadable_bytes(tmp_path):
    """JSON can spell a character that no encoding has; a tokenizer would fail on it much later."""
    path = written(tmp_path, "texts.jsonl", '{"text": "a\\ud800b"}\n')
    assert "surrogate" in rows_of(path, "jsonl")[0].message
    assert rows_of(path, "jsonl", errors=ErrorHandling.REPLACE)[0].text == "a\ufffdb"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken", "not JSON"),
        ('["a"]', "holds a list"),
        ('"a"', "holds a text"),
        ('{"txt": "a"}', 'no field "text".*\n.*The fields are: txt.*Did you mean "txt"'),
        ('{"text": null}', '"text" holds null'),
        ('{"text": 3}', '"text" holds a number'),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_json_line_is_named_and_reading_goes_on(tmp_path, line, expected):
    path = written(tmp_path, "texts.jsonl", f'{{"text": "red"}}\n{line}\n{{"text": "blue"}}\n')
    first, bad, last = rows_of(path, "jsonl")
    assert (first.text, last.text) == ("red", "blue")
    assert bad.message.startswith(f"{path}:2: ")
    assert re.search(expected, bad.message)


def test_an_id_has_to_be_a_text_or_a_whole_number(tmp_path):
    path = written(tmp_path, "texts.jsonl", '{"text": "a", "id": true}\n{"text": "a", "id": 1.5}\n{"text": "a"}\n')
    messages = [item.message for item in rows_of(path, "jsonl", id_field="id")]
    assert ["true or false" in messages[0], "a number" in messages[1], "--id-field" in messages[2]] == [True] * 3


def test_a_csv_without_the_column_names_those_it_has(tmp_path):
    path = written(tmp_path, "texts.csv", "id,body\n1,red\n")
    with pytest.raises(InputError, match=r'texts.csv:1: no column "text".\n.*id, body. Name one with --text-field'):
        rows_of(path, "csv")


def test_a_csv_record_with_too_many_values_is_named(tmp_path):
    path = written(tmp_path, "texts.csv", "id,text\n1,red\n2,blue, green\n3,sky\n")
    _, bad, last = rows_of(path, "csv")
    assert bad.message.startswith(f"{path}:3: 3 values, where the header names 2 columns")
    assert last.text == "sky"


def test_an_unclosed_quote_in_a_csv_is_an_error_that_names_where_it_opens(tmp_path):
    path = written(tmp_path, "texts.csv", 'text\nred\n"blue\ngreen\n')
    with pytest.raises(InputError, match=r"texts\.csv:3: not CSV"):
        rows_of(path, "csv")


def test_a_csv_document_may_be_longer_than_the_csv_module_allows_by_itself(tmp_path):
    text = "red " * 100_000
    path = written(tmp_path, "texts.csv", f"text\n{text}\n")
    assert rows_of(path, "csv")[0].text == text


def test_a_parquet_null_is_named_by_its_row(tmp_path):
    path = tmp_path / "texts.parquet"
    parquet.write_table(pa.table({"text": ["red", None, "blue"]}), path)
    first, bad, last = rows_of(path, "parquet")
    assert isinstance(first, Row)
    assert "row 2" in bad.message
    assert last.line == 3


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"body": ["a"]}, r'no column "text".*\n.*columns are: body'),
        ({"text": [1.5]}, r'"text" holds double.*\n.*texts'),
    ],
)
def test_a_parquet_column_that_does_not_fit_is_refused(tmp_path, table, expected):
    path = tmp_path / "texts.parquet"
    parquet.write_table(pa.table(table), path)
    with pytest.raises(InputError, match=expected):
        rows_of(path, "parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = written(tmp_path, "texts.parquet", "PAR1 but no more")
    with pytest.raises(InputError, match="not a Parquet file"):
        rows_of(path, "parquet")


def test_a_stream_is_read_once_from_its_beginning():
    lines = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(3)).encode()
    source = open_source(io.BytesIO(lines), InputFormat.JSONL, name="standard input")
    assert [row.text for row in source.rows(Position())] == ["text 0", "text 1", "text 2"]
    with pytest.raises(InputError, match="standard input"):
        list(source.rows(Position(5, 1)))


def test_parquet_cannot_come_from_a_stream():
    with pytest.raises(InputError, match="a file"):
        open_source(io.BytesIO(b""), InputFormat.PARQUET, name="standard input")
