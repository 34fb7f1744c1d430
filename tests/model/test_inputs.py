"""Whatever has texts in an order is accepted; everything else is refused, and named."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from embedprefs import InputError

TEXTS = ["a river", "the town", "a river"]


class SeriesLike:
    """What a pandas Series offers: iteration over its values, and an index that is no position."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, key):
        raise KeyError(key)

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        SeriesLike(TEXTS),
        collections.deque(TEXTS),
        {1: "a river", 2: "the town", 3: "a river"}.values(),
    ],
    ids=["list", "tuple", "generator", "iterator", "array", "object array", "series", "deque", "values"],
)
def test_any_ordered_iterable_of_texts_is_accepted(given, ours):
    model = ours("static")
    assert np.array_equal(model.encode(given), model.encode(TEXTS))


def test_a_column_of_a_data_set_is_accepted(ours):
    datasets = pytest.importorskip("datasets")
    column = datasets.Dataset.from_dict({"text": TEXTS})["text"]
    assert np.array_equal(ours("static").encode(column), ours("static").encode(TEXTS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", None], r"Input 1 is None .*missing value"),
        (["a", "b", float("nan")], r"Input 2 is nan .*missing value"),
        (["a", 3], r"Input 1 is 3 \(int\), and no text"),
        ([b"a"], r"Input 0 is b'a' \(bytes\)"),
        (np.array(["a", None], dtype=object), r"Input 1 is None"),
        (np.array([1.5, 2.5]), r"Input 0 is 1.5 \(float\)"),
        (np.array([["a"], ["b"]]), r"shape \(2, 1\)"),
        ([["a", "b"], ["c"]], r"Input 0 is .*\n.*flat list"),
        (None, "None was given"),
        (3.5, r"3.5 \(float\) was given"),
        (b"bytes", "bytes"),
        ({"a", "b"}, "no order"),
        ({"text": "a"}, "dictionary"),
        (["fine", "half \ud83d of a pair"], "Input 1 holds .*surrogate"),
        ("half \ud83d", "surrogate"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "static"])
def test_what_is_no_text_is_named(name, given, message, ours):
    with pytest.raises(InputError, match=message):
        ours(name).encode(given)


@pytest.mark.parametrize("name", ["bert", "static"])
def test_no_texts_give_no_vectors_of_the_usual_length(name, ours):
    """The shape that the host documents, [num_inputs, output_dimension], so that results can be put together."""
    model = ours(name)
    one = ["a river"]
    for options in (
        {},
        {"truncate_dim": np.int64(4)},
        {"convert_to_tensor": True},
        {"precision": "ubinary"},
        {"precision": "binary", "truncate_dim": 6},
        {"precision": "binary", "convert_to_tensor": True},
    ):
        for encode in (model.encode, model.encode_query, model.encode_document):
            empty, like = encode([], **options), encode(one, **options)
            assert (type(empty), empty.dtype) == (type(like), like.dtype), options
            assert tuple(empty.shape) == (0, like.shape[1]), options
    assert model.encode([], convert_to_numpy=False) == []
    assert model.encode([], output_value="token_embeddings") == []
    assert list(model.embed_stream([])) == []
    with pytest.raises(ValueError, match="unheard-of"):
        model.encode([], prompt_name="unheard-of")


@pytest.mark.parametrize("dimension", [0, -1, 33, 2.5, "8"])
def test_a_dimension_no_vector_has_is_refused(dimension, ours):
    with pytest.raises(InputError, match=r"truncate_dim is .*32 dimensions"):
        ours("bert").encode("a", truncate_dim=dimension)


def test_a_prompt_written_into_the_texts_is_warned_of(ours):
    from embedprefs import EmbedPrefsWarning

    with pytest.warns(EmbedPrefsWarning, match=r"1 of 2 texts begin with the prompt 'search_query: '"):
        ours("bert").encode(["search_query: what is a river", "a town"], prompt="search_query: ")
