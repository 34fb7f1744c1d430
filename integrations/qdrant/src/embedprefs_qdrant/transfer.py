"""A collection copied to another store, with its record: from the embedded engine to a server, for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from embedprefs import InputError, PreferenceMismatchError
from embedprefs.wording import many
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.points import Point
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["ExportReport", "export_collection"]

BATCH_SIZE = 256


@dataclass(frozen=True)
class ExportReport:
    """What was copied.

    Attributes:
        collection: Name of the collection there.
        store: Where to.
        points: Points in the source.
        copied: Points sent; those that were there already, equal, were not.
        verified: Points counted there afterwards.
        surplus: Points there that the source does not have; they are left as they are.
    """

    collection: str
    store: str
    points: int
    copied: int
    verified: int
    surplus: int

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def export_collection(
    source: Store,
    name: str,
    target: Store,
    *,
    target_name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Copy a collection's points, payload indexes and record to another store; running it again continues.

    The record goes first, so that a copy broken off is recognised as what it is; points that are there already with
    equal payloads are not sent again.

    Args:
        source: Where the collection is.
        name: Its name.
        target: Where to.
        target_name: Its name there; None keeps the name.
        progress: Called with the points looked at and their number.

    Raises:
        InputError: There is no such collection, or the target is the source.
        PreferenceMismatchError: The target has a collection of that name with another record or layout, or with points
            and no record.
    """
    description = source.describe(name)
    if description is None:
        known = ", ".join(source.collections()) or "none yet"
        raise InputError(f"{source.url}: there is no collection {name!r}.\n  There are: {known}")
    there = target_name or name
    if (source is target or source.url == target.url) and there in (name, description.name, *description.aliases):
        raise InputError(f"{source.url}: {there!r} would be copied onto itself.\n  Name another store or collection.")
    record = source.read_record(name)
    existing = target.describe(there)
    recorded = target.read_record(there) if existing is not None else None
    if existing is not None and existing.points and recorded is None:
        raise PreferenceMismatchError(
            f"{target.url} has a collection {there!r} with {many(existing.points, 'point')} and no record, so nothing "
            "says whether they are of the same space.\n"
            "  Name another collection for the copy (--to-collection)."
            + ("" if record is not None else " Adopt the source first, so that a copy broken off can be continued."),
            right={"uuid": (record or {}).get("uuid")},
        )
    if recorded is not None and (record is None or recorded.get("uuid") != record.get("uuid")):
        raise PreferenceMismatchError(
            f"{target.url} has a collection {there!r} already, and it is no copy of this one.\n"
            "  Name another collection for the copy (--to-collection).",
            left={"uuid": recorded.get("uuid")},
            right={"uuid": (record or {}).get("uuid")},
            differences=("uuid",),
        )
    target.ensure(there, _asked_for(description.layout))
    if record is not None and recorded is None:
        target.write_record(there, record)
    seen = copied = 0
    points = source.scroll(name, payload=True, vectors=True, batch_size=BATCH_SIZE)
    with target.bulk(there):
        while batch := list(itertools.islice(points, BATCH_SIZE)):
            stored = target.existing(there, [point.id for point in batch], payload=True)
            new = [
                Point(point.id, point.vectors, point.payload)
                for point in batch
                if point.id not in stored or stored[point.id].payload != point.payload
            ]
            if new:
                target.upsert(there, new, verify_fields=("content_hash", *BOOKKEEPING_FIELDS))
            seen += len(batch)
            copied += len(new)
            if progress is not None:
                progress(seen, description.points)
    target.barrier(there)
    verified = target.count(there)
    return ExportReport(there, target.url, description.points, copied, verified, max(0, verified - seen))


def _asked_for(layout: CollectionLayout) -> CollectionLayout:
    """The layout without payloads on disk where no vector is on disk.

    Engines report that payloads are on disk although nobody asked for it: it is their own default. `index.on_disk` asks
    for both.
    """
    on_disk = any(vector.on_disk for vector in layout.vectors.values())
    return replace(layout, on_disk_payload=None) if layout.on_disk_payload and not on_disk else layout
