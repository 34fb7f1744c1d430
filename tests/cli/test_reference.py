"""The reference page of the commands says what `--help` says."""

from __future__ import annotations

from pathlib import Path

import typer

from embedprefs.cli.main import create_app
from embedprefs.cli.reference import render

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "commands.md"


def test_the_page_is_current():
    """`make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_every_command_and_every_option_is_on_the_page():
    page = render()
    for name, command in typer.main.get_command(create_app()).commands.items():
        section = page.split(f"## `embedprefs {name}`")[1].split("\n## ")[0]
        for parameter in command.params:
            for option in parameter.opts:
                assert parameter.param_type_name == "argument" or option in section
