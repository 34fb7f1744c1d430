"""How much texts need at least, counted on models whose sizes are known."""

from __future__ import annotations

import pytest

from embedprefs.benchmarking.work import attended_pairs, shape_of
from embedprefs.testing import tiny_modernbert_folder


def brute_force(length, window, *, causal):
    side = window if causal else (window or 0) // 2
    return sum(
        (window is None or abs(row - column) <= side) and (not causal or column <= row)
        for row in range(length)
        for column in range(length)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2, 8, 16])
@pytest.mark.parametrize("length", [1, 2, 5, 9, 30])
def test_attended_pairs_are_those_of_the_mask(length, window, causal):
    assert attended_pairs(length, window, causal=causal) == brute_force(length, window, causal=causal)


def host_of(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def lengths_of(host, texts):
    return [(text, len(host.tokenizer(text)["input_ids"])) for text in texts]


def test_a_berts_linear_layers_are_counted(bert):
    """Two layers of width 32: four projections, and up to 64 and down again, 2 operations a weight and token."""
    host = host_of(bert)
    shape = shape_of(host, lengths_of(host, ["a a a", "a a a a a a a a a"]))
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert shape.operations_per_token == 2 * weights
    assert (shape.hidden_size, shape.intermediate_size, shape.attention_width) == (32, 64, 32)
    assert shape.windows == (None, None)
    pairs = 2 * (5 * 5 + 7 * 7)
    assert shape.operations([5, 7]) == 12 * 2 * weights + 2 * shape.operations_per_text + 4 * 32 * pairs


def test_local_layers_are_counted_by_their_window(tmp_path):
    """Every third layer of a ModernBERT is global; the others see 16 tokens: 8 to each side, and themselves."""
    host = host_of(tiny_modernbert_folder(tmp_path / "model"))
    shape = shape_of(host, lengths_of(host, ["a a a", "a a a a a a a a a"]))
    assert shape.windows == (None, 16, 16, None)
    dense = shape.operations([100]) - 100 * shape.operations_per_token - shape.operations_per_text
    assert dense == 4 * 32 * (2 * 100 * 100 + 2 * brute_force(100, 16, causal=False))


def test_a_static_model_has_no_shape(static):
    host = host_of(static)
    assert shape_of(host, [("red", 1), ("red sky", 2)]) is None
