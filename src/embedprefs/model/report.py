"""What encoding did: how much was read, what was cut, what was computed once, how much was padding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["EncodeReport", "OverlongText", "ReportBook", "is_unreported", "unreported"]

_unreported: ContextVar[bool] = ContextVar("embedprefs_unreported", default=False)


@contextmanager
def unreported() -> Iterator[None]:
    """Embed texts that are not the user's: what is said of over-long texts and what is counted leaves them out."""
    token = _unreported.set(True)
    try:
        yield
    finally:
        _unreported.reset(token)


def is_unreported() -> bool:
    """Say whether the texts of this call are the library's own."""
    return _unreported.get()


#: Over-long texts that a report names; all are counted.
NAMED_TEXTS = 5


@dataclass(frozen=True)
class OverlongText:
    """One text that is longer than the model reads."""

    position: int
    """Its place in the call, from 0; with `embed_stream`, in the stream."""
    tokens: int
    """Its length, prompt and special tokens included."""
    at_least: bool = False
    """True for a huge text that was not tokenised to its end: it has at least so many."""

    def __str__(self) -> str:
        return f"{self.position} ({'at least ' if self.at_least else ''}{self.tokens} tokens)"


@dataclass
class EncodeReport:
    """Counts over one or more calls of `encode`, `encode_query`, `encode_document` and `embed_stream`.

    What worker processes read is counted as `texts` only: tokens, batches and padding are theirs.
    """

    calls: int = 0
    texts: int = 0
    """Texts asked for."""
    duplicates: int = 0
    """Of these, texts that stood in the same call before, and were computed once."""
    cached: int = 0
    """Of these, distinct texts whose vectors were kept before, and were not computed."""
    cache_bypassed: int = 0
    """Distinct texts that were computed though vectors are kept: the call asked for others than the preferences
    describe, or the model is no longer what was loaded."""
    tokens: int = 0
    """Tokens the model read, prompt and special tokens included, padding left out."""
    padding: int = 0
    """Padding tokens that were computed beside them."""
    batches: int = 0
    truncated: int = 0
    """Texts that were cut at `max_seq_length`."""
    windowed: int = 0
    """Texts that were embedded in windows, because they are longer than `max_seq_length`."""
    windows: int = 0
    """Windows they became."""
    overlong: tuple[OverlongText, ...] = ()
    """The first of the truncated and windowed texts."""
    clipped: int = 0
    """Values outside the calibrated ranges, with int8 and uint8."""
    handed_over: int = 0
    """Inputs that the host's own loop computed, and not the engine: images, pairs, Router and custom modules, token
    vectors, arguments that the engine does not know."""
    reduced: int = 0
    """Times that memory ran out, and the run went on with batches of half the size."""
    in_workers: int = 0
    """Texts computed in other processes."""
    untrained: bool = False
    """True where the model has random weights, because it was built from scratch."""
    seconds: float = 0.0
    """Wall-clock seconds of the calls."""
    backend: str = ""
    """What computed the vectors: torch, openvino or onnx; several, with commas, where calls differ."""
    numerics: str = ""
    """In what: float32, bfloat16, float16 or int8; several, with commas, where calls differ."""

    @property
    def padding_share(self) -> float:
        """Padding among everything that was computed, from 0 to 1."""
        computed = self.tokens + self.padding
        return self.padding / computed if computed else 0.0

    def add(self, other: EncodeReport) -> None:
        """Add the counts of another report to this one."""
        for name, value in vars(other).items():
            if name == "overlong":
                self.overlong = (*self.overlong, *other.overlong)[:NAMED_TEXTS]
            elif name == "untrained":
                self.untrained = self.untrained or other.untrained
            elif name in ("backend", "numerics"):
                ran = [*getattr(self, name).split(", "), *value.split(", ")]
                setattr(self, name, ", ".join(dict.fromkeys(one for one in ran if one)))
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "overlong": [asdict(text) for text in self.overlong]}


@dataclass
class ReportBook:
    """The running total of one model and the reports that are being collected; safe to use from many threads."""

    _total: EncodeReport = field(default_factory=EncodeReport)
    _open: list[EncodeReport] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> EncodeReport:
        """The counts so far, as a copy."""
        with self._lock:
            return replace(self._total)

    def add(self, call: EncodeReport) -> None:
        """Book one finished call."""
        with self._lock:
            for report in (self._total, *self._open):
                report.add(call)

    @contextmanager
    def collect(self) -> Iterator[EncodeReport]:
        """Yield a report of every call that ends within the block, from whichever thread."""
        report = EncodeReport()
        with self._lock:
            self._open.append(report)
        try:
            yield report
        finally:
            with self._lock:
                self._open[:] = [other for other in self._open if other is not report]


class KeepsReport:
    """What counts its own calls: a loaded model, and an encoder."""

    _book: ReportBook

    @property
    def report(self) -> EncodeReport:
        """What has been encoded since it was loaded, as a copy."""
        return self._book.total

    def collect_report(self) -> AbstractContextManager[EncodeReport]:
        """Collect a report of the calls that end within a block, from whichever thread.

        with model.collect_report() as report:
            model.encode_document(texts)
        print(report.truncated)
        """
        return self._book.collect()

    def forget_report(self) -> None:
        """Begin the running total anew."""
        self._book = ReportBook()

    @property
    def report_book(self) -> ReportBook:
        """Where calls are counted."""
        return self._book
