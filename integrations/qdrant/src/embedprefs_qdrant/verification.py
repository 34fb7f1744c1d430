"""The store against its source: what is missing, stale, doubled, damaged, or of another identity."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs import InputError
from embedprefs.cache import without_cache
from embedprefs_qdrant.chunking import Template
from embedprefs_qdrant.context import ContextSample, ReadDocument
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.documents.document import hash_text
from embedprefs_qdrant.planning import Planner
from embedprefs_qdrant.report import IngestReport
from embedprefs_qdrant.scope import RunSources
from embedprefs_qdrant.spaces import ModelSpace
from embedprefs_qdrant.status import require_collection
from embedprefs_qdrant.stores.filters import Filter, Match
from embedprefs_qdrant.stores.points import StoredPoint
from embedprefs_qdrant.vectors import row_cosines

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
        incomplete: Source -> points that lack a vector, or have one that was made under another identity.
        stale: Source -> points of a chunk that the document no longer has.
        outdated: Source -> points whose payload is not what the document says now, or whose vector was made of another
            state of the document.
        absent: Sources in the collection, in scope, that are not among the documents.
        foreign: Points that name no source, so were not written by an ingest.
        sampled: Points whose text was embedded again.
        deviating: Id -> least cosine, for those sampled of which a stored vector is another one.
        unreadable: Source -> reason, for what could not be read.
        repaired: Whether the repair was done, and left nothing of the above but `absent` and `foreign`.
    """

    collection: str
    documents: int = 0
    points: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    incomplete: dict[str, int] = field(default_factory=dict)
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
        return not (
            self.missing
            or self.incomplete
            or self.stale
            or self.outdated
            or self.absent
            or self.foreign
            or self.deviating
        )

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
        documents: The source, as for `ingest`; for a repair something that can be read more than once.
        sample: Points of these documents that are embedded again, where chunks are read in their documents by reading
            these again, and compared with the stored vectors; 0 embeds nothing.
        repair: Embed what is missing, incomplete or deviates, delete what is stale; absent and foreign points are left
            alone.
        read_options: Further arguments of `read_documents`.

    Raises:
        PreferenceMismatchError: The collection was made under another identity.
        InputError: There is no such collection, or a repair was asked for and the documents can be read only once.
    """
    if repair and isinstance(documents, Iterator):
        raise InputError(
            f"A repair reads the documents several times, and a {type(documents).__name__} can be read once.\n"
            "  Give paths or a list."
        )
    collection = ingestor.collection
    require_collection(collection)
    collection.open(create=False)
    report = VerifyReport(collection.name)
    reading = IngestReport(collection.name)
    sources = RunSources(documents, ingestor.root)
    states = ingestor.states()
    planner = ingestor.planner(states, deep=True)
    read: set[str] = set()
    in_context = ContextSample(sample) if ingestor.in_context else None
    for document in ingestor.read(documents, reading, sources, read_options or {}):
        report.documents += 1
        read.add(document.source)
        if in_context is not None and document.source in states:
            in_context.meet(document, states[document.source].points)
        try:
            _compare(planner, document, report)
        except InputError as error:
            reading.failed[document.source] = str(error)
    report.unreadable = dict(reading.failed)
    report.points = ingestor.store.count(collection.name)
    report.foreign = report.points - sum(state.points for state in states.values())
    report.absent = sources.absent(states)
    if in_context is not None:
        _compare_in_context(ingestor, report, in_context)
    elif sample:
        _sample(ingestor, report, read, sample)
    if repair and not report.is_good:
        _repair(ingestor, documents, report, read_options)
    return report


def _compare(planner: Planner, document: Document, report: VerifyReport) -> None:
    plan = planner.plan(document)
    if plan is None:
        return
    counts = {
        "missing": len(plan.new) - plan.incomplete - plan.outdated,
        "incomplete": plan.incomplete,
        "stale": len(plan.stale),
        "outdated": plan.outdated + len(plan.moved) + len(plan.kept),
    }
    for name, count in counts.items():
        if count:
            getattr(report, name)[document.source] = count


def _sample(ingestor: QdrantIngestor, report: VerifyReport, sources: set[str], count: int) -> None:
    """Embed the stored text of some points again; chosen at random, so that repeated runs see more of them."""
    collection = ingestor.collection
    stored = ingestor.store.scroll(collection.name, payload=("source",), batch_size=1024)
    candidates = [point.id for point in stored if point.payload.get("source") in sources]
    chosen = random.SystemRandom().sample(candidates, min(count, len(candidates)))
    names = tuple(collection.spaces)
    found = ingestor.store.existing(collection.name, chosen, payload=True, vectors=names)
    known = {point: _embedded_text(ingestor.chunker.template, point.payload) for point in found.values()}
    for name in names:
        points = [point for point, text in known.items() if text is not None and name in point.vectors]
        if points:
            with without_cache():  # a kept vector would say what the model did once
                made = collection.spaces[name].embed_documents([str(known[point]) for point in points])
            collection.check_canaries_of(name)
            _note_deviating(ingestor, report, name, points, made)
    report.sampled = sum(text is not None for text in known.values())


def _compare_in_context(ingestor: QdrantIngestor, report: VerifyReport, sample: ContextSample) -> None:
    """Read the documents of some points again; a point that was made of another state of its document is left out."""
    collection = ingestor.collection
    space = collection.spaces[collection.main]
    if not isinstance(space, ModelSpace):
        raise InputError(f"A {type(space).__name__} does not read documents for the vectors of their chunks.")
    for document, count in sample.chosen():
        read = ReadDocument.of(document)
        own = Filter(must=(Match("source", document.source),))
        stored = list(ingestor.store.scroll(collection.name, filter=own, payload=True, vectors=(collection.main,)))
        points, spans = [], []
        for point in random.SystemRandom().sample(stored, min(count, len(stored))):
            passage = read.passage_at(int(point.payload.get("start", 0)), int(point.payload.get("end", 0)))
            if passage.content_hash == point.payload.get("content_hash") and collection.main in point.vectors:
                points.append(point)
                spans.append((passage.start, passage.end))
        if points:
            collection.check_canaries_of(collection.main)
            _note_deviating(ingestor, report, collection.main, points, space.embed_passages(read.text, spans))
            report.sampled += len(points)


def _note_deviating(
    ingestor: QdrantIngestor, report: VerifyReport, name: str, points: Sequence[StoredPoint], made: Any
) -> None:
    """Note the points whose stored vector is another one than that made now."""
    stored = np.stack([np.asarray(point.vectors[name], dtype=np.float32) for point in points])
    is_scaled = ingestor.collection.spaces[name].distance != "cosine"
    for point, agreement in zip(points, _agreements(made, stored, is_scaled=is_scaled), strict=True):
        if agreement < LEAST_COSINE:
            identity = str(point.id)
            report.deviating[identity] = min(agreement, report.deviating.get(identity, 1.0))


def _agreements(made: Any, stored: Any, *, is_scaled: bool) -> list[float]:
    """The cosine of each pair; where lengths count too, times the ratio of their lengths."""
    cosines = row_cosines(made, stored)
    if is_scaled:
        lengths = np.stack([np.linalg.norm(made, axis=1), np.linalg.norm(stored, axis=1)])
        longest = lengths.max(axis=0)
        cosines = cosines * np.where(longest > 0, lengths.min(axis=0) / np.maximum(longest, 1e-30), 1.0)
    return [float(value) for value in cosines]


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
    broken = {*report.missing, *report.incomplete, *report.stale, *report.outdated}
    for source in broken:
        # Another state makes the next ingest look at every chunk of the document.
        store.set_payload(name, {"document_hash": ""}, filter=Filter(must=(Match("source", source),)))
    ingestor.ingest(documents, read_options=read_options)
    again = verify_collection(ingestor, documents, sample=0, read_options=read_options)
    report.repaired = not (again.missing or again.incomplete or again.stale or again.outdated)
