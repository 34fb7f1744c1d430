"""The store against its source: what is missing, stale, doubled, damaged, or of another identity."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs_qdrant.chunking import Template
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.documents.document import hash_text
from embedprefs_qdrant.planning import Planner
from embedprefs_qdrant.report import IngestReport
from embedprefs_qdrant.stores.filters import Filter, Match

if TYPE_CHECKING:
    from embedprefs_qdrant.ingest import QdrantIngestor

__all__ = ["VerifyReport", "verify_collection"]

#: The least cosine between a stored vector and the same text embedded again; bfloat16 on one side moves it less.
LEAST_COSINE = 0.999


@dataclass
class VerifyReport:
    """What was compared and what was found.

    Attributes:
        collection: Name.
        documents: Documents of the source.
        points: Points in the collection.
        missing: Source -> chunks that the store lacks.
        stale: Source -> points of a chunk that the document no longer has.
        outdated: Source -> points whose payload is not what the document says now.
        absent: Sources in the collection, in scope, that are not among the documents.
        foreign: Points that name no source, so were not written by an ingest.
        sampled: Points whose text was embedded again.
        deviating: Id -> cosine, for those sampled whose stored vector is another one.
        unreadable: Source -> reason, for what could not be read.
        repaired: Whether the repair was done, and left nothing of the above but `absent` and `foreign`.
    """

    collection: str
    documents: int = 0
    points: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    outdated: dict[str, int] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    foreign: int = 0
    sampled: int = 0
    deviating: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    repaired: bool = False

    @property
    def is_good(self) -> bool:
        """Whether store and source agree."""
        return not (self.missing or self.stale or self.outdated or self.absent or self.foreign or self.deviating)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"is_good": self.is_good}


def verify_collection(
    ingestor: QdrantIngestor,
    documents: Any,
    *,
    sample: int = 32,
    repair: bool = False,
    read_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Compare a collection with the documents it was made of.

    Args:
        ingestor: Of the collection.
        documents: The source, as for `ingest`.
        sample: Points whose text is embedded again and compared with the stored vector; 0 embeds nothing.
        repair: Embed what is missing or deviates, delete what is stale; absent and foreign points are left alone.
        read_options: Further arguments of `read_documents`.

    Raises:
        PreferenceMismatchError: The collection was made under another identity.
        InputError: There is no such collection.
    """
    collection = ingestor.collection
    ingestor.status()
    collection.open(create=False)
    report = VerifyReport(collection.name)
    reading = IngestReport(collection.name)
    seen: set[str] = set()
    states = ingestor.states()
    # Without states every document is cut and compared chunk by chunk.
    planner = Planner(
        ingestor.store, collection.name, ingestor.chunker.chunk, chunking=ingestor.chunking, states=states, deep=True
    )
    for document in ingestor.read(documents, reading, seen, read_options or {}):
        report.documents += 1
        _compare(planner, document, report)
    report.unreadable = dict(reading.failed)
    report.points = ingestor.store.count(collection.name)
    report.foreign = report.points - sum(state.points for state in states.values())
    report.absent = ingestor.absent(documents, states, seen, reading.failed)
    if sample:
        _sample(ingestor, report, sample)
    if repair and not report.is_good:
        _repair(ingestor, documents, report, read_options)
    return report


def _compare(planner: Planner, document: Document, report: VerifyReport) -> None:
    plan = planner.plan(document)
    if plan is None:
        return
    if plan.new:
        report.missing[document.source] = len(plan.new)
    if plan.stale:
        report.stale[document.source] = len(plan.stale)
    if plan.moved or plan.kept:
        report.outdated[document.source] = len(plan.moved) + len(plan.kept)


def _sample(ingestor: QdrantIngestor, report: VerifyReport, count: int) -> None:
    """Embed the stored text of some points again; chosen at random, so that repeated runs see more of them."""
    collection = ingestor.collection
    names = [point.id for point in ingestor.store.scroll(collection.name, payload=("source",)) if point.payload]
    chosen = random.SystemRandom().sample(names, min(count, len(names)))
    stored = ingestor.store.existing(collection.name, chosen, payload=True, vectors=(collection.main,))
    known = {point: _embedded_text(ingestor.chunker.template, point.payload) for point in stored.values()}
    points = [point for point, text in known.items() if text is not None and collection.main in point.vectors]
    if not points:
        return
    made = ingestor.space.embed_documents([str(known[point]) for point in points])
    collection.check_canaries()
    for point, vector in zip(points, made, strict=True):
        other = np.asarray(point.vectors[collection.main], dtype=np.float32)
        lengths = float(np.linalg.norm(vector) * np.linalg.norm(other))
        cosine = float(vector @ other) / lengths if lengths else 0.0
        if cosine < LEAST_COSINE:
            report.deviating[str(point.id)] = cosine
    report.sampled = len(points)


def _embedded_text(template: Template, payload: Mapping[str, Any]) -> str | None:
    """The text that was embedded for a stored chunk; None where the payload alone does not tell it.

    That is so where the template holds a title of the document's own first heading, or headings that were shortened.
    """
    headings = payload.get("headings") or []
    for title in (payload.get("title"), next(iter(headings), None)):
        text = template.render(
            text=str(payload.get("text", "")), headings=headings, title=title, source=str(payload.get("source", ""))
        )
        if hash_text(text) == payload.get("content_hash"):
            return text
    return None


def _repair(
    ingestor: QdrantIngestor, documents: Any, report: VerifyReport, read_options: Mapping[str, Any] | None
) -> None:
    store, name = ingestor.store, ingestor.collection.name
    if report.deviating:
        store.delete(name, ids=list(report.deviating))
    broken = {*report.missing, *report.stale, *report.outdated}
    for source in broken:
        # Another state makes the next ingest look at every chunk of the document.
        store.set_payload(name, {"document_hash": ""}, filter=Filter(must=(Match("source", source),)))
    ingestor.ingest(documents, read_options=read_options)
    again = verify_collection(ingestor, documents, sample=0, read_options=read_options)
    report.repaired = not (again.missing or again.stale or again.outdated)
