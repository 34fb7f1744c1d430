"""Getting points to a server that may be slow, busy, away, or silent about what it has already stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedprefs_qdrant.stores.batching import batches
from embedprefs_qdrant.stores.failures import Failure, UploadError, classify
from embedprefs_qdrant.stores.points import Point, PointId
from embedprefs_qdrant.stores.protocol import UploadReport
from embedprefs_qdrant.stores.retry import Clock, Deadline, RetryPolicy

__all__ = ["Upload"]


@dataclass(frozen=True)
class _Batch:
    points: list[Point]
    attempts: int = 0


class Upload:
    """One `upsert` on its way.

    A batch that the server refuses is never sent again. One that is too large is halved. One that the server was too
    busy for waits as long as the server says. One whose fate is unknown, because the answer did not come or reports a
    failure inside the server, is looked up after a wait, and what is missing is sent again, in halves if time ran out.

    Args:
        collection: Name, for messages.
        send: Stores a batch; the second argument is the timeout in seconds.
        find_stored: Ids of those of the points that are known to be stored.
        size_of: Estimated bytes of a point.
        max_bytes: Largest batch in bytes.
        max_points: Largest batch in points.
        policy: How patient to be.
        timeout: Seconds for one request.
        clock: Time and chance.
    """

    def __init__(
        self,
        collection: str,
        *,
        send: Callable[[Sequence[Point], float], None],
        find_stored: Callable[[Sequence[Point], float], set[PointId]],
        size_of: Callable[[Point], int],
        max_bytes: int,
        max_points: int,
        policy: RetryPolicy,
        timeout: float,
        clock: Clock,
    ) -> None:
        self._collection = collection
        self._send = send
        self._find_stored = find_stored
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._max_points = max_points
        self._policy = policy
        self._timeout = timeout
        self._clock = clock
        self._waiting: deque[_Batch] = deque()
        self._stored = self._requests = self._retries = self._verified = 0

    def run(self, points: Sequence[Point]) -> UploadReport:
        """Send the points and return when all are stored.

        Raises:
            InputError: A point is larger than a batch may be; nothing was sent.
            UploadError: A batch could not be stored.
        """
        start = self._clock.now()
        planned = list(batches(points, size_of=self._size_of, max_bytes=self._max_bytes, max_points=self._max_points))
        self._waiting.extend(_Batch(batch) for batch, _ in planned)
        deadline = Deadline(self._policy, self._clock)
        while self._waiting:
            self._attempt(self._waiting.popleft(), deadline)
        return UploadReport(
            points=self._stored,
            requests=self._requests,
            retries=self._retries,
            verified=self._verified,
            payload_bytes=sum(size for _, size in planned),
            seconds=self._clock.now() - start,
        )

    def _attempt(self, batch: _Batch, deadline: Deadline) -> None:
        attempts = batch.attempts + 1
        if not deadline.left:
            self._give_up(batch, Failure("timeout", f"the {self._policy.deadline:g} seconds for this call are over"))
        self._requests += 1
        self._retries += batch.attempts > 0
        try:
            self._send(batch.points, self._bounded_timeout(deadline))
        except Exception as error:
            failure = classify(error)
            if failure is None:
                raise
            self._recover(_Batch(batch.points, attempts), failure, deadline, error)
        else:
            self._stored += len(batch.points)

    def _recover(self, batch: _Batch, failure: Failure, deadline: Deadline, error: Exception) -> None:
        if failure.kind == "too large" and len(batch.points) > 1:
            # Smaller batches are new requests, not repetitions of the one that could never succeed.
            self._put_back(batch.points, batch.attempts - 1, halve=True)
            return
        if not failure.passing or not deadline.wait(failure, batch.attempts):
            self._give_up(batch, failure, error)
        missing = batch.points
        if failure.kind != "throttled":
            missing = self._without_stored(batch.points, deadline)
        self._put_back(missing, batch.attempts, halve=failure.kind == "timeout")

    def _without_stored(self, points: list[Point], deadline: Deadline) -> list[Point]:
        try:
            stored = self._find_stored(points, self._bounded_timeout(deadline))
        except Exception as error:
            failure = classify(error)
            if failure is None:
                raise
            # The server cannot be asked now. Sending everything again stores nothing twice: ids decide.
            return points
        self._verified += len(stored)
        self._stored += len(stored)
        return [point for point in points if point.id not in stored]

    def _put_back(self, points: list[Point], attempts: int, *, halve: bool) -> None:
        middle = (len(points) + 1) // 2 if halve else len(points)
        parts = [part for part in (points[:middle], points[middle:]) if part]
        self._waiting.extendleft(_Batch(part, attempts) for part in reversed(parts))

    def _bounded_timeout(self, deadline: Deadline) -> float:
        return max(1.0, min(self._timeout, deadline.left))

    def _give_up(self, batch: _Batch, failure: Failure, error: Exception | None = None) -> None:
        raise UploadError(
            self._collection,
            failure.text,
            failed_ids=[point.id for point in batch.points],
            unsent_ids=[point.id for waiting in self._waiting for point in waiting.points],
            stored=self._stored,
            attempts=batch.attempts,
            status=failure.status,
        ) from error
