"""Exact nearest documents of many queries, over a corpus that is embedded and forgotten a chunk at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedprefs.evaluation.vectors import VectorForm

__all__ = ["ExactSearch", "Found", "NearestDocuments", "id_order"]

#: Hits of one query: document id and score, best first.
Found = list[tuple[str, float]]

_EMPTY = np.iinfo(np.int64).min
#: Scores held at a time: eight bytes each, several times over.
_BLOCK = 2_000_000


def id_order(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each id's place when ids are sorted, so that the order of equal scores does not depend on the corpus's.

    Returns:
        Shape (ids,), int64: 0 for the smallest id.
    """
    places = np.empty(len(ids), dtype=np.int64)
    places[np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.intp)] = np.arange(len(ids))
    return places


class NearestDocuments:
    """The best documents seen so far, for each query.

    A score and the place of the document's id make one 64-bit key. Keys are distinct, so the best of them are the same
    however the corpus is divided. Of equal scores the larger id comes first, as in trec_eval.
    """

    def __init__(self, queries: int, depth: int) -> None:
        self._keys = np.full((queries, depth), _EMPTY, dtype=np.int64)

    @property
    def depth(self) -> int:
        """How many documents are kept for a query."""
        return int(self._keys.shape[1])

    def blocks(self, documents: int) -> list[slice]:
        """Return the queries in parts whose scores against this many documents fit into memory."""
        queries = len(self._keys)
        step = max(1, _BLOCK // max(1, documents + self.depth))
        return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]

    def add(
        self,
        block: slice,
        scores: npt.NDArray[np.float32],
        places: npt.NDArray[np.int64],
        *,
        left_out: Mapping[int, int] | None = None,
    ) -> None:
        """Take in scores of further documents.

        Args:
            block: Which queries.
            scores: Shape (queries of the block, documents).
            places: `id_order` of the documents.
            left_out: Query -> column of a document that is no hit for it.
        """
        bits = scores.view(np.int32)
        # Signed integers are in the order of the floats once the lower bits of the negative ones are turned over.
        ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
        keys = (ordered.astype(np.int64) << 32) | places[None, :]
        for query, column in (left_out or {}).items():
            if block.start <= query < block.stop:
                keys[query - block.start, column] = _EMPTY
        both = np.concatenate([self._keys[block], keys], axis=1)
        self._keys[block] = np.partition(both, both.shape[1] - self.depth, axis=1)[:, -self.depth :]

    def result(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores and places of ids, best first; place -1 where there are fewer documents."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        ordered = (keys >> 32).astype(np.int32)
        scores = (ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)
        places = np.where(keys == _EMPTY, np.int64(-1), keys & np.int64(0xFFFFFFFF))
        return scores, places


class ExactSearch:
    """Compares every query with every document, as the vectors' form asks for."""

    def __init__(
        self,
        form: VectorForm,
        queries: npt.NDArray[np.float64],
        ids: Sequence[str],
        depth: int,
        *,
        left_out: Mapping[int, str] | None = None,
    ) -> None:
        """Start a search.

        Args:
            form: What the vectors are made of.
            queries: Prepared vectors of the queries.
            ids: The ids of all documents that will come.
            depth: How many documents to find for a query.
            left_out: Position of a query -> id of a document that is no hit for it.
        """
        self._form = form
        self._queries = queries
        self._ids = ids
        self._left_out = dict(left_out or {})
        self._order = id_order(ids)
        self._place_of = dict(zip(ids, self._order.tolist(), strict=True))
        self._best = NearestDocuments(len(queries), min(depth, len(ids)))

    def add(self, ids: Sequence[str], vectors: Any) -> None:
        """Take in documents, as the model returned their vectors.

        Raises:
            InputError: the vectors are not finite, or have another length than the queries'.
        """
        rows = self._form.prepared(vectors, dimensions=self._queries.shape[1])
        places = np.array([self._place_of[identifier] for identifier in ids], dtype=np.int64)
        columns = {identifier: column for column, identifier in enumerate(ids)}
        hidden = {query: columns[doc] for query, doc in self._left_out.items() if doc in columns}
        for block in self._best.blocks(len(ids)):
            self._best.add(block, self._form.scores(self._queries[block], rows), places, left_out=hidden)

    def found(self) -> list[Found]:
        """Return the hits of each query, best first."""
        by_place = np.empty(len(self._ids), dtype=np.intp)
        by_place[self._order] = np.arange(len(self._ids))
        scores, places = self._best.result()
        return [
            [(self._ids[by_place[place]], float(value)) for place, value in zip(row, values, strict=True) if place >= 0]
            for row, values in zip(places, scores, strict=True)
        ]
