"""One collection: its layout, the record it carries, and whether preferences fit it."""

from __future__ import annotations

import datetime as dt
import uuid
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from embedprefs import EmbedPrefsWarning, PreferenceMismatchError, Record
from embedprefs.preferences import HnswPreferences, IndexPreferences, SparsePreferences
from embedprefs.record import CANARY_TEXTS, canary_bound
from embedprefs_qdrant.late_interaction import LateInteraction
from embedprefs_qdrant.spaces import EmbeddingSpace, check_canaries, decode_vectors, encode_vectors
from embedprefs_qdrant.stores.layout import (
    CollectionLayout,
    HnswOptions,
    PayloadIndex,
    Quantization,
    SparseVectorLayout,
    VectorLayout,
)
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["COARSE", "DENSE", "LATE", "SPARSE", "Collection", "collection_layout"]

#: Names of the vectors in a collection.
DENSE = "dense"
COARSE = "dense_first"
SPARSE = "sparse"
LATE = "late_interaction"

RECORD_VERSION = 1


def collection_layout(
    spaces: Mapping[str, EmbeddingSpace],
    index: IndexPreferences,
    *,
    sparse_idf: bool | None,
    late_size: int | None = None,
) -> CollectionLayout:
    """The layout that `[index]` asks for.

    Args:
        spaces: Space by name of its vector; `DENSE` is the main one.
        index: The preferences.
        sparse_idf: Whether the engine weighs the sparse vector by inverse document frequency; None keeps no sparse
            vector.
        late_size: Length of the token vectors of a late-interaction model; None keeps none.
    """
    hnsw = _hnsw(index.hnsw)
    quantization = None if index.quantization == "none" else Quantization(index.quantization)
    vectors = {
        name: VectorLayout(
            size=space.size,
            distance=space.distance,
            datatype=space.datatype,
            on_disk=index.on_disk or None,
            hnsw=hnsw,
            quantization=quantization,
        )
        for name, space in spaces.items()
    }
    if index.two_stage_dims is not None:
        vectors[COARSE] = VectorLayout(size=index.two_stage_dims, distance="cosine", hnsw=hnsw)
    if late_size is not None:
        # Only rescored, never searched: a graph over every token would cost much and serve nothing.
        vectors[LATE] = VectorLayout(
            size=late_size, distance="cosine", datatype="float16", multivector=True, hnsw=HnswOptions(m=0)
        )
    indexes: dict[str, PayloadIndex] = {
        "source": PayloadIndex("keyword"),
        "content_hash": PayloadIndex("keyword"),
    }
    for field, kind in index.metadata_fields.items():
        indexes[f"metadata.{field}"] = PayloadIndex(kind, tenant=field == index.tenant_field)
    if index.tenant_field is not None and index.tenant_field not in index.metadata_fields:
        indexes[f"metadata.{index.tenant_field}"] = PayloadIndex("keyword", tenant=True)
    return CollectionLayout(
        vectors=vectors,
        sparse_vectors={} if sparse_idf is None else {SPARSE: SparseVectorLayout(idf=sparse_idf)},
        payload_indexes=indexes,
        on_disk_payload=index.on_disk or None,
    )


def _hnsw(preferences: HnswPreferences) -> HnswOptions | None:
    options = HnswOptions(m=preferences.m, ef_construct=preferences.ef_construct)
    return None if options == HnswOptions() else options


