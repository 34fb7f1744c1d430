"""The queue between two threads of a run."""

from __future__ import annotations

import threading

from embedprefs_qdrant.channel import Channel


def in_thread(call):
    """Run a call in another thread; return the thread and what it will have returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    return thread, results


def test_items_come_out_in_their_order_and_then_it_is_over():
    """`finish` lets what waits be taken first."""
    channel = Channel(10, lambda _item: 1)
    assert channel.put("a")
    assert channel.put("b")
    channel.finish()
    assert not channel.is_over
    assert (channel.take(), channel.take(), channel.take()) == ("a", "b", None)
    assert channel.is_over


def test_a_full_channel_makes_the_producer_wait_until_there_is_room():
    """The bound is a size, not a count."""
    channel = Channel(10, len)
    channel.put("x" * 8)
    thread, results = in_thread(lambda: channel.put("y" * 4))
    thread.join(0.05)
    assert thread.is_alive()
    assert channel.take() == "x" * 8
    thread.join(5)
    assert results == [True]


def test_an_item_larger_than_the_bound_is_let_in_when_nothing_waits():
    """Otherwise it could never pass."""
    channel = Channel(10, len)
    assert channel.put("x" * 100)
    assert channel.take() == "x" * 100


def test_abandoning_frees_a_waiting_producer_and_a_waiting_consumer():
    """Neither side is left behind."""
    full: Channel[str] = Channel(1, len)
    full.put("x")
    producer, put = in_thread(lambda: full.put("y"))
    empty: Channel[str] = Channel(1, len)
    consumer, taken = in_thread(empty.take)
    full.abandon()
    empty.abandon()
    producer.join(5)
    consumer.join(5)
    assert (put, taken) == ([False], [None])
    assert full.take() is None
    assert full.is_over


def test_taking_can_be_bounded_in_time():
    """None does not mean the end."""
    channel: Channel[str] = Channel(1, len)
    assert channel.take(0.01) is None
    assert not channel.is_over
