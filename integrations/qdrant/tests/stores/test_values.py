"""The values that describe collections, filters and patience refuse what makes no sense."""

import datetime as dt

import pytest

from embedprefs.errors import InputError, InvalidPreferenceError
from embedprefs_qdrant.stores import (
    CollectionLayout,
    Filter,
    HasId,
    HnswOptions,
    Match,
    MatchAny,
    PayloadIndex,
    Quantization,
    Range,
    RetryPolicy,
    SparseVectorLayout,
    VectorLayout,
)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: VectorLayout(0), "size is 0"),
        (lambda: VectorLayout(3, "cosin"), "Did you mean 'cosine'"),
        (lambda: VectorLayout(3, datatype="int8"), "Allowed: float32, float16, uint8"),
        (lambda: HnswOptions(m=-1), "at least 0"),
        (lambda: Quantization("skalar"), "Did you mean 'scalar'"),
        (lambda: Quantization("binary", bits=4), "Allowed: 1, 1.5, 2"),
        (lambda: Quantization("binary", quantile=0.9), "only with scalar"),
        (lambda: Quantization("scalar", compression="x8"), "only with product"),
        (lambda: Quantization("scalar", bits=1), "only with binary and turbo"),
        (lambda: Quantization("product", compression="x3"), "Allowed: x4, x8"),
        (lambda: Quantization("scalar", quantile=0.1), "0.5 to 1.0"),
        (lambda: PayloadIndex("keywords"), "Did you mean 'keyword'"),
        (lambda: PayloadIndex("integer", tenant=True), "keyword, uuid"),
        (CollectionLayout, "names no vector"),
        (lambda: CollectionLayout({"a": VectorLayout(3)}, {"a": SparseVectorLayout()}), "different names"),
        (lambda: RetryPolicy(attempts=0), "at least 1"),
        (lambda: RetryPolicy(deadline=-1), "at least 0"),
    ],
)
def test_a_layout_or_policy_that_cannot_be_is_refused(make, told):
    with pytest.raises(InvalidPreferenceError, match=told):
        make()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Match("a", None), "Use IsEmpty"),
        (lambda: MatchAny("a", ("x", 1)), "only strings, or only integers"),
        (lambda: MatchAny("a", (1.5,)), "only strings, or only integers"),
        (lambda: Range("a"), "without bounds"),
        (lambda: Range("a", gt=1, lt="2024-01-01"), "mixes"),
        (lambda: HasId(("doc-1",)), "neither a UUID"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(make, told):
    with pytest.raises(InputError, match=told):
        make()


def test_filters_combine_and_know_whether_they_are_empty():
    a, b = Filter((Match("a", 1),)), Filter(must_not=(Match("b", 2),))
    assert a & b == Filter((Match("a", 1),), (Match("b", 2),))
    assert a & None == a
    assert not Filter()
    assert a
    assert b


def test_datetimes_become_iso_strings():
    bound = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    condition = Range("when", gte=bound, lt="2024-06-01")
    assert condition.is_datetime
    assert condition.datetimes() == {"gte": "2024-05-01T12:00:00+00:00", "lt": "2024-06-01"}


def test_layouts_tell_conflicts_from_what_has_no_effect():
    stored = CollectionLayout({"a": VectorLayout(3, hnsw=HnswOptions(m=16))}, {"s": SparseVectorLayout(idf=True)})
    same = CollectionLayout({"a": VectorLayout(3)})
    tuned = CollectionLayout({"a": VectorLayout(3, hnsw=HnswOptions(m=32)), "new": VectorLayout(9)})
    turned = CollectionLayout({"s": VectorLayout(3)}, {"a": SparseVectorLayout()})
    assert (same.conflicts(stored), same.unapplied(stored)) == ({}, {})
    assert (tuned.conflicts(stored), tuned.unapplied(stored)) == ({}, {"vectors.a.hnsw.m": (32, 16)})
    assert turned.conflicts(stored) == {"vectors.s": ("dense", "sparse"), "sparse_vectors.a": ("sparse", "dense")}
