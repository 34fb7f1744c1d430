"""The commands that this distribution adds, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EMBEDPREFS = str(Path(sys.executable).with_name("embedprefs"))


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_folder):
    """A folder with preferences and three notes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "embedprefs.toml").write_text(
        f'[model]\nname = "{model_folder}"\n\n[index]\nroot = "notes"\nstore = "edge:index"\nchunk_tokens = 64\n'
    )
    notes = folder / "notes"
    notes.mkdir()
    for name, text in {"one": "# Ban\n\nBan kel lim.", "two": "# Mos\n\nMos rut sat.", "three": "# Til\n\nTil kep."}.items():
        (notes / f"{name}.md").write_text(text)
    return folder


def run(project, *arguments, code=0):
    """Run a command in the project; return what it wrote to standard output and to standard error."""
    result = subprocess.run(
        [EMBEDPREFS, *arguments], cwd=project, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def test_index_search_status_verify(project):
    """The main job: file to search hit, and the second run says that nothing has changed."""
    out, _ = run(project, "index", "notes")
    assert "3 documents: 3 new" in out
    out, _ = run(project, "index")
    assert "3 documents, all unchanged" in out
    out, _ = run(project, "search", "mos rut", "--limit", "1")
    assert "two.md:" in out
    assert "Mos rut sat." in out
    out, _ = run(project, "search", "ban", "til", "--limit", "1", "--format", "json")
    assert [(item["query"], item["hits"][0]["source"]) for item in json.loads(out)] == [
        ("ban", "one.md"),
        ("til", "three.md"),
    ]
    out, _ = run(project, "status", "--format", "json")
    assert json.loads(out)["fits"] is True
    out, _ = run(project, "verify", "notes")
    assert "Store and source agree." in out


def test_another_prompt_is_refused_with_exit_code_1(project):
    """Both sides are shown."""
    run(project, "index")
    other = ("--set", 'prompts.document=document: ')
    _, err = run(project, "search", "ban", *other, code=1)
    assert "document: " in err
    out, _ = run(project, "status", *other, code=1)
    assert "no" in out


def test_an_unreadable_file_ends_with_exit_code_4(project):
    """The others are indexed."""
    bad = project / "notes" / "bad.md"
    bad.write_bytes(b"\xff\xfe\xfa")
    try:
        out, _ = run(project, "index", code=4)
        assert "bad.md" in out
    finally:
        bad.unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "ban", "--where", "nonsense"), "cannot be read"),
        (("search", "ban", "--collection", "elsewhere"), "there is no collection"),
        (("index", "--into", "ftp://x"), "ftp"),
        (("index", "--quantization", "tiny"), "quantization"),
        (("status", "--collection", "elsewhere"), "There are: documents"),
    ],
)
def test_wrong_requests_end_with_exit_code_2(project, arguments, words):
    """And say what is allowed."""
    run(project, "index")
    _, err = run(project, *arguments, code=2)
    assert words in err


def test_nothing_found_is_a_negative_answer(project):
    """Exit code 1, so that a script can tell."""
    run(project, "index")
    run(project, "search", "ban", "--score-threshold", "1.1", code=1)


def test_unchanged_runs_import_no_torch(project):
    """Answering that nothing has changed takes a moment, not the import of a framework."""
    run(project, "index")
    code = (
        "import sys, runpy\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'sentence_transformers'}:\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "sys.argv = ['embedprefs', 'index']\n"
        "from embedprefs.cli.main import run\n"
        "run()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "all unchanged" in result.stdout
