"""What every store does, whatever is behind it."""

import warnings

import numpy as np
import pytest

from embedprefs.errors import InputError, PreferenceMismatchError
from embedprefs_qdrant.stores import (
    CollectionLayout,
    Filter,
    HasId,
    IsEmpty,
    Match,
    MatchAny,
    PayloadIndex,
    Point,
    Range,
    SparseVector,
    SparseVectorLayout,
    Store,
    VectorLayout,
    open_store,
)
from embedprefs_qdrant.stores.points import RECORD_POINT_ID


def stored_ids(store, collection, **options):
    return [point.id for point in store.scroll(collection, payload=False, **options)]


def test_each_store_has_the_protocols_methods(filled):
    assert isinstance(filled.store, Store)


def test_ensure_creates_once_and_describes_what_was_asked(filled, layout):
    store, collection = filled.store, filled.collection
    description = store.describe(collection)
    assert store.ensure(collection, layout) is False
    assert set(description.layout.vectors) == set(layout.vectors)
    assert not layout.conflicts(description.layout)
    assert description.points == 60
    assert description.status == "ready"
    if store.capabilities.payload_indexes and store.capabilities.engine == "edge":
        assert dict(description.layout.payload_indexes) == dict(layout.payload_indexes)


def test_another_dimension_or_distance_is_refused_with_both_sides(filled):
    store, collection = filled.store, filled.collection
    asked = CollectionLayout({"dense": VectorLayout(32, "dot")}, {"words": SparseVectorLayout(idf=False)})
    with pytest.raises(PreferenceMismatchError) as caught:
        store.ensure(collection, asked)
    assert set(caught.value.differences) == {"vectors.dense.size", "vectors.dense.distance", "sparse_vectors.words.idf"}
    assert caught.value.left["vectors.dense.size"] == 32
    assert caught.value.right["vectors.dense.size"] == 16


def test_a_missing_vector_is_added_and_the_points_stay(store, layout, collection):
    wider = CollectionLayout(
        {**layout.vectors, "second": VectorLayout(3)},
        {**layout.sparse_vectors, "splade": SparseVectorLayout()},
        {**layout.payload_indexes, "extra": PayloadIndex("float")},
    )
    assert store.ensure(collection, wider) is False
    description = store.describe(collection)
    assert {"second", "dense"} <= set(description.layout.vectors)
    assert "splade" in description.layout.sparse_vectors
    assert description.points == 60
    store.upsert(collection, [Point(stored_ids(store, collection)[0], {"second": np.ones(3)}, {})])


def test_points_come_back_as_they_were_written(filled):
    store, collection, points = filled.store, filled.collection, filled.points
    found = store.existing(collection, [point.id for point in points], payload=True, vectors=True)
    assert set(found) == {point.id for point in points}
    for point in points:
        stored = found[point.id]
        assert stored.payload == point.payload
        dense = point.vectors["dense"]
        np.testing.assert_allclose(stored.vectors["dense"], dense / np.linalg.norm(dense), atol=1e-6)
        np.testing.assert_allclose(stored.vectors["tokens"], point.vectors["tokens"], atol=1e-6)
        sparse, wanted = stored.vectors["words"], point.vectors["words"]
        assert dict(zip(sparse.indices.tolist(), sparse.values.tolist(), strict=True)) == pytest.approx(
            dict(zip(wanted.indices.tolist(), wanted.values.tolist(), strict=True))
        )


def test_existing_returns_only_what_is_there_and_only_the_fields_asked_for(filled):
    store, collection, points = filled.store, filled.collection, filled.points
    absent = "00000000-0000-4000-8000-000000000000"
    found = store.existing(collection, [points[0].id, absent], payload=["hash"])
    assert {key: value.payload for key, value in found.items()} == {points[0].id: {"hash": points[0].payload["hash"]}}
    assert found[points[0].id].vectors == {}
    assert store.existing(collection, []) == {}


def test_existing_takes_more_ids_than_one_request(filled):
    store, collection, points = filled.store, filled.collection, filled.points
    asked = [point.id for point in points] + [f"00000000-0000-4000-8000-{number:012d}" for number in range(500)]
    assert len(store.existing(collection, asked)) == 60


