"""The generated reference pages say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from embedprefs.preferences import every_field
from embedprefs.reference_pages import preferences_page

DOCS = Path(__file__).parent.parent / "docs"
PAGES = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_current(name):
    """What is committed is what `make docs` would write."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), f"docs/{name} is stale: run make docs"


def test_the_commands_page_lists_the_commands_that_integrations_add():
    """Each with the distribution that it comes with, and its arguments as they are given."""
    page = PAGES["reference/commands.md"]()
    for command in ("index", "search", "status", "verify", "adopt", "export"):
        section = page.partition(f"## `embedprefs {command}`")[2].partition("\n## ")[0]
        assert "Comes with the distribution `embedprefs-qdrant`." in section, command
    assert "embedprefs index [PATHS...] [OPTIONS]" in page
    assert "| `--exact/--approximate` |" in page


def test_every_preference_is_described_with_its_kind():
    """No preference is declared without a sentence for its reader."""
    fields = every_field()
    assert len(fields) > 90
    for field in fields:
        assert field.description.endswith((".", ")")), field.key
        assert field.allowed, field.key


def test_the_preferences_page_lists_every_preference():
    """A new preference cannot be forgotten in the reference."""
    page = preferences_page()
    for field in every_field():
        if not field.key.startswith("index.vectors.*"):
            assert f"| `{field.name}` | " in page, field.key
