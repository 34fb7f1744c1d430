"""`train` on the command line: the plan, and a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedprefs.testing import static_model_folder

WORDS = 60


@pytest.fixture
def project(project):
    """The project with a model of 60 words, and questions on passages of 40 documents."""
    generator = np.random.default_rng(0)
    static_model_folder(
        project / "model", {f"w{number}": tuple(generator.normal(size=16).tolist()) for number in range(WORDS)}
    )
    rows = []
    for document in range(40):
        words = [f"w{at}" for at in generator.choice(WORDS, 6, replace=False)]
        for number in range(4):
            asked = " ".join(generator.choice(words, 2, replace=False))
            rows.append({"question": f"{asked} {number}", "passage": " ".join(words), "file": f"{document}.md"})
    (project / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (project / "embedprefs.toml").open("a") as file:
        file.write('[training]\ndata = "pairs.jsonl"\nsplit = { document_column = "file" }\n')
    return project


def test_a_plan_is_the_result_and_nothing_is_written(run, project):
    before = sorted(project.rglob("*"))
    ended = run("train", "--plan")
    assert ended.code == 0, ended.out + ended.err
    assert 'columns     anchor = "question", positive = "passage", document = "file"' in ended.out
    assert "100.0% of the rows are seen, 0 lost" in ended.out
    assert "metric_for_best_model = eval_dev_cosine_ndcg@10" in ended.out
    assert ended.err == ""
    assert sorted(project.rglob("*")) == before


def test_a_plan_with_errors_exits_with_1(run, project):
    ended = run("train", "--plan", "--set", "training.loss=CoSENTLoss", "--format", "json")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert found["loss"] is None
    assert "training-loss-unfit" in {finding["code"] for finding in found["findings"]}


def test_other_data_can_be_named(run, project):
    rows = (project / "pairs.jsonl").read_text().splitlines(keepends=True)
    (project / "half.jsonl").write_text("".join(rows[:80]))
    ended = run("train", "half.jsonl", "--plan", "--format", "json")
    assert json.loads(ended.out)["data"]["rows"] == 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "--output runs/first"),
        (["train", "none.jsonl", "--plan"], "there is no such file"),
        (["train", "--plan", "--set", "training.columns={anchor='qestion'}"], "Did you mean question"),
    ],
)
def test_a_wrong_request_says_what_is_missing(run, project, arguments, words):
    ended = run(*arguments)
    assert ended.code == 2
    assert words in ended.err


def test_a_run_trains_and_gives_a_verdict(run, project):
    ended = run("train", "--output", "runs/first", "--set", "training.arguments.num_train_epochs=1", "--format", "json")
    assert ended.code in (0, 1), ended.err
    found = json.loads(ended.out)
    assert found["steps"] == found["planned_steps"] > 0
    assert found["is_acceptable"] == (ended.code == 0)
    assert (project / "runs" / "first" / "report.html").is_file()
    planned = run("train", "--plan", "--set", "training.arguments.num_train_epochs=1", "--format", "json")
    assert json.loads(planned.out)["steps"] == found["steps"]
    assert json.loads(planned.out)["metric_for_best_model"] == found["arguments"]["metric_for_best_model"]["value"]
