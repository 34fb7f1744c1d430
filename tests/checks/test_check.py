"""`check` asks every rule it can, whatever cannot be read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from embedprefs.checks import RULES, check
from embedprefs.preferences import Preferences


def codes(findings):
    return [finding.code for finding in findings]


def test_a_plain_model_has_no_errors_and_no_warnings(situation):
    """Defaults for a plain model on a plain machine are nothing to warn of."""
    assert {finding.severity for finding in check(*situation())} <= {"note"}


def test_errors_come_first(situation):
    """Findings are sorted by severity."""
    stated = {"compute.dtype": "bfloat16", "vectors.truncate_dim": 16, "training.arguments": {"learning_rat": 1}}
    severities = [finding.severity for finding in check(*situation(stated=stated))]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert set(severities) == {"error", "warning", "note"}


def test_all_problems_are_reported_at_once(situation):
    """Not only the first one."""
    stated = {
        "tokenizer.max_seq_length": 1024,
        "vectors.truncate_dim": 64,
        "vectors.precision": "int8",
        "model.kwargs": {"torch_dtype": "float16"},
    }
    found = set(codes(check(*situation(stated=stated))))
    assert {"max-seq-length-too-long", "truncate-dim-too-large", "calibration-missing", "keyword-refused"} <= found


def test_a_warning_can_be_ignored_by_its_code(situation):
    """`checks.ignore` leaves out warnings and notes."""
    stated = {"tokenizer.truncation_side": "left"}
    assert "truncation-side-left" in codes(check(*situation(stated=stated)))
    ignoring = {**stated, "checks.ignore": ["truncation-side-left", "prompts-not-stated"]}
    assert check(*situation(stated=ignoring)) == []


def test_an_error_cannot_be_ignored(situation):
    """Ignoring an error is a note beside it; the milder findings of the same rule do go."""
    stated = {"tokenizer.max_seq_length": 1024, "checks.ignore": ["max-seq-length-too-long"]}
    assert codes(check(*situation(stated=stated)))[0] == "max-seq-length-too-long"
    assert "ignored-code-stays" in codes(check(*situation(stated=stated)))
    rotary = {"tokenizer.max_seq_length": 1024, "checks.ignore": ["max-seq-length-too-long"]}
    assert "max-seq-length-too-long" not in codes(check(*situation(stated=rotary, model="modernbert")))


def test_for_loading_training_and_index_are_left_out(situation):
    """A stale training argument keeps no model from being loaded."""
    stated = {
        "training.arguments": {"evaluation_strategy": "steps"},
        "index.template": "{title}",
        "vectors.truncate_dim": 64,
    }
    preferences, facts, hardware = situation(stated=stated)
    errors = [
        finding.code for finding in check(preferences, facts, hardware, purpose="load") if finding.severity == "error"
    ]
    assert errors == ["truncate-dim-too-large"]
    assert {"training-argument-renamed", "template-without-text"} <= set(codes(check(preferences, facts, hardware)))


def test_a_missing_folder_is_a_finding_and_the_other_rules_are_asked(tmp_path):
    """What can be judged without the model is judged."""
    preferences = Preferences(
        model={"name": str(tmp_path / "none")}, training={"arguments": {"evaluation_strategy": "steps"}}
    )
    findings = check(preferences)
    assert codes(findings) == ["model-not-readable", "training-argument-renamed"]
    assert str(tmp_path / "none") in findings[0].message
    assert findings[0].severity == "error"


def test_a_model_of_the_hub_that_is_not_here_is_a_warning(tmp_path, monkeypatch):
    """Without the hub nothing is known to be wrong with it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    preferences = Preferences(model={"name": "someone/not-here", "cache_folder": str(tmp_path)})
    findings = check(preferences)
    assert [(finding.code, finding.severity) for finding in findings] == [("model-not-readable", "warning")]


def test_a_revision_of_another_model_is_spoken_of(tmp_path, monkeypatch):
    """A name that was changed without its revision gives a finding that says so."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    preferences = Preferences(model={"name": "someone/not-here", "revision": "a" * 40, "cache_folder": str(tmp_path)})
    (finding,) = check(preferences)
    assert finding.code == "model-not-readable"
    assert "model.revision was written for another model" in finding.fix


def test_a_folder_that_is_no_model_is_a_finding(tmp_path):
    """An empty folder, and one with damaged JSON."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert codes(check(Preferences(model={"name": str(empty)}))) == ["model-not-readable"]


