"""Filling an empty collection on a server without building its graphs again and again."""

import pytest
from qdrant_client.models import CollectionStatus

from embedprefs_qdrant.stores import CollectionLayout, HnswOptions, RetryPolicy, StoreError, VectorLayout, open_store
from embedprefs_qdrant.stores.client_bulk import HELD_BACK_KEY


@pytest.fixture
def server(wire, fake_time):
    with open_store(wire.url, retry=RetryPolicy(attempts=2), clock=fake_time.clock()) as store:
        store.ensure(
            "docs", CollectionLayout({"dense": VectorLayout(16, hnsw=HnswOptions(m=24)), "b": VectorLayout(4)})
        )
        yield store


def edges(change):
    vectors = {name: vector["hnsw_config"]["m"] for name, vector in (change.get("vectors_config") or {}).items()}
    # The REST interface calls the argument `vectors`.
    vectors |= {name: vector["hnsw_config"]["m"] for name, vector in (change.get("vectors") or {}).items()}
    return change["hnsw_config"]["m"], vectors


def test_graphs_are_held_back_and_restored(server, wire):
    with server.bulk("docs") as state:
        assert state.held_back
        assert edges(wire.changes[-1]) == (0, {"dense": 0})
    assert edges(wire.changes[-1]) == (16, {"dense": 24})
    assert HELD_BACK_KEY not in (wire.client.get_collection("docs").config.metadata or {})


def test_they_are_restored_when_the_work_fails(server, wire):
    with pytest.raises(ZeroDivisionError), server.bulk("docs"):
        raise ZeroDivisionError
    assert edges(wire.changes[-1]) == (16, {"dense": 24})


def test_the_next_run_restores_what_a_killed_one_held_back(server, wire):
    context = server.bulk("docs")
    context.__enter__()
    with open_store(wire.url) as later:
        later.ensure("docs", CollectionLayout({"dense": VectorLayout(16)}))
    assert edges(wire.changes[-1]) == (16, {"dense": 24})
    assert HELD_BACK_KEY not in (wire.client.get_collection("docs").config.metadata or {})
    count = len(wire.changes)
    server.ensure("docs", CollectionLayout({"dense": VectorLayout(16)}))
    assert len(wire.changes) == count


def test_the_record_stays_beside_it(server, wire):
    server.write_record("docs", {"fingerprint": "f00"})
    with server.bulk("docs"):
        assert server.read_record("docs") == {"fingerprint": "f00"}
    assert server.read_record("docs") == {"fingerprint": "f00"}


def test_a_server_that_would_forget_is_left_alone(server, wire):
    wire.keeps_metadata = False
    with server.bulk("docs") as state:
        assert not state.held_back
        assert "1.16" in state.reason
    assert not any("hnsw_config" in change and change["hnsw_config"] for change in wire.changes)


def test_optimize_waits_until_the_server_is_green(server, wire, monkeypatch, fake_time):
    import qdrant_client

    states = ["green", "yellow", "yellow", "grey", "yellow", "green", "green"]
    original = qdrant_client.QdrantClient.get_collection

    def busy(client, name, **options):
        info = original(client, name, **options)
        if not states or client is wire.client:
            return info
        return info.model_copy(update={"status": CollectionStatus(states.pop(0))})

    monkeypatch.setattr(qdrant_client.QdrantClient, "get_collection", busy)
    seen = []
    assert server.optimize("docs", progress=seen.append) is True
    assert not states
    assert [progress.phase for progress in seen] == ["optimizing"] * 6 + ["done"]
    assert fake_time.seconds == pytest.approx(3.0)
    assert any(set(change) == {"optimizers_config"} or change.get("optimizers_config") == {} for change in wire.changes)


def test_optimize_gives_up_after_its_timeout_and_at_an_error(server, wire, monkeypatch, fake_time):
    import qdrant_client

    original = qdrant_client.QdrantClient.get_collection
    state = [CollectionStatus.YELLOW]
    monkeypatch.setattr(
        qdrant_client.QdrantClient,
        "get_collection",
        lambda client, name, **options: original(client, name, **options).model_copy(update={"status": state[0]}),
    )
    with pytest.raises(StoreError, match="not ready after 4 seconds"):
        server.optimize("docs", timeout=4)
    assert fake_time.seconds == pytest.approx(4, abs=0.5)
    state[0] = CollectionStatus.RED
    with pytest.raises(StoreError, match="reports an error"):
        server.optimize("docs")
