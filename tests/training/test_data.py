"""Training data: whatever it is read from, rows have known roles, and what cannot be used is counted."""

from __future__ import annotations

import csv
import json

import pytest

from embedprefs import InvalidPreferenceError
from embedprefs.errors import InputError
from embedprefs.training import read_training_data

PAIRS = [
    {"question": "Who?", "context": "She did.", "doc_id": "a", "page": 1},
    {"question": "When?", "context": "At noon.", "doc_id": "b", "page": 2},
    {"question": "Where?", "context": "At home.", "doc_id": "b", "page": 3},
]


def jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def beir(folder, qrels, corpus=None, queries=None):
    """A folder in the BEIR layout; `qrels` is file name -> lines."""
    folder.mkdir(exist_ok=True)
    jsonl(
        folder / "corpus.jsonl",
        corpus
        or [
            {"_id": "d1", "title": "Bread", "text": "Flour and water."},
            {"_id": "d2", "title": "Bread", "text": "Bake it."},
            {"_id": "d3", "title": "Tea", "text": "Boil water."},
        ],
    )
    jsonl(folder / "queries.jsonl", queries or [{"_id": f"q{n}", "text": f"question {n}?"} for n in range(1, 5)])
    for name, lines in qrels.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines), encoding="utf-8")
    return folder


# --- sources


