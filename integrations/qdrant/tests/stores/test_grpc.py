"""What is particular to gRPC: numpy rows travel as they are, and failures are told by codes instead of statuses."""

from concurrent import futures

import grpc
import numpy as np
import pytest
from qdrant_client import grpc as messages

from embedprefs_qdrant.stores import Point, RetryPolicy, SparseVector, StoreError, UploadError, open_store


class Points(messages.PointsServicer):
    """Keeps what it is sent, after failing as often as it is told to."""

    def __init__(self):
        self.stored = {}
        self.failures = []
        self.calls = 0

    def Upsert(self, request, context):  # noqa: N802 - name of the interface
        self.calls += 1
        if self.failures:
            code, details, trailing = self.failures.pop(0)
            context.set_trailing_metadata(trailing)
            context.abort(code, details)
        self.stored.update({point.id.uuid: point for point in request.points})
        assert request.wait
        return messages.PointsOperationResponse(
            result=messages.UpdateResult(operation_id=1, status=messages.UpdateStatus.Completed)
        )


class Health(messages.QdrantServicer):
    def HealthCheck(self, request, context):  # noqa: N802
        return messages.HealthCheckReply(title="stub", version="1.20.0")


@pytest.fixture
def server():
    points = Points()
    running = grpc.server(futures.ThreadPoolExecutor(2))
    messages.add_PointsServicer_to_server(points, running)
    messages.add_QdrantServicer_to_server(Health(), running)
    points.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield points
    running.stop(None)


@pytest.fixture
def store(server, layout, fake_time):
    policy = RetryPolicy(attempts=3, first_wait=1)
    opened = open_store(f"grpc://127.0.0.1:{server.port}", retry=policy, clock=fake_time.clock())
    opened._layouts["docs"] = layout
    yield opened
    opened.close()


def test_vectors_and_payloads_arrive_as_they_were_given(server, store, points):
    report = store.upsert("docs", points)
    assert (store.capabilities.transport, report.requests) == ("gRPC", 1)
    for point in points:
        stored = server.stored[point.id]
        named = stored.vectors.vectors.vectors
        np.testing.assert_array_equal(np.array(named["dense"].dense.data, np.float32), point.vectors["dense"])
        rows = [np.array(row.data, np.float32) for row in named["tokens"].multi_dense.vectors]
        np.testing.assert_array_equal(np.stack(rows), point.vectors["tokens"])
        assert list(named["words"].sparse.indices) == point.vectors["words"].indices.tolist()
        assert stored.payload["number"].integer_value == point.payload["number"]
        assert stored.payload["kind"].string_value == point.payload["kind"]


def test_dense_rows_alone_arrive_bit_for_bit(server, store):
    row = np.random.default_rng(0).normal(size=16).astype(np.float32)
    identity = "00000000-0000-4000-8000-000000000001"
    store.upsert("docs", [Point(identity, {"dense": row}, {})])
    data = server.stored[identity].vectors.vectors.vectors["dense"].dense.data
    assert np.array(data, np.float32).tobytes() == row.tobytes()


@pytest.mark.parametrize(
    ("code", "details", "trailing", "waits"),
    [
        (grpc.StatusCode.UNAVAILABLE, "away", (), [1]),
        (grpc.StatusCode.INTERNAL, "broken", (), [1]),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", (("retry-after", "9"),), [9]),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", (), [1]),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", (), []),
    ],
)
def test_passing_failures_are_tried_again(server, store, points, fake_time, code, details, trailing, waits):
    server.failures.append((code, details, trailing))
    assert store.upsert("docs", points).points == 60
    assert fake_time.sleeps == waits
    assert set(server.stored) == {point.id for point in points}


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND]
)
def test_refusals_are_not_repeated(server, store, points, code):
    server.failures.append((code, "no such luck", ()))
    with pytest.raises(UploadError, match=f"{code.name}: no such luck"):
        store.upsert("docs", points)
    assert server.calls == 1


def test_an_empty_sparse_vector_is_left_out(server, store):
    identity = "00000000-0000-4000-8000-000000000002"
    store.upsert("docs", [Point(identity, {"words": SparseVector(np.array([], int), np.array([]))}, {})])
    assert not server.stored[identity].vectors.vectors.vectors


def test_a_server_that_is_not_there_is_unavailable(fake_time):
    with pytest.raises(StoreError, match=r"grpc://127\.0\.0\.1:9: Cannot reach the server"):
        open_store("grpc://127.0.0.1:9", retry=RetryPolicy(attempts=2), clock=fake_time.clock())
