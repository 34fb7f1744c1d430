"""Runs what a documentation page shows, so that a page cannot say what does not work.

- A fenced block `toml NAME` (or any language with a file name behind it) is written to that file.
- A fenced block `console` holds `$ command` lines with their output beneath; a line `...` stands for any lines, and
  `...` within a line for any text.
- A fenced block `python` is run; the blocks of a page share their names. A comment `#> text` is the printed output.
- A fenced block whose info string ends in `no-run` is not run; `pip install` and `make` are checked, not run.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["Block", "blocks_of", "run_page"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    argument: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown page, in order."""
    blocks = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language, _, argument = token.info.strip().partition(" ")
            line = (token.map or [0])[0] + 1
            blocks.append(Block(page, line, language, argument.strip(), token.content))
    return blocks


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> list[Block]:
    """Run every block of a page in a folder and return those that were run or checked.

    Raises:
        AssertionError: a command failed, or its output is not what the page shows.
    """
    names: dict[str, object] = {"__name__": "__page__"}
    done = []
    for block in blocks_of(page):
        if block.argument == "no-run":
            continue
        if block.language == "console":
            for command, expected in _commands(block.text):
                _run_command(block, command, expected, folder, environment)
        elif block.language == "python":
            _run_python(block, names, folder)
        elif block.argument:
            target = folder / block.argument
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        else:
            continue
        done.append(block)
    return done


def _commands(text: str) -> Iterator[tuple[str, str]]:
    command: str | None = None
    output: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, "\n".join(output)
            command, output = line[2:], []
        else:
            output.append(line)
    if command is not None:
        yield command, "\n".join(output)


def _run_command(block: Block, command: str, expected: str, folder: Path, environment: Mapping[str, str]) -> None:
    if command.startswith("make "):
        target = command.split()[1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{block}: no target {target}"
        return
    if command.startswith("pip install "):
        _check_install_line(block, command)
        return
    result = subprocess.run(
        command, shell=True, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, f"{block}: {command} exited {result.returncode}\n{result.stdout}\n{result.stderr}"
    if expected.strip():
        shown = result.stdout.strip() or result.stderr.strip()
        assert _matches(expected.strip(), shown), (
            f"{block}: {command}\nthe page shows:\n{expected}\nit printed:\n{shown}"
        )


def _check_install_line(block: Block, command: str) -> None:
    """An install line names distributions and extras of this project."""
    for name, extras in re.findall(r'"([\w-]+)(?:\[([\w,-]+)\])?"', command):
        home = {
            "embedprefs": "pyproject.toml",
            "embedprefs-qdrant": "integrations/qdrant/pyproject.toml",
            "langchain-embedprefs": "integrations/langchain/pyproject.toml",
        }.get(name)
        assert home is not None, f"{block}: {name} is no distribution of this project"
        declared = (ROOT / home).read_text()
        for extra in filter(None, extras.split(",")):
            assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), f"{block}: {name} has no extra {extra}"


def _run_python(block: Block, names: dict[str, object], folder: Path) -> None:
    expected = "\n".join(re.findall(r"^\s*#> ?(.*)$", block.text, re.MULTILINE))
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
    if expected:
        shown = printed.getvalue().strip()
        assert _matches(expected.strip(), shown), f"{block}\nthe page shows:\n{expected}\nit printed:\n{shown}"


def _matches(expected: str, shown: str) -> bool:
    """Say whether the output is what the page shows; `...` stands for anything, white space at line ends is nothing."""
    pattern = []
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*\n")
    text = "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    return re.fullmatch("".join(pattern), text) is not None


def python_folder() -> str:
    """Return the folder with this environment's commands."""
    return str(Path(sys.executable).parent)
