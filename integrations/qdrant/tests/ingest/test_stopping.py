"""Every way in which a run can end early: no thread hangs, nothing is half, the next run continues."""

from __future__ import annotations

import threading

import pytest

from embedprefs import InputError, UnavailableError
from embedprefs_qdrant import Document, QdrantIngestor, pipeline
from embedprefs_qdrant.pipeline import GROUP_SIZE
from embedprefs_qdrant.spaces import ModelSpace

NOTES = [(f"note {number}", f"Ban kel note {number}.") for number in range(3 * GROUP_SIZE)]


def ingest_in_thread(ingestor, documents, **options):
    """Start a run in another thread; what it returns or raises ends up in the list."""
    ended = []

    def run():
        try:
            ended.append(ingestor.ingest(documents, **options))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


@pytest.fixture
def blocked(monkeypatch):
    """An iterable whose second document never comes, and what says that it is waited for."""
    monkeypatch.setattr(pipeline, "LAST_DOCUMENT_WAIT", 0.05)
    waiting, release = threading.Event(), threading.Event()

    def documents():
        yield "first", "Ban kel lim."
        waiting.set()
        release.wait(60)
        yield "second", "Mos rut sat."

    yield documents, waiting, release
    release.set()


def test_a_stop_does_not_wait_for_a_document_that_does_not_come(make_ingestor, store, blocked):
    """What was read is stored, and the run says that it was interrupted."""
    documents, waiting, _ = blocked
    ingestor = make_ingestor(store)
    thread, ended = ingest_in_thread(ingestor, documents())
    assert waiting.wait(30)
    ingestor.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert ended[0].interrupted
    assert ingestor.status().documents == 1


def test_a_stop_event_ends_its_own_run_alone(make_ingestor, store, blocked):
    """The next run is not touched by it."""
    documents, waiting, _ = blocked
    ingestor = make_ingestor(store)
    event = threading.Event()
    thread, ended = ingest_in_thread(ingestor, documents(), stop_event=event)
    assert waiting.wait(30)
    event.set()
    thread.join(30)
    assert ended[0].interrupted
    assert not ingestor.ingest([("second", "Mos rut sat.")]).interrupted


def test_a_stop_that_comes_before_the_run_ends_it_and_no_other(make_ingestor, store):
    """A signal between the start of a program and its first document is not lost."""
    ingestor = make_ingestor(store)
    ingestor.stop()
    assert ingestor.ingest(NOTES).interrupted
    assert not ingestor.ingest(NOTES[:3]).interrupted


def test_a_dry_run_can_be_stopped(make_ingestor):
    """It reads, and reading may take long."""
    ingestor = make_ingestor()
    seen = []

    def progress(step):
        seen.append(step.documents)
        ingestor.stop()

    report = ingestor.ingest(NOTES, dry_run=True, progress=progress)
    assert report.interrupted
    assert seen == [1]


def test_two_runs_at_once_are_refused(make_ingestor, store, blocked):
    """One ingestor, one run; the second caller is told."""
    documents, waiting, release = blocked
    ingestor = make_ingestor(store)
    thread, ended = ingest_in_thread(ingestor, documents())
    assert waiting.wait(30)
    with pytest.raises(InputError, match="ingesting already"):
        ingestor.ingest(NOTES)
    release.set()
    thread.join(30)
    assert ended[0].documents == 2


class FailingSpace(ModelSpace):
    """A model that breaks down on its second group."""

    calls = 0

    def embed_documents(self, texts):
        if len(texts) == GROUP_SIZE:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("the device was lost")
        return super().embed_documents(texts)


def test_an_error_of_the_model_ends_the_run_and_keeps_what_was_embedded(model_folder, store):
    """The first group is stored, the error reaches the caller, and the next run does the rest."""
    with QdrantIngestor(FailingSpace(str(model_folder)), store) as ingestor:
        with pytest.raises(RuntimeError, match="the device was lost"):
            ingestor.ingest(NOTES)
        assert ingestor.status().points == GROUP_SIZE
        report = ingestor.ingest(NOTES)
        assert (report.unchanged, report.new) == (GROUP_SIZE, 2 * GROUP_SIZE)
    assert "embedprefs-store" not in {thread.name for thread in threading.enumerate()}


class InterruptedSpace(ModelSpace):
    """A model in whose second group Ctrl-C is pressed a second time."""

    calls = 0

    def embed_documents(self, texts):
        if len(texts) == GROUP_SIZE:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
        return super().embed_documents(texts)


