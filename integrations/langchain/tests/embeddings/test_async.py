"""Awaiting vectors: together, in order, each with its own error, and nobody else held up."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from embedprefs import OverlongTextError
from langchain_embedprefs import EmbedPrefsEmbeddings
from langchain_embedprefs.asynchronous import QueryLane

QUERIES = [f"red sky number {number}" for number in range(24)]


async def test_queries_of_many_tasks_are_embedded_together(minilm_embeddings):
    """Far fewer calls than queries; every task gets the vector of its own query."""
    expected = minilm_embeddings.embed_queries_array(QUERIES)
    before = minilm_embeddings.report.calls
    found = await asyncio.gather(*(minilm_embeddings.aembed_query(query) for query in QUERIES))
    assert minilm_embeddings.report.calls - before <= 3
    assert np.abs(np.array(found) - expected).max() <= 1e-6
    assert all(type(value) is float for value in found[0])


async def test_documents_equal_the_synchronous_ones(minilm_embeddings):
    """To the bit while they fit one group, within rounding beyond."""
    texts = [f"{query} {'and so on ' * (place % 7)}" for place, query in enumerate(QUERIES)]
    assert await minilm_embeddings.aembed_documents(texts) == minilm_embeddings.embed_documents(texts)
    small = EmbedPrefsEmbeddings(model=minilm_embeddings.model, document_group_size=5)
    vectors = await small.aembed_documents_array(texts)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - small.embed_documents_array(texts)).max() <= 1e-6


async def test_the_default_executor_stays_free(bert_folder):
    """Neither loading nor embedding runs in it."""
    loop = asyncio.get_running_loop()
    used = []
    loop.run_in_executor = lambda executor, call, *rest: used.append(call)
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    await embeddings.aembed_query("red")
    await embeddings.aembed_documents(["red", "sky"])
    await embeddings.aembed_queries_array(["red", "sky"])
    assert used == []


async def test_an_error_reaches_the_caller_it_belongs_to(bert_folder):
    """The other queries of the same batch get their vectors."""
    embeddings = EmbedPrefsEmbeddings(
        model=bert_folder, overrides={"tokenizer.on_overflow": "error"}, query_batch_wait=0.1
    )
    await embeddings.awarm_up()
    found = await asyncio.gather(
        *(embeddings.aembed_query(query) for query in ("red", "sky " * 200, "blue")), return_exceptions=True
    )
    assert isinstance(found[1], OverlongTextError)
    assert np.allclose(found[0], embeddings.embed_query("red"), atol=1e-6)
    assert np.allclose(found[2], embeddings.embed_query("blue"), atol=1e-6)


class _Model:
    """Stands where the model's own method stands, and waits until it is told to go on."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.started = threading.Event()

    def __call__(self, texts):
        self.batches.append(texts)
        self.started.set()
        assert self.go_on.wait(30)
        return np.array([[float(text)] for text in texts], dtype=np.float32)


async def test_queries_that_come_while_the_model_computes_form_the_next_batch():
    """Nobody waits for more than the batch in hand, and the size is bounded."""
    model = _Model()
    lane = QueryLane(model, "test")
    first = lane.submit("0", wait=0.0, most=4)
    assert model.started.wait(30)
    later = [lane.submit(str(number), wait=0.0, most=4) for number in range(1, 8)]
    model.go_on.set()
    vectors = await asyncio.gather(*(asyncio.wrap_future(future) for future in (first, *later)))
    assert [float(vector[0]) for vector in vectors] == list(range(8))
    assert model.batches == [["0"], ["1", "2", "3", "4"], ["5", "6", "7"]]


async def test_a_cancelled_query_is_left_out():
    """The others of its batch are not disturbed."""
    model = _Model()
    lane = QueryLane(model, "test")
    first = lane.submit("0", wait=0.0, most=4)
    assert model.started.wait(30)
    tasks = [asyncio.create_task(lane.embed(str(number), wait=0.0, most=4)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    model.go_on.set()
    await asyncio.wrap_future(first)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [float(found[0][0]), float(found[2][0])] == [1.0, 3.0]
    assert model.batches == [["0"], ["1", "3"]]


async def test_cancelled_documents_stop_after_the_group_in_hand(bert):
    """What is not wanted any more is not computed."""
    embeddings = EmbedPrefsEmbeddings(model=bert.sentence_transformer, document_group_size=1)
    texts = [f"sky {number} " * 20 for number in range(400)]
    before = embeddings.report.texts
    task = asyncio.create_task(embeddings.aembed_documents(texts))
    async with asyncio.timeout(60):
        while embeddings.report.texts == before:  # noqa: ASYNC110 - the model knows of no event loop
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The lane is free again: what is asked next gets its turn.
    await embeddings.aembed_documents(["red"])
    assert embeddings.report.texts - before < 400


async def test_other_tasks_go_on_while_vectors_are_computed(bert):
    """The loop turns many times while documents are embedded and a query is answered in between."""
    embeddings = EmbedPrefsEmbeddings(model=bert.sentence_transformer, document_group_size=8)
    task = asyncio.create_task(embeddings.aembed_documents([f"sky {number} " * 20 for number in range(200)]))
    turns = 0
    query = None
    while not task.done():
        await asyncio.sleep(0.001)
        turns += 1
        if query is None and turns > 2:
            query = await embeddings.aembed_query("red")
    assert turns > 2
    assert query == pytest.approx(embeddings.embed_query("red"), abs=1e-6)
    assert len(await task) == 200


def test_several_event_loops_share_a_model(bert):
    """One after the other and side by side."""
    expected = bert.embed_query("red")
    assert asyncio.run(bert.aembed_query("red")) == pytest.approx(expected, abs=1e-6)
    assert asyncio.run(bert.aembed_query("red")) == pytest.approx(expected, abs=1e-6)
    found = []

    async def several():
        return await asyncio.gather(*(bert.aembed_query("red") for _ in range(5)))

    threads = [threading.Thread(target=lambda: found.extend(asyncio.run(several()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(vector == pytest.approx(expected, abs=1e-6) for vector in found)


async def test_awaiting_works_after_close(bert_folder):
    """Closing lets go of the model; the next await loads it again."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    before = await embeddings.aembed_query("red")
    embeddings.close()
    assert not embeddings.loaded
    assert await embeddings.aembed_query("red") == pytest.approx(before, abs=1e-6)


def test_threads_end_with_the_model(bert_folder):
    """A closed model leaves no thread of its own behind."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    asyncio.run(embeddings.aembed_query("red"))
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("embedprefs-queries")]
    assert mine
    embeddings.close()
    deadline = time.monotonic() + 30
    while any(thread.is_alive() for thread in mine) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in mine)
