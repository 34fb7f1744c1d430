"""Several batches under way at a time: computed side by side, or the next one prepared while one is computed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.backend import Overlapping, Submitted
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.pipeline import Counts, Settings, finished, reduce_batches

__all__ = ["Flight"]

logger = logging.getLogger("embedprefs.engine")


@dataclass(frozen=True, eq=False)
class _Group:
    """Texts that were tokenised together, and where their vectors go."""

    rows: Sequence[NDArray[np.int32]]
    lengths: NDArray[np.int64]
    out: NDArray[Any]
    prompt_tokens: int


@dataclass(frozen=True, eq=False)
class _Batch:
    """Texts of one group that are computed together."""

    group: _Group
    positions: NDArray[np.intp]
    pending: Submitted | None = None
    alone: bool = False
    """Whether it is to be computed with nothing beside it, because memory did not suffice for both."""

    @property
    def tokens(self) -> int:
        return int(self.group.lengths[self.positions].sum())


class Flight:
    """The batches of one call.

    Results are taken in the order in which batches were begun, and the oldest is waited for when as many are under way
    as the backend allows: no more memory is held, whatever the number of texts. Where memory runs out, what is under
    way is waited for and the batch tried again by itself. If that fails too, batches are halved and what is left is
    planned anew, so that the longest still come first.
    """

    def __init__(
        self,
        backend: Overlapping,
        settings: Settings,
        *,
        report: Counts | None = None,
        on_computed: Callable[[int], None] | None = None,
    ) -> None:
        """Begin without batches.

        Args:
            backend: Computes them.
            settings: As for `embed`; its budget shrinks where memory runs out.
            report: Counts tokens and batches.
            on_computed: Called with the number of texts of each finished batch.
        """
        self._backend = backend
        self._settings = settings
        self._report = report
        self._on_computed = on_computed
        self._waiting: deque[_Batch] = deque()
        self._under_way: deque[_Batch] = deque()

    def add(self, rows: Sequence[NDArray[np.int32]], *, out: NDArray[Any], prompt_tokens: int = 0) -> None:
        """Begin texts; some are still under way when this returns.

        Args:
            rows: Token ids of each text, special tokens included.
            out: Where their vectors are written, one row each.
            prompt_tokens: Tokens at the beginning of each row that are the prompt's.

        Raises:
            ResourceError: one text alone does not fit into memory.
        """
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        left_out = prompt_tokens if self._settings.leaves_prompt_out else 0
        group = _Group(rows, lengths, out, left_out)
        self._waiting.extend(self._planned(group, np.arange(len(rows))))
        self._begin()

    def land(self) -> None:
        """Wait for everything that is under way.

        Raises:
            ResourceError: as `add`.
        """
        while self._under_way or self._waiting:
            self._begin()
            if self._under_way:
                self._take()

    def abandon(self) -> None:
        """Wait for what is under way and let it go: after an error, nobody else will."""
        self._waiting.clear()
        while self._under_way:
            try:
                self._result(self._under_way.popleft())
            except Exception as error:  # noqa: BLE001 - the error that led here is the one to raise
                logger.info("A batch that was under way failed too: %s", error)

    def _planned(self, group: _Group, positions: NDArray[np.intp]) -> list[_Batch]:
        settings = self._settings
        plan = self._backend.plan(
            group.lengths[positions], batch_tokens=settings.batch_tokens, max_batch_size=settings.max_batch_size
        )
        return [_Batch(group, positions[batch]) for batch in plan]

    def _begin(self) -> None:
        """Begin what waits, as room is made for it."""
        while self._waiting:
            alone = self._waiting[0].alone
            if self._under_way and (alone or len(self._under_way) >= self._backend.in_flight):
                self._take()  # which may put something in front of what waits
                continue
            batch = self._waiting.popleft()
            pending = self._submitted(batch)
            if pending is None:
                self._try_again(batch, had_company=bool(self._under_way))
                continue
            self._under_way.append(replace(batch, pending=pending))
            if alone:
                self._take()

    def _submitted(self, batch: _Batch) -> Submitted | None:
        """Begin a batch; None where memory ran out. The error, and with it what was computed so far, is let go."""
        group = batch.group
        try:
            return self._backend.submit(
                [group.rows[at] for at in batch.positions],
                prompt_tokens=group.prompt_tokens,
                finish=self._settings.finish if self._backend.finishes else None,
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.info("out of memory with %d texts of %d tokens: %s", len(batch.positions), batch.tokens, error)
        return None

    def _take(self) -> None:
        """Wait for the oldest batch, and put its vectors in their places."""
        batch = self._under_way.popleft()
        vectors = self._result(batch)
        if vectors is None:
            self._try_again(batch, had_company=not batch.alone)
            return
        batch.group.out[batch.positions] = vectors
        if self._report is not None:
            self._report.batches += 1
            self._report.tokens += batch.tokens
            self._report.padding += batch.pending.padding if batch.pending is not None else 0
        if self._on_computed is not None:
            self._on_computed(len(batch.positions))

    def _result(self, batch: _Batch) -> NDArray[Any] | None:
        """Return the vectors of a batch; None where memory ran out while it was under way."""
        pending = batch.pending
        if pending is None:
            raise ValueError("The batch was not begun.")
        try:
            vectors = pending.result()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.info("out of memory with %d texts of %d tokens: %s", len(batch.positions), batch.tokens, error)
            return None
        self._settings.clipped += pending.clipped
        return vectors if self._backend.finishes else finished(vectors, self._settings)

    def _try_again(self, failed: _Batch, *, had_company: bool) -> None:
        """Let a batch wait for those beside it where memory did not suffice for all; halve it where it was alone."""
        if had_company and not failed.alone:
            self._waiting.appendleft(replace(failed, pending=None, alone=True))
        else:
            self._shrink(failed)

    def _shrink(self, failed: _Batch) -> None:
        """Halve the batches, and plan that one and everything that waits anew."""
        reduce_batches(
            self._settings,
            len(failed.positions),
            int(failed.group.lengths[failed.positions].max()),
            failed.tokens,
            self._report,
        )
        left: dict[int, list[_Batch]] = {}
        for batch in (failed, *self._waiting):
            left.setdefault(id(batch.group), []).append(batch)
        self._waiting.clear()
        for batches in left.values():
            positions = np.concatenate([batch.positions for batch in batches])
            self._waiting.extend(self._planned(batches[0].group, positions))
