"""From a query's vector to LangChain documents, with scores that mean what LangChain says they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from embedprefs import InputError
from embedprefs_qdrant.collection import COARSE, DENSE, SPARSE, Collection
from embedprefs_qdrant.searching import maximal_marginal_relevance
from embedprefs_qdrant.spaces import decode_vectors
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.stores import Nearest, Prefetch, RankFusion, SearchParameters, SearchQuery
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.layout import Distance
from embedprefs_qdrant.vectors import first_dimensions
from langchain_embedprefs.filters import as_filter
from langchain_embedprefs.writing import original_id

__all__ = ["Scored", "SearchOptions", "Searcher", "has_unit_length", "relevance_of"]

Vector = NDArray[np.float32]
Scored = list[tuple[Document, float]]

#: What each side of a hybrid search hands on, at least, and as a multiple of what is wanted: a document that both rank
#: middling can come first.
LEAST_CANDIDATES = 100
CANDIDATES_PER_DOCUMENT = 5


@dataclass(frozen=True)
class SearchOptions:
    """What a search may be told beside the number of documents.

    Attributes:
        filter: Conditions on metadata; see `as_filter`.
        offset: Documents to skip first.
        score_threshold: Leave out documents that the store scores worse.
        exact: Compare with every vector; None lets the store choose.
        hybrid: Fuse with the sparse ranking; None does so where the collection has one and the query is a text.
    """

    filter: Filter | Mapping[str, Any] | None = None
    offset: int = 0
    score_threshold: float | None = None
    exact: bool | None = None
    hybrid: bool | None = None

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> SearchOptions:
        """The options of a call.

        Raises:
            InputError: One is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in named:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                fix = f"\n  Did you mean {near[0]}?" if near else ""
                raise InputError(f"A search has no option {name!r}.\n  Allowed: k, {', '.join(known)}{fix}")
        return cls(**named)


