"""Whole runs over HTTP against a server that fails: nothing lost, nothing doubled, nothing waited for without end."""

from __future__ import annotations

import contextlib
import random
import threading

import numpy as np
import pytest

from embedprefs import InputError, ResourceError, UnavailableError
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant import QdrantIngestor, open_store
from embedprefs_qdrant.stores import RetryPolicy

POLICY = RetryPolicy(attempts=4, first_wait=1.0, longest_wait=8.0, longest_retry_after=20.0, deadline=100.0)
INDEX = IndexPreferences(chunk_tokens=64)
EVERYTHING = [("PUT", ""), ("POST", ""), ("GET", ""), ("PATCH", "")]


@pytest.fixture
def small_corpus(tmp_path):
    """Nine files, one a twin of another."""
    from corpus import write_corpus

    return write_corpus(tmp_path / "small", 8)


@pytest.fixture
def patient(wire, fake_time, loaded_model, small_corpus):
    """An ingestor over the failing server, which waits in fake time; it changes and deletes in the second run."""
    store = open_store(wire.url, retry=POLICY, clock=fake_time.clock())
    with QdrantIngestor(loaded_model, store, root=small_corpus, index=INDEX) as ingestor:
        yield ingestor
    store.close()


@pytest.fixture
def undisturbed(loaded_model, small_corpus):
    """What a run into a store that does not fail makes of the files as they are now."""

    def run():
        with QdrantIngestor(loaded_model, ":memory:", root=small_corpus, index=INDEX) as ingestor:
            ingestor.ingest(str(small_corpus))
            return everything(ingestor)

    return run


def everything(ingestor):
    """Payload and vectors by id."""
    found = {}
    for point in ingestor.store.scroll("documents", vectors=True):
        assert point.id not in found
        found[point.id] = point
    return found


def assert_equal(mine, wanted):
    """The same points with the same payloads and vectors."""
    assert mine.keys() == wanted.keys()
    for point, stored in mine.items():
        assert stored.payload == wanted[point].payload
        np.testing.assert_allclose(stored.vectors["dense"], wanted[point].vectors["dense"], atol=1e-6)


def edit(folder):
    """Change, shrink, rename, delete and add."""
    files = sorted(folder.rglob("document*.md"))
    text = files[0].read_text(encoding="utf-8")
    files[0].write_text(text.replace("## Section 1", "## Section 1\n\nBan kel.\n\n## Section one"), encoding="utf-8")
    text = files[1].read_text(encoding="utf-8")
    files[1].write_text(text[: text.index("## Section 0")], encoding="utf-8")
    files[2].rename(files[2].with_name("renamed.md"))
    files[3].unlink()
    (folder / "added.md").write_text("# Added\n\nMos rut sat.", encoding="utf-8")


FAULTS = {
    "busy, says how long": lambda f, m, p: f.Fault(before=f.status(429, Retry_After="7"), method=m, path=p),
    "busy, does not say": lambda f, m, p: f.Fault(before=f.status(429), method=m, path=p),
    "error inside": lambda f, m, p: f.Fault(before=f.status(500), method=m, path=p),
    "error after applying": lambda f, m, p: f.Fault(after=f.status(500), method=m, path=p),
    "connection broken": lambda f, m, p: f.Fault(before=f.reset, method=m, path=p),
    "answer lost after applying": lambda f, m, p: f.Fault(after=f.reset, method=m, path=p),
    "answer garbled": lambda f, m, p: f.Fault(after=f.garble, method=m, path=p),
    "request too large": lambda f, m, p: f.Fault(before=f.status(413), method=m, path=p),
}

