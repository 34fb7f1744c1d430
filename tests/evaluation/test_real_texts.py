"""MiniLM on real questions, paragraphs and scored pairs: known figures, and what its shorter forms lose."""

from __future__ import annotations

import warnings

import pytest
from scipy import stats

from embedprefs import EmbedPrefsWarning, load_model
from embedprefs.evaluation import compare, evaluate, evaluate_pairs, read_pairs, read_queries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def minilm(folder, **overrides):
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        return load_model(folder, overrides={"compute.device": "cpu", "compute.backend": "torch", **values})


def test_questions_find_their_paragraphs(minilm_folder, test_data):
    """2,684 test questions of 16 articles over all 1,581 paragraphs; half the dimensions lose more than 1 %."""
    data = test_data / "squadshifts-wiki"
    found = [
        evaluate(
            minilm(minilm_folder, **overrides), data / "corpus.jsonl", data / "queries.jsonl", data / "qrels_test.tsv"
        )
        for overrides in ({}, {"vectors__truncate_dim": 192})
    ]
    whole = found[0]
    assert whole["ndcg@10"] == pytest.approx(0.790, abs=0.002)
    assert whole["recall@100"] > 0.98
    assert (whole.data.grouped_by, whole.data.groups) == ("title", 16)
    comparison = compare(*found, margin=0.01)
    assert (comparison.verdict, comparison.is_acceptable) == ("worse", False)
    assert comparison.result.difference == pytest.approx(-0.033, abs=0.003)


def test_scored_pairs_are_ranked_as_people_rank_them(minilm_folder, test_data):
    """The development part of the open half of the STS benchmark; compared with scipy on the host's similarities."""
    path = test_data / "stsb-open" / "dev.jsonl"
    model = minilm(minilm_folder)
    found = evaluate_pairs(model, path)
    pairs = read_pairs(path)
    rows = [model.encode_document([pair[side] for pair in pairs]) for side in (0, 1)]
    theirs = stats.spearmanr(model.similarity_pairwise(*rows).numpy(), [score for *_, score in pairs]).statistic
    assert found["spearman"] == pytest.approx(theirs, abs=1e-4)


def test_queries_of_real_files_are_all_read(test_data):
    assert len(read_queries(test_data / "squadshifts-wiki" / "queries.jsonl")) == 7938
