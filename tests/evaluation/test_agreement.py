"""Fidelity: how much of a reference's rankings is kept, never called quality."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedprefs import load_model
from embedprefs.calibration import calibrate
from embedprefs.errors import InputError, PreferenceMismatchError
from embedprefs.evaluation import fidelity, rank_biased_overlap
from embedprefs.testing import STATIC_WORDS, static_model_folder


def test_a_model_keeps_all_of_itself(model, little):
    found = fidelity(model, model, little.corpus, queries=little.queries)
    assert [found[name] for name in ("overlap@10", "top1")] == [1.0, 1.0]
    assert found["rbo"] == pytest.approx(1.0)
    assert found.documents_drift.largest == found.queries_drift.largest == 0.0
    assert (found.documents, found.queries, found.queries_from) == (90, 180, "given")


def test_coarser_forms_keep_less(load, model, little, tmp_path):
    texts = [document["text"] for document in little.corpus.values()]
    calibrate(model, texts).save(tmp_path / "ranges.json")
    int8 = load(vectors__precision="int8", vectors__calibration=str(tmp_path / "ranges.json"))
    kept = {
        name: fidelity(side, model, little.corpus, queries=little.queries, resamples=100)
        for name, side in {
            "int8": int8,
            "cut": load(vectors__truncate_dim=12),
            "bits": load(vectors__precision="binary"),
        }.items()
    }
    for metric in ("overlap@10", "rbo", "top1"):
        assert 1 > kept["int8"][metric] > kept["cut"][metric] > kept["bits"][metric] > 0
    assert 0 < kept["int8"].documents_drift.mean < kept["int8"].documents_drift.percentile_99 < 1e-3
    assert kept["cut"].documents_drift is None
    assert kept["bits"].queries_drift is None


def test_overlap_and_drift_are_those_of_the_definition(load, model, little):
    """By hand: the share of the reference's first ten hits, and 1 - cosine."""
    cut = load(vectors__truncate_dim=8)
    texts, queries = [item["text"] for item in little.corpus.values()], list(little.queries.values())
    orders = []
    for side in (model, cut):
        scores = side.similarity(side.encode_query(queries), side.encode_document(texts)).numpy()
        orders.append(np.argsort(-scores, axis=1)[:, :10])
    expected = np.mean([len({*a} & {*b}) / 10 for a, b in zip(*orders, strict=True)])
    assert fidelity(cut, model, texts, queries=queries, resamples=100)["overlap@10"] == pytest.approx(expected)


def test_two_different_models_are_refused(model, tmp_path, little):
    other = load_model(static_model_folder(tmp_path / "other", {**STATIC_WORDS}))
    with pytest.raises(PreferenceMismatchError, match=r"two different models: .*weights") as caught:
        fidelity(other, model, little.corpus)
    assert "says nothing about which is better" in str(caught.value)
    assert "embedprefs compare" in str(caught.value)
    assert "weights" in caught.value.differences


def test_another_prompt_is_another_model(load, model, little):
    """A prompt is meant to change rankings, for better or worse; only judgements tell which."""
    with pytest.raises(PreferenceMismatchError, match="query_prompt"):
        fidelity(load(prompts__query="w1 "), model, little.corpus)


def test_without_queries_first_sentences_are_taken_and_their_own_document_is_no_hit(model):
    texts = [f"w{number}. w{(number * 7) % 60} w{(number * 11) % 60}" for number in range(60)] + [" "]
    found = fidelity(model, model, texts, resamples=100)
    assert found.queries == 60
    assert found.queries_from.startswith("first sentences")
    assert "first sentences" in found.to_text()
    many = fidelity(model, model, [f"w{number % 60} {number}" for number in range(500)], resamples=100)
    assert many.queries == 200


def test_a_model_without_a_record_is_measured_and_it_is_said(static_folder, model, little):
    from sentence_transformers import SentenceTransformer

    found = fidelity(SentenceTransformer(str(static_folder), device="cpu"), model, little.corpus, resamples=100)
    assert found["overlap@10"] == 1.0
    assert any("same model is not known" in note for note in found.notes)


def test_the_result_says_what_it_is_not(model, little):
    found = fidelity(model, model, little.corpus, queries=little.queries, resamples=100)
    assert found.to_text().startswith("Fidelity to the reference, not quality")
    assert "not quality" in json.loads(json.dumps(found.to_json()))["measures"]
    assert not hasattr(found, "verdict")


@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl", "corpus.jsonl"])
def test_texts_come_from_files_of_every_kind(model, little, tmp_path, name):
    texts = [item["text"] for item in little.corpus.values()]
    lines = {
        "texts.txt": texts,
        "texts.jsonl": [json.dumps({"text": text}) for text in texts],
        "corpus.jsonl": [json.dumps({"_id": key, "text": item["text"]}) for key, item in little.corpus.items()],
    }[name]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert fidelity(model, model, tmp_path / name, resamples=100).documents == 90


@pytest.mark.parametrize(
    ("texts", "options", "expected"),
    [
        (["red"], {}, "1 text cannot be ranked"),
        ([" ", ""], {}, "No query"),
        (["red", "blue"], {"k": 0}, "k is 0"),
        ("absent.txt", {}, "no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, texts, options, expected):
    with pytest.raises(InputError, match=expected):
        fidelity(model, model, texts, **options)


def test_rank_biased_overlap_by_hand():
    """Webber, Moffat and Zobel's extrapolation, two ranks: (1 - p) / p * (X1 p + X2 / 2 p^2) + X2 / 2 p^2."""
    p = 0.9
    swapped = (1 - p) / p * (0 * p + 2 / 2 * p**2) + 2 / 2 * p**2
    assert rank_biased_overlap(["a", "b"], ["b", "a"]) == pytest.approx(swapped)
    half = (1 - p) / p * (1 * p + 1 / 2 * p**2) + 1 / 2 * p**2
    assert rank_biased_overlap(["a", "b"], ["a", "c"]) == pytest.approx(half)
    assert rank_biased_overlap(["a", "b"], ["c", "d"]) == 0.0
    assert rank_biased_overlap(list("abcdefgh"), list("abcdefgh")) == pytest.approx(1.0)


def test_a_change_at_the_top_counts_more_than_one_at_the_end():
    whole = list("abcdefghij")
    assert rank_biased_overlap(whole, ["b", "a", *whole[2:]]) < rank_biased_overlap(whole, [*whole[:8], "j", "i"])


@pytest.mark.parametrize(("left", "right"), [([], []), (["a"], ["a", "b"])])
def test_rankings_of_different_length_have_no_overlap(left, right):
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_biased_overlap(left, right)