def test_an_upsert_replaces_the_whole_point(store, collection, points):
    store.upsert(collection, [Point(points[0].id, {"small": np.ones(4)}, {"kind": "new"})])
    stored = store.existing(collection, [points[0].id], payload=True, vectors=True)[points[0].id]
    assert stored.payload == {"kind": "new"}
    assert set(stored.vectors) == {"small"}
    assert store.count(collection) == 60


def test_an_upsert_of_nothing_does_nothing(filled):
    store, collection = filled.store, filled.collection
    assert store.upsert(collection, []).points == 0


def test_many_points_arrive_in_several_batches(store, layout, make):
    store.ensure("many", layout)
    report = store.upsert("many", make(300))
    assert (report.points, report.requests, report.retries) == (300, 2, 0)
    assert store.count("many") == 300


@pytest.mark.parametrize(
    ("condition", "keep"),
    [
        (Filter((Match("kind", "kind 1"),)), lambda p: p["kind"] == "kind 1"),
        (Filter((Match("number", 7),)), lambda p: p["number"] == 7),
        (Filter((Match("flag", True),)), lambda p: p["flag"]),
        (Filter((Match("weight", 2.5),)), lambda p: p["weight"] == 2.5),
        (Filter((Match("tags", "tag 1"),)), lambda p: "tag 1" in p["tags"]),
        (Filter((Match("nested.deep", 3),)), lambda p: p["nested"]["deep"] == 3),
        (Filter((MatchAny("kind", ("kind 0", "kind 2")),)), lambda p: p["kind"] != "kind 1"),
        (Filter((MatchAny("number", (1, 2, 99)),)), lambda p: p["number"] in (1, 2)),
        (Filter((MatchAny("kind", ()),)), lambda _: False),
        (Filter((Range("number", gt=10, lte=20),)), lambda p: 10 < p["number"] <= 20),
        (Filter((Range("weight", lt=3.25),)), lambda p: p["weight"] < 3.25),
        (
            Filter((Range("when", gte="2024-01-05T00:00:00Z", lt="2024-01-08T00:00:00Z"),)),
            lambda p: "2024-01-05" <= p["when"][:10] < "2024-01-08",
        ),
        (Filter((IsEmpty("rare"),)), lambda p: "rare" not in p),
        (Filter(must_not=(IsEmpty("rare"),)), lambda p: "rare" in p),
        (
            Filter(must_not=(Match("kind", "kind 1"), Range("number", gte=30))),
            lambda p: p["kind"] != "kind 1" and p["number"] < 30,
        ),
        (
            Filter((Match("kind", "kind 1"), Range("number", gte=30)), (Match("flag", True),)),
            lambda p: p["kind"] == "kind 1" and p["number"] >= 30 and not p["flag"],
        ),
    ],
)
def test_filters_choose_the_same_points_in_scroll_and_count(filled, condition, keep):
    wanted = {point.id for point in filled.points if keep(point.payload)}
    assert set(stored_ids(filled.store, filled.collection, filter=condition)) == wanted
    assert filled.store.count(filled.collection, filter=condition) == len(wanted)


def test_a_filter_by_id(filled):
    store, collection, points = filled.store, filled.collection, filled.points
    some = tuple(point.id for point in points[:3])
    assert set(stored_ids(store, collection, filter=Filter((HasId(some),)))) == set(some)
    assert store.count(collection, filter=Filter(must_not=(HasId(some),))) == 57


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_scroll_meets_every_point_once(filled, batch_size):
    seen = stored_ids(filled.store, filled.collection, batch_size=batch_size)
    assert sorted(seen) == sorted(point.id for point in filled.points)


def test_points_may_be_deleted_while_scrolling(store, collection):
    seen = []
    for point in store.scroll(collection, batch_size=10):
        seen.append(point.id)
        store.delete(collection, ids=[point.id])
    assert len(seen) == len(set(seen)) == 60
    assert store.count(collection) == 0


