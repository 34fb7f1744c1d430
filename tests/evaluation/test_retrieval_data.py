"""Files in the BEIR layout: what is read, and errors that name file and line."""

from __future__ import annotations

import pytest

from embedprefs.errors import InputError
from embedprefs.evaluation import find_retrieval_files, open_corpus, read_pairs, read_qrels, read_queries


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def test_title_and_text_are_joined_by_a_space(write):
    path = write("corpus.jsonl", '{"_id": "a", "title": "Red", "text": "apple"}\n\n{"_id": 2, "text": "sky"}\n')
    assert [(document.id, document.text, document.line) for document in open_corpus(path)] == [
        ("a", "Red apple", 1),
        ("2", "sky", 3),
    ]
    mapping = {"a": {"title": "Red", "text": "apple"}, "2": "sky"}
    assert [(document.id, document.text) for document in open_corpus(mapping)] == [("a", "Red apple"), ("2", "sky")]


def test_a_corpus_can_be_read_again(write):
    corpus = open_corpus(write("corpus.jsonl", '{"_id": "a", "text": "apple"}\n'))
    assert list(corpus) == list(corpus)


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n",
        "q1\td1\t2\nq1\td2\t0\n",
        "q1 0 d1 2\nq1 0 d2 0\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td1\t2.0\r\nq1\td2\t0\r\n",
    ],
)
def test_judgements_are_read_with_header_without_and_from_trec(write, content):
    found = read_qrels(write("qrels.tsv", content))
    assert found.grades == {"q1": {"d1": 2, "d2": 0}}
    assert found.count == 2


def lines_in(error):
    return [int(line.split(":")[1]) for line in str(error).splitlines() if line.count(":") > 1]


@pytest.mark.parametrize(
    ("reader", "name", "content", "lines", "expected"),
    [
        (read_queries, "q.jsonl", '{"_id": "a", "text": "x"}\n{broken\n[1]\n', [2, 3], "not JSON"),
        (read_queries, "q.jsonl", '{"id": "a", "text": "x"}\n', [1], 'Rename "id" to "_id"'),
        (read_queries, "q.jsonl", '{"_id": "a", "text": 7}\n', [1], '"text" holds a number'),
        (read_queries, "q.jsonl", '{"_id": "", "text": "x"}\n', [1], '"_id" is empty'),
        (read_queries, "q.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', [2], "in line 1 already"),
        (read_queries, "q.jsonl", b'{"_id": "a", "text": "\xff"}\n', [1], "not UTF-8"),
        (read_qrels, "r.tsv", "q\td\t1\nq\te\tgood\nq\n", [2, 3], 'the grade is "good"'),
        (read_qrels, "r.tsv", "q\td\t0.5\n", [1], "whole number"),
        (read_qrels, "r.tsv", "q\td\t1\nq\td\t0\n", [2], "grade 0 here and 1 in line 1"),
        (list, "c.jsonl", '{"_id": "a", "title": 3, "text": "x"}\n', [1], '"title" holds a number'),
        (read_pairs, "p.jsonl", '{"sentence1": "a", "sentence2": "b"}\n', [1], 'no "score"'),
        (read_pairs, "p.csv", "sentence1,sentence2,score\na,b,high\nc,d\n", [2, 3], '"score" holds "high"'),
        (read_pairs, "p.jsonl", '{"sentence_1": "a", "sentence2": "b", "score": 1}\n', [1], 'to "sentence1"'),
    ],
)
def test_every_wrong_line_is_named_at_once(write, reader, name, content, lines, expected):
    path = write(name, content)
    with pytest.raises(InputError, match=expected.replace("[", r"\[")) as caught:
        reader(open_corpus(path) if reader is list else path)
    assert lines_in(caught.value) == lines
    assert caught.value.line == lines[0]
    assert str(path) in str(caught.value)


def test_many_wrong_lines_are_counted_beyond_the_first_ten(write):
    with pytest.raises(InputError, match="… and 15 more") as caught:
        read_queries(write("q.jsonl", "{\n" * 25))
    assert len(lines_in(caught.value)) == 10


@pytest.mark.parametrize(
    ("reader", "content", "expected"),
    [(read_queries, "\n", "no queries"), (read_qrels, "query-id\tcorpus-id\tscore\n", "no judgements")],
)
def test_empty_files_are_refused(write, reader, content, expected):
    with pytest.raises(InputError, match=expected):
        reader(write("file.tsv", content))


def test_a_file_that_is_absent_suggests_the_nearest(write, tmp_path):
    write("queries.jsonl", "")
    with pytest.raises(InputError, match=r"Did you mean .*queries\.jsonl"):
        read_queries(tmp_path / "querys.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_queries(tmp_path)


@pytest.mark.parametrize("grades", [{"q": {"d": 0.5}}, {"q": {"d": True}}, {"q": ["d"]}, {}])
def test_mappings_that_are_no_judgements_are_refused(grades):
    with pytest.raises(InputError, match="qrels"):
        read_qrels(grades)


def test_a_document_without_text_is_refused():
    with pytest.raises(InputError, match="'a' has no text"):
        list(open_corpus({"a": {"body": "x"}}))


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (["qrels.tsv", "qrels/train.tsv", "qrels/test.tsv"], None, "qrels.tsv"),
        (["qrels/test.tsv"], None, "qrels/test.tsv"),
        (["qrels/train.tsv", "qrels/test.tsv"], "train", "qrels/train.tsv"),
        (["qrels.tsv", "qrels_train.tsv", "qrels_test.tsv"], "test", "qrels_test.tsv"),
        ([], None, None),
    ],
)
def test_judgements_are_found_by_their_split(write, tmp_path, files, split, expected):
    for name in ["corpus.jsonl", "queries.jsonl", *files]:
        write(name, "")
    found = find_retrieval_files(tmp_path, split=split)
    assert found.qrels == (tmp_path / expected if expected else None)
    assert found.corpus == tmp_path / "corpus.jsonl"


def test_judgements_of_several_splits_have_to_be_chosen(write, tmp_path):
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"):
        write(name, "")
    with pytest.raises(InputError, match=r"test\.tsv, train\.tsv") as caught:
        find_retrieval_files(tmp_path)
    assert "--split" in str(caught.value)
    with pytest.raises(InputError, match="Splits: test, train"):
        find_retrieval_files(tmp_path, split="dev")


def test_pairs_are_read_from_every_form(write):
    expected = [("a", "b", 1.0), ("c, d", "e", 2.5), ("f", "g", 0.0)]
    records = [{"sentence1": one, "sentence2": other, "score": score} for one, other, score in expected]
    table = 'source,sentence1,sentence2,score\nx,a,b,1\nx,"c, d",e,2.5\nx,f,g,0\n'
    assert read_pairs(expected) == read_pairs(records) == read_pairs(write("pairs.csv", table)) == expected


@pytest.mark.parametrize("pairs", [[("a", "b", 1.0)] * 2, [("a", "b", 1.0)] * 5])
def test_pairs_that_no_correlation_can_be_taken_of_are_refused(pairs):
    with pytest.raises(InputError, match="at least three pairs and two scores"):
        read_pairs(pairs)


def test_pairs_of_another_format_are_refused(write):
    with pytest.raises(InputError, match=r"\.jsonl and \.csv"):
        read_pairs(write("pairs.txt", "a b 1\n"))
