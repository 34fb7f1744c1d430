"""What the factory makes impossible: two tests for each case, by the number of the case."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from embedprefs import OverlongTextError, PreferenceMismatchError, load_model
from embedprefs.calibration import calibrate
from embedprefs.checks import check
from embedprefs.preferences import Preferences

LONG = "word " * 200


@pytest.fixture
def load(model_folders, nest):
    """Load a tiny model: `load({"vectors.truncate_dim": 8}, "bert")`."""

    def load_tiny(stated=None, name="bert"):
        values = nest({"model.name": str(model_folders[name]), "compute.device": "cpu", **(stated or {})})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_model(Preferences.model_validate(values))

    return load_tiny


def test_case_04_prompts_cannot_be_replaced(load):
    """Neither one of them nor all; the role's prompt stays."""
    model = load({"prompts.query": "query: ", "prompts.document": "passage: "})
    before = model.encode_query(["text"])
    with pytest.raises(PreferenceMismatchError, match="cannot be changed"):
        model.prompts["document"] = ""
    with pytest.raises(PreferenceMismatchError, match="cannot be changed"):
        model.prompts = {"query": "other: "}
    np.testing.assert_array_equal(model.encode_query(["text"]), before)


def test_case_04_another_prompt_can_be_used_for_one_call(load):
    """The argument of a call wins, and is forgotten afterwards."""
    model = load({"prompts.query": "query: ", "prompts.document": "passage: "})
    before = model.encode_query(["text"])
    np.testing.assert_allclose(model.encode(["text"], prompt="query: "), before, atol=1e-6)
    assert not np.allclose(model.encode(["text"], prompt="other: "), before, atol=1e-3)
    np.testing.assert_array_equal(model.encode_query(["text"]), before)


def test_case_08_a_text_that_is_cut_is_reported(load):
    """It is counted, with its place and its length."""
    model = load()
    with model.collect_report() as report:
        model.encode_document(["short", LONG])
    assert report.truncated == 1
    assert report.overlong[0].position == 1
    assert report.overlong[0].tokens > model.max_seq_length
    with pytest.raises(OverlongTextError):
        load({"tokenizer.on_overflow": "error"}).encode_document(["short", LONG])


def test_case_08_texts_that_fit_are_not_reported(load):
    """Neither counted nor refused."""
    model = load({"tokenizer.on_overflow": "error"})
    with model.collect_report() as report:
        model.encode_document(["short", "another one"])
    assert report.truncated == 0
    assert report.overlong == ()


def test_case_23_cut_vectors_have_length_one_again(load):
    """Where the full ones have."""
    vectors = load({"vectors.truncate_dim": 8}).encode_document(["one text", "another"])
    assert vectors.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_case_23_vectors_of_other_lengths_are_cut_alone(load):
    """A model that does not normalise keeps the lengths of its vectors."""
    full = load({}, "unnormalized").encode_document(["one text"])
    cut = load({"vectors.truncate_dim": 8}, "unnormalized").encode_document(["one text"])
    np.testing.assert_allclose(cut, full[:, :8], atol=1e-6)


def test_case_27_codes_of_two_calls_can_be_compared(load, tmp_path):
    """The same text gets the same codes, whatever stands beside it."""
    texts = [f"text number {number}" for number in range(40)]
    calibrate(load(), texts).save(tmp_path / "ranges.json")
    model = load({"vectors.precision": "int8", "vectors.calibration": str(tmp_path / "ranges.json")})
    alone = model.encode_document(texts[:1])
    together = model.encode_document(texts)
    assert alone.dtype == np.int8
    assert int(np.abs(alone[0].astype(int) - together[0].astype(int)).max()) <= 1


def test_case_27_without_ranges_nothing_is_loaded(situation):
    """int8 without a calibration is an error, float32 is none."""
    codes = {finding.code for finding in check(*situation(stated={"vectors.precision": "uint8"}))}
    assert "calibration-missing" in codes
    assert "calibration-missing" not in {finding.code for finding in check(*situation())}


def test_case_29_a_half_precision_checkpoint_runs_in_what_is_asked_for(tmp_path):
    """config.json says float16, and float32 runs."""
    from embedprefs.testing import tiny_bert_folder

    folder = tiny_bert_folder(tmp_path / "half", dtype="float16")
    stated = {"model": {"name": str(folder)}, "compute": {"dtype": "float32", "device": "cpu"}}
    model = load_model(Preferences.model_validate(stated))
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}


def test_case_29_half_precision_runs_where_it_is_asked_for(load):
    """From a checkpoint in float32."""
    model = load({"compute.dtype": "bfloat16"})
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.bfloat16"}


def test_case_31_a_model_is_back_on_its_device_after_a_pool(load):
    """Starting worker processes moves the host's model; the next call runs where it was loaded."""
    model = load()
    device = model.device
    texts = ["one", "two"]
    vectors = model.encode_document(texts, device=["cpu"])
    assert model.device == device
    np.testing.assert_allclose(vectors, model.encode_document(texts), atol=1e-6)


def test_case_31_a_plain_call_moves_nothing(load):
    """The model stays where it is."""
    model = load()
    parameters = [parameter.data_ptr() for parameter in model.parameters()]
    model.encode_document(["one", "two"])
    assert [parameter.data_ptr() for parameter in model.parameters()] == parameters


def test_case_32_encoding_leaves_training_mode_on(load):
    """Dropout is off while a call runs, and on again afterwards, in the modules in which it was."""
    model = load({"model.config": {"hidden_dropout_prob": 0.5}})
    expected = model.encode_document(["one text"])
    model.train()
    model[1].eval()
    np.testing.assert_allclose(model.encode_document(["one text"]), expected, atol=1e-6)
    assert model[0].training
    assert not model[1].training


def test_case_32_encoding_leaves_evaluation_mode_on(load):
    """A loaded model is in evaluation mode, and stays in it."""
    model = load()
    assert not model.training
    model.encode_document(["one text"])
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_case_35_the_attention_that_was_asked_for_runs(attention, load):
    """Whatever the host would choose."""
    model = load({"compute.attention": attention})
    assert model.transformers_model.config._attn_implementation == attention


def test_case_35_both_attentions_give_the_same_vectors(load):
    """The choice is one of speed."""
    texts = ["one text", "another text that is longer"]
    eager, sdpa = (load({"compute.attention": name}).encode_document(texts) for name in ("eager", "sdpa"))
    np.testing.assert_allclose(eager, sdpa, atol=1e-5)
