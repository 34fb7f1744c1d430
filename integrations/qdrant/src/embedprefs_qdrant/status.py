"""What a collection holds, under which identity, since when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedprefs import InputError, PreferenceMismatchError, Record
from embedprefs_qdrant.collection import DENSE, Collection
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS, source_states
from embedprefs_qdrant.stores.protocol import CollectionDescription

__all__ = ["CollectionStatus", "collection_status", "require_collection"]


@dataclass(frozen=True)
class CollectionStatus:
    """One collection as it is now.

    Attributes:
        collection: Its name.
        store: Where it is kept.
        engine: What keeps it, with its version.
        points: Chunks stored.
        documents: Documents they are of.
        incomplete: Documents of which only a part is stored, or several states; an ingest finishes them.
        vectors: Name of each vector -> its size, distance and kind, in words.
        state: ready, indexing or failed, as the store says.
        indexed_vectors: Vectors in a search graph; None where the store builds none.
        created_at: When it was created, ISO 8601; None without a record.
        writer: What created it.
        fingerprint: Of the main vector's identity; None without a record.
        identity: The same, readable.
        fits: Whether the preferences at hand have this identity; None where the collection carries no record.
        mismatch: The differences, field by field, where they do not.
    """

    collection: str
    store: str
    engine: str
    points: int
    documents: int
    incomplete: tuple[str, ...]
    vectors: Mapping[str, str]
    state: Literal["ready", "indexing", "failed"]
    indexed_vectors: int | None
    created_at: str | None
    writer: str | None
    fingerprint: str | None
    identity: Mapping[str, Any]
    fits: bool | None
    mismatch: str | None

    def to_json(self) -> dict[str, Any]:
        """The status as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"incomplete": list(self.incomplete), "vectors": dict(self.vectors)}


def require_collection(collection: Collection) -> CollectionDescription:
    """The collection as it is now.

    Raises:
        InputError: There is no such collection.
    """
    description = collection.store.describe(collection.name)
    if description is None:
        known = ", ".join(collection.store.collections()) or "none yet"
        raise InputError(
            f"{collection.store.url}: there is no collection {collection.name!r}.\n  There are: {known}\n"
            "  Index documents into it first, or name another one (index.collection)."
        )
    return description


def collection_status(collection: Collection) -> CollectionStatus:
    """Look at a collection; nothing is embedded and no model is loaded.

    Raises:
        InputError: There is no such collection.
    """
    description = require_collection(collection)
    record = collection.read()
    states = source_states(
        collection.store.scroll(collection.name, payload=("source", *BOOKKEEPING_FIELDS), batch_size=1024)
    )
    entries = (record or {}).get("vectors", {})
    entry: Mapping[str, Any] = entries.get(DENSE) or next(iter(entries.values()), {})
    identity = Record.from_json(entry["identity"]) if entry.get("identity") else None
    fits: bool | None = None
    mismatch: str | None = None
    if record is not None:
        try:
            collection.open(create=False)
            fits = True
        except PreferenceMismatchError as error:
            fits, mismatch = False, str(error)
    capabilities = collection.store.capabilities
    vectors = {
        name: f"{layout.size} dimensions, {layout.distance}{', several per point' if layout.multivector else ''}"
        for name, layout in description.layout.vectors.items()
    }
    vectors |= {
        name: "sparse, weighted by inverse document frequency" if layout.idf else "sparse"
        for name, layout in description.layout.sparse_vectors.items()
    }
    return CollectionStatus(
        collection=description.name,
        store=collection.store.url,
        engine=f"{capabilities.engine} {capabilities.engine_version or ''}".strip(),
        points=description.points,
        documents=len(states),
        incomplete=tuple(sorted(source for source, state in states.items() if not state.is_whole)),
        vectors=vectors,
        state=description.status,
        indexed_vectors=description.indexed_vectors,
        created_at=(record or {}).get("created_at"),
        writer=(record or {}).get("writer"),
        fingerprint=identity.fingerprint if identity is not None else None,
        identity=identity.identity if identity is not None else dict(entry.get("description") or {}),
        fits=fits,
        mismatch=mismatch,
    )
