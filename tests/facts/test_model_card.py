"""What a model is and what it was made from, as its own files name it."""

from __future__ import annotations

import pytest

from embedprefs.facts import read_facts
from embedprefs.facts.model_card import card_base_models, card_name
from embedprefs.known_models import find_known_model


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


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("# short-name\nmodel = SentenceTransformer('owner/short-name')", "owner/short-name"),
        ('---\nlicense: mit\n# a remark\n---\n\n# **Short-Name**\nX("owner/short-name")', "owner/short-name"),
        ('## owner/short-name\nX("owner/short-name") and Y("other/name")', "owner/short-name"),
        ("# short-name\r\nX('owner/short-name')\r\n", "owner/short-name"),
        # Two owners of one short name, a card that loads another model, one that names nothing, a title of its own.
        ('# short-name\nX("owner/short-name") or X("other/short-name")', None),
        ('# my-model\nA fine-tune: X("owner/short-name")', None),
        ("# short-name\nBy owner/short-name", None),
        ('# Usage\n# short-name\nX("owner/short-name")', None),
        ('X("owner/short-name")', None),
        ('---\n# short-name\n---\nX("owner/short-name")', None),
        ("---\n# short-name", None),
        ("", None),
    ],
)
def test_the_model_that_a_card_is_about(card, name):
    """Heading and code have to agree on one model."""
    assert card_name(card) == name


def test_a_folder_of_a_published_model_is_recognised_by_its_card(minilm_folder):
    """all-MiniLM-L6-v2 as it is published, in a folder that says nothing by its name."""
    facts = read_facts(str(minilm_folder))
    assert facts.card_name == "sentence-transformers/all-MiniLM-L6-v2"
    match = find_known_model(facts)
    assert (match.model.name, match.by, match.confidence) == (facts.card_name, "model card", "likely")