#: Every request of a run: creating, recording, looking, storing, rewriting, deleting.
REQUESTS = [
    *[("PUT", "/points"), ("POST", "/points"), ("POST", "/points/scroll"), ("POST", "/points/count")],
    *[("POST", "/points/payload"), ("PUT", "/points/payload"), ("POST", "/points/delete")],
    *[("PUT", "/collections/documents"), ("GET", "/collections/documents"), ("PATCH", "/collections/documents")],
    *[("PUT", "/index"), ("GET", "/aliases")],
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_kind_of_request_changes_nothing(
    patient, wire, faults, fake_time, small_corpus, undisturbed, fault
):
    """A first run and a run after edits, each meeting the fault twice in each kind of request it makes."""
    only_points = fault == "request too large"

    def plant():
        for method, path in REQUESTS[:1] if only_points else REQUESTS:
            wire.fail(*[FAULTS[fault](faults, method, path) for _ in range(2)])

    plant()
    assert patient.ingest(str(small_corpus)).failed == {}
    assert_equal(everything(patient), undisturbed())
    wire.faults.clear()
    edit(small_corpus)
    plant()
    report = patient.ingest(str(small_corpus), prune=True)
    assert (report.failed, report.changed) == ({}, 2)
    wire.faults.clear()
    assert_equal(everything(patient), undisturbed())
    assert max(fake_time.sleeps, default=0.0) <= POLICY.longest_retry_after
    assert patient.ingest(str(small_corpus)).unchanged == report.documents


@pytest.mark.parametrize("seed", range(3))
def test_faults_at_random_converge(patient, wire, faults, small_corpus, undisturbed, seed):
    """One request in four fails somehow; whatever a run reports as failed, the next ones store."""
    numbers = random.Random(seed)
    kinds = [FAULTS[name] for name in FAULTS if name != "request too large"]

    def now_and_then(method, path):
        if numbers.random() < 0.25:
            return numbers.choice(kinds)(faults, method, path)
        return None

    for step in range(2):
        wire.take_fault = now_and_then
        # The run may end early with so many failures: what it stored is whole.
        with contextlib.suppress(UnavailableError):
            patient.ingest(str(small_corpus), prune=True)
        wire.take_fault = lambda _method, _path: None
        assert patient.ingest(str(small_corpus), prune=True, allow_mass_deletion=True).failed == {}
        assert_equal(everything(patient), undisturbed())
        if step == 0:
            edit(small_corpus)


@pytest.mark.parametrize("way", ["hang", "dribble"])
def test_a_server_that_hangs_is_not_waited_for(wire, faults, loaded_model, small_corpus, undisturbed, way):
    """A request without an answer, and an answer that comes a byte at a time: before and after it is applied."""
    store = open_store(wire.url, timeout=1, retry=RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02))
    with store, QdrantIngestor(loaded_model, store, root=small_corpus, index=INDEX) as ingestor:
        stuck = getattr(faults, way)
        wire.fail(faults.Fault(after=stuck), faults.Fault(before=stuck))
        wire.fail(faults.Fault(after=stuck, path="/points/scroll", method="POST"))
        assert ingestor.ingest(str(small_corpus)).failed == {}
        assert_equal(everything(ingestor), undisturbed())


def test_a_refused_batch_fails_its_documents_and_the_next_run_stores_them(
    patient, wire, faults, small_corpus, undisturbed
):
    """The documents are named, the exit status tells, the rest is stored."""
    wire.fail(faults.Fault(before=faults.status(400, "no such luck")))
    report = patient.ingest(str(small_corpus))
    assert report.exit_code == 4
    assert report.failed
    assert all("no such luck" in reason for reason in report.failed.values())
    assert patient.ingest(str(small_corpus)).failed == {}
    assert_equal(everything(patient), undisturbed())


def gone(faults, after=0):
    """A server of which, after so many batches of points, nobody answers any more."""
    left = [after]

    def take(method, path):
        if left[0] > 0:
            left[0] -= method == "PUT" and path.endswith("/points")
            return None
        return faults.Fault(before=faults.reset)

    return take


def test_a_server_that_goes_for_good_ends_the_run_and_a_rerun_continues(
    patient, wire, faults, fake_time, undisturbed, small_corpus
):
    """The error says what is stored; the waits are those of the policy; nothing is embedded twice."""
    notes = [(f"note {number}", f"Ban kel {number}.") for number in range(1000)]
    wire.take_fault = gone(faults, after=2)
    with pytest.raises(UnavailableError, match=r"(?s)\d+ chunks were acknowledged.*run again: it continues") as caught:
        patient.ingest(notes)
    assert caught.value.exit_code == 3
    assert sum(fake_time.sleeps) < 5 * POLICY.deadline
    wire.take_fault = lambda _method, _path: None
    stored = patient.store.count("documents")
    assert f"{stored} chunks were acknowledged" in str(caught.value)
    assert 0 < stored < 1000
    report = patient.ingest(notes)
    assert report.unchanged == stored
    assert patient.store.count("documents") == 1000


def test_a_server_that_goes_while_nothing_is_stored_ends_the_run_too(patient, wire, faults, small_corpus):
    """The reading thread meets it when it asks for a changed document's chunks."""
    patient.ingest(str(small_corpus))
    edit(small_corpus)
    states = patient.states

    def and_then_gone():
        found = states()
        wire.take_fault = gone(faults)
        return found

    patient.states = and_then_gone
    with pytest.raises(UnavailableError, match="could not be asked"):
        patient.ingest(str(small_corpus))


def test_a_collection_that_is_dropped_during_the_run_ends_it(patient, wire):
    """Not every document one by one, for ever."""
    notes = [(f"note {number}", f"Ban kel {number}.") for number in range(2000)]

    def drop(step):
        if step.stored and patient.store.describe("documents") is not None:
            patient.store.drop("documents")

    with pytest.raises((UnavailableError, InputError), match="documents"):
        patient.ingest(notes, progress=drop)


