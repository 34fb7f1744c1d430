"""A project folder with a model, and the command line as a function."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedprefs.cli.main import create_app
from embedprefs.testing import static_model_folder


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project folder with a tiny static model and its preferences file the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".git").mkdir()
    static_model_folder(folder / "model")
    (folder / "embedprefs.toml").write_text('[model]\nname = "./model"\n')
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments, stdin=None):
        result = CliRunner().invoke(create_app(), [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    return run_command


@pytest.fixture
def run_process():
    """Return a function that runs a command in a process of its own, as a user does."""

    def run_command(*arguments, cwd=None, env=None, stdin=None):
        result = subprocess.run(
            [sys.executable, "-m", "embedprefs.cli", *(str(argument) for argument in arguments)],
            cwd=cwd or Path.cwd(),
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=not isinstance(stdin, bytes),
            timeout=240,
            check=False,
        )
        return Ended(result.returncode, result.stdout, result.stderr)

    return run_command