def test_every_source_gives_the_same_rows(tmp_path):
    """JSON lines, CSV, Parquet, a data set and plain records are one thing."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, PAIRS[0])
        writer.writeheader()
        writer.writerows(PAIRS)
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "p.parquet")
    sources = [
        jsonl(tmp_path / "p.jsonl", PAIRS),
        tmp_path / "p.csv",
        str(tmp_path / "p.parquet"),
        Dataset.from_list(PAIRS),
        PAIRS,
    ]
    read = [read_training_data(source, document_column="doc_id") for source in sources]
    for data in read:
        assert data.kind == "pairs"
        assert list(data.rows) == [{"anchor": row["question"], "positive": row["context"]} for row in PAIRS]
        assert data.documents == ("a", "b", "b")
        assert data.columns.unused == ("page",)
    assert len({data.digest for data in read}) == 1


def test_what_was_read_already_is_not_read_again():
    """`TrainingData` is taken as it is."""
    data = read_training_data(PAIRS)
    assert read_training_data(data) is data


def test_a_folder_gives_its_training_judgements_with_titles_as_documents(tmp_path):
    """The title that several passages share is their document; judgements of other parts are not read."""
    folder = beir(tmp_path / "f", {"qrels_train.tsv": ["q1\td1\t1", "q2\td2\t2", "q3\td3\t0"], "qrels_test.tsv": []})
    data = read_training_data(folder, document_column="title")
    assert [row["anchor"] for row in data.rows] == ["question 1?", "question 2?"]
    assert data.rows[0]["positive"] == "Bread Flour and water."
    assert data.documents == ("Bread", "Bread")
    assert any("1 judgements of documents that are not relevant are not used" in note for note in data.notes)


def test_a_folder_with_a_training_file_is_not_trained_on_its_judgements(tmp_path):
    """Judgements without a training part are for evaluation where there is a file to train on."""
    folder = beir(tmp_path / "f", {"qrels.tsv": ["q1\td1\t1"]})
    jsonl(folder / "train.jsonl", [{"anchor": "a", "positive": "b"}])
    data = read_training_data(folder)
    assert list(data.rows) == [{"anchor": "a", "positive": "b"}]
    assert "The folder's judgements are not trained on." in data.notes


def test_a_stated_split_is_read(tmp_path):
    """`split` names the judgements."""
    folder = beir(tmp_path / "f", {"qrels/train.tsv": ["q1\td1\t1"], "qrels/dev.tsv": ["q2\td2\t1"]})
    assert read_training_data(folder).rows[0]["anchor"] == "question 1?"
    assert read_training_data(folder, split="dev").rows[0]["anchor"] == "question 2?"


def test_judgements_of_what_is_not_there_are_all_named(tmp_path):
    """File and line of each."""
    folder = beir(tmp_path / "f", {"qrels.tsv": ["q9\td1\t1", "q1\td9\t1"]})
    with pytest.raises(InputError) as caught:
        read_training_data(folder)
    assert 'qrels.tsv:2: query "q9" is not in queries.jsonl' in str(caught.value)
    assert 'qrels.tsv:3: document "d9" is not in corpus.jsonl' in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "none.jsonl", "there is no such file"),
        (lambda path: jsonl(path / "x.txt", PAIRS), "is no format of training data"),
        (lambda path: jsonl(path / "x.jsonl", []), "there are no rows"),
        (lambda path: [["a", "b"]], "has to be a mapping"),
        (lambda path: beir(path / "f", {}), "no judgements"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_so(tmp_path, make, words):
    """With what would do."""
    with pytest.raises(InputError, match=words):
        read_training_data(make(tmp_path))


# --- roles


@pytest.mark.parametrize(
    ("row", "kind", "roles"),
    [
        ({"query": "a", "passage": "b"}, "pairs", ("anchor", "positive")),
        ({"sentence1": "a", "sentence2": "b"}, "pairs", ("anchor", "positive")),
        ({"anchor": "a", "positive": "b", "negative": "c"}, "triplets", ("anchor", "positive", "negative")),
        (
            {"question": "a", "answer": "b", "negative_2": "d", "negative_1": "c"},
            "tuples",
            ("anchor", "positive", "negative_1", "negative_2"),
        ),
        (
            {"query": "a", "pos": "b", "negatives": ["c", "d"]},
            "tuples",
            ("anchor", "positive", "negative_1", "negative_2"),
        ),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, "scored_pairs", ("text_a", "text_b")),
        ({"anchor": "a", "positive": "b", "label": 1}, "scored_pairs", ("anchor", "positive")),
        ({"text": "a", "label": "x"}, "labelled", ("text",)),
        ({"sentence": "a"}, "texts", ("text",)),
    ],
)
def test_kinds_are_found_by_column_names(row, kind, roles):
    """Names as data sets have them; negatives are put into their order."""
    data = read_training_data([row])
    assert data.kind == kind
    assert data.text_roles == roles
    if "negative_1" in roles:
        assert (data.rows[0]["negative_1"], data.rows[0]["negative_2"]) == ("c", "d")


def test_stated_columns_win_over_names():
    """A column that is called `answer` can be the anchor."""
    data = read_training_data([{"answer": "x", "question": "y"}], columns={"anchor": "answer", "positive": "question"})
    assert data.rows[0] == {"anchor": "x", "positive": "y"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"anchor": "qestion"}, "Did you mean question"),
        ({"anchors": "question"}, "Did you mean anchor"),
        ({"anchor": ["question", "context"]}, "has 2 columns"),
    ],
)
def test_wrong_roles_and_columns_are_named_with_the_nearest(columns, words):
    """Before anything is read further."""
    with pytest.raises(InvalidPreferenceError, match=words):
        read_training_data(PAIRS, columns=columns)


def test_columns_without_a_role_are_an_error_that_shows_how_to_say_it():
    """Guessing would train on anything."""
    with pytest.raises(InvalidPreferenceError, match=r"\[training.columns\]"):
        read_training_data([{"left": "a", "right": "b"}])


def test_sides_follow_roles():
    """Anchors are queries; everything that is found, and texts among equals, are documents."""
    triplet = read_training_data([{"anchor": "a", "positive": "b", "negative": "c"}])
    assert triplet.sides == {"anchor": "query", "positive": "document", "negative": "document"}
    alike = read_training_data([{"sentence1": "a", "sentence2": "b", "score": 1}])
    assert set(alike.sides.values()) == {"document"}


# --- rows that cannot be used


def test_rows_that_cannot_be_used_are_counted_with_their_lines(tmp_path):
    """Nothing is dropped silently."""
    rows = [
        {"anchor": "a", "positive": "b"},
        {"anchor": "", "positive": "c"},
        {"anchor": "d", "positive": None},
        {"anchor": 5, "positive": "e"},
        {"anchor": "a", "positive": "b"},
    ]
    data = read_training_data(jsonl(tmp_path / "x.jsonl", rows))
    assert len(data) == 1
    assert {item.reason: (item.count, item.places) for item in data.rejected} == {
        "the anchor is empty": (1, (2,)),
        "the positive is missing": (1, (3,)),
        "the anchor is no text": (1, (4,)),
        "it repeats an earlier row": (1, (5,)),
    }


def test_a_few_rows_without_negative_are_left_out_and_many_give_up_the_negatives():
    """A loss takes the same number of texts from each row."""
    few = [{"anchor": f"a{n}", "positive": f"p{n}", "negative": f"n{n}" if n else None} for n in range(20)]
    data = read_training_data(few)
    assert (data.kind, len(data)) == ("triplets", 19)
    assert data.rejected[0].reason == "no negative"
    many = [{**row, "negative": row["negative"] if n % 2 else None} for n, row in enumerate(few)]
    data = read_training_data(many)
    assert (data.kind, len(data), data.columns.unused) == ("pairs", 20, ("negative",))
    assert any("the negatives of the others are not used" in note for note in data.notes)


def test_a_positive_that_is_its_own_negative_is_left_out():
    """It would be pulled and pushed at once."""
    rows = [{"anchor": f"a{n}", "positive": f"p{n}", "negative": f"n{n}"} for n in range(5)]
    data = read_training_data([*rows, {"anchor": "x", "positive": "y", "negative": "y"}])
    assert [(item.reason, item.count) for item in data.rejected] == [("the positive is its own negative", 1)]


def test_scores_are_numbers_and_others_are_counted():
    """CSV holds texts; a score that is no number is left out."""
    data = read_training_data(
        [{"sentence1": "a", "sentence2": "b", "score": "0.5"}, {"sentence1": "c", "sentence2": "d", "score": "high"}]
    )
    assert data.rows[0]["score"] == 0.5
    assert data.rejected[0].reason == "the score is no number"


def test_no_usable_row_is_an_error_with_the_reasons():
    """There is nothing to train on."""
    with pytest.raises(InputError, match="1 row: the anchor is empty"):
        read_training_data([{"anchor": " ", "positive": "b"}])


def test_a_genre_is_no_document():
    """A `source` with two values names where texts are from, not which document; each passage then counts as one."""
    rows = [{"anchor": f"a{n}", "positive": f"p{n}", "source": "web"} for n in range(40)]
    data = read_training_data(rows)
    assert data.documents is None
    assert any("does not name the documents" in note for note in data.notes)
    assert read_training_data(rows, document_column="source").documents == ("web",) * 40


def test_a_stated_document_column_with_gaps_is_an_error():
    """A row without a document could stand on both sides of a division."""
    with pytest.raises(InputError, match="1 of 2 rows have no"):
        read_training_data(
            [{"anchor": "a", "positive": "b", "d": "1"}, {"anchor": "c", "positive": "e"}], document_column="d"
        )


# --- for the trainer


def test_the_data_set_has_the_columns_of_the_loss_in_their_order():
    """The host trains on every column it gets: others are left out."""
    data = read_training_data([{"positive": "b", "id": 1, "anchor": "a", "negative": "c", "score": [0.9, 0.1]}])
    assert data.dataset().column_names == ["anchor", "positive", "negative", "score"]
    assert data.dataset(("anchor", "negative", "positive")).column_names == ["anchor", "negative", "positive"]
    with pytest.raises(InputError, match="have no label"):
        data.dataset(("anchor", "label"))


def test_the_digest_stands_for_rows_and_order():
    """A resumed run compares it."""
    data = read_training_data(PAIRS)
    assert data.digest == read_training_data(PAIRS).digest
    assert data.digest != data.subset([1, 0, 2]).digest
    assert data.subset([1, 2]).rows == data.rows[1:]


def test_real_folders_are_understood(test_data):
    """Wikipedia paragraphs by article, and commands with hard negatives."""
    wiki = read_training_data(test_data / "squadshifts-wiki")
    assert (wiki.kind, len(set(wiki.documents))) == ("pairs", 32)
    assert len(wiki) + sum(item.count for item in wiki.rejected) == 5254
    commands = read_training_data(test_data / "tldr-commands")
    assert (commands.kind, len(commands)) == ("triplets", 19706)
    assert commands.rejected[0].count == 294