def test_delete_by_ids_and_by_filter(store, collection, points):
    store.delete(collection, ids=[points[0].id, "00000000-0000-4000-8000-000000000000"])
    store.delete(collection, filter=Filter((Match("kind", "kind 1"),)))
    wanted = {point.id for point in points[1:] if point.payload["kind"] != "kind 1"}
    assert set(stored_ids(store, collection)) == wanted


def test_an_empty_filter_deletes_nothing_and_is_refused(filled):
    store, collection = filled.store, filled.collection
    for wrong in ({"filter": Filter()}, {}, {"ids": [], "filter": Filter((Match("a", 1),))}):
        with pytest.raises(InputError):
            store.delete(collection, **wrong)
    assert store.count(collection) == 60


def test_payload_fields_are_merged_or_replaced(store, collection, points):
    first, second = points[0].id, points[1].id
    store.set_payload(collection, {"seen": True}, ids=[first])
    store.set_payload(collection, {"only": 1}, ids=[second], replace=True)
    store.set_payload(collection, {"late": "x"}, filter=Filter((Match("kind", "kind 2"),)))
    found = store.existing(collection, [point.id for point in points[:3]], payload=True, vectors=["dense"])
    assert found[first].payload == {**points[0].payload, "seen": True}
    assert found[second].payload == {"only": 1}
    assert found[points[2].id].payload == {**points[2].payload, "late": "x"}
    assert "dense" in found[second].vectors


def test_the_record_makes_a_round_trip_and_replaces_the_earlier_one(store, collection):
    first = {"fingerprint": "ab", "vectors": {"dense": {"canary": [0.1, -2.5e-8, 1.0], "prompt": ""}}, "none": None}
    store.write_record(collection, first)
    assert store.read_record(collection) == first
    store.write_record(collection, {"fingerprint": "cd", "text": "Größe 🙂"})
    assert store.read_record(collection) == {"fingerprint": "cd", "text": "Größe 🙂"}
    assert store.describe(collection).record_place in {"collection metadata", "sidecar file"}


def test_the_record_is_no_point(store, collection, points):
    """Whatever holds the record, no method that concerns points shows, changes or deletes it."""
    everything = Filter(must_not=(Match("kind", "no such kind"),))
    assert RECORD_POINT_ID not in stored_ids(store, collection)
    assert store.count(collection) == store.describe(collection).points == len(points)
    assert store.count(collection, filter=everything) == len(points)
    assert store.existing(collection, [RECORD_POINT_ID]) == {}
    store.set_payload(collection, {"swept": True}, filter=everything, replace=True)
    store.delete(collection, filter=everything)
    assert store.count(collection) == 0
    assert store.read_record(collection) == {"fingerprint": "f00"}
    with pytest.raises(InputError, match="reserved"):
        store.delete(collection, ids=[RECORD_POINT_ID])


def test_without_a_record_none_is_read(store, layout):
    assert store.read_record("absent") is None
    store.ensure("bare", layout)
    assert store.read_record("bare") is None
    assert store.describe("bare").record_place is None


def test_an_absent_collection_is_named_with_those_there_are(filled):
    store, collection, points = filled.store, filled.collection, filled.points
    misspelt = collection[:-1] + "x"
    assert store.describe(misspelt) is None
    assert store.drop(misspelt) is False
    for call in (
        lambda: store.count(misspelt),
        lambda: store.upsert(misspelt, points),
        lambda: next(store.scroll(misspelt)),
        lambda: store.existing(misspelt, [points[0].id]),
        lambda: store.write_record(misspelt, {}),
        lambda: store.barrier(misspelt),
        lambda: store.delete(misspelt, ids=[points[0].id]),
    ):
        with pytest.raises(InputError, match=f"there is no collection '{misspelt}'[^$]*Did you mean '{collection}'"):
            call()


