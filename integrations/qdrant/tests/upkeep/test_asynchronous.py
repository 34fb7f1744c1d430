"""The ingestor in a program with an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from embedprefs import InputError
from embedprefs_qdrant import AsyncQdrantIngestor, pipeline


@pytest.fixture
def make(model_folder, store):
    """Makes ingestors; they open their store at the first call."""
    return lambda: AsyncQdrantIngestor(str(model_folder), store)


def test_the_main_job_with_the_loop_going_on(make):
    """Index, search, status, verify; the loop is not held up."""

    async def job():
        async with make() as ingestor:
            report = await ingestor.ingest([("a", "Ban kel."), ("b", "Mos rut.")])
            hits = await ingestor.search("mos rut", limit=1)
            status = await ingestor.status()
            verified = await ingestor.verify([("a", "Ban kel."), ("b", "Mos rut.")])
            return report.new, hits[0].source, status.documents, verified.is_good, await ingestor.optimize()

    assert asyncio.run(job())[:4] == (2, "b", 2, True)


@pytest.fixture
def held_up():
    """Two documents, an event that tells that the first was read, and one that lets the second follow."""
    reading, release = threading.Event(), threading.Event()

    def documents():
        yield "a", "Ban kel."
        reading.set()
        release.wait(60)
        yield "b", "Mos rut."

    return documents(), reading, release


def test_a_cancelled_ingest_stops_and_leaves_the_next_call_alone(make, held_up, monkeypatch):
    """What was read is stored; the ingestor goes on being used."""
    monkeypatch.setattr(pipeline, "LAST_DOCUMENT_WAIT", 0.05)
    documents, reading, release = held_up

    async def job():
        async with make() as ingestor:
            running = asyncio.create_task(ingestor.ingest(documents))
            await asyncio.to_thread(reading.wait, 60)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            again = await ingestor.ingest([("c", "Sat til.")])
            release.set()
            return again, await ingestor.status()

    again, status = asyncio.run(job())
    assert not again.interrupted
    assert status.documents == 2


def test_a_call_that_is_cancelled_before_its_turn_is_not_made_and_stops_nothing_else(make, held_up):
    """The call that runs meanwhile is another one."""
    documents, reading, release = held_up

    async def job():
        async with make() as ingestor:
            running = asyncio.create_task(ingestor.ingest(documents))
            await asyncio.to_thread(reading.wait, 60)
            waiting = asyncio.create_task(ingestor.ingest([("never", "Sat til.")]))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            release.set()
            report = await running
            return report, await ingestor.search("ban", limit=9)

    report, hits = asyncio.run(job())
    assert not report.interrupted
    assert {hit.source for hit in hits} == {"a", "b"}


def test_closing_twice_is_fine_and_using_it_afterwards_is_an_error(make):
    """Also where nothing was ever called."""

    async def job():
        for ingestor in (make(), make()):
            await ingestor.close()
            await ingestor.close()
            with pytest.raises(InputError, match="closed"):
                await ingestor.search("ban")

    asyncio.run(job())


def test_closing_waits_for_the_calls_made_before(make):
    """The first call, which opens the store, is not left behind."""

    async def job():
        ingestor = make()
        running = asyncio.create_task(ingestor.ingest([("a", "Ban kel.")]))
        await asyncio.sleep(0)
        await ingestor.close()
        return await running

    assert asyncio.run(job()).new == 1