class Collection:
    """A collection in a store together with the spaces that its vectors belong to.

    Opening compares the recorded identities with the preferences' before anything is embedded or searched.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        spaces: Mapping[str, EmbeddingSpace],
        index: IndexPreferences,
        sparse: SparsePreferences | None = None,
        late: LateInteraction | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.spaces = dict(spaces)
        self.index = index
        self.sparse = sparse
        self.late = late
        #: Name of the main dense vector: `DENSE`, or what an adopted collection calls it.
        self.main = DENSE
        #: Payload field with a chunk's text.
        self.text_field = "text"
        self._checked_canaries: set[str] = set()
        self._record: dict[str, Any] | None = None

    @property
    def layout(self) -> CollectionLayout:
        """What the preferences ask for."""
        idf = None if self.sparse is None else self.sparse.name == "bm25"
        return collection_layout(self.spaces, self.index, sparse_idf=idf, late_size=self._late_size())

    def _late_size(self) -> int | None:
        """Length of the token vectors: as recorded, so that an unchanged run need not load the model."""
        if self.late is None:
            return None
        recorded = (self._record or self.read() or {}).get("late_interaction")
        return int(recorded["size"]) if recorded else self.late.size

    @property
    def has_token_vectors(self) -> bool:
        """Whether it was filled with vectors for late interaction, and the preferences name their model."""
        return self.late is not None and "late_interaction" in (self._record or self.read() or {})

    @property
    def exists(self) -> bool:
        """Whether the store has it."""
        return self.store.describe(self.name) is not None

    def read(self) -> dict[str, Any] | None:
        """The record it carries; None if there is none."""
        return self.store.read_record(self.name)

    def open(self, *, create: bool) -> bool:
        """Make sure that the collection is there and of this identity.

        Args:
            create: Create it, or record the identity of an empty one, where that is missing.

        Returns:
            Whether it was created now.

        Raises:
            PreferenceMismatchError: It was made under another identity, or holds points and no record.
        """
        description = self.store.describe(self.name)
        recorded = self.store.read_record(self.name) if description is not None else None
        if description is not None and recorded is not None:
            self._follow_adoption(recorded)
            self._compare(recorded)
        elif description is not None and description.points:
            raise PreferenceMismatchError(
                f"The collection {self.name} in {self.store.url} holds {description.points} points and no record of "
                "the preferences they were embedded with, so nothing says whether these preferences fit them.\n"
                "  Run `embedprefs adopt`, which embeds a stored sample again and shows how well it agrees; or name "
                "another collection.",
                left={},
                right=dict(self._readable()),
            )
        if not create:
            self._record = recorded
            return False
        created = self.store.ensure(self.name, self.layout)
        if recorded is None:
            recorded = self.new_record()
            self.store.write_record(self.name, recorded)
        else:
            recorded = self._with_new_vectors(recorded)
        self._record = recorded
        return created

    def _follow_adoption(self, recorded: Mapping[str, Any]) -> None:
        """Use the names of a collection that something else filled and that was adopted."""
        adopted = recorded.get("adopted")
        if not isinstance(adopted, Mapping) or self.main == adopted["vector"]:
            return
        self.spaces = {str(adopted["vector"]) if name == self.main else name: s for name, s in self.spaces.items()}
        self.main = str(adopted["vector"])
        self.text_field = str(adopted["text_field"])

    def new_record(self) -> dict[str, Any]:
        """The record of these preferences, with canary vectors; loads the models."""
        record: dict[str, Any] = {
            "version": RECORD_VERSION,
            "uuid": str(uuid.uuid4()),
            "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "writer": f"embedprefs-qdrant {version('embedprefs-qdrant')}",
            "vectors": {name: self._vector_entry(name) for name in self.spaces},
        }
        if self.index.two_stage_dims is not None:
            record["two_stage_dims"] = self.index.two_stage_dims
        if self.sparse is not None:
            record["sparse"] = self._sparse_identity()
        if self.late is not None:
            record["late_interaction"] = {"size": self.late.size, **self.late.identity()}
        return record

    def _vector_entry(self, name: str) -> dict[str, Any]:
        space = self.spaces[name]
        record = space.record
        vectors = space.embed_documents(CANARY_TEXTS)
        self._checked_canaries.add(name)
        return {
            "identity": record.to_json() if record is not None else None,
            "description": dict(space.description),
            "canaries": encode_vectors(vectors),
        }

    def _sparse_identity(self) -> dict[str, Any]:
        if self.sparse is None:
            raise ValueError("The collection has no sparse vector.")
        identity = self.sparse.model_dump(exclude={"revision"})
        if self.sparse.name != "bm25":
            identity = {"name": self.sparse.name}
        return identity

    def _with_new_vectors(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Add the entries of named vectors that the collection got only now."""
        missing = [name for name in self.spaces if name not in recorded["vectors"]]
        if not missing:
            return recorded
        recorded = {**recorded, "vectors": {**recorded["vectors"]}}
        for name in missing:
            recorded["vectors"][name] = self._vector_entry(name)
        self.store.write_record(self.name, recorded)
        return recorded

    def _compare(self, recorded: Mapping[str, Any]) -> None:
        if int(recorded.get("version", 0)) > RECORD_VERSION:
            raise PreferenceMismatchError(
                f"The collection {self.name} carries a record of version {recorded['version']}; this version of "
                f"embedprefs-qdrant reads up to {RECORD_VERSION}.\n  Run: pip install --upgrade embedprefs-qdrant"
            )
        for name, space in self.spaces.items():
            entry = recorded["vectors"].get(name)
            if entry is not None:
                self._compare_space(name, space, entry)
        if self.index.two_stage_dims is not None and recorded.get("two_stage_dims") != self.index.two_stage_dims:
            raise PreferenceMismatchError(
                f"index.two_stage_dims is {self.index.two_stage_dims}; the collection {self.name} was made with "
                f"{recorded.get('two_stage_dims', 'none')}.\n"
                "  Leave the preference as the collection has it, or name another collection.",
                left={"two_stage_dims": recorded.get("two_stage_dims")},
                right={"two_stage_dims": self.index.two_stage_dims},
                differences=("two_stage_dims",),
            )
        if self.sparse is not None and recorded.get("sparse") != self._sparse_identity():
            raise PreferenceMismatchError(
                f"The sparse vectors of the collection {self.name} were made otherwise.\n"
                f"  recorded:    {recorded.get('sparse') or 'no sparse vector'}\n"
                f"  preferences: {self._sparse_identity()}\n"
                "  Set [sparse] and index.hybrid as recorded, or name another collection.",
                left=dict(recorded.get("sparse") or {}),
                right=self._sparse_identity(),
                differences=("sparse",),
            )

        if self.late is not None and "late_interaction" in recorded:
            stored = {key: value for key, value in recorded["late_interaction"].items() if key != "size"}
            if stored["weights"] != self.late.identity()["weights"]:
                raise PreferenceMismatchError(
                    f"The token vectors of the collection {self.name} were made by another model.\n"
                    f"  recorded:    {stored}\n  preferences: {self.late.identity()}\n"
                    "  Set [rerank] as recorded, or name another collection.",
                    left=stored,
                    right=self.late.identity(),
                    differences=("late_interaction",),
                )

    def _compare_space(self, name: str, space: EmbeddingSpace, entry: Mapping[str, Any]) -> None:
        own = space.record
        stored = Record.from_json(entry["identity"]) if entry.get("identity") else None
        if own is None or stored is None:
            if own is not None or stored is not None or entry.get("description") != dict(space.description):
                raise PreferenceMismatchError(
                    f"The vector {name} of the collection {self.name} was made by another embedding function.\n"
                    f"  recorded: {entry.get('description')}\n  now:      {dict(space.description)}\n"
                    "  Use the recorded one, or name another collection.",
                    left=dict(entry.get("description") or {}),
                    right=dict(space.description),
                    differences=("description",),
                )
            return
        comparison = stored.compare(own)
        if comparison.status == "different":
            raise PreferenceMismatchError(
                f"The collection {self.name} in {self.store.url} was embedded under another identity, so these "
                f"preferences neither fit its vectors nor may add to them.\n{comparison.to_text()}\n"
                "  Set the preferences as recorded, or name another collection (index.collection) and index into it.",
                left=stored.identity,
                right=own.identity,
                differences=[difference.field for difference in comparison.differences],
            )
        if comparison.status == "soft":
            warnings.warn(
                f"The collection {self.name} was embedded with other numerics; vectors may differ by rounding.\n"
                f"{comparison.to_text()}",
                EmbedPrefsWarning,
                stacklevel=4,
            )

    def check_canaries(self) -> None:
        """Compare each loaded model with the canary vectors of the collection, once.

        Raises:
            PreferenceMismatchError: A model gives other vectors than the one that filled the collection.
        """
        recorded = self._record or self.read()
        if recorded is None:
            return
        for name, space in self.spaces.items():
            entry = recorded["vectors"].get(name)
            if entry is None or name in self._checked_canaries or not entry.get("canaries"):
                continue
            check_canaries(space, decode_vectors(entry["canaries"]), self._bound(space, entry), self.name)
            self._checked_canaries.add(name)

    @staticmethod
    def _bound(space: EmbeddingSpace, entry: Mapping[str, Any]) -> float:
        own = space.record
        if own is None or not entry.get("identity"):
            return 0.999
        return float(canary_bound(Record.from_json(entry["identity"]).numerics, own.numerics))

    def _readable(self) -> Mapping[str, Any]:
        record = self.spaces[self.main].record
        return record.identity if record is not None else self.spaces[self.main].description
