"""Built-in texts, and texts of a file."""

from __future__ import annotations

import json

import pytest

from embedprefs import InputError
from embedprefs.benchmarking import built_in_questions, built_in_texts, read_some, short_texts


def test_the_built_in_mix_is_the_same_every_time_distinct_and_of_spread_lengths():
    texts = built_in_texts(240)
    assert texts == built_in_texts(240)
    assert len(set(texts)) == 240
    words = sorted(len(text.split()) for text in texts)
    assert words[0] < 10
    assert words[-1] > 400
    assert words[120] < 120


@pytest.mark.parametrize("count", [0, 10_001])
def test_more_texts_than_the_mix_has_are_refused(count):
    with pytest.raises(InputError, match="built-in mix"):
        built_in_texts(count)


def test_short_texts_are_all_different():
    """An engine that computes identical texts once must gain nothing here."""
    texts = list(short_texts(160_000))
    assert len(set(texts)) == 160_000
    assert max(len(text.split()) for text in texts) < 16
    with pytest.raises(InputError, match="160,000"):
        short_texts(160_001)


def test_questions_are_distinct_questions():
    questions = built_in_questions()
    assert len(set(questions)) == len(questions) >= 12


def test_texts_are_spread_over_the_whole_file_and_empty_ones_left_out(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"text {number}\n\n   \n" for number in range(100)))
    assert read_some(file, 4) == ["text 0", "text 25", "text 50", "text 75"]
    assert len(read_some(file, 0)) == len(read_some(file, 1000)) == len(read_some(file, 100)) == 100
    assert read_some(file, 3)[-1] == "text 66"


def test_a_field_of_json_lines_can_be_named(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"body": f"text {number}"}) + "\n" for number in range(3)))
    assert read_some(file, 0, text_field="body") == ["text 0", "text 1", "text 2"]
    with pytest.raises(InputError, match="body"):
        read_some(file, 0)


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_a_file_without_texts_is_refused(tmp_path, content):
    file = tmp_path / "empty.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=r"no text to measure|at least one text"):
        read_some(file, 10)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        read_some(tmp_path / "nowhere.txt", 10)
