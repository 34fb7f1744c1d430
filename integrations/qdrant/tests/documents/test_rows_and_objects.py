"""Rows of tables, and objects that a program holds."""

import dataclasses
import datetime as dt
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedprefs_qdrant.documents import Document


@dataclasses.dataclass
class Note:
    id: int
    body: str
    author: str = "unknown"


class Page:
    """Has what a LangChain document has."""

    def __init__(self, page_content, metadata=None, identifier=None):
        self.page_content = page_content
        self.metadata = metadata or {}
        self.id = identifier


def test_each_line_of_a_jsonl_file_is_a_document(read, files):
    """Text and id are found by their names, the rest is metadata, and a bare text is a document too."""
    lines = [
        '{"id": "a", "text": "one", "n": 1}',
        '{"id": 7, "content": "two", "x": {"y": [null, 1.5]}}',
        "",
        '"three"',
    ]
    result = read(files({"rows.jsonl": "\n".join(lines)}))
    assert [document.text for document in result.documents] == ["one", "two", "three"]
    assert result.sources[:2] == ["rows.jsonl#a", "rows.jsonl#7"]
    assert result.documents[1].metadata == {"id": 7, "x": {"y": [None, 1.5]}}
    assert not result.failed


def test_a_bad_line_is_told_by_its_number_and_the_others_are_read(read, files):
    """Broken JSON, another type, no text, an empty text, half a character and an id used twice."""
    lines = [
        b'{"id": 1, "text": "good"}', b"{broken", b"[1]", b'{"id": 4, "title": "no text"}', b'{"id": 5, "text": " "}',
        b'{"id": 6, "text": "\\ud800"}', b'{"id": 1, "text": "again"}',
        b'{"id": 8, "text": "caf\xe9"}', b'{"id": 9, "text": 3}',
        b"[" * 100_000, b'{"id": 11, "text": "last"}',
    ]  # fmt: skip
    result = read(files({"rows.jsonl": b"\n".join(lines)}))
    assert result.sources == ["rows.jsonl#1", "rows.jsonl#11"]
    told = [(failure.line, failure.kind, failure.is_skipped) for failure in result.failed]
    assert told == [
        (2, "malformed", False), (3, "malformed", False), (4, "malformed", False), (5, "empty", True),
        (6, "malformed", False), (None, "duplicate", False), (8, "undecodable", False), (9, "malformed", False),
        (10, "malformed", False),
    ]  # fmt: skip
    assert "Found: id, title" in result.failed[2].reason
    assert str(result.failed[0]).startswith("rows.jsonl:2: Not JSON")


def test_rows_without_id_keep_their_names_when_a_row_is_inserted(read, files):
    """A row is known by its text, so that others do not shift; equal rows are told apart."""
    rows = ["one", "two", "two", "three"]
    before = read(files({"rows.jsonl": "\n".join(json.dumps({"text": row}) for row in rows)})).sources
    after = read(files({"rows.jsonl": "\n".join(json.dumps({"text": row}) for row in ["new", *rows])})).sources
    assert len(set(before)) == 4
    assert after[1:] == before


def test_csv_records_are_documents_with_their_columns(read, files):
    """Quoted line ends, a byte order mark, a field beyond the standard library's limit."""
    long = "word " * 40_000
    content = (
        f'\ufeffid,text,lang\n1,"two\nlines, quoted",en\n2,{long},de\n\n3,short\n4,"",en\n5,"bad"x,en\n6,fine,fr\n'
    )
    result = read(files({"t.csv": content}))
    assert result.sources == ["t.csv#1", "t.csv#2", "t.csv#6"]
    assert result.documents[0].text == "two\nlines, quoted"
    assert result.documents[1].text == long
    assert result.documents[0].metadata == {"id": "1", "lang": "en"}
    assert [(failure.line, failure.kind) for failure in result.failed] == [
        (6, "malformed"),
        (7, "empty"),
        (8, "malformed"),
    ]