def test_graphs_held_back_by_a_run_that_broke_off_are_built_by_the_next(patient, wire, faults):
    """The server is told so as soon as it answers again."""
    wire.take_fault = gone(faults, after=1)
    with pytest.raises(UnavailableError):
        patient.ingest([(f"note {number}", f"Ban kel {number}.") for number in range(600)])
    wire.take_fault = lambda _method, _path: None
    wire.changes.clear()
    patient.ingest([("one", "Ban kel.")])
    assert any(change.get("hnsw_config", {}).get("m") for change in wire.changes)


def test_two_writers_on_one_embedded_collection_are_told_apart(make_ingestor, tmp_path):
    """The second gets an error that says what to do, and harms nothing."""
    url = f"edge:{tmp_path / 'index'}"
    first = make_ingestor(url)
    first.ingest([("a", "Ban kel.")])
    store = open_store(url, lock_wait=0.1)
    second = make_ingestor(store)
    for call in (lambda: second.ingest([("b", "Mos rut.")]), lambda: second.search("ban"), second.status):
        with pytest.raises(ResourceError, match=r"(?s)open elsewhere.*run a Qdrant server"):
            call()
    assert first.ingest([("c", "Sat til.")]).new == 1
    first.close()
    assert second.ingest([("b", "Mos rut.")]).new == 1
    assert second.status().documents == 3
    store.close()


@pytest.mark.parametrize("same_files", [True, False])
def test_two_runs_into_one_server_collection_converge(wire, loaded_model, tmp_path, same_files):
    """Both at once, over the same files or over two states of them; after a run of one alone its state is there."""
    from corpus import write_corpus

    folders = [write_corpus(tmp_path / "one", 12), write_corpus(tmp_path / "two", 12)]
    if not same_files:
        edit(folders[1])
    ended = []

    def run(folder):
        with QdrantIngestor(loaded_model, wire.url, root=folder, index=INDEX) as ingestor:
            ended.append(ingestor.ingest(str(folder)))

    threads = [threading.Thread(target=run, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.failed for report in ended] == [{}, {}]
    with (
        QdrantIngestor(loaded_model, wire.url, root=folders[1], index=INDEX) as ingestor,
        QdrantIngestor(loaded_model, ":memory:", root=folders[1], index=INDEX) as alone,
    ):
        ingestor.ingest(str(folders[1]), prune=True)
        alone.ingest(str(folders[1]))
        assert_equal(everything(ingestor), everything(alone))
        assert ingestor.status().fits is True
        assert len({point.payload["vectors"]["dense"] for point in everything(ingestor).values()}) == 1


def test_two_runs_that_create_one_collection_agree_on_its_record(wire, loaded_model, model_folder):
    """The second to record its preferences finds those of the first, and is compared with them."""
    from embedprefs import PreferenceMismatchError
    from embedprefs_qdrant.spaces import ModelSpace

    with (
        QdrantIngestor(loaded_model, wire.url) as first,
        QdrantIngestor(ModelSpace(str(model_folder), overrides={"prompts.document": "mos "}), wire.url) as second,
    ):
        make = second.collection.new_record

        def slowly():
            record = make()
            first.ingest([("a", "Ban kel.")])
            return record

        second.collection.new_record = slowly
        with pytest.raises(PreferenceMismatchError, match="mos"):
            second.ingest([("b", "Ban kel.")])
        assert first.status().fits is True


@pytest.mark.parametrize("same_preferences", [True, False])
def test_record_that_is_written_between_writing_and_reading(wire, loaded_model, model_folder, same_preferences):
    """Of two processes that record at once the later one's record counts; the other is compared with it."""
    from embedprefs import PreferenceMismatchError
    from embedprefs_qdrant.spaces import ModelSpace

    prompts = {} if same_preferences else {"prompts.document": "mos "}
    with (
        QdrantIngestor(ModelSpace(str(model_folder), overrides=prompts), ":memory:") as other,
        QdrantIngestor(loaded_model, wire.url) as ingestor,
    ):
        theirs = other.collection.new_record()
        store = ingestor.collection.store
        update = store._update

        def interrupted(name, arguments):
            update(name, arguments)
            if "metadata" in arguments:
                update(name, {"metadata": {"embedprefs": theirs}})

        store._update = interrupted
        if same_preferences:
            assert ingestor.ingest([("a", "Ban kel.")]).failed == {}
            assert ingestor.status().fits is True
        else:
            with pytest.raises(PreferenceMismatchError, match="mos"):
                ingestor.ingest([("a", "Ban kel.")])
        assert store.read_record(ingestor.collection.name)["uuid"] == theirs["uuid"]