def test_a_truncated_checkpoint_is_an_error(model_folders, tmp_path):
    """A download that broke off is found from the header alone."""
    import shutil

    folder = shutil.copytree(model_folders["bert"], tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    errors = [finding for finding in check(Preferences(model={"name": str(folder)})) if finding.severity == "error"]
    assert "model-files-damaged" in codes(errors)
    assert "model.safetensors" in errors[0].message


def test_a_checkpoint_of_another_architecture_is_an_error(model_folders, tmp_path):
    """More layers in config.json than in the checkpoint: the new ones would be random."""
    import json
    import shutil

    folder = shutil.copytree(model_folders["bert"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    (finding,) = [item for item in check(Preferences(model={"name": str(folder)})) if item.severity == "error"]
    assert finding.code == "tensors-missing"
    assert "encoder.layer.2" in finding.message


def test_a_finding_says_where_the_value_was_written(tmp_path, model_folders):
    """The line of the preferences file."""
    from embedprefs import load_preferences

    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{model_folders["bert"]}"\n\n[model.config]\nnum_attention_heads = 2\n')
    (finding,) = [item for item in check(load_preferences(file)) if item.severity == "error"]
    assert finding.code == "config-override-architecture"
    assert finding.origin == f"{file}:5"
    assert str(finding).startswith(f"error[config-override-architecture] {file}:5: model.config.num_attention_heads: ")


def test_a_named_vector_is_checked_like_the_first_one(situation, model_folders):
    """Each further vector has an identity of its own, and its findings name where it stands."""
    right = {"index.vectors": {"small": {"model": {"name": str(model_folders["static"])}}}}
    wrong = {
        "index.vectors": {
            "small": {"model": {"name": str(model_folders["static"])}, "vectors": {"truncate_dim": 4096}},
            "gone": {"model": {"name": "./none"}},
        }
    }
    assert not [finding for finding in check(*situation(stated=right)) if finding.severity == "error"]
    errors = {finding.field: finding.code for finding in check(*situation(stated=wrong)) if finding.severity == "error"}
    assert errors == {
        "index.vectors.small.vectors.truncate_dim": "truncate-dim-too-large",
        "index.vectors.gone.model.name": "model-not-readable",
    }


def test_a_secret_is_in_no_message(situation):
    """The value that must not be in the file is not repeated."""
    secret = "hf_abcdefghijklmnopqrst"
    stated = {"training.arguments": {"hub_token": secret}, "model.kwargs": {"token": secret}}
    findings = check(*situation(stated=stated))
    assert codes(findings).count("secret-in-file") == 2
    assert not any(secret in str(finding) or secret in str(finding.to_json()) for finding in findings)


def test_a_finding_is_json(situation):
    """What `check --format json` prints."""
    import json

    for finding in check(*situation(stated={"vectors.truncate_dim": 64})):
        values = json.loads(json.dumps(finding.to_json()))
        assert set(values) == {"code", "severity", "field", "message", "fix", "origin"}
        assert values["code"] in RULES


def test_neither_torch_nor_transformers_is_imported(model_folders):
    """A check needs no weights and none of the host's packages."""
    script = f"""
import sys
for blocked in ("torch", "transformers", "sentence_transformers"):
    sys.modules[blocked] = None
from embedprefs.checks import check
from embedprefs.preferences import Preferences
findings = check(Preferences(model={{"name": {str(model_folders["flagship"])!r}}}, vectors={{"truncate_dim": 4096}}))
print([finding.code for finding in findings if finding.severity == "error"])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "['truncate-dim-too-large']", result.stderr


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_case_02_a_prompt_under_a_dead_name_is_refused(name):
    """sentence-transformers never applies it."""
    with pytest.raises(ValueError, match='Write it as "document"'):
        Preferences(model={"name": "m"}, prompts={name: "passage: "})


def test_case_02_a_models_own_passage_prompt_is_for_documents(situation):
    """Where the model's file has "passage" and no "document", documents get it."""
    from embedprefs.resolve import resolve

    resolved = resolve(*situation(facts={"prompts": {"query": "query: ", "passage": "passage: "}}))
    assert resolved["prompts.document"] == "passage: "


def test_case_01_a_known_models_missing_prompts_are_filled_in(situation):
    """modernbert-embed-large publishes none, and needs both."""
    from embedprefs.resolve import resolve

    resolved = resolve(*situation(facts={"name": "lightonai/modernbert-embed-large"}, model="flagship"))
    assert resolved.prompts == {"query": "search_query: ", "document": "search_document: "}


def test_case_01_an_unknown_models_prompts_are_not_invented(situation):
    """Only what is known is filled in."""
    from embedprefs.resolve import resolve

    assert resolve(*situation()).prompts == {"query": "", "document": ""}


@pytest.mark.parametrize("length", [0, -1])
def test_case_10_a_length_below_one_is_refused(length):
    """0 would switch truncation off in the host."""
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Preferences(model={"name": "m"}, tokenizer={"max_seq_length": length})


def test_case_10_a_length_above_zero_is_taken():
    """What the model reads is not decided here."""
    assert Preferences(model={"name": "m"}, tokenizer={"max_seq_length": 1}).tokenizer.max_seq_length == 1


@pytest.mark.parametrize("dimension", [0, -10])
def test_case_24_a_dimension_below_one_is_refused(dimension):
    """0 would leave nothing, a negative number all but the last."""
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Preferences(model={"name": "m"}, vectors={"truncate_dim": dimension})


def test_case_24_a_dimension_above_zero_is_taken():
    """How many there are is the model's matter."""
    assert Preferences(model={"name": "m"}, vectors={"truncate_dim": 1}).vectors.truncate_dim == 1
