"""Calling qdrant-client: bounded waits, classified retries, and errors that say what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from embedprefs.errors import InputError
from embedprefs_qdrant.stores.failures import Failure, StoreError, classify
from embedprefs_qdrant.stores.retry import Clock, Deadline, RetryPolicy

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Calls", "limit_body_time"]

T = TypeVar("T")


class Calls:
    """The way every request takes.

    Args:
        client: A ready client.
        url: Where it leads, without secrets, for messages.
        timeout: Seconds for one request.
        policy: How patient to be.
        clock: Time and chance.
        local: Whether the client emulates the engine in this process; then calls take turns and are not repeated.
    """

    def __init__(
        self, client: QdrantClient, *, url: str, timeout: float, policy: RetryPolicy, clock: Clock, local: bool
    ) -> None:
        self.client = client
        self.url = url
        self.timeout = timeout
        self.policy = policy
        self.clock = clock
        self.local = local
        self.closed = False
        self._turn: AbstractContextManager[Any] = RLock() if local else nullcontext()

    def __call__(self, action: str, send: Callable[[QdrantClient, int], T]) -> T:
        """Send a request that may be repeated.

        Args:
            action: What it does, for messages: "count the points of 'docs'".
            send: Sends it; takes the client and the timeout in whole seconds.

        Raises:
            StoreError: It was refused, or failed too often or for too long.
        """
        deadline = Deadline(self.policy, self.clock)
        attempts = 0
        while True:
            attempts += 1
            try:
                return self.once(send, min(self.timeout, max(1.0, deadline.left)))
            except Exception as error:
                failure = classify(error)
                if isinstance(error, InputError) or (failure is None and not self.local):
                    raise
                failure = failure or Failure("refused", str(error))
                if not failure.passing or not deadline.wait(failure, attempts):
                    raise self._error(action, failure, attempts) from error

    def once(self, send: Callable[[QdrantClient, int], T], timeout: float) -> T:
        """Send a request once; the client's own exceptions pass through.

        Raises:
            InputError: The store is closed.
        """
        if self.closed:
            raise InputError(f"{self.url}: The store is closed.\n  Open it again with open_store.")
        with self._turn:
            return send(self.client, math.ceil(timeout))

    def _error(self, action: str, failure: Failure, attempts: int) -> StoreError:
        tried = "" if attempts == 1 else f" ({attempts} attempts)"
        lines = [f"{self.url}: Cannot {action}{tried}: {failure.text}"]
        if failure.status in (401, 403):
            lines.append(
                "  The API key is read from the environment variable QDRANT_API_KEY; set it to one that may do this."
            )
        elif failure.kind in ("timeout", "unavailable"):
            lines.append("  Check that the server runs and can be reached; nothing that was acknowledged is lost.")
        return StoreError("\n".join(lines), action=action, attempts=attempts, status=failure.status)


def limit_body_time(clock: Clock) -> Callable[[Any], None]:
    """A hook for httpx that bounds the time of a whole answer.

    Its own timeout bounds the time between two pieces, so that a server sending one byte a second is waited for
    without end. The same number of seconds is taken for the whole body.
    """
    import httpx

    class BoundedStream(httpx.SyncByteStream):
        def __init__(self, response: httpx.Response, seconds: float) -> None:
            self._response = response
            self._inner: Any = response.stream
            self._end = clock.now() + seconds

        def __iter__(self) -> Any:
            for piece in self._inner:
                if clock.now() > self._end:
                    raise httpx.ReadTimeout("the answer took too long", request=self._response.request)
                yield piece

        def close(self) -> None:
            self._inner.close()

    def bound(response: httpx.Response) -> None:
        seconds = response.request.extensions.get("timeout", {}).get("read")
        if seconds is not None:
            response.stream = BoundedStream(response, seconds)

    return bound
