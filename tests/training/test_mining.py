"""Hard negatives with a margin, with the preferences' prompts; and questions that a function writes."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import InvalidPreferenceError, load_model, testing
from embedprefs.errors import InputError
from embedprefs.preferences import NegativesPreferences
from embedprefs.training import mine_negatives, read_training_data, synthetic_queries

NAMES = ("bread", "flour", "oven", "tea", "water", "cup", "train", "rail", "station", "ticket")
#: Each word is a direction of its own: similarities can be told from the words that two texts share.
WORDS = {name: np.eye(len(NAMES))[index].tolist() for index, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A static model: exact vectors, no transformer."""
    return load_model(str(testing.static_model_folder(tmp_path_factory.mktemp("m") / "static", words=WORDS)))


PAIRS = read_training_data(
    [
        {"anchor": "bread flour", "positive": "bread flour oven", "doc_id": "a"},
        {"anchor": "tea cup", "positive": "tea water cup", "doc_id": "b"},
        {"anchor": "train rail", "positive": "train rail station", "doc_id": "c"},
        {"anchor": "bread", "positive": "bread oven", "doc_id": "a"},
    ],
    document_column="doc_id",
)


def similarity(model, query, passage):
    first, second = model.encode_query([query]), model.encode_document([passage])
    return float(np.asarray(model.similarity(first, second))[0, 0])


def test_negatives_lie_below_the_margin_and_are_no_answers(model):
    """Each is at least the share below its positive, and answers the question nowhere in the data."""
    mined, report = mine_negatives(model, PAIRS, NegativesPreferences(count=2, relative_margin=0.2))
    assert mined.kind == "tuples"
    assert mined.text_roles == ("anchor", "positive", "negative_1", "negative_2")
    assert (report.rows, report.left_out, report.passages) == (4, 0, 4)
    assert mined.documents == PAIRS.documents
    for row in mined.rows:
        best = similarity(model, row["anchor"], row["positive"])
        for role in ("negative_1", "negative_2"):
            assert row[role] != row["positive"]
            assert similarity(model, row["anchor"], row[role]) <= best * 0.8 + 1e-5


def test_what_is_too_near_is_never_a_negative(model):
    """A passage that says the same is a right answer that nobody marked."""
    near = "oven flour bread bread flour oven"
    mined, _ = mine_negatives(model, PAIRS, NegativesPreferences(count=1), passages=[near, "station ticket"])
    assert mined.kind == "triplets"
    row = next(row for row in mined.rows if row["anchor"] == "bread flour")
    assert similarity(model, "bread flour", near) > 0.95 * similarity(model, "bread flour", row["positive"])
    assert row["negative"] != near


def test_rows_without_enough_negatives_are_counted(model):
    """They are left out, and the notes of the data say so."""
    preferences = NegativesPreferences(count=3, relative_margin=0.0, range_max=3)
    mined, report = mine_negatives(model, PAIRS, preferences)
    assert report.rows + report.left_out == len(PAIRS)
    assert report.to_text() in mined.notes
    with pytest.raises(InputError, match="no row has 9 passages"):
        mine_negatives(model, PAIRS, NegativesPreferences(count=9))


def test_the_prompts_of_the_model_are_used(tmp_path):
    """Questions get the query prompt, passages the document prompt."""
    from embedprefs import load_preferences

    folder = testing.static_model_folder(tmp_path / "static", words=WORDS)
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{folder}"\n[prompts]\nquery = "station "\ndocument = ""\n', encoding="utf-8")
    prompted = load_model(load_preferences(file))
    seen = []
    original = prompted.encode

    def watched(texts, **options):
        seen.append((list(texts), options.get("prompt"), options.get("prompt_name")))
        return original(texts, **options)

    prompted.encode = watched
    mine_negatives(prompted, PAIRS, NegativesPreferences(count=1))
    asked = [entry for entry in seen if "tea cup" in entry[0]]
    assert asked
    assert all("station " in (prompt, prompted.prompts.get(name)) for _, prompt, name in asked)


def test_nothing_is_printed(model, capsys):
    """The host shows bars, whatever its arguments say."""
    mine_negatives(model, PAIRS, NegativesPreferences(count=1))
    assert capsys.readouterr() == ("", "")


def test_another_model_is_asked_anew(model, tmp_path):
    """The host's cache of vectors knows no weights, and gives one model's vectors for another; it is not used."""
    turned = {name: vector[1:] + vector[:1] for name, vector in WORDS.items()} | {"bread": WORDS["cup"]}
    other = load_model(str(testing.static_model_folder(tmp_path / "other", turned)))
    wanted = NegativesPreferences(count=1, relative_margin=0.0)
    passages = ["cup ticket", "flour ticket", "oven ticket"]
    first, _ = mine_negatives(model, PAIRS, wanted, passages=passages)
    second, _ = mine_negatives(other, PAIRS, wanted, passages=passages)
    again, _ = mine_negatives(model, PAIRS, wanted, passages=passages)
    assert first.rows == again.rows != second.rows


@pytest.mark.parametrize(
    ("data", "count"),
    [(PAIRS, 0), (read_training_data([{"sentence1": "a", "sentence2": "b", "score": 1}]), 2)],
)
def test_there_must_be_something_to_mine(model, data, count):
    """Pairs, and a number of negatives."""
    with pytest.raises(InvalidPreferenceError, match="nothing to mine"):
        mine_negatives(model, data, NegativesPreferences(count=count))


# --- synthetic questions


def test_questions_of_documents_become_pairs():
    """Each with its document, so that the division is by document."""
    data = synthetic_queries(
        {"a.md": "Bread needs flour.", "b.md": "Tea needs water."}, lambda text: [f"{text[:5]}?", " "]
    )
    assert data.kind == "pairs"
    assert [row["anchor"] for row in data.rows] == ["Bread?", "Tea n?"]
    assert data.documents == ("a.md", "b.md")
    assert "2 questions were empty." in data.notes


def test_questions_that_fit_several_documents_are_left_out():
    """And counted, as repeated ones are."""
    data = synthetic_queries(["One.", "Two."], lambda text: ["What is it?", text, text])
    assert [row["anchor"] for row in data.rows] == ["One.", "Two."]
    assert any("2 questions were written for several documents" in note for note in data.notes)
    assert data.rejected[0].reason == "it repeats an earlier row"
    with pytest.raises(InputError, match="no question"):
        synthetic_queries(["One.", "Two."], lambda _text: "What is it?")


def test_a_function_that_fails_is_named_with_its_document():
    """Not half a data set without a word."""

    def fails(text):
        if "Two" in text:
            raise TimeoutError("no answer")
        return "why?"

    with pytest.raises(InputError, match=r'failed for "b": no answer'):
        synthetic_queries({"a": "One.", "b": "Two."}, fails)
    with pytest.raises(InputError, match="returned int"):
        synthetic_queries(["One."], lambda _text: [5])
