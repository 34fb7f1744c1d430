"""The embedded engine: locks, kills, its record, and its graphs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from embedprefs.errors import EmbedPrefsWarning, InputError, PreferenceMismatchError, ResourceError
from embedprefs_qdrant.stores import (
    CollectionLayout,
    EdgeStore,
    HnswOptions,
    Nearest,
    Point,
    Quantization,
    SearchParameters,
    SearchQuery,
    SparseVectorLayout,
    VectorLayout,
    edge_optimizer,
)
from embedprefs_qdrant.stores.edge_files import ALIASES_FILE, RECORD_FILE, write_json


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def edge(folder, layout, points):
    store = EdgeStore(folder, lock_wait=0.2)
    store.ensure("docs", layout)
    store.upsert("docs", points)
    yield store
    store.close()


def test_a_second_opener_is_told_why_and_what_to_do(edge, folder):
    with EdgeStore(folder, lock_wait=0.1) as second, pytest.raises(ResourceError) as caught:
        second.count("docs")
    assert "serves one process at a time" in str(caught.value)
    assert "http://HOST:6333" in str(caught.value)
    assert str(folder) in str(caught.value)
    edge.close()
    with EdgeStore(folder) as third:
        assert third.count("docs") == 60


def test_a_second_opener_does_the_first_no_harm(edge, folder, make):
    """The engine's own lock comes too late: a second load truncates journals that the first can then not write."""
    edge.barrier("docs")
    edge.upsert("docs", make(60, first=100))
    with EdgeStore(folder, lock_wait=0) as second, pytest.raises(ResourceError):
        second.count("docs")
    edge.barrier("docs")
    edge.upsert("docs", make(60, first=200))
    edge.close()
    with EdgeStore(folder) as third:
        assert third.count("docs") == 180


@pytest.mark.skipif(os.name != "posix", reason="the engine's lock is looked at by flock")
def test_a_program_that_uses_the_engine_directly_is_noticed_and_not_harmed(edge, folder, make):
    import qdrant_edge

    edge.close()
    shard = qdrant_edge.EdgeShard.load(str(folder / "docs"))
    shard.update(qdrant_edge.UpdateOperation.delete_points([make(1)[0].id]))
    with EdgeStore(folder, lock_wait=0) as second, pytest.raises(ResourceError, match="open elsewhere"):
        second.count("docs")
    shard.flush()
    shard.close()
    with EdgeStore(folder, lock_wait=0) as third:
        assert third.count("docs") == 59


def test_another_process_is_kept_out_as_well(edge, folder):
    code = f"from embedprefs_qdrant.stores import EdgeStore; EdgeStore({str(folder)!r}, lock_wait=0).count('docs')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ResourceError" in done.stderr
    assert edge.count("docs") == 60


def test_the_opener_waits_for_a_lock_that_is_released_in_time(edge, folder):
    threading.Timer(0.3, edge.close).start()
    with EdgeStore(folder, lock_wait=10) as second:
        assert second.count("docs") == 60


def test_collections_of_one_folder_are_locked_one_by_one(edge, folder, layout):
    with EdgeStore(folder, lock_wait=0) as second:
        second.ensure("other", layout)
        assert second.count("other") == 0
        assert edge.collections() == ["docs", "other"]


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from conftest import make_layout, make_points
from embedprefs_qdrant.stores import EdgeStore
store = EdgeStore({folder!r}, lock_wait=10)
store.ensure("docs", make_layout())
store.write_record("docs", {{"fingerprint": "f00"}})
print("ready", flush=True)
for batch in range(int({batches})):
    store.upsert("docs", make_points(20, seed=batch, first=20 * batch))
    print(batch, flush=True)
