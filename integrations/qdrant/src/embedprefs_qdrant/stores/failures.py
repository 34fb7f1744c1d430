"""What went wrong at a store: which failures pass, which never do, and the errors that tell the caller."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from embedprefs.errors import InputError, UnavailableError
from embedprefs_qdrant.stores.points import PointId
from embedprefs_qdrant.stores.validation import name_some

__all__ = ["Failure", "StoreError", "UploadError", "classify", "suggest_collection"]

FailureKind = Literal["refused", "too large", "throttled", "timeout", "unavailable"]


class StoreError(UnavailableError):
    """A store did not do what it was asked.

    Attributes:
        action: What was asked.
        attempts: How often.
        status: HTTP status of the last answer, if there was one.
    """

    def __init__(self, message: str, *, action: str = "", attempts: int = 1, status: int | None = None) -> None:
        super().__init__(message)
        self.action = action
        self.attempts = attempts
        self.status = status


class UploadError(StoreError):
    """Some points of an `upsert` could not be stored.

    Attributes:
        failed_ids: Points whose last attempt failed; each may be stored or not.
        unsent_ids: Points that were not sent because of it.
        stored: Number of points of the call that are stored.
    """

    def __init__(
        self,
        collection: str,
        cause: str,
        *,
        failed_ids: Iterable[PointId],
        unsent_ids: Iterable[PointId] = (),
        stored: int = 0,
        attempts: int = 1,
        status: int | None = None,
    ) -> None:
        self.failed_ids = tuple(failed_ids)
        self.unsent_ids = tuple(unsent_ids)
        self.stored = stored
        many = f"{len(self.failed_ids)} points" if len(self.failed_ids) != 1 else "A point"
        tried = f"{attempts} attempts" if attempts != 1 else "1 attempt"
        lines = [
            f"{many} could not be stored in the collection {collection!r} after {tried}: {cause}",
            f"  Points: {name_some(self.failed_ids)}",
            f"  Of this call {stored} are stored and {len(self.unsent_ids)} were not sent. Storing them again is safe.",
        ]
        super().__init__("\n".join(lines), action="upsert", attempts=attempts, status=status)


@dataclass(frozen=True)
class Failure:
    """One failed request.

    Attributes:
        kind: "refused" (asking again changes nothing), "too large", "throttled", "timeout", or "unavailable".
        text: What the other side said.
        status: HTTP status, or the one that corresponds to a gRPC code.
        wait: Seconds the server asks to wait.
    """

    kind: FailureKind
    text: str
    status: int | None = None
    wait: float | None = None

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in {"throttled", "timeout", "unavailable"}


#: HTTP status that corresponds to a gRPC code which no repetition changes.
_REFUSED_CODES = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "UNIMPLEMENTED": 501,
}


def classify(error: BaseException) -> Failure | None:
    """What a failed request means; None for an error that no request causes (a bug, an interrupt)."""
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, StoreError):
        return Failure("refused", str(error), error.status)
    if isinstance(error, ResourceExhaustedResponse):
        return Failure("throttled", f"too many requests ({error})", 429, float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _classify_status(error.status_code, error.content.decode("utf-8", "replace"))
    if isinstance(error, ResponseHandlingException):
        import httpx

        source = error.source
        if isinstance(source, httpx.TimeoutException):
            return Failure("timeout", f"no answer in time ({type(source).__name__})")
        if isinstance(source, httpx.TransportError):
            return Failure("unavailable", f"the connection failed ({type(source).__name__}: {source})")
        return Failure("unavailable", f"the answer cannot be read ({type(source).__name__})")
    if isinstance(error, json.JSONDecodeError):
        return Failure("unavailable", "the answer is no JSON; is this the address of a Qdrant server?")
    if isinstance(error, QdrantException):
        # The client raises this for a Retry-After header that is a date instead of a number.
        return Failure("throttled", f"too many requests ({error})", 429)
    if "grpc" in sys.modules:
        import grpc  # type: ignore[import-untyped]

        if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
            return _classify_code(error.code().name, error.details() or "")
    return None


def _classify_status(status: int | None, body: str) -> Failure:
    text = f"HTTP {status}: {_shorten(body)}"
    # A server reports a body above its limit as 413, or as 400 with this text.
    if status == 413 or (status == 400 and "larger than allowed" in body):
        return Failure("too large", text, status)
    if status == 429:
        return Failure("throttled", text, status)
    if status is not None and 400 <= status < 500:
        return Failure("refused", text, status)
    return Failure("unavailable", text, status)


def _classify_code(code: str, details: str) -> Failure:
    text = f"gRPC {code}: {_shorten(details)}"
    if code in _REFUSED_CODES:
        return Failure("refused", text, _REFUSED_CODES[code])
    if code == "RESOURCE_EXHAUSTED":
        kind: FailureKind = "too large" if "larger than max" in details or "too large" in details else "throttled"
        return Failure(kind, text, 413 if kind == "too large" else 429)
    if code == "DEADLINE_EXCEEDED":
        return Failure("timeout", text)
    return Failure("unavailable", text, 503)


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else f"{flat[:300]} ..."


def suggest_collection(collection: str, known: Iterable[str], place: str) -> InputError:
    """The error for a collection that does not exist."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(collection, names, n=1)
    there = ", ".join(names) if names else "none yet"
    fix = f"Did you mean {near[0]!r}?" if near else "Create it by indexing documents into it."
    return InputError(f"{place}: there is no collection {collection!r}.\n  There are: {there}\n  {fix}")
