"""The reference page says what `embedprefs.training` has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from embedprefs import training

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"


@pytest.fixture(scope="module")
def section():
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## embedprefs.training") : text.index("## Modules of embedprefs")]


def test_every_public_name_is_on_the_page(section):
    """In the import, and in words."""
    imported = section.partition("```python")[2].partition("```")[0]
    assert set(re.findall(r"^    (\w+),$", imported, re.MULTILINE)) == set(training.__all__)
    rest = section.replace(imported, "")
    assert [name for name in training.__all__ if not re.search(rf"\b{name}\b", rest)] == []


@pytest.mark.parametrize("name", [name for name in training.__all__ if inspect.isfunction(getattr(training, name))])
def test_signatures_are_those_of_the_code(section, name):
    """Names of the parameters, in their order, and which are by name alone."""
    shown = re.search(rf"^{name}\((.*?)\)\s*->", section, re.MULTILINE | re.DOTALL)
    assert shown, name
    parameters = [part.strip().partition("=")[0] for part in shown[1].split(",") if part.strip()]
    expected = []
    for parameter in inspect.signature(getattr(training, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in expected:
            expected.append("*")
        expected.append(parameter.name)
    assert parameters == expected


@pytest.mark.parametrize(
    "name", [name for name in training.__all__ if inspect.isclass(getattr(training, name)) and "Sampler" not in name]
)
def test_members_on_the_page_exist(section, name):
    """What the page calls a member of a class is one."""
    value = getattr(training, name)
    own = {*dir(value), *getattr(value, "__dataclass_fields__", ())}
    table = re.search(rf"^\| `{name}` \| is \|\n\| --- \| --- \|\n((?:\|.*\n)+)", section, re.MULTILINE)
    if table:
        cells = [row.split("|")[1] for row in table[1].splitlines()]
        members = [member.partition("(")[0] for cell in cells for member in re.findall(r"`([^`]+)`", cell)]
        assert members
        assert [member for member in members if member not in own] == []
    else:
        assert f"`{name}`" in section
