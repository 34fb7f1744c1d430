"""Several batches under way: every vector in its place, a bounded number at a time, and less where memory runs out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer, models, pre_tokenizers

from embedprefs.engine.backend import Finish, Overlapping
from embedprefs.engine.gpu.packing import plan_packed
from embedprefs.engine.pipeline import Settings, embed, embed_rows
from embedprefs.engine.tokenising import TextTokenizer
from embedprefs.errors import ResourceError
from embedprefs.model.report import EncodeReport


class Pending:
    def __init__(self, owner: Summing, vectors: np.ndarray, tokens: int, *, fails: bool) -> None:
        self.owner, self.vectors, self.tokens, self.fails = owner, vectors, tokens, fails
        self.clipped, self.padding = 1, 0

    def result(self) -> np.ndarray:
        self.owner.held -= self.tokens
        self.owner.under_way -= 1
        if self.fails:
            raise MemoryError("out of memory")
        return self.vectors


class Summing:
    """Sums and counts a text's tokens, computes when it is asked to, and has memory for so many tokens at a time."""

    name, numerics, dimension, groups_ahead, finishes = "torch", "float32", 2, 3, True

    def __init__(self, most_tokens: int | None = None, *, in_flight: int = 3, late: bool = False) -> None:
        self.most_tokens, self.in_flight, self.late = most_tokens, in_flight, late
        self.held = self.under_way = self.most_under_way = self.failed = 0
        self.sizes: list[int] = []
        self.prompt_tokens: set[int] = set()

    def plan(self, lengths: np.ndarray, **bounds: Any) -> list[np.ndarray]:
        return plan_packed(lengths, **bounds)

    def submit(self, rows: Any, *, prompt_tokens: int = 0, finish: Finish | None = None) -> Pending:
        tokens = sum(len(row) for row in rows)
        fails = self.most_tokens is not None and self.held + tokens > self.most_tokens
        if fails:
            self.failed += 1
            if not self.late:
                raise MemoryError("out of memory")
        self.held += tokens
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.sizes.append(tokens)
        self.prompt_tokens.add(prompt_tokens)
        vectors = np.array([[row.sum(), len(row)] for row in rows], dtype=np.float32)
        if finish is not None and finish.truncate_dim is not None:
            vectors = vectors[:, : finish.truncate_dim]
        return Pending(self, vectors, tokens, fails=fails)

    def vectors(self, ids: np.ndarray, mask: np.ndarray, *, prompt_tokens: int = 0) -> np.ndarray:
        rows = [row[:count] for row, count in zip(ids, mask.sum(axis=1), strict=True)]
        return self.submit(rows, prompt_tokens=prompt_tokens).result()

    def token_vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return (ids * mask)[:, :, None].astype(np.float32)

    def close(self) -> None:
        self.sizes.clear()


