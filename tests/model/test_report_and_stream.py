"""What encoding says about itself, and texts without end."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedprefs import InputError


def test_a_report_counts_what_was_read(ours, texts):
    model = ours("bert")
    with model.collect_report() as report:
        model.encode(texts, batch_size=3)
    distinct = list(dict.fromkeys(texts))
    read = sum(len(model.tokenizer(text, truncation=True, max_length=64)["input_ids"]) for text in distinct)
    assert (report.calls, report.texts, report.duplicates, report.batches) == (1, len(texts), 1, 3)
    assert report.tokens == read
    assert 0 < report.padding_share < 1
    assert report.seconds > 0
    assert report.to_json()["tokens"] == read


def test_padding_is_what_the_batches_held_beside_the_tokens(ours):
    with ours("bert").collect_report() as report:
        ours("bert").encode(["river " * 10, "river"], batch_size=2)
    assert (report.tokens, report.padding) == (12 + 3, 9)


def test_reports_nest_and_the_total_runs_on(load):
    model = load("static")
    assert model.report.texts == 0
    with model.collect_report() as outer:
        model.encode("red")
        with model.collect_report() as inner:
            model.encode(["red", "blue"])
    model.encode("green")
    assert (inner.texts, outer.texts, model.report.texts) == (2, 3, 4)
    assert (outer.calls, model.report.calls) == (2, 3)


def test_a_report_counts_calls_of_every_thread(load):
    model = load("static")
    with model.collect_report() as report, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: model.encode([f"red {number}"] * number), range(1, 21)))
    assert report.calls == 20
    assert report.texts == sum(range(1, 21))
    assert report.duplicates == sum(range(20))


def test_a_failed_call_is_counted_and_breaks_nothing(load):
    model = load("bert")
    with model.collect_report() as report, pytest.raises(ValueError, match="nonsense"):
        model.encode(["a"], nonsense=1)
    assert report.calls == 1
    assert model.encode("a").shape == (32,)


def test_a_stream_gives_the_vectors_of_the_texts_in_order(ours, texts):
    model = ours("modernbert")
    chunks = list(model.embed_stream((text for text in texts), chunk_size=4))
    assert [ids for ids, _ in chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert np.concatenate([vectors for _, vectors in chunks]) == pytest.approx(model.encode_document(texts), abs=1e-6)


def test_a_stream_keeps_the_ids_that_come_with_the_texts(ours):
    chunks = list(ours("static").embed_stream([("one", "red"), ("two", "blue")], role="query"))
    assert chunks[0][0] == ["one", "two"]
    assert chunks[0][1].tolist() == ours("static").encode_query(["red", "blue"]).tolist()


def test_a_stream_uses_the_roles_prompt_and_the_arguments_of_encode(load):
    model = load("static", prompts__query="query ", prompts__document="document ")
    for role in ("query", "document"):
        ((_, vectors),) = model.embed_stream(["red"], role=role, precision="ubinary")
        assert vectors.tolist() == getattr(model, f"encode_{role}")(["red"], precision="ubinary").tolist()
    ((_, plain),) = model.embed_stream(["red"], prompt="")
    assert plain.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]


def test_a_stream_is_read_as_its_vectors_are_taken(ours):
    """Nothing is read ahead of the chunk that is asked for."""
    taken = []

    def source():
        for number in range(100):
            taken.append(number)
            yield f"red {number}"

    stream = ours("static").embed_stream(source(), chunk_size=10)
    assert taken == []
    next(stream)
    assert len(taken) == 10


def test_long_texts_end_a_chunk_before_its_size(ours, monkeypatch):
    monkeypatch.setattr("embedprefs.model.streaming.CHUNK_CHARACTERS", 50)
    chunks = list(ours("static").embed_stream(["red " * 20, "blue", "blue"], chunk_size=100))
    assert [ids for ids, _ in chunks] == [[0], [1, 2]]


def test_a_stream_holds_a_chunk_and_not_the_whole(ours):
    """A hundred chunks take no more memory than ten."""

    def peak(chunks):
        tracemalloc.start()
        for _ in ours("static").embed_stream((f"red {number}" for number in range(chunks * 200)), chunk_size=200):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(100) < 1.5 * peak(10)


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        ("one text", {}, "many texts"),
        (["a"], {"role": "passage"}, "role is 'passage'"),
        (["a"], {"chunk_size": 0}, "chunk_size is 0"),
        (["a", ("id", "b")], {}, "Input 1 is tuple; the stream began with texts"),
        (["a", None], {}, "Input 1 is NoneType"),
        ([("id", 3)], {}, "Input 0 is int"),
    ],
)
def test_a_stream_refuses_what_it_cannot_read(texts, arguments, message, ours):
    with pytest.raises(InputError, match=message):
        list(ours("static").embed_stream(texts, **arguments))
