"""`embedprefs bench` on the command line; what is measured is tested in tests/benchmarking."""

from __future__ import annotations

import json

import pytest

FEW = ("--rounds", "1", "--queries", "1", "--no-peak")


@pytest.fixture
def texts(project):
    file = project / "texts.txt"
    file.write_text("".join(f"red apple {'sky ' * number}\n" for number in range(30)))
    return file


def test_a_table_to_read(run, texts):
    ended = run("bench", "texts.txt", *FEW)
    assert ended.code == 0, ended.err
    assert "texts.txt: 30 texts" in ended.out
    lines = ended.out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith(("way", "host", "as pref"))] == [
        "way",
        "host default",
        "as preferred",
    ]
    assert "One round only" in ended.out
    assert "Loading the model" in ended.err


def test_json_holds_every_second(run, texts):
    ended = run("bench", "texts.txt", *FEW, "--limit", "10", "--format", "json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["texts"]["count"] == 10
    assert [item["name"] for item in found["measurements"]] == ["host default", "as preferred"]
    assert all(len(item["passes"]["seconds"]) == 1 for item in found["measurements"])


def test_without_texts_a_built_in_mix_is_embedded(run, project):
    ended = run("bench", *FEW, "--limit", "20", "--format", "json", "--quiet")
    assert json.loads(ended.out)["texts"]["source"] == "built-in mix"
    assert json.loads(ended.out)["texts"]["count"] == 20


def test_alternatives_are_named_by_their_settings(run, texts):
    ended = run(
        "bench", "texts.txt", *FEW, "--format", "json", "--quiet",
        "--also", "compute.exactness=exact",
        "--also", "compute.max_batch_size=4  compute.threads=1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    names = [item["name"] for item in json.loads(ended.out)["measurements"]]
    assert names[2:] == ["compute.exactness=exact", "compute.max_batch_size=4 compute.threads=1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.txt"], "nowhere.txt"),
        (["empty.txt"], "empty.txt"),
        (["texts.txt", "--also", "vectors.truncate_dim=2"], "no preference about speed"),
        (["texts.txt", "--also", "compute.exactnes=exact"], "compute.exactness"),
        (["texts.txt", "--also", "exact"], "KEY=VALUE"),
        (["texts.txt", "--also", " "], "names no setting"),
        (["texts.txt", "--also", "compute.threads=1", "--also", " compute.threads=1"], "given twice"),
        (["texts.txt", "--set", "model.name=./absent"], "absent"),
        (["texts.txt", "--rounds", "0"], "--rounds"),
    ],
)
def test_a_wrong_request_ends_with_two_before_anything_is_measured(run, texts, project, arguments, words):
    (project / "empty.txt").write_text("")
    ended = run("bench", *FEW, *arguments)
    assert ended.code == 2, ended.err
    assert words in ended.err
    assert ended.out == ""


def test_a_broken_promise_ends_with_one(run, texts, monkeypatch):
    """Vectors farther from float32 than compute.exactness allows: the figures are shown, and the answer is no."""
    from embedprefs.benchmarking import agreement

    monkeypatch.setattr(agreement, "_CLOSE", 1.5)
    ended = run("bench", "texts.txt", *FEW)
    assert ended.code == 1
    assert "as preferred" in ended.out
    assert "promises a cosine" in ended.err
