"""Batches in which no two rows share a text, and every row is there: the plan of an epoch, without torch.

In a loss whose negatives are the other rows of the batch, a row that shares its passage with another one makes a right
answer a negative. The host's `no_duplicates` puts such rows off until the end of the epoch, and drops those that no
batch takes. Here the rows that share most are dealt first, each to the batch with the most room that does not hold
its texts. For rows that share one text this finds full batches whenever there are any (the construction of Gale and
Ryser for matrices of zeros and ones); rows that share several texts are dealt the same way, and moved where that fails.
Negatives may be shared: a passage that is wrong for two questions stays wrong for both, and only must not be the right
answer of another row of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Batches", "EpochPlan", "no_duplicates_epoch", "random_epoch", "shared_texts", "split_texts"]

Integers = npt.NDArray[np.int64]
Texts = Sequence[tuple[int, ...]]
#: How many further batches are tried, beyond the fewest that are possible, before their number grows faster.
_PATIENCE = 8


def shared_texts(columns: Mapping[str, Sequence[Any]]) -> list[tuple[int, ...]]:
    """Return, for each row, numbers that stand for its texts; equal texts have one number, whatever their column.

    White space and case are not looked at.

    Args:
        columns: Column -> its texts; other values are left out.
    """
    return _numbered(columns, {})


def split_texts(columns: Mapping[str, Sequence[Any]]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the numbers of each row's own texts, and of its negatives; numbered as `shared_texts` does.

    Args:
        columns: Column -> its texts; those whose names begin with "negative" are negatives.
    """
    numbers: dict[str, int] = {}
    negatives = [name for name in columns if name.startswith("negative")]
    own = _numbered({name: values for name, values in columns.items() if name not in negatives}, numbers)
    return own, _numbered({name: columns[name] for name in negatives}, numbers) or [() for _ in own]


def _numbered(columns: Mapping[str, Sequence[Any]], numbers: dict[str, int]) -> list[tuple[int, ...]]:
    rows: list[set[int]] = [set() for _ in next(iter(columns.values()), ())]
    for values in columns.values():
        for row, value in zip(rows, values, strict=True):
            if isinstance(value, str):
                row.add(numbers.setdefault(" ".join(value.split()).casefold(), len(numbers)))
    return [tuple(sorted(row)) for row in rows]


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, by row numbers."""

    batches: Sequence[Sequence[int]]
    rows: int
    """How many rows there are."""

    @property
    def coverage(self) -> float:
        """Share of the rows that are seen."""
        return len({row for batch in self.batches for row in batch}) / self.rows if self.rows else 1.0

    @property
    def lost(self) -> int:
        """Rows that are not seen."""
        return self.rows - len({row for batch in self.batches for row in batch})

    def in_equal_parts(self, batch_size: int) -> EpochPlan:
        """Return batches of one size alone, as several processes need them; what is left over is lost.

        Args:
            batch_size: What was asked for. Where no batch is as large, all are cut to the smallest.
        """
        sizes = self.sizes
        if not sizes:
            return self
        if max(sizes) == batch_size:
            return EpochPlan([batch for batch in self.batches if len(batch) == batch_size], self.rows)
        return EpochPlan([batch[: min(sizes)] for batch in self.batches], self.rows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each batch."""
        return tuple(len(batch) for batch in self.batches)

    def false_negatives(self, texts: Texts, negatives: Texts | None = None) -> int:
        """Return how many rows have a text of their own as a negative, because another row of their batch has it too.

        Args:
            texts: What `shared_texts` returned, or the rows' own texts of `split_texts`.
            negatives: The rows' negatives of `split_texts`.
        """
        found = 0
        for batch in self.batches:
            counts = Counter(text for row in batch for text in texts[row])
            pushed = {text for row in batch for text in negatives[row]} if negatives is not None else set()
            found += sum(any(counts[text] > 1 or text in pushed for text in texts[row]) for row in batch)
        return found


