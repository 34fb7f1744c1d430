"""Division by document: no text stands on both sides, and the same data give the same parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedprefs import InvalidPreferenceError, Preferences
from embedprefs.evaluation import RetrievalTask
from embedprefs.training import read_training_data, split_by_document
from embedprefs.training.near_duplicates import near_duplicates
from embedprefs.training.split import find_leakage, leakage_of_task

WORDS = ("bread", "flour", "water", "oven", "salt", "time", "dough", "crust", "heat", "hand", "table", "night", "yeast")


def sentence(seed):
    return " ".join(random.Random(seed).choices(WORDS, k=14)) + f" {seed}"


def rows(documents, questions=3):
    """Pairs: several questions of each passage, one passage a document."""
    return [
        {"anchor": f"question {number} of {document}?", "positive": sentence(document), "doc_id": f"d{document}"}
        for document in range(documents)
        for number in range(questions)
    ]


def parts(splits):
    return [part for part in (splits.train, splits.dev, splits.test) if part is not None]


def test_documents_are_divided_and_rows_follow():
    """Shares are of documents; every row is in one part."""
    data = read_training_data(rows(40))
    splits = split_by_document(data, development=0.1, test=0.2)
    assert splits.unit == "document"
    assert splits.units == {"train": 28, "development": 4, "test": 8}
    assert [len(part) for part in parts(splits)] == [84, 12, 24]
    documents = [set(part.documents) for part in parts(splits)]
    assert not documents[0] & documents[1]
    assert not documents[0] & documents[2]
    assert not documents[1] & documents[2]


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    """The same data, shares and seed give the same parts."""
    made = rows(30)
    shuffled = random.Random(1).sample(made, len(made))
    first, second = (split_by_document(read_training_data(source)) for source in (made, shuffled))
    assert set(first.test.documents) == set(second.test.documents)
    other = split_by_document(read_training_data(made), seed=7)
    assert set(first.test.documents) != set(other.test.documents)


def test_without_documents_each_passage_is_one():
    """Questions of one passage stay together."""
    data = read_training_data([{key: row[key] for key in ("anchor", "positive")} for row in rows(30)])
    splits = split_by_document(data)
    assert splits.unit == "passage"
    assert not {row["positive"] for row in splits.train.rows} & {row["positive"] for row in splits.test.rows}


def test_documents_that_share_a_text_are_kept_together():
    """An equal passage, an equal question or a nearly equal passage joins two documents."""
    made = rows(30)
    passage = made[0]["positive"]
    made += [
        {"anchor": "other?", "positive": passage, "doc_id": "same"},
        {"anchor": made[3]["anchor"], "positive": sentence(901), "doc_id": "asked"},
        {"anchor": "third?", "positive": made[6]["positive"] + " more", "doc_id": "near"},
    ]
    for seed in range(12):
        splits = split_by_document(read_training_data(made), seed=seed)
        where = {document: number for number, part in enumerate(parts(splits)) for document in part.documents}
        assert where["same"] == where["d0"]
        assert where["asked"] == where["d1"]
        assert where["near"] == where["d2"]
        assert not any(found.found for found in splits.leakage().values())


def test_near_duplicates_can_be_left_apart_and_are_then_reported():
    """`near_duplicates = "ignore"`."""
    made = [
        {"anchor": f"q{n}?", "positive": sentence(n // 2) + (" again" if n % 2 else ""), "doc_id": f"d{n}"}
        for n in range(40)
    ]
    splits = split_by_document(read_training_data(made), near_duplicates="ignore", test=0.3)
    assert splits.leakage()["test"].near_duplicates > 0
    assert not split_by_document(read_training_data(made), test=0.3).leakage()["test"].found


def test_one_question_everywhere_does_not_put_all_rows_into_one_part():
    """What would hang everything together is given up, and said."""
    made = [{"anchor": "What is it?", "positive": sentence(n), "doc_id": f"d{n}"} for n in range(30)]
    splits = split_by_document(read_training_data(made))
    assert len(splits.test) > 0
    assert any("share the same query" in note for note in splits.notes)
    assert splits.leakage()["test"].queries == 1


def test_preferences_say_the_shares_and_an_evaluation_set_is_the_test():
    """With `evaluation_data` no test part is taken."""
    data = read_training_data(rows(40))
    stated = {"split": {"development": 0.2, "test": 0.2, "seed": 3}}
    prefs = Preferences.model_validate({"model": {"name": "m"}, "training": stated})
    assert split_by_document(data, prefs).units == {"train": 24, "development": 8, "test": 8}
    prefs = Preferences.model_validate({"model": {"name": "m"}, "training": {**stated, "evaluation_data": "folder"}})
    assert split_by_document(data, prefs).test is None


@pytest.mark.parametrize(
    ("documents", "shares", "words"),
    [(2, (0.1, 0.1), "too few for 3 parts"), (30, (0.6, 0.5), "leaves nothing to train on")],
)
def test_what_cannot_be_divided_is_an_error(documents, shares, words):
    """With what to do instead."""
    with pytest.raises(InvalidPreferenceError, match=words):
        split_by_document(read_training_data(rows(documents)), development=shares[0], test=shares[1])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15), st.integers(0, 20)), min_size=25, max_size=60),
    st.integers(0, 5),
)
def test_no_document_is_ever_in_two_parts(made, seed):
    """Whatever the rows share."""
    data = read_training_data(
        [{"anchor": f"q{q}", "positive": sentence(p), "doc_id": f"d{d}"} for d, p, q in made], document_column="doc_id"
    )
    try:
        splits = split_by_document(data, seed=seed)
    except InvalidPreferenceError as error:
        assert "too few" in str(error)  # noqa: PT017 - the only reason that is allowed
        return
    found = [set(part.documents) for part in parts(splits)]
    assert sum(map(len, found)) == len(set().union(*found))
    assert sum(map(len, parts(splits))) == len(data)


# --- near-duplicates


def test_near_duplicates_are_found_and_others_are_not():
    """Twenty words, one changed; and texts of the same words in another order are different texts."""
    text = " ".join(f"word{n}" for n in range(40))
    near = text.replace("word39", "other")
    far = " ".join(reversed(text.split()))
    assert list(near_duplicates([text, far, near, "Word0 " + text[6:]])) == [(0, 2), (0, 3), (2, 3)]


def test_texts_without_words_are_like_nothing():
    """Two rows of signs are no duplicates."""
    assert list(near_duplicates(["", "!!!", "...", "!!!"])) == []


# --- leakage


def test_leakage_names_what_is_shared():
    """Documents, questions, passages and near-duplicates are counted apart."""
    long = " ".join(f"w{n}" for n in range(30))
    train = read_training_data(
        [
            {"anchor": "Same?", "positive": "The  Same passage.", "doc_id": "a"},
            {"anchor": "two?", "positive": long, "doc_id": "b"},
        ],
        document_column="doc_id",
    )
    other = read_training_data(
        [
            {"anchor": "same?", "positive": "the same passage.", "doc_id": "a"},
            {"anchor": "four?", "positive": long + " w30", "doc_id": "c"},
        ],
        document_column="doc_id",
    )
    found = find_leakage(train, other)
    assert (found.documents, found.queries, found.passages, found.near_duplicates) == (1, 1, 1, 1)
    assert found.to_text() == "1 document, 1 query, 1 passage, 1 near-duplicate"


def test_a_corpus_may_hold_what_is_trained_on():
    """Only what answers the queries of an evaluation set counts."""
    train = read_training_data([{"anchor": "a?", "positive": "Passage one."}])
    corpus = {"d1": "Passage one.", "d2": "Passage two."}
    clean = RetrievalTask.read(corpus, {"q": "b?"}, {"q": {"d2": 1}})
    assert not leakage_of_task(train, clean).found
    leaking = RetrievalTask.read(corpus, {"q": "b?"}, {"q": {"d1": 1, "d2": 1}})
    assert leakage_of_task(train, leaking).passages == 1


def test_the_real_test_part_is_clean_and_the_whole_is_not(test_data):
    """The articles of the Wikipedia test part are not trained on."""
    folder = test_data / "squadshifts-wiki"
    train = read_training_data(folder)
    assert not leakage_of_task(train, _task(folder, "qrels_test.tsv")).found
    assert leakage_of_task(train, _task(folder, "qrels.tsv")).passages > 1000


def _task(folder, qrels):
    return RetrievalTask.read(folder / "corpus.jsonl", folder / "queries.jsonl", folder / qrels)
