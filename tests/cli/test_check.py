"""`check` reports every finding at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from embedprefs.testing import published_modernbert_embed_folder, tiny_bert_folder

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "sentence_transformers"}:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def without_torch(tmp_path):
    """Return the environment of a process in which importing torch or transformers raises."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(tmp_path / "blocked")}


def test_the_blocker_blocks(without_torch):
    """Otherwise the next test would prove nothing."""
    code = "import torch"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **without_torch}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "must not be imported here" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["init", "./model", "--output", "new.toml"], ["show", "--resolved", "--facts"], ["check"], ["doctor"]],
    ids=lambda arguments: arguments[0],
)
def test_neither_torch_nor_transformers_is_imported(project, run_process, without_torch, arguments):
    published_modernbert_embed_folder(project / "model")
    ended = run_process(*arguments, env=without_torch)
    assert ended.code in {0, 1}, ended.err
    assert ended.out
    assert "must not be imported" not in ended.err


PROMPTS = {"query": "find: ", "document": "text: "}


def test_nothing_found_exits_0(run, project):
    tiny_bert_folder(project / "model", prompts=PROMPTS)
    ended = run("check")
    assert ended.code == 0, ended.out
    assert ended.out.endswith("nothing found\n")


def test_an_error_exits_1_and_stands_with_its_place_and_fix(run, project):
    tiny_bert_folder(project / "model")
    (project / "embedprefs.toml").write_text('[model]\nname = "./model"\n\n[vectors]\ntruncate_dim = 4096\n')
    ended = run("check")
    assert ended.code == 1
    assert "error[" in ended.out
    assert "embedprefs.toml:5: vectors.truncate_dim:" in ended.out
    assert "4096" in ended.out
    assert "1 error" in ended.out
    assert "embedprefs explain" in ended.err


def test_a_warning_fails_only_where_checks_are_strict(run, project):
    published_modernbert_embed_folder(project / "model")
    (project / "embedprefs.toml").write_text('[model]\nname = "./model"\n\n[prompts]\nquery = ""\ndocument = ""\n')
    findings = json.loads(run("check", "--format", "json").out)
    assert {finding["severity"] for finding in findings} <= {"warning", "note"}
    assert any(finding["severity"] == "warning" for finding in findings)
    assert run("check").code == 0
    assert run("check", "--strict").code == 1


def test_as_json_the_result_is_a_list_of_findings(run, project):
    tiny_bert_folder(project / "model", prompts=PROMPTS)
    assert json.loads(run("check", "--format", "json").out) == []
    ended = run("check", "--format", "json", "--set", "vectors.truncate_dim=4096")
    assert ended.code == 1
    finding, *_ = json.loads(ended.out)
    assert set(finding) == {"code", "severity", "field", "message", "fix", "origin"}
    assert finding["origin"].startswith("--set")


def test_every_problem_of_a_file_is_reported_at_once(run_process, project):
    """With file, line, key, what is allowed and the nearest known key; on standard error, without a traceback."""
    (project / "embedprefs.toml").write_text(
        '[model]\nname = "./model"\n\n[vectors]\nprecision = "int4"\ntruncat_dim = 16\n\n[compute]\nthreads = "two"\n'
    )
    ended = run_process("check")
    assert ended.code == 2
    assert ended.out == ""
    for words in (
        "embedprefs.toml:5",
        "int4",
        "float32, int8",
        "embedprefs.toml:6",
        "truncate_dim",
        "embedprefs.toml:9",
    ):
        assert words in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[model\nname = 1\n", "embedprefs.toml:1"),
        (b"[model]\nname = '\xff'\n", "embedprefs.toml"),
        ("", "model"),
        ('[model]\nname = "./absent"\n', "absent"),
        ('[model]\nname = "./no-model"\n', "no model"),
    ],
    ids=["not TOML", "not UTF-8", "empty", "missing model", "folder that is no model"],
)
def test_a_file_or_model_that_cannot_be_read_exits_2_without_a_traceback(run_process, project, content, expected):
    (project / "no-model").mkdir()
    (project / "embedprefs.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = run_process("check")
    assert ended.code in {1, 2}
    assert expected in ended.err + ended.out
    assert "Traceback" not in ended.err


def test_a_truncated_weights_file_is_found(run, project):
    """Loading would fail late, or worse, half load."""
    tiny_bert_folder(project / "model")
    weights = project / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    ended = run("check")
    assert ended.code == 1
    assert "model.safetensors" in ended.out


def test_a_named_file_that_is_absent_is_an_error(run, project):
    ended = run("check", "--preferences", "absent.toml")
    assert ended.code == 2
    assert "absent.toml" in ended.err


def test_a_malformed_set_option_is_an_error(run, project):
    for option in ("compute.device", "compute.devise=cpu", "compute.threads=two"):
        ended = run("check", "--set", option)
        assert ended.code == 2, option
        assert option.partition("=")[0] in ended.err
