"""The example answers from the documentation, and embeds it once."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "rag_langchain.py"


def test_the_example_answers_offline_and_again(static_folder, tmp_path, monkeypatch, capsys):
    """The stand-in repeats the passages it is given and the question; a second run finds the same."""
    question = "What is a preferences file?"
    arguments = [question, "--model", static_folder, "--store", f"edge:{tmp_path / 'index'}"]
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *arguments])
    printed = []
    for _ in range(2):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert re.search(r"^\d+ passages of \d+ files are in edge:", printed[0])
    assert f"Question: {question}" in printed[0]
    assert re.search(r"\[(README|docs/[\w/-]+)\.md\]", printed[0])