def test_an_alias_leads_to_a_collection_and_is_switched(store, layout, collection, points):
    alias = f"{collection}_now"
    assert store.switch(alias, collection) is None
    assert store.count(alias) == 60
    assert store.describe(alias).name == collection
    assert store.describe(collection).aliases == (alias,)
    assert store.read_record(alias) == {"fingerprint": "f00"}
    store.upsert(alias, [Point(points[0].id, {}, {"through": "alias"})])
    assert store.existing(collection, [points[0].id], payload=True)[points[0].id].payload == {"through": "alias"}
    other = f"{collection}_other"
    store.ensure(other, CollectionLayout({"dense": VectorLayout(3)}))
    assert store.switch(alias, other) == collection
    assert store.aliases()[alias] == other
    assert store.count(alias) == 0
    store.upsert(alias, [Point(points[0].id, {"dense": np.ones(3)}, {})])
    with pytest.raises(InputError, match="cannot become an alias"):
        store.switch(collection, other)
    assert store.drop(alias) is True
    assert alias not in store.aliases()
    assert other not in store.collections()
    store.ensure(other, layout)


def test_collections_are_listed_and_dropped(store, collection):
    assert collection in store.collections()
    assert store.drop(collection) is True
    assert collection not in store.collections()
    assert store.read_record(collection) is None


@pytest.mark.parametrize(
    ("vectors", "named"),
    [
        ({"dense": np.full(16, np.nan)}, "holds NaN or infinity"),
        ({"dense": np.full(16, np.inf)}, "holds NaN or infinity"),
        ({"dense": np.full(16, 1e300)}, "holds NaN or infinity"),
        ({"dense": np.ones(15)}, r"shape \(15,\) instead of \(16,\)"),
        ({"dense": np.ones((1, 16))}, r"shape \(1, 16\) instead of \(16,\)"),
        ({"dense": np.array(["a"] * 16)}, "not real numbers"),
        ({"dense": np.ones(16, bool)}, "not real numbers"),
        ({"dnse": np.ones(16)}, "has no vector 'dnse', only 'dense', 'small', 'tokens', 'words'"),
        ({"dense": SparseVector(np.array([1]), np.array([1.0]))}, "is dense and was given a sparse vector"),
        ({"words": np.ones(16)}, "is sparse"),
        ({"tokens": np.ones(4)}, r"instead of \(tokens, 4\)"),
        ({"tokens": np.ones((0, 4))}, r"instead of \(tokens, 4\)"),
        ({"words": SparseVector(np.array([1, 1]), np.array([1.0, 2.0]))}, "names an index twice"),
        ({"words": SparseVector(np.array([-1]), np.array([1.0]))}, "integers 0 to"),
        ({"words": SparseVector(np.array([1]), np.array([np.nan]))}, "holds NaN or infinity"),
        ({"words": SparseVector(np.array([1, 2]), np.array([1.0]))}, "indices"),
    ],
)
def test_a_wrong_vector_is_refused_and_nothing_of_the_call_is_stored(filled, make, vectors, named):
    good = make(2, first=100)
    bad = Point("00000000-0000-4000-8000-00000000bad0", vectors, {})
    with pytest.raises(InputError, match=f"(?s){named}.*00000000-0000-4000-8000-00000000bad0"):
        filled.store.upsert(filled.collection, [good[0], bad, good[1]])
    assert filled.store.count(filled.collection) == 60


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"a": float("nan")}, "payload's a is nan"),
        ({"a": {"b": [1, object()]}}, r"payload's a.b\[1\] is a object"),
        ({"a": 2**70}, "beyond 64 bits"),
        ({1: "x"}, "the key 1"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_a_payload_that_is_no_json_is_refused(filled, payload, named):
    with pytest.raises(InputError, match=named):
        filled.store.upsert(filled.collection, [Point("00000000-0000-4000-8000-00000000bad0", {}, payload)])


def test_ids_are_uuids_each_once(store, collection, points):
    with pytest.raises(InputError, match=r"uuid\.uuid5"):
        store.upsert(collection, [Point("doc-1", {}, {})])
    with pytest.raises(InputError, match=f"twice in one call: {points[0].id}"):
        store.upsert(collection, [points[0], points[0]])
    store.upsert(collection, [Point(points[0].id.upper().replace("-", ""), {}, {"spelt": "otherwise"})])
    assert store.count(collection) == 60
    assert store.existing(collection, [points[0].id], payload=True)[points[0].id].payload == {"spelt": "otherwise"}


def test_integer_ids_of_other_programs_are_read_and_kept(store, collection):
    store.upsert(collection, [Point(7, {}, {"from": "elsewhere"})])
    assert store.existing(collection, [7], payload=True)[7].payload == {"from": "elsewhere"}
    assert 7 in stored_ids(store, collection)


def test_a_point_larger_than_a_request_is_named_and_nothing_is_sent(filled, make):
    store, collection = filled.store, filled.collection
    large = Point("00000000-0000-4000-8000-00000000b160", {}, {"text": "x" * 5_000_000})
    with pytest.raises(InputError, match=r"00000000-0000-4000-8000-00000000b160 takes about 5,000,\d+ bytes"):
        store.upsert(collection, [*make(300, first=1000), large])
    assert store.count(collection) == 60


def test_uint8_storage_refuses_what_is_not_made_of_small_integers(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.ensure("bytes", CollectionLayout({"dense": VectorLayout(4, "dot", datatype="uint8")}))
    identity = "00000000-0000-4000-8000-000000000001"
    for wrong in (np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 2, 256]), np.array([-1, 0, 0, 0])):
        with pytest.raises(InputError, match=f"(?s)integers 0 to 255.*{identity}"):
            store.upsert("bytes", [Point(identity, {"dense": wrong}, {})])
    store.upsert("bytes", [Point(identity, {"dense": np.array([0, 1, 128, 255], np.uint8)}, {})])
    stored = store.existing("bytes", [identity], vectors=True)[identity].vectors["dense"]
    assert stored.tolist() == [0, 1, 128, 255]


