"""Every vector of a chunk: those of the models, the short ones of a first stage, sparse ones and token vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from embedprefs.model.report import EncodeReport
from embedprefs_qdrant.collection import COARSE, LATE, SPARSE, Collection
from embedprefs_qdrant.payloads import held_vectors
from embedprefs_qdrant.planning import PlannedChunk
from embedprefs_qdrant.spaces import EmbeddingSpace, ModelSpace
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.stores.filters import Filter, MatchAny
from embedprefs_qdrant.stores.points import PointId, SparseVector, StoredPoint, Vector
from embedprefs_qdrant.vectors import first_dimensions

__all__ = ["ChunkEmbedder"]

Vectors = Mapping[str, Vector]

#: Content hashes that one request asks for.
MOST_DIGESTS = 256

_EMPTY = SparseVector(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.float32))


class ChunkEmbedder:
    """Makes the vectors of chunks, or finds them where the store has them already."""

    def __init__(self, collection: Collection, sparse: SparseEmbedder | None) -> None:
        """Take the collection, with its spaces, and what makes sparse vectors."""
        self._collection = collection
        self._sparse = sparse

    def embed(self, chunks: Sequence[PlannedChunk], names: Iterable[str]) -> list[Vectors]:
        """The named vectors of chunks, one mapping a chunk.

        Raises:
            PreferenceMismatchError: A model gives other vectors than the one that filled the collection.
            InputError: A chunk is to be read in its document, and holds nothing that the model reads.
        """
        collection, names = self._collection, frozenset(names)
        texts = [chunk.embedded_text for chunk in chunks]
        rows: list[dict[str, Any]] = [{} for _ in texts]
        wanted = {collection.main if name == COARSE else name for name in names}
        for name in wanted & collection.spaces.keys():
            collection.check_canaries_of(name)
            for row, vector in zip(rows, _dense(collection.spaces[name], chunks, texts), strict=True):
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
        """Vectors that the store holds for these chunks already: of renamed files, of the same text elsewhere.

        Only those made under the identities of now are taken; some of a chunk's vectors may be missing.

        Args:
            digests: Content hashes of the chunks.
        """
        store, name, wanted = self._collection.store, self._collection.name, self._collection.vectors
        best: dict[str, tuple[PointId, frozenset[str]]] = {}
        for point in self._points_of(digests):
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

    def _points_of(self, digests: Sequence[str]) -> Iterator[StoredPoint]:
        """The stored points of these chunks, with hash and the names of their vectors."""
        for first in range(0, len(digests), MOST_DIGESTS):
            same = Filter(must=(MatchAny("content_hash", tuple(digests[first : first + MOST_DIGESTS])),))
            yield from self._collection.store.scroll(
                self._collection.name, filter=same, payload=("content_hash", "vectors"), batch_size=1024
            )

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


def _dense(space: EmbeddingSpace, chunks: Sequence[PlannedChunk], texts: Sequence[str]) -> Iterable[Vector]:
    """One vector for each chunk: of its text, or of its place in the document that is read for it."""
    places: dict[str, list[int]] = {}
    for place, chunk in enumerate(chunks):
        if chunk.passage is not None:
            places.setdefault(chunk.passage.document, []).append(place)
    if not places or not isinstance(space, ModelSpace):
        return space.embed_documents(texts)
    rows: dict[int, Vector] = {}
    for document, those in places.items():
        passages = [chunk.passage for place in those if (chunk := chunks[place]).passage is not None]
        rows |= zip(those, space.embed_passages(document, [(each.start, each.end) for each in passages]), strict=True)
    return [rows[place] for place in range(len(chunks))]


def _is_whole(vector: Vector) -> bool:
    return isinstance(vector, np.ndarray) and bool((vector == np.rint(vector)).all())