@dataclass(frozen=True)
class Searcher:
    """Searches one collection by vectors."""

    collection: Collection
    sparse: SparseEmbedder | None

    def is_hybrid(self, options: SearchOptions) -> bool:
        """Whether a search for a text fuses both rankings.

        Raises:
            InputError: It was asked for, and there is no sparse vector.
        """
        if options.hybrid and self.sparse is None:
            raise InputError(
                "hybrid was asked for, and the collection has no sparse vector.\n"
                "  Set index.hybrid = true in the preferences before the collection is made."
            )
        return self.sparse is not None and options.hybrid is not False

    def search(
        self, vectors: Sequence[Vector], k: int, options: SearchOptions, texts: Sequence[str] | None = None
    ) -> list[Scored]:
        """The documents nearest to each vector, best first, with the store's own score.

        Args:
            vectors: Of the queries.
            k: Documents for each, at most.
            options: The call's.
            texts: The queries themselves; the sparse side of a hybrid search needs them.
        """
        weights = None
        if self.is_hybrid(options) and texts is not None and self.sparse is not None:
            weights = self.sparse.embed_queries(texts)
        elif options.hybrid:
            raise InputError("A hybrid search needs the query's text.\n  Call similarity_search with the text.")
        queries = [
            self._query(vector, k, options, None if weights is None else Nearest(weights[place], SPARSE))
            for place, vector in enumerate(vectors)
        ]
        found = self.collection.store.search(self.collection.name, queries)
        return [[(self.document(hit), float(hit.score)) for hit in hits] for hits in found]

    def search_diverse(
        self, vector: Vector, k: int, fetch_k: int, lambda_mult: float, options: SearchOptions
    ) -> list[Document]:
        """Documents near the vector and far from each other.

        Args:
            vector: The query's.
            k: Documents, at most.
            fetch_k: Nearest documents to choose from.
            lambda_mult: 1 is relevance alone, 0 difference alone.
            options: The call's.
        """
        if not 0.0 <= lambda_mult <= 1.0:
            raise InputError(f"lambda_mult is {lambda_mult}.\n  Allowed: 0 (difference alone) to 1 (relevance alone)")
        if options.hybrid:
            raise InputError("Maximal marginal relevance compares dense vectors.\n  Leave out hybrid.")
        query = self._query(vector, max(k, fetch_k), options, None, with_vectors=True)
        [hits] = self.collection.store.search(self.collection.name, [query])
        if not hits:
            return []
        stored = np.stack([np.asarray(hit.vectors[self.collection.main], dtype=np.float32) for hit in hits])
        chosen = maximal_marginal_relevance(vector, stored, lambda_mult, k)
        return [self.document(hits[place]) for place in chosen]

    def document(self, point: Any) -> Document:
        """A stored point as the document that was added."""
        payload = point.payload
        return Document(
            id=original_id(point.id, payload),
            page_content=str(payload.get(self.collection.text_field, "")),
            metadata=dict(payload.get("metadata") or {}),
        )

    def _query(
        self, vector: Vector, k: int, options: SearchOptions, sparse: Nearest | None, *, with_vectors: bool = False
    ) -> SearchQuery:
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}.\n  Allowed: a whole number of at least 1")
        collection = self.collection
        exact = options.exact if options.exact is not None else collection.index.hnsw.exact
        parameters = SearchParameters(exact=exact, hnsw_ef=collection.index.hnsw.ef)
        dense = Nearest(vector, collection.main)
        shared: dict[str, Any] = {
            "offset": options.offset,
            "filter": as_filter(options.filter),
            "score_threshold": options.score_threshold,
            "vectors": [collection.main] if with_vectors else False,
        }
        if sparse is not None:
            depth = max(LEAST_CANDIDATES, CANDIDATES_PER_DOCUMENT * (k + options.offset))
            prefetch = (Prefetch(dense, depth, parameters=parameters), Prefetch(sparse, depth))
            return SearchQuery(RankFusion(), k, prefetch=prefetch, **shared)
        dims = collection.index.two_stage_dims
        if dims is not None and collection.main == DENSE:
            coarse = Nearest(first_dimensions(vector, dims), COARSE)
            return SearchQuery.two_stage(coarse, dense, limit=k, parameters=parameters, **shared)
        return SearchQuery(dense, k, parameters=parameters, **shared)


def relevance_of(score: float, distance: Distance, *, unit_length: bool, hybrid: bool = False) -> float:
    """What a store's score is on LangChain's scale: 0 is dissimilar, 1 is most similar.

    Vectors of length 1 have the relevance (1 + cosine) / 2, whichever distance the collection uses, so that a
    threshold keeps its meaning. Other dot products s become (1 + s / (1 + |s|)) / 2, other distances d 1 / (1 + d).
    A fused rank is divided by that of a document that both rankings have first.

    Args:
        score: The store's.
        distance: The collection's.
        unit_length: Whether its vectors have length 1.
        hybrid: Whether the score is a fused rank.
    """
    if hybrid:
        relevance = score * RankFusion().k / 2
    elif distance == "cosine" or (distance == "dot" and unit_length):
        relevance = (1.0 + score) / 2.0
    elif distance == "dot":
        relevance = (1.0 + score / (1.0 + abs(score))) / 2.0
    elif distance == "euclid" and unit_length:
        relevance = 1.0 - score * score / 4.0  # the squared distance of unit vectors is 2 - 2 cosine
    else:
        relevance = 1.0 / (1.0 + score)
    # Rounding puts equal vectors a little beyond 1.
    return min(1.0, max(0.0, relevance))


def has_unit_length(recorded: Mapping[str, Any] | None, name: str) -> bool:
    """Whether the vectors of a collection have length 1, as its canary vectors show."""
    entry = ((recorded or {}).get("vectors") or {}).get(name) or {}
    if not entry.get("canaries"):
        return False
    lengths = np.linalg.norm(decode_vectors(entry["canaries"]), axis=1)
    return bool(np.allclose(lengths[lengths > 0], 1.0, atol=1e-3))
