"""Every vector of a chunk: those of the models, the short ones of a first stage, sparse ones and token vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from embedprefs.model.report import EncodeReport
from embedprefs_qdrant.collection import COARSE, LATE, SPARSE, Collection
from embedprefs_qdrant.payloads import held_vectors
from embedprefs_qdrant.spaces import ModelSpace
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.stores.filters import Filter, MatchAny
from embedprefs_qdrant.stores.points import PointId, SparseVector, Vector
from embedprefs_qdrant.vectors import first_dimensions

__all__ = ["ChunkEmbedder"]

Vectors = Mapping[str, Vector]

_EMPTY = SparseVector(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.float32))


class ChunkEmbedder:
    """Makes the vectors of chunks, or finds them where the store has them already."""

    def __init__(self, collection: Collection, sparse: SparseEmbedder | None) -> None:
        """Take the collection, with its spaces, and what makes sparse vectors."""
        self._collection = collection
        self._sparse = sparse

    def embed(self, texts: Sequence[str], names: Iterable[str]) -> list[Vectors]:
        """The named vectors of texts, one mapping a text.

        Raises:
            PreferenceMismatchError: A model gives other vectors than the one that filled the collection.
        """
        collection, names = self._collection, frozenset(names)
        rows: list[dict[str, Any]] = [{} for _ in texts]
        wanted = {collection.main if name == COARSE else name for name in names}
        for name in wanted & collection.spaces.keys():
            collection.check_canaries_of(name)
            for row, vector in zip(rows, collection.spaces[name].embed_documents(texts), strict=True):
                row[name] = vector
        dims = collection.index.two_stage_dims
        if COARSE in names and dims is not None:
            for row in rows:
                row[COARSE] = first_dimensions(row[collection.main], dims)
        if SPARSE in names and self._sparse is not None:
            for row, weights in zip(rows, self._sparse.embed_documents(texts), strict=True):
                row[SPARSE] = weights
        if LATE in names and collection.late is not None:
            for row, vectors in zip(rows, collection.late.embed_documents(texts), strict=True):
                row[LATE] = vectors
        return [{name: row[name] for name in names} for row in rows]

    def find(self, digests: Sequence[str]) -> Mapping[str, Vectors]:
        """Vectors that the store holds for these texts already: of renamed files, of the same text elsewhere.

        Only those made under the identities of now are taken; some of a text's vectors may be missing.

        Args:
            digests: Content hashes of the texts.
        """
        store, name, wanted = self._collection.store, self._collection.name, self._collection.vectors
        best: dict[str, tuple[PointId, frozenset[str]]] = {}
        same_text = Filter(must=(MatchAny("content_hash", tuple(digests)),))
        for point in store.scroll(name, filter=same_text, payload=("content_hash", "vectors"), batch_size=1024):
            held = held_vectors(point.payload)
            fitting = frozenset(vector for vector, made in wanted.items() if held.get(vector) == made)
            digest = str(point.payload["content_hash"])
            if fitting and (digest not in best or len(fitting) > len(best[digest][1])):
                best[digest] = (point.id, fitting)
        points = store.existing(name, [point for point, _ in best.values()], vectors=tuple(wanted)) if best else {}
        found: dict[str, Vectors] = {}
        for digest, (identity, fitting) in best.items():
            if identity in points:
                found[digest] = self._usable(points[identity].vectors, fitting)
        return found

    def _usable(self, stored: Mapping[str, Vector], fitting: frozenset[str]) -> Vectors:
        usable: dict[str, Vector] = {}
        for name in fitting:
            vector = stored.get(name)
            if vector is None and name == SPARSE:
                vector = _EMPTY  # a text of stop words alone has no sparse vector
            space = self._collection.spaces.get(name)
            is_integer = space is not None and space.datatype == "uint8"
            if vector is None or (is_integer and not _is_whole(vector)):
                continue  # the client's emulation keeps uint8 vectors scaled to length 1: their codes are lost
            usable[name] = vector
        dims, main = self._collection.index.two_stage_dims, usable.get(self._collection.main)
        if dims is not None and COARSE not in usable and main is not None:
            usable[COARSE] = first_dimensions(main, dims)
        return usable

    def truncated(self) -> int:
        """Texts that the models cut so far, because they read less."""
        return sum(report.truncated for report in self._reports())

    def cached(self) -> int:
        """Vectors that the models took from the cache so far, in place of computing them."""
        return sum(report.cached for report in self._reports())

    def _reports(self) -> list[EncodeReport]:
        spaces = self._collection.spaces.values()
        return [space.model.report for space in spaces if isinstance(space, ModelSpace) and space.loaded]


def _is_whole(vector: Vector) -> bool:
    return isinstance(vector, np.ndarray) and bool((vector == np.rint(vector)).all())