def test_a_vector_of_zeros_is_stored_with_a_warning(store, collection):
    identity = "00000000-0000-4000-8000-000000000002"
    with pytest.warns(UserWarning, match=f"(?s)no direction.*{identity}"):
        store.upsert(collection, [Point(identity, {"dense": np.zeros(16)}, {})])
    assert store.count(collection) == 61


def test_the_unnamed_vector_of_other_libraries_works(store):
    store.ensure("unnamed", CollectionLayout({"": VectorLayout(3, "dot")}))
    identity = "00000000-0000-4000-8000-000000000003"
    store.upsert("unnamed", [Point(identity, {"": np.array([1.0, 2.0, 3.0])}, {})])
    store.write_record("unnamed", {"a": 1})
    assert set(store.describe("unnamed").layout.vectors) == {""}
    assert store.existing("unnamed", [identity], vectors=True)[identity].vectors[""].tolist() == [1, 2, 3]
    assert store.read_record("unnamed") == {"a": 1}


def test_optimize_and_barrier_leave_the_points_as_they_are(store, collection, points):
    phases = []
    store.barrier(collection)
    store.optimize(collection, progress=lambda progress: phases.append(progress.phase))
    store.barrier(collection)
    assert store.count(collection) == 60
    assert store.read_record(collection) == {"fingerprint": "f00"}
    if store.capabilities.approximate_search:
        assert phases[-1] == "done"


def test_the_bulk_context_restores_what_it_held_back(store, layout, make):
    store.ensure("filled", layout)
    before = store.describe("filled").layout
    with pytest.raises(ZeroDivisionError), store.bulk("filled") as state:  # noqa: PT012 - the point is the way out
        assert state.reason
        store.upsert("filled", make(10))
        raise ZeroDivisionError
    assert store.describe("filled").layout == before
    with store.bulk("filled") as state:
        assert not state.held_back


def test_a_closed_store_says_so(address, layout):
    opened = open_store(address)
    opened.ensure("shut", layout)
    opened.close()
    opened.close()
    with pytest.raises(InputError, match="closed"):
        opened.count("shut")


def test_points_outlive_the_store_where_it_is_persistent(address, layout, points):
    with open_store(address) as first:
        if not first.capabilities.persistent:
            pytest.skip("nothing persists in memory")
        first.ensure("kept", layout)
        first.upsert("kept", points)
        first.write_record("kept", {"fingerprint": "f00"})
    with open_store(address, create=False) as second:
        assert second.count("kept") == 60
        assert second.read_record("kept") == {"fingerprint": "f00"}
        stored = second.existing("kept", [point.id for point in points], payload=True)
        assert {key: value.payload for key, value in stored.items()} == {point.id: point.payload for point in points}
        second.drop("kept")
