"""The reference page says what `embedprefs.evaluation` has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from embedprefs import evaluation

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"


@pytest.fixture(scope="module")
def section():
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## embedprefs.evaluation") : text.index("## embedprefs.training")]


def test_every_public_name_is_on_the_page(section):
    """In the import, and in words."""
    imported = section.partition("```python")[2].partition("```")[0]
    assert set(re.findall(r"^    (\w+),$", imported, re.MULTILINE)) == set(evaluation.__all__)
    rest = section.replace(imported, "")
    assert [name for name in evaluation.__all__ if not re.search(rf"`{name}\b", rest)] == []


@pytest.mark.parametrize("name", [name for name in evaluation.__all__ if inspect.isfunction(getattr(evaluation, name))])
def test_parameters_are_those_of_the_code(section, name):
    """In their order, with a star before those that are by name alone."""
    shown = re.search(rf"^\| `{name}\((.*?)\)`", section, re.MULTILINE)
    assert shown, name
    expected = []
    for parameter in inspect.signature(getattr(evaluation, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in expected:
            expected.append("*")
        expected.append(parameter.name)
    assert [part.partition("=")[0] for part in shown[1].split(", ")] == expected