class Batches:
    """The batches of every epoch, the same for the same seed."""

    def __init__(self, texts: Texts, batch_size: int, *, seed: int = 0, negatives: Texts | None = None) -> None:
        """Find out how many batches are needed.

        Args:
            texts: What `shared_texts` returned, or the rows' own texts of `split_texts`.
            batch_size: The most rows of a batch.
            negatives: The rows' negatives of `split_texts`, which rows of a batch may share with each other.
            seed: The same seed gives the same batches.
        """
        self.texts = texts
        self.batch_size = batch_size
        self.seed = seed
        counts = Counter(text for row in texts for text in row)
        # A negative that is nobody's answer bars nothing.
        self._pushed: Texts = [tuple(text for text in row if text in counts) for row in negatives or [()] * len(texts)]
        pushed = {text for row in self._pushed for text in row}
        #: Rows that share a text, by the text that most rows share; the others go wherever there is room.
        self._groups: dict[int, list[int]] = {}
        self._free: list[int] = []
        self._shared = [tuple(text for text in row if counts[text] > 1 or text in pushed) for row in texts]
        for number, shared in enumerate(self._shared):
            if shared or self._pushed[number]:
                told_by = shared or self._pushed[number]
                self._groups.setdefault(max(told_by, key=lambda text: (counts[text], -text)), []).append(number)
            else:
                self._free.append(number)
        # Whoever has a text as a negative needs a batch without the rows that it answers.
        self._widest = max((count + (text in pushed) for text, count in counts.items()), default=0)
        self._first = self._search()
        self.count = len(self._first)

    def epoch(self, number: int) -> EpochPlan:
        """Return the batches of an epoch, counted from 0; full ones first, those with fewer rows last."""
        dealt = self._deal(np.random.default_rng((self.seed, number)), self._rooms(self.count)) if number else None
        if dealt is None or len(dealt) != self.count:
            # The trainer counts on every epoch having as many batches as the first.
            dealt = self._first
        generator = np.random.default_rng((self.seed, number, 1))
        batches = [generator.permutation(batch).tolist() for batch in dealt]
        order = generator.permutation(len(batches)).tolist()
        # Stable: batches of one size stay in their random order.
        order.sort(key=lambda index: -len(batches[index]))
        return EpochPlan([batches[index] for index in order], len(self.texts))

    def _search(self) -> list[list[int]]:
        rows = len(self.texts)
        fewest = -(-rows // self.batch_size)
        count, tried = max(fewest, self._widest if rows else 0), 0
        while True:
            dealt = self._deal(np.random.default_rng((self.seed, 0)), self._rooms(count))
            if dealt is not None:
                return dealt
            tried += 1
            count += 1 if tried < _PATIENCE else max(1, count // 8)

    def _rooms(self, count: int) -> Integers:
        """Return how many rows each batch takes: full ones and a rest, or all alike where sharing asks for more."""
        rooms = np.full(count, self.batch_size, dtype=np.int64)
        if count and count == -(-len(self.texts) // self.batch_size):
            rooms[-1] = len(self.texts) - self.batch_size * (count - 1)
        return rooms

    def _deal(self, generator: np.random.Generator, rooms: Integers) -> list[list[int]] | None:
        """Deal every row to a batch; None where some row fits into none."""
        table = _Table(rooms.copy(), self._shared, self._pushed)
        groups = list(self._groups.values())
        order = generator.permutation(len(groups)).tolist()
        order.sort(key=lambda index: -len(groups[index]))
        for index in order:
            for row in generator.permutation(groups[index]).tolist():
                if not table.place(row, generator) and not table.move(row, generator):
                    return None
        self._fill(generator, table.room, table.batches)
        return [batch for batch in table.batches if batch]

    def _fill(self, generator: np.random.Generator, room: Integers, batches: list[list[int]]) -> None:
        """Deal the rows that share nothing: to the batches with the most room, so that none stays small."""
        free = generator.permutation(self._free).tolist()
        if int(room.sum()) == len(free):
            for index, batch in enumerate(batches):
                for _ in range(int(room[index])):
                    batch.append(free.pop())
            return
        for row in free:
            best = int(np.argmax(room + generator.random(len(room))))
            batches[best].append(row)
            room[best] -= 1


class _Table:
    """Batches while rows are dealt to them: who is where, and which texts stand in the way."""

    def __init__(self, room: Integers, shared: Texts, pushed: Texts) -> None:
        self.room = room
        self.batches: list[list[int]] = [[] for _ in room]
        self._shared = shared
        self._pushed = pushed
        #: Text -> the batches with a row that it belongs to; at most one row of each.
        self._own: dict[int, set[int]] = {}
        #: Text -> batch -> rows that have it as a negative.
        self._negative: dict[int, Counter[int]] = {}

    def _barred(self, row: int) -> set[int]:
        barred: set[int] = set()
        for text in self._shared[row]:
            barred |= self._own.get(text, set())
            barred.update(self._negative.get(text, ()))
        for text in self._pushed[row]:
            barred |= self._own.get(text, set())
        return barred

    def place(self, row: int, generator: np.random.Generator) -> bool:
        """Put a row into the batch with the most room that does not bar it; False where there is none."""
        open_to = self.room + generator.random(len(self.room))  # chance decides among batches with equal room
        barred = self._barred(row)
        if barred:
            open_to[list(barred)] = -1.0
        best = int(np.argmax(open_to))
        if open_to[best] < 1.0:
            return False
        self._put(row, best)
        return True

    def _put(self, row: int, batch: int) -> None:
        self.batches[batch].append(row)
        self.room[batch] -= 1
        for text in self._shared[row]:
            self._own.setdefault(text, set()).add(batch)
        for text in self._pushed[row]:
            self._negative.setdefault(text, Counter())[batch] += 1

    def _take(self, row: int, batch: int) -> None:
        self.batches[batch].remove(row)
        self.room[batch] += 1
        for text in self._shared[row]:
            self._own[text].discard(batch)
        for text in self._pushed[row]:
            self._negative[text][batch] -= 1
            if not self._negative[text][batch]:
                del self._negative[text][batch]

    def move(self, row: int, generator: np.random.Generator) -> bool:
        """Make room for a row by moving another one out of a full batch that does not bar the row."""
        barred = self._barred(row)
        for batch in generator.permutation(len(self.batches)).tolist():
            if batch in barred:
                continue
            for other in list(self.batches[batch]):
                self._take(other, batch)
                # The batch it leaves must not take it back.
                kept, self.room[batch] = int(self.room[batch]), 0
                moved = self.place(other, generator)
                self.room[batch] = kept
                if moved:
                    self._put(row, batch)
                    return True
                self._put(other, batch)
        return False


def random_epoch(rows: int, batch_size: int, *, seed: int = 0) -> EpochPlan:
    """Return an epoch of the host's default sampler: random batches, whatever their rows share."""
    order = np.random.default_rng(seed).permutation(rows).tolist()
    return EpochPlan([order[at : at + batch_size] for at in range(0, rows, batch_size)], rows)


def no_duplicates_epoch(texts: Texts, batch_size: int, *, seed: int = 0) -> EpochPlan:
    """Return an epoch of the host's `no_duplicates` sampler, which ends after as many steps as full batches would take.

    A row that shares a text with the batch is put off to a later one. Batches that end up small are made in the end,
    and the trainer, which takes `ceil(rows / batch_size)` steps an epoch, never sees the last of them.
    """
    remaining = np.random.default_rng(seed).permutation(len(texts)).tolist()
    batches: list[list[int]] = []
    while remaining:
        batch: list[int] = []
        seen: set[int] = set()
        later: list[int] = []
        for position, row in enumerate(remaining):
            if seen.isdisjoint(texts[row]):
                batch.append(row)
                seen.update(texts[row])
                if len(batch) == batch_size:
                    later.extend(remaining[position + 1 :])
                    break
            else:
                later.append(row)
        batches.append(batch)
        remaining = later
    return EpochPlan(batches[: -(-len(texts) // batch_size)], len(texts))