def test_a_csv_file_without_a_text_column_fails_once_with_its_columns(read, files):
    """The header decides: the message names what was found, and text_field names the column."""
    root = files({"t.csv": "key;note\n1;x\n", "u.csv": "key,note\n1,hello\n", "v.csv": "text,text\na,b\n"})
    result = read(root)
    assert {failure.source: failure.kind for failure in result.failed} == dict.fromkeys(
        ("t.csv", "u.csv", "v.csv"), "malformed"
    )
    assert "Found: key;note" in result.failed[0].reason
    named = read(root / "u.csv", text_field="note", id_field="key")
    assert [(document.source, document.text) for document in named.documents] == [("u.csv#1", "hello")]


def test_a_csv_file_that_stops_being_utf8_says_where(read, files):
    """What came before is read; the rest is a failure of the file."""
    rows = b"".join(b"%d,text %d\n" % (number, number) for number in range(3000))
    result = read(files({"t.csv": b"id,text\n" + rows + b"x,caf\xe9\n"}))
    assert len(result.documents) > 0
    assert result.kinds == {"t.csv": "undecodable"}
    assert "after line" in result.failed[0].reason


def test_parquet_rows_are_documents_with_typed_metadata(read, tmp_path):
    """Dates become text, nulls stay null, and an empty text is skipped by its row."""
    table = pa.table({
        "doc_id": ["a", "b", "c"],
        "content": ["one", None, "three"],
        "day": [dt.date(2024, 1, 2), None, None],
        "score": [1.5, float("nan"), float("nan")],
        "tags": [["x"], [], None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    result = read(tmp_path)
    assert result.sources == ["t.parquet#a", "t.parquet#c"]
    assert result.documents[0].metadata == {"doc_id": "a", "day": "2024-01-02", "score": 1.5, "tags": ["x"]}
    assert result.documents[1].metadata == {"doc_id": "c", "day": None, "score": None, "tags": None}
    assert [(each.source, each.line, each.kind) for each in result.failed] == [("t.parquet#b", 2, "empty")]
    assert read(tmp_path, metadata_fields=["score"]).documents[0].metadata == {"score": 1.5}


def test_a_broken_parquet_file_is_a_failure(read, files):
    """The stream goes on."""
    assert read(files({"a.parquet": b"PAR1 nothing", "b.md": "B"})).kinds == {"a.parquet": "malformed"}


def test_objects_of_every_kind_are_documents(read):
    """Mappings, dataclasses, pairs, documents and what has page_content, mixed and nested."""
    made = Document("made", "text of it", "markdown")
    result = read([
        {"id": "m", "text": "mapping", "k": 1},
        {"source": "s.txt", "content": "by source", "metadata": {"k": 2}},
        Note(3, "a note"),
        ("pair", "text of the pair"),
        [made, Page("page", {"source": "f.pdf", "page": 4})],
        Page("with id", {"k": 5}, identifier="own"),
    ])  # fmt: skip
    assert not result.failed
    assert result.sources == ["m", "s.txt", "3", "pair", "made", "f.pdf#page=4", "own"]
    assert result.documents[0].metadata == {"id": "m", "k": 1}
    assert result.documents[1].metadata == {"source": "s.txt", "k": 2}
    assert result.documents[2].metadata == {"id": 3, "author": "unknown"}
    assert result.documents[3].metadata == {}
    assert result.documents[4] == made


@pytest.mark.parametrize("single", [{"text": "t"}, Note(1, "t"), Document("d", "t"), Page("t")])
def test_one_object_alone_is_an_input(read, single):
    """No list is needed around it."""
    assert [document.text for document in read(single).documents] == ["t"]


def test_a_generator_is_consumed_once_and_as_it_goes(read):
    """Nothing is held back: each item is drawn when the document before it has been taken."""
    from embedprefs_qdrant.documents import read_documents

    drawn = []

    def endless():
        number = 0
        while True:
            drawn.append(number)
            yield {"id": number, "text": f"text {number}"}
            number += 1

    stream = read_documents(endless(), on_error=pytest.fail)
    assert [next(stream).source for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert drawn == [0, 1, 2, 3, 4]


def test_langchain_documents_of_one_source_are_told_apart(read):
    """A loader gives many documents of one file; each gets a name of its own, the same at the next reading."""
    pages = [Page("a", {"source": "f.md"}), Page("b", {"source": "f.md"}), Page("c", {"source": "g.md"})]
    assert read(pages).sources == ["f.md", "f.md#2", "g.md"]
    assert read(pages).sources == read(iter(pages)).sources


def test_langchain_s_own_documents_are_read(read):
    """The real class, which can be iterated itself."""
    documents = pytest.importorskip("langchain_core.documents", reason="langchain-core is not installed")
    result = read(
        [documents.Document(page_content="x", metadata={"source": "s"}), documents.Document(page_content="y", id="i")]
    )
    assert [(each.source, each.text) for each in result.documents] == [("s", "x"), ("i", "y")]
    assert read(documents.Document(page_content="x")).documents[0].text == "x"


def test_a_second_document_of_a_source_is_a_failure(read, files):
    """The first is read; the second is told, also across files and objects."""
    root = files({"a.md": "A"})
    result = read([root / "a.md", ("a.md", "other"), {"id": "x", "text": "1"}, {"id": "x", "text": "2"}])
    assert [document.text for document in result.documents] == ["A", "1"]
    assert [(failure.source, failure.kind) for failure in result.failed] == [("a.md", "duplicate"), ("x", "duplicate")]


def test_what_is_no_document_is_told_with_what_is_allowed(read):
    """The stream goes on."""
    result = read(
        [42, None, b"bytes", ("a", "b", "c"), ("a", 1), {"title": "x", "id": "t"}, Page(3), {"id": "ok", "text": "x"}]
    )
    assert result.sources == ["ok"]
    assert len(result.failed) == 7
    assert all(not failure.is_skipped for failure in result.failed)
    assert "Allowed: a path" in result.failed[0].reason


def test_metadata_becomes_json_or_is_refused_by_name(read):
    """Dates, ids, sets and arrays have a form; anything else is named instead of being dropped."""
    identifier = uuid.uuid4()
    good = {
        "id": "g",
        "text": "x",
        "when": dt.datetime(2024, 1, 2, 3, 4, tzinfo=dt.UTC),
        "who": identifier,
        "s": {"b", "a"},
        "t": (1, 2),
    }
    result = read([good, {"id": "b", "text": "x", "nested": {"thing": object()}}])
    (document,) = result.documents
    assert document.metadata == {
        "id": "g", "when": "2024-01-02T03:04:00+00:00", "who": str(identifier), "s": ["a", "b"], "t": [1, 2],
    }  # fmt: skip
    json.dumps(document.metadata, allow_nan=False)
    assert '"nested.thing" is a object' in result.failed[0].reason
    assert read([{"id": "b", "text": "x", "thing": object()}], metadata_fields=["id"]).documents[0].metadata == {
        "id": "b"
    }


def test_half_a_character_in_metadata_is_told(read):
    """It could be neither stored nor sent."""
    result = read([{"id": "a", "text": "x", "note": "\ud800"}, {"id": "b", "text": "x", "note": "é"}])
    assert result.sources == ["b"]
    assert result.failed[0].kind == "malformed"


def test_what_an_input_raises_is_the_caller_s(read):
    """A generator that fails is not taken for one that ended."""

    def failing():
        yield {"id": "a", "text": "x"}
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="went away"):
        read(failing())


def test_a_document_knows_its_hash_and_refuses_nonsense():
    """The hash is the text's, computed when left out."""
    document = Document("a", "text")
    assert document.content_hash == "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    with pytest.raises(ValueError, match="source"):
        Document("", "text")
    with pytest.raises(ValueError, match="body_start"):
        Document("a", "text", body_start=9)