def test_an_interrupt_ends_the_run_at_once_and_leaves_nothing_half(model_folder, store):
    """Whether the first group was stored by then or not, the next run completes it."""
    with QdrantIngestor(InterruptedSpace(str(model_folder)), store) as ingestor:
        with pytest.raises(KeyboardInterrupt):
            ingestor.ingest(NOTES)
        ingestor.ingest(NOTES)
        assert ingestor.status().points == len(NOTES)
        assert ingestor.status().incomplete == ()


def test_a_store_that_is_closed_meanwhile_ends_the_run(make_ingestor):
    """An error in the storing thread reaches the caller, though the caller's thread waits for documents."""
    ingestor = make_ingestor()

    def documents():
        yield from NOTES[:3]
        ingestor.store.close()
        yield from NOTES[3:]

    with pytest.raises((InputError, UnavailableError), match="closed"):
        ingestor.ingest(documents())


def test_an_ingestor_can_be_closed_twice_and_then_says_so(make_ingestor, store):
    """Closing is not an error, using it afterwards is."""
    ingestor = make_ingestor(store)
    ingestor.ingest(NOTES[:3])
    ingestor.close()
    ingestor.close()
    with pytest.raises(InputError, match="closed"):
        ingestor.ingest(NOTES[:3])
    with pytest.raises(InputError, match="closed"):
        ingestor.search("ban")


def test_a_point_that_cannot_be_stored_fails_its_document_alone(make_ingestor, store):
    """A number beyond 64 bits is no value for the engines; the others of the group are stored."""
    ingestor = make_ingestor(store)
    bad = Document("bad", "Ban kel.", metadata={"number": 2**80})
    report = ingestor.ingest([NOTES[0], bad, NOTES[1]])
    assert list(report.failed) == ["bad"]
    assert "64 bits" in report.failed["bad"]
    assert report.exit_code == 4
    assert ingestor.status().documents == 2


def test_a_chunk_larger_than_a_request_fails_its_document_alone(make_ingestor):
    """A named error, and the rest goes on."""
    ingestor = make_ingestor(":memory:")
    large = Document("large", "Ban kel.", metadata={"blob": "x" * 5_000_000})
    report = ingestor.ingest([NOTES[0], large, NOTES[1]])
    assert list(report.failed) == ["large"]
    assert ingestor.status().documents == 2


@pytest.mark.parametrize("title", ["\ud800", None])
def test_half_a_character_fails_its_document_alone(make_ingestor, store, title):
    """A lone surrogate, in the title or in the source, is no text."""
    document = Document("odd" if title else "odd \ud800", "Ban kel.", title=title)
    report = make_ingestor(store).ingest([document, NOTES[0]])
    assert len(report.failed) == 1
    assert "surrogate" in next(iter(report.failed.values()))
    assert report.documents == 2


def test_an_empty_corpus_is_no_error(make_ingestor, store, tmp_path):
    """Nothing is stored, and nothing failed."""
    (tmp_path / "empty").mkdir()
    ingestor = make_ingestor(store)
    for documents in ([], (), iter(()), str(tmp_path / "empty")):
        report = ingestor.ingest(documents)
        assert (report.documents, report.exit_code) == (0, 0)
    assert ingestor.search("ban") == []


def test_one_huge_document_passes_through_bounded_queues(make_ingestor, store):
    """More chunks than all queues hold together."""
    text = "\n\n".join(f"## Part {number}\n\nBan kel {number}." for number in range(2500))
    ingestor = make_ingestor(store, chunk_tokens=8)
    report = ingestor.ingest([Document("huge", text, format="markdown")])
    assert report.chunks > 2000
    assert ingestor.status().points == report.chunks
    assert ingestor.status().incomplete == ()
    assert ingestor.ingest([Document("huge", text, format="markdown")]).unchanged == 1


def test_progress_is_told_while_unchanged_documents_are_read_and_at_the_end(make_ingestor, store):
    """The last step says that everything is stored."""
    ingestor = make_ingestor(store)
    steps = []
    ingestor.ingest(NOTES, progress=steps.append)
    assert (steps[-1].phase, steps[-1].stored, steps[-1].reading_done) == ("done", len(NOTES), True)
    steps.clear()
    ingestor.ingest(NOTES, progress=steps.append)
    assert (steps[-1].phase, steps[-1].unchanged) == ("done", len(NOTES))
