"""Batches by true length, each result in its place, and what happens where memory runs out."""

from __future__ import annotations

import logging
import sys
import threading
from subprocess import run

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer, models, pre_tokenizers

from embedprefs.engine.backend import Backend
from embedprefs.engine.batching import SPLIT_TOKENS, padded, plan_batches
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.pipeline import Settings, embed, embed_rows
from embedprefs.engine.tokenising import TextTokenizer
from embedprefs.errors import ResourceError
from embedprefs.model.report import EncodeReport


class Summing:
    """A backend whose vector is the sum and the count of a text's tokens, so that every mistake of place shows."""

    name, numerics, dimension = "torch", "float32", 2

    def __init__(self, most_tokens=None, error=MemoryError):
        self.most_tokens, self.error = most_tokens, error
        self.shapes = []
        self.prompt_tokens = set()

    def vectors(self, ids, mask, *, prompt_tokens=0):
        if self.most_tokens is not None and ids.size > self.most_tokens:
            raise self.error("out of memory")
        self.shapes.append(ids.shape)
        self.prompt_tokens.add(prompt_tokens)
        return np.stack([(ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1).astype(np.float32)

    def token_vectors(self, ids, mask):
        return (ids * mask)[:, :, None].astype(np.float32)

    def close(self):
        self.shapes.clear()


def tokenizer(limit=None) -> TextTokenizer:
    """One token a word: the word is its id."""
    words = Tokenizer(models.WordLevel({str(number): number for number in range(100)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextTokenizer(words, limit=limit, pad_id=99)


def texts_of(lengths):
    return [" ".join(str(1 + (place + at) % 90) for at in range(length)) for place, length in enumerate(lengths)]


def expected(texts):
    return np.array([[sum(map(int, text.split())), len(text.split())] for text in texts], dtype=np.float32)


@given(some.lists(some.integers(0, 400), max_size=60), some.integers(1, 900), some.integers(1, 20))
def test_every_text_is_in_one_batch_within_the_budget(lengths, batch_tokens, most):
    plan = plan_batches(lengths, batch_tokens=batch_tokens, max_batch_size=most)
    assert sorted(int(at) for batch in plan for at in batch) == list(range(len(lengths)))
    longest = [max(lengths[at] for at in batch) for batch in plan]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(plan, longest, strict=True):
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * length <= batch_tokens
        assert all(length - lengths[at] <= SPLIT_TOKENS for at in batch)


def test_a_stated_batch_size_is_kept_whatever_the_lengths():
    plan = plan_batches([5, 500, 1, 40], batch_tokens=None, max_batch_size=3)
    assert [batch.tolist() for batch in plan] == [[1, 3, 0], [2]]


def test_rows_are_padded_on_the_right():
    ids, mask = padded([np.array([4, 5, 6], np.int32), np.array([], np.int32), np.array([7], np.int32)], pad_id=9)
    assert ids.tolist() == [[4, 5, 6], [9, 9, 9], [7, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_every_vector_lands_in_its_place():
    """Over several groups, which are tokenised ahead on another thread."""
    texts = texts_of([(7 * at) % 41 for at in range(6000)])
    report = EncodeReport()
    found = embed(texts, tokenizer=tokenizer(), backend=Summing(), batch_tokens=512, max_batch_size=64, report=report)
    assert np.array_equal(found, expected(texts))
    assert report.tokens == expected(texts)[:, 1].sum()
    assert 0 < report.padding < report.tokens


def test_results_are_written_where_the_caller_says():
    texts = texts_of([3, 1, 2])
    out = np.zeros((3, 1), dtype=np.float32)
    settings = Settings(64, 8, truncate_dim=1, normalize=True)
    assert embed(texts, tokenizer=tokenizer(), backend=Summing(), settings=settings, out=out) is out
    assert out.tolist() == [[1], [1], [1]]
    with pytest.raises(ValueError, match=r"shape \(3, 1\)"):
        embed(texts, tokenizer=tokenizer(), backend=Summing(), batch_tokens=64, out=out)


def test_one_text_starts_no_thread(monkeypatch):
    started = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    found = embed(["1 2 3"], tokenizer=tokenizer(), backend=Summing(), batch_tokens=64)
    assert (found.tolist(), started) == ([[6, 3]], [])


def test_no_texts_give_no_vectors():
    assert embed([], tokenizer=tokenizer(), backend=Summing(), batch_tokens=64).shape == (0, 2)


def test_over_long_texts_are_told_of_and_cut():
    lengths = []
    found = embed(
        ["1 2 3 4", "5"],
        tokenizer=tokenizer(limit=2),
        backend=Summing(),
        batch_tokens=64,
        on_tokenised=lambda start, group: lengths.append((start, group.lengths.tolist())),
    )
    assert found.tolist() == [[3, 2], [5, 1]]
    assert lengths == [(0, [4, 1])]


@pytest.mark.parametrize("left_out", [True, False])
def test_the_prompt_is_left_out_where_pooling_says_so(left_out):
    backend = Summing()
    settings = Settings(64, 8, leaves_prompt_out=left_out)
    embed(["1", "2"], tokenizer=tokenizer(), backend=backend, settings=settings, prompt="7 8 ")
    embed(["1"], tokenizer=tokenizer(), backend=backend, settings=settings, prompt="7 8 ")
    assert backend.prompt_tokens == ({2} if left_out else {0})


def test_an_error_in_tokenising_ahead_reaches_the_caller(monkeypatch):
    """It arises on another thread, in a group that is not yet asked for."""
    whole = TextTokenizer.tokenise

    def broken(self, texts, prompt=""):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("broken ahead")
        return whole(self, texts, prompt)

    monkeypatch.setattr(TextTokenizer, "tokenise", broken)
    with pytest.raises(RuntimeError, match="broken ahead"):
        embed(texts_of([2] * 2000), tokenizer=tokenizer(), backend=Summing(), batch_tokens=64)


class TorchsOutOfMemoryError(RuntimeError):
    """What torch raises on an accelerator, by its name."""


TorchsOutOfMemoryError.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize("error", [MemoryError, TorchsOutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_budget_and_carries_on(error, caplog):
    """Nothing is lost, the budget stays small for the rest of the run, and the report says so."""
    texts = texts_of([20] * 40 + [5] * 40)
    backend, report, settings = Summing(most_tokens=200, error=error), EncodeReport(), Settings(640, 64)
    with caplog.at_level(logging.WARNING, "embedprefs"):
        found = embed(texts, tokenizer=tokenizer(), backend=backend, settings=settings, report=report)
    assert np.array_equal(found, expected(texts))
    assert settings.batch_tokens == 160
    assert report.reduced == 2
    assert max(rows * length for rows, length in backend.shapes) <= 200
    assert "Memory does not suffice for 32 texts of 20 tokens" in caplog.text


def test_out_of_memory_with_a_stated_batch_size_halves_that():
    settings = Settings(None, 16)
    texts = texts_of([10] * 33)
    found = embed(texts, tokenizer=tokenizer(), backend=Summing(most_tokens=50), settings=settings)
    assert np.array_equal(found, expected(texts))
    assert settings.max_batch_size == 4


@pytest.mark.parametrize("count", [1, 3])
def test_a_text_that_does_not_fit_alone_is_refused_with_advice(count):
    with pytest.raises(ResourceError, match=r"one text of 20 tokens.*\n.*max_seq_length"):
        embed(texts_of([20] * count), tokenizer=tokenizer(), backend=Summing(most_tokens=10), batch_tokens=640)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"):
        embed_rows(
            [np.array([1], np.int32)] * 2,
            pad_id=0,
            backend=Broken(),
            settings=Settings(64, 8),
        )


class Broken(Summing):
    """Fails for another reason than memory."""

    def vectors(self, ids, mask, *, prompt_tokens=0):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp: std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_memory_errors_look_like(error, answer):
    assert is_out_of_memory(error) is answer


def test_the_test_backend_is_one():
    assert isinstance(Summing(), Backend)


def test_the_pipeline_needs_no_torch():
    """What serves without torch imports it."""
    code = (
        "import sys, embedprefs.engine.pipeline, embedprefs.engine.exactness, embedprefs.engine.selection;"
        "heavy = ('torch', 'transformers', 'sentence_transformers', 'tokenizers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    ended = run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "[]"
