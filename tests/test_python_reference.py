"""The reference page says what the modules have that it describes at length."""

from __future__ import annotations

import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "python.md"
MODULES = {name: importlib.import_module(f"embedprefs.{name}") for name in ("evaluation", "training")}


def section_of(name):
    """Return what the page says of a module: from its heading to the next one of the same rank."""
    text = PAGE.read_text(encoding="utf-8")
    starts = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)]
    (section,) = [
        text[begin:end]
        for begin, end in pairwise([*starts, len(text)])
        if text[begin:end].startswith(f"## embedprefs.{name}\n")
    ]
    return section


def public(condition):
    """Return (module, name) of everything public that meets a condition."""
    return [
        (module, name)
        for module, value in MODULES.items()
        for name in value.__all__
        if condition(getattr(value, name)) and "Sampler" not in name
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_the_page(module):
    """In the import, and in words."""
    section = section_of(module)
    imported = section.partition("```python")[2].partition("```")[0]
    names = MODULES[module].__all__
    assert set(re.findall(r"^    (\w+),$", imported, re.MULTILINE)) == set(names)
    rest = section.replace(imported, "")
    assert [name for name in names if not re.search(rf"\b{name}\b", rest)] == []


@pytest.mark.parametrize(("module", "name"), public(inspect.isfunction))
def test_parameters_are_those_of_the_code(module, name):
    """In their order, with a star before those that are by name alone; in a row of a table or in a block."""
    shown = re.search(rf"^(?:\| `)?{name}\((.*?)\)(?:`|\s*->)", section_of(module), re.MULTILINE | re.DOTALL)
    assert shown, name
    expected = []
    for parameter in inspect.signature(getattr(MODULES[module], name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in expected:
            expected.append("*")
        expected.append(parameter.name)
    assert [part.strip().partition("=")[0] for part in shown[1].split(",") if part.strip()] == expected


@pytest.mark.parametrize(("module", "name"), public(inspect.isclass))
def test_members_on_the_page_exist(module, name):
    """What the page calls a member of a class is one."""
    section, value = section_of(module), getattr(MODULES[module], name)
    own = {*dir(value), *getattr(value, "__dataclass_fields__", ())}
    table = re.search(rf"^\| `{name}` \| is \|\n\| --- \| --- \|\n((?:\|.*\n)+)", section, re.MULTILINE)
    if table:
        cells = [row.split("|")[1] for row in table[1].splitlines()]
        members = [member.partition("(")[0] for cell in cells for member in re.findall(r"`([^`]+)`", cell)]
        assert members
        assert [member for member in members if member not in own] == []
    else:
        assert f"`{name}" in section