def tokenizer() -> TextTokenizer:
    """One token a word: the word is its id."""
    words = Tokenizer(models.WordLevel({str(number): number for number in range(100)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextTokenizer(words, limit=None, pad_id=99)


def rows_of(lengths: list[int]) -> list[np.ndarray]:
    return [np.arange(place, place + length, dtype=np.int32) for place, length in enumerate(lengths)]


def expected(rows: list[np.ndarray]) -> np.ndarray:
    return np.array([[row.sum(), len(row)] for row in rows], dtype=np.float32).reshape(-1, 2)


def test_it_is_a_backend_that_overlaps() -> None:
    """The protocol is recognised, and a backend that lacks a part of it is not."""
    assert isinstance(Summing(), Overlapping)

    class Alone:
        name, numerics, dimension = "torch", "float32", 2
        vectors = token_vectors = close = Summing.vectors

    assert not isinstance(Alone(), Overlapping)


def test_every_vector_lands_in_its_place_over_several_groups() -> None:
    """Batches of two groups are under way at once; groups are tokenised ahead."""
    lengths = [(7 * at) % 41 for at in range(11_000)]
    texts = [" ".join(str(1 + (place + at) % 90) for at in range(length)) for place, length in enumerate(lengths)]
    report, backend, computed = EncodeReport(), Summing(), []
    found = embed(
        texts,
        tokenizer=tokenizer(),
        backend=backend,
        batch_tokens=512,
        max_batch_size=64,
        report=report,
        on_computed=computed.append,
    )
    assert np.array_equal(found, [[sum(map(int, text.split())), len(text.split())] for text in texts])
    assert (report.tokens, report.padding, report.batches) == (sum(lengths), 0, len(backend.sizes))
    assert sum(computed) == len(texts)
    assert (backend.most_under_way, backend.under_way) == (3, 0)
    assert max(backend.sizes) <= 512


@given(
    some.lists(some.integers(0, 30), max_size=50),
    some.integers(1, 200),
    some.integers(1, 9),
    some.integers(1, 4),
    some.sampled_from([None, 30, 45, 100]),
    some.booleans(),
)
def test_memory_that_runs_out_halves_the_batches_and_loses_nothing(
    lengths: list[int], budget: int, most: int, in_flight: int, memory: int | None, late: bool
) -> None:
    """Whether a batch fails when it is begun or while it is under way."""
    rows = rows_of(lengths)
    backend = Summing(memory, in_flight=in_flight, late=late)
    settings = Settings(budget, most)
    report = EncodeReport()
    found = embed_rows(rows, pad_id=99, backend=backend, settings=settings, report=report)
    assert np.array_equal(found, expected(rows))
    assert backend.under_way == 0
    assert report.tokens == sum(lengths)
    assert backend.most_under_way <= in_flight
    assert settings.batch_tokens is not None
    assert settings.batch_tokens <= max(budget, 30)


def test_what_is_under_way_is_waited_for_before_batches_are_halved(caplog: pytest.LogCaptureFixture) -> None:
    """A batch that fits alone is not made smaller because others took the memory."""
    backend = Summing(100, in_flight=3)
    settings = Settings(60, 64)
    report = EncodeReport()
    rows = rows_of([20] * 12)
    with caplog.at_level(logging.WARNING, "embedprefs.engine"):
        found = embed_rows(rows, pad_id=99, backend=backend, settings=settings, report=report)
    assert np.array_equal(found, expected(rows))
    assert backend.failed > 0
    assert (settings.batch_tokens, report.reduced, caplog.records) == (60, 0, [])


def test_one_text_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ResourceError, match="one text of 50 tokens"):
        embed_rows(rows_of([50, 3]), pad_id=99, backend=Summing(40), settings=Settings(64, 8))


def test_another_error_reaches_the_caller() -> None:
    class Broken(Summing):
        def submit(self, rows: Any, *, prompt_tokens: int = 0, finish: Finish | None = None) -> Pending:
            raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        embed_rows(rows_of([5]), pad_id=99, backend=Broken(), settings=Settings(64, 8))


def test_vectors_are_finished_by_the_backend_and_what_it_clipped_is_counted() -> None:
    settings = Settings(10, 2, truncate_dim=1)
    found = embed_rows(rows_of([3, 3, 3]), pad_id=99, backend=Summing(), settings=settings)
    assert found.shape == (3, 1)
    assert settings.clipped == 2


@pytest.mark.parametrize("left_out", [True, False])
def test_the_prompt_is_left_out_where_pooling_says_so(*, left_out: bool) -> None:
    backend = Summing()
    settings = Settings(64, 8, leaves_prompt_out=left_out)
    embed(["1", "2"], tokenizer=tokenizer(), backend=backend, settings=settings, prompt="7 8 ")
    assert backend.prompt_tokens == ({2} if left_out else {0})


def test_an_error_leaves_nothing_under_way() -> None:
    """What was begun is waited for before the error is raised: it writes into memory that the caller lets go of."""

    class Failing(Summing):
        def submit(self, rows: Any, **named: Any) -> Pending:
            if len(self.sizes) == 2:
                raise ValueError("no such thing")
            return super().submit(rows, **named)

    backend = Failing(in_flight=3)
    with pytest.raises(ValueError, match="no such thing"):
        embed_rows(rows_of([9, 8, 7]), pad_id=99, backend=backend, settings=Settings(9, 1))
    assert (len(backend.sizes), backend.under_way) == (2, 0)


def test_vectors_that_come_whole_are_cut_and_scaled() -> None:
    """A backend that does not finish vectors is not asked to, and the padding that it computes is counted."""

    class Whole(Summing):
        finishes = False

        def submit(self, rows: Any, *, prompt_tokens: int = 0, finish: Finish | None = None) -> Pending:
            assert finish is None
            pending = super().submit(rows, prompt_tokens=prompt_tokens)
            pending.padding = 2
            return pending

    report = EncodeReport()
    settings = Settings(9, 1, truncate_dim=1, normalize=True)
    found = embed_rows(rows_of([3, 4]), pad_id=99, backend=Whole(), settings=settings, report=report)
    assert np.array_equal(found, [[1], [1]])
    assert (report.padding, report.batches) == (4, 2)
