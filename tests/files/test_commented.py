"""The file that init writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedprefs.errors import InvalidPreferenceError
from embedprefs.files import commented_file
from embedprefs.layers import load_preferences
from embedprefs.preferences import every_field
from embedprefs.toml_text import TomlText, dotted

STATED = {
    "model.revision": "0123abc",
    "prompts.query": "search_query: ",
    "prompts.document": "search_document: ",
    "prompts.clustering": "clustering: ",
    "tokenizer.special_tokens": {"pad_token": "[PAD]"},
}
TEXT = commented_file(
    "owner/model", stated=STATED, notes={"prompts.query": "From the model card.", "": "Written by hand."}
)
DEFAULTS = [number for number, line in enumerate(TEXT.splitlines()) if re.match(r"#[a-z]", line)]


def load(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "embedprefs.toml"
    path.write_text(text)
    return load_preferences(path, environment={}).stated()


def test_only_what_is_stated_is_active(tmp_path: Path) -> None:
    """Every default is commented out, so that the file hides no layer beneath it."""
    assert load(tmp_path, TEXT) == {"schema_version": 1, "model.name": "owner/model", **STATED}


def test_every_preference_stands_in_it() -> None:
    """Active or as a commented-out default; names that the user chooses as an example."""
    uncommented = re.sub(r"(?m)^#(?=[a-z])", "", TEXT)
    found = {dotted(entry.path) for entry in TomlText.scan(uncommented).entries}
    wanted = {item.key for item in every_field() if "*" not in item.key}
    assert wanted <= found
    assert any(key.startswith("index.vectors.") for key in found)


@pytest.mark.parametrize("number", DEFAULTS, ids=lambda number: TEXT.splitlines()[number].split(" =")[0])
def test_any_commented_line_may_be_uncommented(tmp_path: Path, number: int) -> None:
    """Each alone gives a file that is valid and states that key."""
    (tmp_path / "base.toml").write_text("[model]\n")
    lines = TEXT.splitlines()
    key = lines[number][1:].split(" =")[0]
    lines[number] = lines[number][1:]
    stated = load(tmp_path, "\n".join(lines))
    assert any(f".{name}.".find(f".{key}.") >= 0 for name in stated)


def test_every_preference_is_described_with_what_is_allowed() -> None:
    for item in every_field():
        if "*" in item.key or item.key == "schema_version" or item.key.startswith("model.adapter"):
            continue
        words = " ".join(re.sub(r"(?m)^# ?", "", TEXT).split())
        assert item.description in words, item.key
        if item.allowed != "a table":
            assert f"Allowed: {item.allowed}." in words, item.key


def test_notes_stand_above_their_values() -> None:
    assert '# From the model card.\nquery = "search_query: "' in TEXT
    assert "# Written by hand." in TEXT.splitlines()[:3]
    with pytest.raises(ValueError, match=r"vectors\.normalize"):
        commented_file("m", notes={"vectors.normalize": "not stated"})


def test_a_value_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(InvalidPreferenceError, match=r"compute\.dtype"):
        commented_file("m", stated={"compute.dtype": "fp16"})


def test_odd_names_and_prompts_are_quoted(tmp_path: Path) -> None:
    stated = {"prompts.query": 'Instruct: "x"\nQuery:\t', "prompts.document": ""}
    text = commented_file('fol"der\\model', stated=stated)
    assert load(tmp_path, text) == {"schema_version": 1, "model.name": 'fol"der\\model', **stated}


def test_lines_are_short_enough_to_read() -> None:
    assert max(map(len, TEXT.splitlines())) <= 120
