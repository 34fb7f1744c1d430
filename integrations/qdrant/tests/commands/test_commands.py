"""The commands that this distribution adds, run as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedprefs_qdrant import open_store

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
    for name, text in {
        "one": "# Ban\n\nBan kel lim.",
        "two": "# Mos\n\nMos rut sat.",
        "three": "# Til\n\nTil kep.",
    }.items():
        (notes / f"{name}.md").write_text(text)
    return folder


def run(project, *arguments, code=0):
    """Run a command in the project, in this process; return what it wrote to standard output and to standard error."""
    from embedprefs.cli.main import create_app

    with contextlib.chdir(project):
        result = CliRunner().invoke(create_app(), list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def run_process(project, *arguments, code=0):
    """The same in a process of its own, as a user does."""
    result = subprocess.run(
        [EMBEDPREFS, *arguments], cwd=project, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def test_index_search_status_verify(project):
    """The main job: file to search hit, and the second run says that nothing has changed."""
    out, _ = run_process(project, "index", "notes")
    assert "3 documents: 3 new" in out
    out, _ = run_process(project, "index")
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
    other = ("--set", "prompts.document=document: ")
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
        (("search", "--batch", "nowhere.txt"), "no such file of questions"),
        (("search", "--batch", "../model.bin"), "Not UTF-8"),
        (("search", "ban", "--vector", "small"), "no vector 'small'"),
        (("export", "--to", "edge:index"), "onto itself"),
        (("index", "notes", "--set", "index.two_stage_dims=16"), "two_stage_dims"),
        (("index", "--set", "index.root=nowhere"), "Check index.root"),
    ],
)
def test_wrong_requests_end_with_exit_code_2(project, arguments, words):
    """And say what is allowed."""
    run(project, "index")
    (project.parent / "model.bin").write_bytes(b"\xff\xfe\xfa")
    _, err = run(project, *arguments, code=2)
    assert words in err


@pytest.mark.parametrize("command", ["index", "verify"])
def test_paths_that_lead_nowhere_are_an_error_and_give_no_result(project, command):
    """A path and a pattern; nothing is stored, and no line of zeros stands beside the error."""
    run(project, "index")
    for options in ((), ("--format", "json")):
        out, err = run(project, command, "nowhere.md", "no/*.md", *options, code=2)
        assert out == ""
        assert "There is no such file or folder:\n  nowhere.md\n  no/*.md" in err


def test_a_path_that_leads_nowhere_beside_one_that_does_not_is_named(project):
    """What is there is indexed; exit code 4 says that not all of it was."""
    out, _ = run(project, "index", "notes", "nowhere.md", "--collection", "partly", code=4)
    assert "3 documents: 3 new" in out
    assert "There is no such file or folder" in out


def test_nothing_found_is_a_negative_answer(project):
    """Exit code 1, so that a script can tell."""
    run(project, "index")
    run(project, "search", "ban", "--score-threshold", "1.1", code=1)


def test_questions_of_a_file_are_answered_in_turn(project, tmp_path):
    """One a line; blank lines are none."""
    run(project, "index")
    questions = tmp_path / "questions.txt"
    questions.write_text("\ufeffmos rut\n\ntil\n", encoding="utf-8")
    out, _ = run(project, "search", "--batch", str(questions), "-n", "1", "--format", "json")
    assert [(item["query"], item["hits"][0]["source"]) for item in json.loads(out)] == [
        ("mos rut", "two.md"),
        ("til", "three.md"),
    ]


def test_a_collection_that_is_open_elsewhere_is_said_to_be(project):
    """As while another process indexes: what is the matter, and what to do."""
    run(project, "index")
    with open_store(f"edge:{project / 'index'}") as store:
        assert store.count("documents") == 3
        _, err = run(project, "search", "ban", code=2)
        assert "open elsewhere: in another process" in err
        assert "run a Qdrant server" in err


def test_a_dry_run_stores_nothing(project):
    """It says what would be done."""
    out, _ = run(project, "index", "--collection", "other", "--dry-run")
    assert "would embed 3 chunks" in out
    _, err = run(project, "status", "--collection", "other", code=2)
    assert "There are: documents" in err


def test_documents_that_are_gone_are_removed_when_asked(project):
    """Once named, once removed."""
    extra = project / "notes" / "extra.md"
    extra.write_text("Sat kel.", encoding="utf-8")
    run(project, "index")
    extra.unlink()
    out, _ = run(project, "index")
    assert "1 document is in the collection and not among the inputs: extra.md" in out
    out, _ = run(project, "verify", code=1)
    assert "They do not agree" in out
    out, _ = run(project, "index", "--prune")
    assert "1 document that is gone was removed: extra.md" in out
    run(project, "verify")


def test_damage_is_repaired(project):
    """A chunk that is missing is embedded again."""
    run(project, "index")
    with open_store(f"edge:{project / 'index'}") as store:
        store.delete("documents", ids=[next(store.scroll("documents")).id])
    run(project, "verify", code=1)
    out, _ = run(project, "verify", "--repair")
    assert "Repaired." in out
    run(project, "verify")


def test_rows_are_indexed_and_verified_by_the_fields_that_are_named(project, tmp_path):
    """The same options for both."""
    rows = project / "rows.jsonl"
    rows.write_text('{"key": "k1", "passage": "Ban kel."}\n{"key": "k2", "passage": "Mos rut."}\n', encoding="utf-8")
    options = ("--collection", "rows", "--text-field", "passage", "--id-field", "key")
    run(project, "index", "rows.jsonl", *options)
    out, _ = run(project, "verify", "rows.jsonl", *options)
    assert "2 documents with 2 chunks" in out
    rows.write_text(rows.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    out, _ = run(project, "verify", "rows.jsonl", *options, code=4)
    assert "Not JSON" in out


def test_an_exported_collection_is_searched_where_it_is(project, tmp_path):
    """A relative address is one of the current folder."""
    run(project, "index")
    out, _ = run(project, "export", "--to", "edge:copies", "--to-collection", "copy")
    assert "3 points, 3 copied now" in out
    assert (project / "copies" / "copy").is_dir()
    out, _ = run(project, "search", "mos", "-n", "1", "--store", "edge:copies", "--collection", "copy")
    assert "two.md" in out


def test_adopting_shows_the_cosines(project):
    """A collection that carries a record is not adopted by mistake."""
    run(project, "index")
    _, err = run(project, "adopt", code=1)
    assert "carries a record already" in err
    out, _ = run(project, "adopt", "--force", "--sample", "3")
    assert "median cosine" in out
    assert "1.00000" in out


def test_an_unnamed_vector_is_called_so(project, tmp_path):
    """Collections of other programs often have one."""
    from embedprefs_qdrant.stores import CollectionLayout, VectorLayout

    with open_store(f"local:{tmp_path / 'old'}") as store:
        store.ensure("documents", CollectionLayout(vectors={"": VectorLayout(16)}))
    out, _ = run(project, "status", "--store", f"local:{tmp_path / 'old'}")
    assert "unnamed: 16 dimensions, cosine" in out
    assert "0 chunks of 0 documents" in out


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_finishes_the_batch_in_hand(project, tmp_path):
    """Exit code 130, a word about what is safe, and a rerun that continues."""
    notes = tmp_path / "many"
    notes.mkdir()
    lines = (json.dumps({"id": number, "text": f"ban kel {number}"}) for number in range(200_000))
    (notes / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    store = tmp_path / "index"
    process = subprocess.Popen(
        [EMBEDPREFS, "index", str(notes), "--into", f"edge:{store}"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The record is written just before the first document is read.
    while process.poll() is None and not (store / "documents" / "embedprefs.json").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Finishing the batch in hand" in err
    assert "running again continues" in out
    assert "Traceback" not in err
    with open_store(f"edge:{store}") as opened:
        assert opened.count("documents") < 200_000


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
