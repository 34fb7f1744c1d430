"""Base models, as a model's own files name them."""

from __future__ import annotations

import pytest

from embedprefs.facts import read_facts
from embedprefs.facts.model_card import card_base_models


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlanguage: en\nbase_model: owner/name\ntags: [a]\n---\n# Text", ["owner/name"]),
        ("---\nbase_model:\n- owner/name\n- other/name # a remark\nlicense: mit\n---", ["owner/name", "other/name"]),
        ("---\nbase_model:\n  - 'owner/name'\n---", ["owner/name"]),
        ('---\nbase_model: ["owner/name", other/name]\n---', ["owner/name", "other/name"]),
        ("---\nbase_model: owner/name\r\n---\r\nbase_model: other/name", ["owner/name"]),
        ("---\nlanguage: en\n---\nbase_model: owner/name", []),
        ("base_model: owner/name", []),
        ("", []),
        ("---\nbase_model:\n---", []),
        ("---\nbase_model_relation: finetune\n---", []),
    ],
)
def test_front_matter(card, expected):
    """A name, or a list in either form of YAML; nothing outside the front matter."""
    assert card_base_models(card) == expected


def test_nearest_first(bert_folder, edit_json):
    """What the checkpoint was loaded from comes before the card; folders of another machine are no model names."""
    (bert_folder / "README.md").write_text("---\nbase_model:\n- card/name\n- loaded/from\n---\n")
    edit_json(bert_folder / "config.json", _name_or_path="loaded/from")
    assert read_facts(str(bert_folder)).base_models == ("loaded/from", "card/name")
    edit_json(bert_folder / "config.json", _name_or_path="/home/someone/model")
    assert read_facts(str(bert_folder)).base_models == ("card/name", "loaded/from")


def test_a_card_that_is_not_utf8(bert_folder):
    """A card in another encoding is read as far as it goes."""
    (bert_folder / "README.md").write_bytes(b"---\nbase_model: card/name\nauthor: \xff\n---\n")
    assert read_facts(str(bert_folder)).base_models[-1:] == ("card/name",)
