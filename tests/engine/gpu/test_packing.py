"""Rows end to end: what stands where, filling, and which texts share a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from embedprefs.engine.gpu.packing import bucket_sizes, pack, plan_packed


def rows_of(*lengths: int) -> list[np.ndarray]:
    return [np.arange(10 * at, 10 * at + length, dtype=np.int32) for at, length in enumerate(lengths, start=1)]


def test_rows_lie_end_to_end_with_positions_of_their_own() -> None:
    packed = pack(rows_of(3, 0, 2), first_position=2)
    assert packed.ids.tolist() == [10, 11, 12, 30, 31]
    assert packed.positions.tolist() == [2, 3, 4, 2, 3]
    assert packed.starts.tolist() == [0, 3, 3, 5]
    assert (packed.size, packed.tokens, packed.texts, packed.sequences, packed.longest) == (5, 5, 3, 3, 3)
    assert packed.numbers.dtype == np.int32


def test_filling_is_in_sequences_no_longer_than_the_longest_text() -> None:
    """The model has positions for no more, and texts do not see it."""
    packed = pack(rows_of(3, 2), size=12, pad_id=7)
    assert packed.ids.tolist() == [10, 11, 12, 20, 21, *[7] * 7]
    assert packed.starts.tolist() == [0, 3, 5, 8, 11, 12]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert (packed.tokens, packed.texts, packed.sequences) == (5, 2, 5)


def test_rows_are_written_where_the_caller_says() -> None:
    """Into memory that a device can read by itself, in one piece."""
    given_out = []

    def room(count: int) -> np.ndarray:
        given_out.append(np.full(count, -1, dtype=np.int32))
        return given_out[-1]

    packed = pack(rows_of(2, 1), room=room)
    assert packed.numbers is given_out[0]
    assert given_out[0].tolist() == [10, 11, 20, 0, 1, 0, 0, 2, 3]


def test_more_tokens_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="5 tokens do not fit into 4"):
        pack(rows_of(5), size=4)


def test_no_rows_and_empty_rows_are_packed() -> None:
    assert pack([]).starts.tolist() == [0]
    assert pack(rows_of(0, 0)).starts.tolist() == [0, 0, 0]


@given(some.lists(some.integers(0, 400), max_size=60), some.integers(1, 900), some.integers(1, 20))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], batch_tokens: int, most: int) -> None:
    """The budget counts true tokens, and no batch ends where the next text would have found room."""
    plan = plan_packed(lengths, batch_tokens=batch_tokens, max_batch_size=most)
    assert sorted(int(at) for batch in plan for at in batch) == list(range(len(lengths)))
    in_order = [lengths[at] for batch in plan for at in batch]
    assert in_order == sorted(lengths, reverse=True)
    for place, batch in enumerate(plan):
        tokens = sum(lengths[at] for at in batch)
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or tokens <= batch_tokens
        if place + 1 < len(plan) and len(batch) < most:
            assert tokens + lengths[plan[place + 1][0]] > batch_tokens


def test_a_stated_batch_size_is_kept_whatever_the_lengths() -> None:
    plan = plan_packed([5, 500, 1, 40], batch_tokens=None, max_batch_size=3)
    assert [batch.tolist() for batch in plan] == [[1, 3, 0], [2]]


@given(some.integers(1, 2**20))
def test_few_sizes_are_compiled_and_the_budget_is_the_largest(batch_tokens: int) -> None:
    """torch gives up at eight forms of one function."""
    sizes = bucket_sizes(batch_tokens)
    assert len(sizes) <= 6
    assert sizes == tuple(sorted(sizes))
    if batch_tokens > 1:
        assert sizes[-1] == batch_tokens
