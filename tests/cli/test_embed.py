"""`embed` and `calibrate` on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedprefs import load_model, load_preferences
from embedprefs.cli.embed import _print_report
from embedprefs.cli.plugin import ResultFormat
from embedprefs.embedding import embed_file
from embedprefs.embedding.partial import Partial
from embedprefs.embedding.report import EmbedFileReport
from embedprefs.testing import STATIC_WORDS, static_model_folder, tiny_bert_folder


@pytest.fixture
def project(project):
    words = {"a": (1,) * 8, "the": (0, 1) * 4, "quick": (0, 0, 1, 1) * 2}
    static_model_folder(project / "model", {**STATIC_WORDS, **words}, prompts={"query": "query ", "document": ""})
    (project / "texts.txt").write_text("red apple\nblue sky\n\n")
    return project


def test_texts_become_vectors_and_the_report_is_the_result(run, project):
    ended = run("embed", "texts.txt", "-o", "out.npy")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("out.npy: 3 vectors of 8 numbers, float32")
    assert "1 empty text, embedded as found" in ended.out
    assert "Loading the model." in ended.err
    model = load_model(load_preferences("embedprefs.toml"))
    assert np.array_equal(np.load("out.npy"), model.encode_document(["red apple", "blue sky", ""]))
    shown = run("embed", "texts.txt", "-o", "queries.npy", "--role", "query", "--format", "json", "--quiet")
    assert shown.err == ""
    assert json.loads(shown.out)["texts"] == 3
    assert np.array_equal(np.load("queries.npy"), model.encode_query(["red apple", "blue sky", ""]))


@pytest.mark.parametrize(
    ("tokens", "in_workers", "words"),
    [
        (1, 0, "  1 token, 1 text truncated"),
        (0, 6, "  tokens not counted in worker processes, 1 text truncated"),
        (1200, 6, "  1,200 tokens, not counting 6 texts in worker processes, 1 text truncated"),
    ],
)
def test_tokens_that_nobody_counted_are_not_called_none(tokens, in_workers, words, capsys):
    """What worker processes read is not counted, and the report says so."""
    report = EmbedFileReport(
        **dict.fromkeys(("resumed", "windowed", "clipped", "empty", "skipped", "replaced"), 0),
        **dict.fromkeys(("overlong_lines", "named_lines"), ()),
        output=Path("out.npy"),
        finished=True,
        texts=6,
        tokens=tokens,
        in_workers=in_workers,
        truncated=1,
        dimension=8,
        dtype="float32",
        seconds=2.0,
    )
    _print_report(report, ResultFormat.TEXT)
    assert words in capsys.readouterr().out


@pytest.mark.slow
def test_worker_processes_leave_nothing_behind(run_process, project):
    """Their texts are reported, and no semaphore of theirs is left for the system to find."""
    tiny_bert_folder(project / "model")
    ended = run_process(
        "embed", "texts.txt", "-o", "out.npy", "--set", "compute.workers=2", "--set", "compute.device=cpu"
    )
    assert ended.code == 0, ended.err
    assert "tokens not counted in worker processes" in ended.out
    assert "leaked" not in ended.err


def test_standard_input_is_read_where_the_format_is_named(run, project):
    ended = run("embed", "-", "-o", "out.npz", stdin="red\nblue\n")
    assert ended.code == 2
    assert "--input-format" in ended.err
    ended = run("embed", "-", "-o", "out.npz", "--input-format", "txt", stdin="red\nblue\n")
    assert ended.code == 0, ended.err
    assert "read once" in ended.err
    with np.load("out.npz") as arrays:
        assert arrays["ids"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.txt", "-o", "out.npy"], "absent.txt: there is no such file"),
        (["model", "-o", "out.npy"], "model: is a folder"),
        (["empty.txt", "-o", "out.npy"], "empty.txt: the file is empty"),
        (["latin.txt", "-o", "out.npy"], "latin.txt:2: "),
        (["texts.txt", "-o", "model"], "no extension"),
        (["texts.txt", "-o", "absent/out.npy"], "absent does not exist"),
        (["texts.txt", "-o", "texts.jsonl"], "texts.jsonl: exists already"),
        (["texts.jsonl", "-o", "out.npy"], "texts.jsonl:2: not JSON"),
        (["texts.jsonl", "-o", "out.npy", "--text-field", "body"], "--text-field"),
        (["texts.txt", "-o", "out.npy", "--preferences", "absent.toml"], "absent.toml"),
        (["texts.txt", "-o", "out.npy", "--set", "model.name=./gone"], "gone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_met_exits_2_names_the_place_and_leaves_nothing(run, project, arguments, expected):
    """Before the model is loaded, without a traceback, and with every file as it was."""
    (project / "empty.txt").touch()
    (project / "latin.txt").write_bytes(b"red\nbl\xefu\n")
    (project / "texts.jsonl").write_text('{"text": "red"}\n{broken\n')
    before = sorted(project.rglob("*"))
    ended = run("embed", *arguments)
    assert ended.code == 2
    assert expected in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "Loading the model" not in ended.err
    assert sorted(project.rglob("*")) == before


def test_preferences_that_fail_their_checks_embed_nothing(run, project):
    ended = run("embed", "texts.txt", "-o", "out.npy", "--set", "vectors.truncate_dim=4096")
    assert ended.code == 1
    assert "4096" in ended.err
    assert not (project / "out.npy").exists()


def test_interrupted_it_says_what_is_safe_and_the_same_command_continues(project):
    """SIGTERM first, Ctrl-C then; both finish the texts in hand, exit 130, and the third run ends the job."""
    (project / "many.txt").write_text("".join(f"red apple {number}\n" for number in range(120_000)))
    output = project / "many.npy"
    command = [sys.executable, "-m", "embedprefs.cli", "embed", "many.txt", "-o", "many.npy"]
    safe = []
    for sent in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_journal(Partial(output).journal, lines=len(safe) * 5 + 3, process=process)
        process.send_signal(sent)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert out == ""
        assert "of 120,000 texts are safe in many.npy.partial; the same command continues there." in err
        assert "Traceback" not in err
        assert not output.exists()
        safe.append(Partial(output).read()[1].rows)
    assert 0 < safe[0] < safe[1] < 120_000
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"({safe[1]:,} of them by an earlier run)" in ended.stdout
    embed_file(load_model(load_preferences("embedprefs.toml")), "many.txt", "undisturbed.npy")
    assert output.read_bytes() == (project / "undisturbed.npy").read_bytes()
    assert not Partial(output).folder.exists()


def wait_for_journal(journal, *, lines, process):
    """Wait until the process has written so many chunks."""
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)
    assert process.returncode is None, process.communicate()


def test_an_interruption_while_loading_says_that_nothing_is_lost(project):
    process = subprocess.Popen(
        [sys.executable, "-m", "embedprefs.cli", "embed", "texts.txt", "-o", "out.npy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
        text=True,
    )
    assert process.stderr.readline() == "Loading the model.\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Nothing was embedded yet." in err
    assert not list(project.glob("out*"))


def test_calibrate_measures_ranges_that_int8_vectors_then_use(run, project):
    (project / "sample.txt").write_text("red apple\nblue sky\ngreen tree\nred\n" * 5)
    ended = run("calibrate", "sample.txt")
    assert ended.code == 0, ended.err
    assert "calibration.json: ranges of 8 dimensions, measured on 20 texts" in ended.out
    assert 'calibration = "calibration.json"' in ended.err
    options = ["--set", "vectors.precision=int8", "--set", "vectors.calibration=calibration.json"]
    ended = run("embed", "texts.txt", "-o", "out.npy", *options)
    assert ended.code == 0, ended.err
    assert np.load("out.npy").dtype == np.int8
    ended = run("calibrate", "sample.txt")
    assert (ended.code, "--force" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("one.txt", b"red\n", "too few"),
        ("latin.txt", b"red\nbl\xefu\n", "latin.txt:2"),
        ("empty.txt", b"", "the file is empty"),
    ],
)
def test_calibrate_refuses_texts_that_it_cannot_measure(run, project, name, content, expected):
    (project / name).write_bytes(content)
    ended = run("calibrate", name)
    assert ended.code == 2
    assert expected in ended.err
    assert not (project / "calibration.json").exists()
