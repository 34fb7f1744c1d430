"""A server that fails in every way a network can: nothing lost, nothing doubled, no wait without end."""

import time

import httpx
import numpy as np
import pytest

from embedprefs.errors import InputError, UnavailableError
from embedprefs_qdrant.stores import Point, RetryPolicy, StoreError, UploadError, open_store

POLICY = RetryPolicy(attempts=4, first_wait=1.0, longest_wait=8.0, longest_retry_after=20.0, deadline=100.0)


@pytest.fixture
def patient(wire, layout, fake_time):
    """A store on the failing server that waits in fake time, with an empty collection."""
    store = open_store(wire.url, retry=POLICY, clock=fake_time.clock())
    store.ensure("docs", layout)
    yield store
    store.close()


@pytest.fixture
def hurried(wire, layout):
    """A store whose requests time out after a second, and which waits hardly at all between them."""
    store = open_store(
        wire.url, timeout=1, retry=RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02, deadline=60)
    )
    store.ensure("docs", layout)
    yield store
    store.close()


def assert_all_stored_once(store, points):
    """The server holds exactly these points, payloads and vectors included."""
    stored = {point.id: point for point in store.scroll("docs", vectors=True)}
    assert set(stored) == {point.id for point in points}
    assert store.count("docs") == len(points)
    for point in points:
        assert stored[point.id].payload == point.payload
        unit = point.vectors["dense"] / np.linalg.norm(point.vectors["dense"])
        np.testing.assert_allclose(stored[point.id].vectors["dense"], unit, atol=1e-6)


def test_a_busy_server_is_waited_for_as_long_as_it_says(patient, wire, faults, points, fake_time):
    wire.fail(
        faults.Fault(before=faults.status(429, Retry_After="7")),
        faults.Fault(before=faults.status(429, Retry_After="3")),
    )
    report = patient.upsert("docs", points)
    assert fake_time.sleeps == [7, 3]
    assert (report.requests, report.retries, report.verified) == (3, 2, 0)
    assert_all_stored_once(patient, points)


def test_a_long_retry_after_is_capped_and_counted(patient, wire, faults, points, fake_time):
    wire.fail(*[faults.Fault(before=faults.status(429, Retry_After="3600"))] * 9)
    with pytest.raises(UploadError, match=r"4 attempts.*too many requests") as caught:
        patient.upsert("docs", points)
    assert fake_time.sleeps == [20, 20, 20]
    assert caught.value.status == 429
    assert caught.value.attempts == 4
    assert wire.sent() == 4


def test_a_busy_server_that_names_no_time_gets_growing_waits(patient, wire, faults, points, fake_time):
    wire.fail(*[faults.Fault(before=faults.status(429))] * 3)
    patient.upsert("docs", points)
    assert fake_time.sleeps == [1, 2, 4]
    assert_all_stored_once(patient, points)


