"""One collection: its layout, the record it carries, and whether preferences fit it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from embedprefs import EmbedPrefsWarning, PreferenceMismatchError, Record
from embedprefs.preferences import IndexPreferences, SparsePreferences
from embedprefs.record import canary_bound
from embedprefs.wording import many
from embedprefs_qdrant.encoders import encoder_identity, is_same_encoder
from embedprefs_qdrant.late_interaction import LateInteraction
from embedprefs_qdrant.layouts import COARSE, DENSE, LATE, SPARSE, collection_layout
from embedprefs_qdrant.spaces import EmbeddingSpace, check_canaries, decode_vectors, embed_canaries, encode_vectors
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.protocol import Store

__all__ = ["COARSE", "DENSE", "LATE", "SPARSE", "Collection", "collection_layout"]

RECORD_VERSION = 1

#: Digits of a fingerprint that each point carries: enough to tell the identities of one collection apart.
SHORT_FINGERPRINT = 12


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
        #: Vectors that were added when it was opened last, and that the points stored before lack.
        self.added: frozenset[str] = frozenset()
        self._checked_canaries: set[str] = set()
        self._record: dict[str, Any] | None = None

    @property
    def layout(self) -> CollectionLayout:
        """What the preferences ask for."""
        idf = None if self.sparse is None else self.sparse.name == "bm25"
        return collection_layout(self.spaces, self.index, main=self.main, sparse_idf=idf, late_size=self._late_size())

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
    def vectors(self) -> dict[str, str]:
        """Name of each vector that the preferences ask for -> short fingerprint of what it is made under.

        Points carry these, so that one of another identity is found, and one that lacks a vector is completed. Where
        the collection has a record, they are taken from it.
        """
        recorded = (self._record or {}).get("vectors", {})
        made = {
            name: _short_fingerprint(recorded[name] if name in recorded else _identity_entry(space))
            for name, space in self.spaces.items()
        }
        if self.index.two_stage_dims is not None:
            made[COARSE] = _digest([made[self.main], self.index.two_stage_dims])
        if self.sparse is not None:
            made[SPARSE] = _digest({key: value for key, value in self._sparse_identity().items() if key != "model"})
        if self.late is not None:
            made[LATE] = _digest(self.late.identity()["weights"])
        return made

    @property
    def exists(self) -> bool:
        """Whether the store has it."""
        return self.store.describe(self.name) is not None

    def read(self) -> dict[str, Any] | None:
        """The record it carries; None if there is none."""
        return self.store.read_record(self.name)

    def open(self, *, create: bool, extend: bool = False) -> bool:
        """Make sure that the collection is there and of this identity.

        Args:
            create: Create it, or record the identity of an empty one, where that is missing.
            extend: Add vectors that the preferences ask for and the collection lacks. Its points get them when they
                are stored again.

        Returns:
            Whether it was created now.

        Raises:
            PreferenceMismatchError: It was made under another identity, or holds points and no record.
        """
        description = self.store.describe(self.name)
        recorded = self.store.read_record(self.name) if description is not None else None
        if description is not None and recorded is not None:
            self._follow_adoption(recorded)
            self._compare(recorded, extend=create and extend)
        elif description is not None and description.points:
            raise PreferenceMismatchError(
                f"The collection {self.name} in {self.store.url} holds {many(description.points, 'point')} and no "
                "record of the preferences they were embedded with, so nothing says whether these preferences fit "
                "them.\n"
                "  Run `embedprefs adopt`, which embeds a stored sample again and shows how well it agrees; or name "
                "another collection.",
                left={},
                right=dict(self._readable()),
            )
        if (self._record or {}).get("uuid") != (recorded or {}).get("uuid"):
            self._checked_canaries.clear()
        self._record = recorded
        if not create:
            return False
        # Models are loaded before anything is created: one that cannot be leaves no trace.
        wanted = self.new_record() if recorded is None else self._extended(recorded)
        created = self.store.ensure(self.name, self.layout)
        if recorded is None and (faster := self.store.read_record(self.name)) is not None:
            # Another process has recorded its preferences meanwhile.
            self._compare(faster, extend=False)
            wanted = recorded = faster
        stored = description is not None and description.points > 0
        self.added = _vector_names(wanted) - _vector_names(recorded) if stored and recorded else frozenset()
        if wanted != recorded:
            self.store.write_record(self.name, wanted)
            kept = self.store.read_record(self.name)
            if kept is not None and kept.get("uuid") != wanted.get("uuid"):
                # Another process recorded its preferences at the same moment.
                self._compare(kept, extend=False)
                wanted = kept
        self._record = wanted
        if extend:
            self._warn_of_unfilled(wanted)
        return created

    def _follow_adoption(self, recorded: Mapping[str, Any]) -> None:
        """Use the names of a collection that something else filled and that was adopted."""
        adopted = recorded.get("adopted")
        if not isinstance(adopted, Mapping):
            return
        name = str(adopted["vector"])
        self.text_field = str(adopted["text_field"])
        if self.main != name:
            self.spaces = {name if key == self.main else key: space for key, space in self.spaces.items()}
            self.main = name

    def new_record(self) -> dict[str, Any]:
        """The record of these preferences, with canary vectors; loads the models."""
        record: dict[str, Any] = {
            "version": RECORD_VERSION,
            "uuid": str(uuid.uuid4()),
            "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "writer": f"embedprefs-qdrant {version('embedprefs-qdrant')}",
            "vectors": {},
        }
        return self._extended(record)

    def _extended(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The record, with the entries of what the preferences ask for and it does not mention yet."""
        record = {**recorded, "vectors": dict(recorded["vectors"])}
        for name in self.spaces:
            if name not in record["vectors"]:
                record["vectors"][name] = self._vector_entry(name)
        if self.index.two_stage_dims is not None:
            record["two_stage_dims"] = self.index.two_stage_dims
        if self.sparse is not None and "sparse" not in record:
            record["sparse"] = self._sparse_identity()
        if self.late is not None and "late_interaction" not in record:
            record["late_interaction"] = {"size": self.late.size, **self.late.identity()}
        return record

    def _vector_entry(self, name: str) -> dict[str, Any]:
        space = self.spaces[name]
        vectors = embed_canaries(space)
        self._checked_canaries.add(name)
        return {**_identity_entry(space), "canaries": encode_vectors(vectors)}

    def _sparse_identity(self) -> dict[str, Any]:
        if self.sparse is None:
            raise ValueError("The collection has no sparse vector.")
        if self.sparse.name == "bm25":
            return self.sparse.model_dump(exclude={"revision"})
        return encoder_identity(self.sparse.name, self.sparse.revision)

    def _warn_of_unfilled(self, recorded: Mapping[str, Any]) -> None:
        unfilled = sorted(_vector_names(recorded) - self.vectors.keys())
        if unfilled:
            warnings.warn(
                f"The collection {self.name} has the vectors {', '.join(unfilled)}, which these preferences do not "
                "make. Chunks stored now lack them until documents are indexed with preferences that do.",
                EmbedPrefsWarning,
                stacklevel=4,
            )

    def _compare(self, recorded: Mapping[str, Any], *, extend: bool) -> None:
        if int(recorded.get("version", 0)) > RECORD_VERSION:
            raise PreferenceMismatchError(
                f"The collection {self.name} carries a record of version {recorded['version']}; this version of "
                f"embedprefs-qdrant reads up to {RECORD_VERSION}.\n  Run: pip install --upgrade embedprefs-qdrant"
            )
        for name, space in self.spaces.items():
            entry = recorded["vectors"].get(name)
            if entry is not None:
                self._compare_space(name, space, entry)
        dims = recorded.get("two_stage_dims")
        if self.index.two_stage_dims not in (None, dims) and not (extend and dims is None):
            self._refuse(
                f"index.two_stage_dims is {self.index.two_stage_dims}; the collection {self.name} was made with "
                f"{dims or 'none'}.\n  Leave the preference as the collection has it, "
                + ("index documents, which adds them, " if dims is None else "")
                + "or name another collection.",
                "two_stage_dims",
                {"two_stage_dims": dims},
                {"two_stage_dims": self.index.two_stage_dims},
            )
        sparse = recorded.get("sparse")
        if self.sparse is not None and not (extend and sparse is None):
            own = self._sparse_identity()
            if sparse is None or not is_same_encoder(sparse, own):
                self._refuse(
                    f"The sparse vectors of the collection {self.name} were made otherwise.\n"
                    f"  recorded:    {sparse or 'no sparse vector'}\n  preferences: {own}\n"
                    "  Set [sparse] and index.hybrid as recorded, "
                    + ("index documents, which adds them, " if sparse is None else "")
                    + "or name another collection.",
                    "sparse",
                    dict(sparse or {}),
                    own,
                )
        late = recorded.get("late_interaction")
        if self.late is not None and late is not None and not is_same_encoder(late, self.late.identity()):
            self._refuse(
                f"The token vectors of the collection {self.name} were made by another model.\n"
                f"  recorded:    {late}\n  preferences: {self.late.identity()}\n"
                "  Set [rerank] as recorded, or name another collection.",
                "late_interaction",
                dict(late),
                self.late.identity(),
            )

    @staticmethod
    def _refuse(message: str, difference: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        raise PreferenceMismatchError(message, left=left, right=right, differences=(difference,))

    def _compare_space(self, name: str, space: EmbeddingSpace, entry: Mapping[str, Any]) -> None:
        own = space.record
        stored = Record.from_json(entry["identity"]) if entry.get("identity") else None
        if own is None or stored is None:
            if own is not None or stored is not None or entry.get("description") != dict(space.description):
                self._refuse(
                    f"The vector {name} of the collection {self.name} was made by another embedding function.\n"
                    f"  recorded: {entry.get('description')}\n  now:      {dict(space.description)}\n"
                    "  Use the recorded one, or name another collection.",
                    "description",
                    dict(entry.get("description") or {}),
                    dict(space.description),
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
                stacklevel=5,
            )

    def check_canaries(self) -> None:
        """Compare each loaded model with the canary vectors of the collection, once.

        Raises:
            PreferenceMismatchError: A model gives other vectors than the one that filled the collection.
        """
        for name in self.spaces:
            self.check_canaries_of(name)

    def check_canaries_of(self, name: str) -> None:
        """Compare one vector's model with its canary vectors, once."""
        recorded = self._record or self.read()
        if recorded is None or name in self._checked_canaries:
            return
        space, entry = self.spaces[name], recorded["vectors"].get(name)
        if entry is not None and entry.get("canaries"):
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


def _vector_names(record: Mapping[str, Any]) -> frozenset[str]:
    """The vectors that a record speaks of."""
    keys = (("two_stage_dims", COARSE), ("sparse", SPARSE), ("late_interaction", LATE))
    return frozenset([*record["vectors"], *(name for key, name in keys if record.get(key) is not None)])


def _identity_entry(space: EmbeddingSpace) -> dict[str, Any]:
    record = space.record
    return {
        "identity": record.to_json() if record is not None else None,
        "description": dict(space.description),
    }


def _short_fingerprint(entry: Mapping[str, Any]) -> str:
    identity = entry.get("identity")
    if identity:
        return str(identity["fingerprint"])[:SHORT_FINGERPRINT]
    return _digest(entry.get("description"))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT_FINGERPRINT]