"""


def kill_while_writing(folder, seconds):
    """Start a process that writes batches, kill it after so many seconds; returns the last acknowledged batch."""
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(folder), batches=10_000)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    acknowledged = process.communicate()[0].split()
    return int(acknowledged[-1]) if acknowledged else -1


def assert_survived(folder, last, make):
    with EdgeStore(folder) as store:
        assert store.read_record("docs") == {"fingerprint": "f00"}
        for batch in range(last + 1):
            wanted = {point.id: point for point in make(20, seed=batch, first=20 * batch)}
            found = store.existing("docs", list(wanted), payload=True, vectors=["tokens"])
            assert {key: value.payload for key, value in found.items()} == {
                key: value.payload for key, value in wanted.items()
            }
            for identity, point in wanted.items():
                np.testing.assert_allclose(found[identity].vectors["tokens"], point.vectors["tokens"], atol=1e-6)
        # Of the batch in flight there may be some points, of later ones none.
        assert 20 * (last + 1) <= store.count("docs") <= 20 * (last + 2)
        store.upsert("docs", make(20, first=1_000_000))


@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4])
def test_a_killed_process_loses_no_acknowledged_point(folder, make, seconds):
    last = kill_while_writing(folder, seconds)
    assert_survived(folder, last, make)


@pytest.mark.slow
def test_many_kills_in_a_row_lose_no_acknowledged_point(tmp_path, make):
    chance = random.Random(7)
    for trial in range(25):
        folder = tmp_path / str(trial)
        last = kill_while_writing(folder, chance.uniform(0, 1.0))
        assert_survived(folder, last, make)
        shutil.rmtree(folder)


def test_the_record_survives_the_loss_of_either_copy(edge, folder):
    edge.write_record("docs", {"fingerprint": "f00"})
    (folder / "docs" / RECORD_FILE).unlink()
    assert edge.read_record("docs") == {"fingerprint": "f00"}
    assert edge.describe("docs").record_place == "reserved point"
    edge.write_record("docs", {"fingerprint": "bar"})
    assert edge.describe("docs").record_place == "sidecar file"
    edge._shard("docs").run("delete", _delete_record_point)
    assert edge.read_record("docs") == {"fingerprint": "bar"}


def _delete_record_point(engine):
    import qdrant_edge

    from embedprefs_qdrant.stores.points import RECORD_POINT_ID

    engine.update(qdrant_edge.UpdateOperation.delete_points([RECORD_POINT_ID]))


def test_the_newer_copy_of_the_record_counts(edge, folder):
    """Killed between the two writes, the reserved point is ahead of the file."""
    edge.write_record("docs", {"fingerprint": "old"})
    old = (folder / "docs" / RECORD_FILE).read_text()
    edge.write_record("docs", {"fingerprint": "new"})
    (folder / "docs" / RECORD_FILE).write_text(old)
    assert edge.read_record("docs") == {"fingerprint": "new"}


def test_a_record_of_another_collection_is_noticed(edge, folder):
    edge.write_record("docs", {"fingerprint": "f00"})
    write_json(folder / "docs" / RECORD_FILE, {"version": 1, "sequence": 1, "record": {"fingerprint": "bar"}})
    with pytest.raises(PreferenceMismatchError, match="files of two collections have been mixed") as caught:
        edge.read_record("docs")
    assert caught.value.differences == ("fingerprint",)


def test_a_damaged_record_file_is_named(edge, folder):
    edge.write_record("docs", {"fingerprint": "f00"})
    (folder / "docs" / RECORD_FILE).write_text('{"version": 1,')
    with pytest.raises(ResourceError, match=rf"{RECORD_FILE}:1: The file is damaged"):
        edge.read_record("docs")


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_the_remains_of_an_interrupted_creation_do_not_matter(folder, layout):
    remains = folder / ".creating-docs" / "segments"
    remains.mkdir(parents=True)
    (remains / "half").write_text("x")
    with EdgeStore(folder) as store:
        assert store.collections() == []
        assert store.ensure("docs", layout) is True
        assert store.collections() == ["docs"]
        assert not (folder / ".creating-docs").exists()


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a b", "x" * 200])
def test_a_name_that_no_folder_can_have_is_refused(folder, layout, name):
    with EdgeStore(folder) as store, pytest.raises(InputError, match="cannot be the name"):
        store.ensure(name, layout)


def test_aliases_are_kept_in_a_file_and_survive(edge, folder):
    edge.switch("now", "docs")
    edge.close()
    assert json.loads((folder / ALIASES_FILE).read_text())["aliases"] == {"now": "docs"}
    with EdgeStore(folder) as second:
        assert second.count("now") == 60
        assert second.collections() == ["docs"]


def test_settings_for_speed_and_memory_reach_the_engine(folder):
    layout = CollectionLayout(
        {
            "a": VectorLayout(
                8, on_disk=True, hnsw=HnswOptions(m=8), quantization=Quantization("scalar", quantile=0.99)
            ),
            "b": VectorLayout(8, datatype="float16", quantization=Quantization("binary", bits=2, always_ram=True)),
            "c": VectorLayout(8, quantization=Quantization("product", compression="x8")),
            "d": VectorLayout(8, quantization=Quantization("turbo", bits=4)),
        },
        {"s": SparseVectorLayout(idf=True, on_disk=True)},
        on_disk_payload=True,
    )
    with EdgeStore(folder) as store:
        store.ensure("docs", layout)
        stored = store.describe("docs").layout
    assert stored.vectors["a"].hnsw == HnswOptions(8, 100, 10_000)
    assert stored.vectors["a"].on_disk is True
    assert stored.vectors["b"].datatype == "float16"
    assert {name: vector.quantization for name, vector in stored.vectors.items()} == {
        name: vector.quantization for name, vector in layout.vectors.items()
    }
    assert stored.sparse_vectors == layout.sparse_vectors
    assert layout.unapplied(stored) == {}


def test_settings_that_come_too_late_are_warned_of(edge):
    with pytest.warns(EmbedPrefsWarning, match=r"vectors\.dense\.hnsw = .*m=4.*vectors\.new\.quantization"):
        edge.ensure(
            "docs",
            CollectionLayout(
                {
                    "dense": VectorLayout(16, hnsw=HnswOptions(m=4)),
                    "new": VectorLayout(3, quantization=Quantization("scalar")),
                }
            ),
        )


def test_threads_may_write_and_search_at_once(edge, make):
    failures = []

    def work(number):
        try:
            edge.upsert("docs", make(50, first=1000 * (number + 1)))
            edge.search("docs", [SearchQuery(Nearest(np.ones(16), "dense"))])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert edge.count("docs") == 260


def test_the_optimizer_ends_when_nobody_waits_for_it_any_more():
    """Its parent may have been killed before it could ask to be killed with it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux kills a process with its parent")
    program = [sys.executable, "-P", edge_optimizer.__file__, "no folder is touched", "1"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The process that asked for this has ended." in done.stderr


def test_a_failing_optimizer_leaves_the_collection_open(edge, monkeypatch, tmp_path):
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no room on the disk')")
    monkeypatch.setattr("embedprefs_qdrant.stores.edge_shard._OPTIMIZER", program)
    with pytest.raises(Exception, match="no room on the disk"):
        edge.optimize("docs")
    assert edge.count("docs") == 60


def test_an_optimizer_that_takes_too_long_is_stopped(edge, monkeypatch, tmp_path):
    program = tmp_path / "endless.py"
    program.write_text("import time; time.sleep(60)")
    monkeypatch.setattr("embedprefs_qdrant.stores.edge_shard._OPTIMIZER", program)
    with pytest.raises(Exception, match=r"(?s)stopped after.*Nothing is lost"):
        edge.optimize("docs", timeout=0.1)
    assert edge.count("docs") == 60


@pytest.fixture
def large(folder):
    """Vectors of more than the 10,000 kilobytes from which the engine builds a graph."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, 1024)).astype(np.float32)
    rows = centres[generator.integers(50, size=3000)] + generator.normal(size=(3000, 1024)).astype(np.float32)
    store = EdgeStore(folder, exact_below=0)
    store.ensure("docs", CollectionLayout({"dense": VectorLayout(1024, hnsw=HnswOptions(m=8, ef_construct=32))}))
    store.upsert("docs", [Point(number, {"dense": row}, {"number": number}) for number, row in enumerate(rows)])
    yield store, rows
    store.close()


@pytest.mark.slow
def test_graphs_are_built_in_another_process_and_find_nearly_everything(large):
    store, rows = large
    phases = []
    assert store.optimize("docs", progress=lambda progress: phases.append(progress.phase)) is True
    assert phases[-1] == "done"
    assert "optimizing" in phases
    assert store.optimize("docs") is False
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rows[:20] + 0.1
    approximate, exact = (
        store.search("docs", [SearchQuery(Nearest(q, "dense"), parameters=parameters) for q in queries])
        for parameters in (SearchParameters(exact=False, hnsw_ef=128), SearchParameters(exact=True))
    )
    recall = 0
    for query, found, certain in zip(queries, approximate, exact, strict=True):
        wanted = set(np.argsort(-(unit @ query))[:10].tolist())
        assert {hit.id for hit in certain} == wanted
        recall += len({hit.id for hit in found} & wanted)
    assert recall / 200 > 0.8


@pytest.mark.slow
def test_a_process_killed_while_graphs_are_built_leaves_everything_and_no_lock(large, folder):
    store, _ = large
    store.close()
    code = (
        f"from embedprefs_qdrant.stores import EdgeStore; EdgeStore({str(folder)!r}).optimize('docs', progress=print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, bufsize=1)
    time.sleep(1.5)
    process.kill()
    process.communicate()
    with EdgeStore(folder) as again:
        assert again.count("docs") == 3000
        again.upsert("docs", [Point(5000, {"dense": np.ones(1024)}, {})])
        again.optimize("docs")
        assert again.count("docs") == 3001