def test_a_retry_after_that_is_a_date_is_still_a_busy_server(patient, wire, faults, points, fake_time):
    wire.fail(faults.Fault(before=faults.status(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")))
    patient.upsert("docs", points)
    assert fake_time.sleeps == [1]
    assert_all_stored_once(patient, points)


def test_waits_are_spread_by_chance(wire, layout, faults, points, fake_time):
    with open_store(wire.url, retry=POLICY, clock=fake_time.clock(chance=0.0)) as store:
        store.ensure("docs", layout)
        wire.fail(*[faults.Fault(before=faults.status(503))] * 2)
        store.upsert("docs", points)
    assert fake_time.sleeps == [0.5, 1]


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_an_error_inside_the_server_is_tried_again(patient, wire, faults, points, code):
    wire.fail(*[faults.Fault(before=faults.status(code))] * 2)
    assert patient.upsert("docs", points, verify_fields=["hash"]).retries == 2
    assert_all_stored_once(patient, points)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_never_repeated(patient, wire, faults, points, fake_time, code):
    wire.fail(faults.Fault(before=faults.status(code, "no such luck")))
    with pytest.raises(UploadError, match="no such luck") as caught:
        patient.upsert("docs", points)
    assert (wire.sent(), fake_time.sleeps) == (1, [])
    assert caught.value.exit_code == 3
    assert set(caught.value.failed_ids) == {point.id for point in points}
    assert patient.upsert("docs", points).points == 60
    assert_all_stored_once(patient, points)


def test_a_broken_connection_is_tried_again(patient, wire, faults, points):
    wire.fail(faults.Fault(before=faults.reset), faults.Fault(after=faults.reset))
    report = patient.upsert("docs", points, verify_fields=["hash"])
    assert (report.requests, report.verified) == (2, 60)
    assert_all_stored_once(patient, points)


@pytest.mark.parametrize("way", ["reset", "garble", "error"])
def test_a_lost_answer_is_looked_up_and_nothing_is_sent_again(patient, wire, faults, points, way):
    lost = {"reset": faults.reset, "garble": faults.garble, "error": faults.status(500)}[way]
    wire.fail(faults.Fault(after=lost))
    report = patient.upsert("docs", points, verify_fields=["hash", "number"])
    assert (report.requests, report.retries, report.verified) == (1, 0, 60)
    assert wire.sent() == 1
    assert_all_stored_once(patient, points)


def test_an_older_point_of_the_same_id_does_not_count_as_stored(patient, wire, faults, make):
    """The ids are there from an earlier run, with other content: only the values of the fields tell."""
    patient.upsert("docs", make(60, seed=1))
    new = make(60, seed=2)
    wire.fail(faults.Fault(before=faults.status(500)))
    report = patient.upsert("docs", new, verify_fields=["hash"])
    assert (report.requests, report.verified) == (2, 0)
    assert_all_stored_once(patient, new)


def test_without_fields_to_verify_everything_in_doubt_is_sent_again(patient, wire, faults, points):
    wire.fail(faults.Fault(after=faults.reset))
    report = patient.upsert("docs", points)
    assert (report.requests, report.verified) == (2, 0)
    assert_all_stored_once(patient, points)


def test_a_lookup_that_fails_as_well_loses_nothing(patient, wire, faults, points):
    wire.fail(faults.Fault(after=faults.reset), faults.Fault(before=faults.reset, method="POST"))
    report = patient.upsert("docs", points, verify_fields=["hash"])
    assert (report.requests, report.verified) == (2, 0)
    assert_all_stored_once(patient, points)


def test_a_batch_that_is_too_large_is_halved_until_it_fits(patient, wire, faults, points, fake_time):
    """Servers report the limit as 413, and as 400 with a text about the size."""
    wire.fail(
        faults.Fault(before=faults.status(413)),
        faults.Fault(
            before=faults.status(400, "Payload error: JSON payload (33 B) is larger than allowed (limit: 32 B).")
        ),
    )
    report = patient.upsert("docs", points)
    assert (report.points, report.requests) == (60, 5)
    assert fake_time.sleeps == []
    assert_all_stored_once(patient, points)


def test_a_single_point_that_is_too_large_for_the_server_is_named(patient, wire, faults, points):
    wire.fail(faults.Fault(before=faults.status(413)))
    with pytest.raises(UploadError, match=f"(?s)A point could not be stored.*{points[0].id}"):
        patient.upsert("docs", points[:1])


def test_after_a_failure_the_error_says_what_is_stored_and_what_is_not(patient, wire, faults, make):
    points = make(600)
    wire.fail(faults.Fault(before=lambda _: False), faults.Fault(before=faults.status(400, "bad")))
    with pytest.raises(UploadError) as caught:
        patient.upsert("docs", points)
    error = caught.value
    assert (error.stored, len(error.failed_ids), len(error.unsent_ids), error.attempts) == (256, 256, 88, 1)
    assert patient.count("docs") == 256
    stored = set(patient.existing("docs", [point.id for point in points]))
    assert stored | set(error.failed_ids) | set(error.unsent_ids) == {point.id for point in points}
    assert "256 points could not be stored" in str(error)
    assert "and 251 more" in str(error)


def test_the_deadline_ends_the_retries_of_one_call(wire, layout, faults, points, fake_time):
    policy = RetryPolicy(attempts=50, first_wait=4, longest_wait=4, deadline=10)
    with open_store(wire.url, retry=policy, clock=fake_time.clock()) as store:
        store.ensure("docs", layout)
        wire.fail(*[faults.Fault(before=faults.status(503))] * 60)
        with pytest.raises(UploadError) as caught:
            store.upsert("docs", points)
    assert fake_time.sleeps == [4, 4]
    assert caught.value.attempts == 3


def test_a_server_that_does_not_answer_is_given_up_and_the_batch_is_halved_on_the_way(hurried, wire, faults, points):
    wire.fail(faults.Fault(before=faults.hang))
    report = hurried.upsert("docs", points, verify_fields=["hash"])
    assert (report.requests, report.verified) == (3, 0)
    assert_all_stored_once(hurried, points)


def test_an_answer_that_comes_too_late_is_looked_up(hurried, wire, faults, points):
    wire.fail(faults.Fault(after=faults.hang))
    report = hurried.upsert("docs", points, verify_fields=["hash"])
    assert (report.requests, report.verified) == (1, 60)
    assert_all_stored_once(hurried, points)


def test_an_answer_that_dribbles_in_is_not_waited_for(hurried, wire, faults, points):
    """Every piece is in time, so that the client's own timeout never ends the wait; the whole would take 20 seconds."""
    wire.fail(faults.Fault(after=faults.dribble))
    report = hurried.upsert("docs", points, verify_fields=["hash"])
    assert (report.requests, report.verified) == (1, 60)
    assert_all_stored_once(hurried, points)


def test_reading_is_repeated_as_well(patient, wire, faults, points, fake_time):
    patient.upsert("docs", points)
    for method, path in (("POST", "/points/count"), ("POST", "/points/scroll"), ("POST", "/points"), ("GET", "/docs")):
        wire.fail(faults.Fault(before=faults.status(503), method=method, path=path))
    assert patient.count("docs") == 60
    assert len(list(patient.scroll("docs"))) == 60
    assert len(patient.existing("docs", [point.id for point in points])) == 60
    assert patient.describe("docs").points == 60
    assert fake_time.sleeps == [1, 1, 1, 1]


def test_deleting_twice_because_the_answer_was_lost_deletes_once(patient, wire, faults, points):
    patient.upsert("docs", points)
    wire.fail(faults.Fault(after=faults.reset, method="POST", path="/points/delete"))
    patient.delete("docs", ids=[point.id for point in points[:10]])
    assert_all_stored_once(patient, points[10:])


def test_a_collection_whose_creation_was_not_acknowledged_is_not_an_error(wire, layout, faults, fake_time, points):
    with open_store(wire.url, retry=POLICY, clock=fake_time.clock()) as store:
        wire.fail(faults.Fault(after=faults.reset, path="/collections/docs"))
        store.ensure("docs", layout)
        store.upsert("docs", points)
        assert_all_stored_once(store, points)


def test_a_wrong_key_is_explained_and_not_shown(wire, layout, faults, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret-key")
    with pytest.warns(UserWarning, match="insecure"):
        store = open_store(wire.url)
    wire.fail(faults.Fault(before=faults.status(401, "Invalid API key"), method="GET", path="/collections"))
    with store, pytest.raises(StoreError, match=r"QDRANT_API_KEY") as caught:
        store.collections()
    assert "s3cret" not in f"{caught.value}{caught.value!r}{store!r}{store.url}{store.capabilities}"


def test_a_server_without_metadata_keeps_the_record_in_a_reserved_point(wire, patient, points):
    wire.keeps_metadata = False
    patient.upsert("docs", points)
    patient.write_record("docs", {"fingerprint": "f00", "canary": [0.25, 1e-9]})
    assert patient.read_record("docs") == {"fingerprint": "f00", "canary": [0.25, 1e-9]}
    assert patient.describe("docs").record_place == "reserved point"
    assert_all_stored_once(patient, points)
    patient.write_record("docs", {"fingerprint": "bar"})
    assert patient.read_record("docs") == {"fingerprint": "bar"}


def test_a_server_that_is_not_there_is_unavailable(fake_time):
    with pytest.raises(
        UnavailableError, match=r"http://127\.0\.0\.1:9: Cannot reach the server \(4 attempts\)"
    ) as caught:
        open_store("http://127.0.0.1:9", retry=POLICY, clock=fake_time.clock())
    assert caught.value.exit_code == 3


def test_the_version_of_the_server_is_known(wire):
    with open_store(wire.url) as store:
        assert store.capabilities.engine_version == "1.20.0"
        assert store.capabilities.transport == "REST"


def test_a_bug_is_not_mistaken_for_a_failing_server(patient, points, monkeypatch):
    def broken(*_args, **_kwargs):
        raise KeyError("bug")

    monkeypatch.setattr(patient._call.client, "upsert", broken)
    with pytest.raises(KeyError, match="bug"):
        patient.upsert("docs", points)


def test_requests_stay_below_the_limit_in_bytes(wire, layout, make):
    points = make(200)
    with open_store(wire.url, max_batch_bytes=50_000) as store:
        store.ensure("docs", layout)
        store.upsert("docs", points)
        sizes = [size for verb, path, size in wire.requests if verb == "PUT" and path.endswith("/points")]
        assert len(sizes) > 3
        assert max(sizes) <= 50_000
        with pytest.raises(InputError, match="Allowed: 50,000 bytes"):
            store.upsert("docs", [Point(1, {}, {"text": "x" * 50_000})])


def test_an_alias_switched_by_another_process_is_noticed(wire, patient, points):
    """The layout an alias leads to may change at any time; what is remembered of it refuses nothing."""
    from embedprefs_qdrant.stores import CollectionLayout, Nearest, SearchQuery, VectorLayout

    patient.upsert("docs", points)
    patient.switch("now", "docs")
    assert patient.search("now", [SearchQuery(Nearest(np.ones(16), "dense"))])[0]
    with open_store(wire.url) as other:
        other.ensure("next", CollectionLayout({"dense": VectorLayout(3)}))
        other.upsert("next", [Point(1, {"dense": np.ones(3)}, {})])
        other.switch("now", "next")
    [hits] = patient.search("now", [SearchQuery(Nearest(np.ones(3), "dense"))])
    assert [hit.id for hit in hits] == [1]


def test_the_streams_time_limit_counts_the_whole_body():
    """The hook alone, in fake time: three pieces, one second each, with a limit of 1.5 seconds."""
    from embedprefs_qdrant.stores import Clock
    from embedprefs_qdrant.stores.client_calls import limit_body_time

    now = [0.0]

    class Slow(httpx.SyncByteStream):
        def __iter__(self):
            for _ in range(3):
                now[0] += 1
                yield b"x"

    request = httpx.Request("GET", "http://host", extensions={"timeout": {"read": 1.5}})
    response = httpx.Response(200, stream=Slow(), request=request)
    limit_body_time(Clock(now=lambda: now[0], sleep=time.sleep))(response)
    with pytest.raises(httpx.ReadTimeout, match="too long"):
        response.read()
    assert now[0] == 2
