"""Questions in, passages out: under the same identity check as indexing, with the query prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs import InputError
from embedprefs_qdrant.collection import COARSE, DENSE, LATE, SPARSE, Collection
from embedprefs_qdrant.reranking import Reranker
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.points import Hit
from embedprefs_qdrant.stores.queries import Nearest, Prefetch, RankFusion, SearchParameters, SearchQuery
from embedprefs_qdrant.vectors import first_dimensions

__all__ = ["SearchHit", "SearchOptions", "Searcher", "maximal_marginal_relevance"]

#: Candidates that MMR and grouping choose from, as a multiple of the hits wanted, and at least.
CANDIDATES_PER_HIT = 5
LEAST_CANDIDATES = 50


@dataclass(frozen=True)
class SearchHit:
    """One passage that answers a query.

    Attributes:
        score: The store's similarity, the fused rank score of a hybrid search, or the reranker's score; greatest first.
        text: The chunk.
        source: The document it stands in.
        title: Of the document.
        headings: Above the chunk, outermost first.
        start: Offset of its first character in the document.
        end: Offset after its last one.
        index: Its place among the document's chunks.
        metadata: The document's.
        id: Of the point.
    """

    score: float
    text: str
    source: str
    title: str | None
    headings: tuple[str, ...]
    start: int
    end: int
    index: int
    metadata: Mapping[str, Any]
    id: str

    def to_json(self) -> dict[str, Any]:
        """The hit as JSON values."""
        return {
            "score": self.score,
            "source": self.source,
            "title": self.title,
            "headings": list(self.headings),
            "start": self.start,
            "end": self.end,
            "index": self.index,
            "text": self.text,
            "metadata": dict(self.metadata),
            "id": self.id,
        }


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        limit: Hits to return, at most.
        offset: Hits to skip first.
        filter: What every hit meets.
        score_threshold: Leave out hits that score worse.
        exact: Compare with every vector; None lets the store choose.
        mmr: Choose hits that differ from each other: 1 is relevance alone, 0 difference alone; None does not.
        per_document: Most hits of one document; None does not limit them.
        hybrid: Fuse with the sparse ranking; None does so where the collection has one.
        two_stage: Search the first dimensions before all of them; None does so where the collection has them.
        rerank: Order the first hits again with `[rerank]`; None does so where it names a model.
        vector: Name of the dense vector to search; None takes the main one.
    """

    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    score_threshold: float | None = None
    exact: bool | None = None
    mmr: float | None = None
    per_document: int | None = None
    hybrid: bool | None = None
    two_stage: bool | None = None
    rerank: bool | None = None
    vector: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("offset", 0), ("per_document", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}.\n  Allowed: a whole number of at least {least}")
        if self.mmr is not None and not 0.0 <= self.mmr <= 1.0:
            raise InputError(f"mmr is {self.mmr}.\n  Allowed: 0 (difference alone) to 1 (relevance alone)")

    @property
    def candidates(self) -> int:
        """How many hits the store is asked for."""
        wanted = self.limit + self.offset
        if self.mmr is None and self.per_document is None:
            return wanted
        return max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * wanted)


@dataclass
class Searcher:
    """Searches one collection."""

    collection: Collection
    sparse: SparseEmbedder | None
    reranker: Reranker | None
    _opened: bool = field(default=False, init=False)

    def search(self, queries: Sequence[str], options: SearchOptions) -> list[list[SearchHit]]:
        """Answer each query; the hits of each, best first.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            InputError: There is no such collection or vector, or the options contradict each other.
        """
        self._open()
        if not queries:
            return []
        options = replace(options, vector=options.vector if options.vector is not None else self.collection.main)
        late = self.collection.late if self.collection.has_token_vectors and options.rerank is not False else None
        rerank = late is None and self._wants("rerank", options.rerank, self.reranker is not None)
        vectors = self._query_vectors(queries, str(options.vector))
        sparse = self.sparse.embed_queries(queries) if self._uses_sparse(options) and self.sparse else None
        candidates = options.candidates
        if rerank and self.reranker is not None:
            candidates = max(candidates, self.reranker.hits)
        tokens = None if late is None else late.embed_queries(queries)
        requests = [
            self._request(
                vector,
                None if sparse is None else Nearest(sparse[place], SPARSE),
                None if tokens is None else Nearest(tokens[place], LATE),
                replace(options, limit=candidates, offset=0),
            )
            for place, vector in enumerate(vectors)
        ]
        found = self.collection.store.search(self.collection.name, requests)
        results = []
        for query, vector, hits in zip(queries, vectors, found, strict=True):
            ordered = hits
            if rerank and self.reranker is not None:
                ordered = self.reranker.order(query, ordered)
            if options.mmr is not None:
                ordered = _diverse(vector, ordered, options)
            if options.per_document is not None:
                ordered = _limit_per_document(ordered, options.per_document)
            results.append(
                [
                    _to_hit(hit, self.collection.text_field)
                    for hit in ordered[options.offset : options.offset + options.limit]
                ]
            )
        return results

    def sources(self) -> Iterable[str]:
        """The sources in the collection, each once."""
        seen = set()
        for point in self.collection.store.scroll(self.collection.name, payload=("source",), batch_size=1024):
            seen.add(str(point.payload.get("source", "")))
        return sorted(seen)

    def _open(self) -> None:
        if self._opened:
            return
        if not self.collection.exists:
            known = self.collection.store.collections()
            raise InputError(
                f"{self.collection.store.url}: there is no collection {self.collection.name!r}.\n"
                f"  There are: {', '.join(known) if known else 'none yet'}\n"
                "  Index documents into it first, or name another one (index.collection)."
            )
        self.collection.open(create=False)
        self._opened = True

    def _query_vectors(self, queries: Sequence[str], name: str) -> NDArray[np.float32]:
        space = self.collection.spaces.get(name)
        if space is None:
            known = ", ".join(self.collection.spaces)
            raise InputError(f"The preferences name no vector {name!r}.\n  Allowed: {known}")
        vectors = space.embed_queries(queries)
        # After embedding, so that the model is loaded once and its own warm-up is over.
        self.collection.check_canaries()
        return vectors

    def _uses_sparse(self, options: SearchOptions) -> bool:
        return self._wants("hybrid", options.hybrid, self.sparse is not None)

    @staticmethod
    def _wants(name: str, asked: bool | None, available: bool) -> bool:
        if asked and not available:
            where = {"hybrid": "index.hybrid = true", "rerank": "a model in [rerank]"}[name]
            raise InputError(f"{name} was asked for, and the preferences have none.\n  Set {where} first.")
        return available if asked is None else asked

    def _request(
        self, vector: NDArray[np.float32], sparse: Nearest | None, tokens: Nearest | None, options: SearchOptions
    ) -> SearchQuery:
        query = self._first_stage(vector, sparse, options)
        if tokens is None or self.collection.late is None:
            return query
        # What the first stage finds is scored again by MaxSim over the tokens, in the engine.
        depth = max(options.limit, self.collection.late.hits)
        first = Prefetch(query.query, depth, parameters=query.parameters, prefetch=query.prefetch)
        return replace(query, query=tokens, prefetch=(first,), parameters=SearchParameters())

    def _first_stage(self, vector: NDArray[np.float32], sparse: Nearest | None, options: SearchOptions) -> SearchQuery:
        parameters = SearchParameters(exact=options.exact, hnsw_ef=self.collection.index.hnsw.ef)
        name = str(options.vector)
        dense = Nearest(vector, name)
        shared: dict[str, Any] = {
            "filter": options.filter,
            "score_threshold": options.score_threshold,
            "vectors": [name] if options.mmr is not None else False,
        }
        dims = self.collection.index.two_stage_dims
        two_stage = dims is not None and name == DENSE and options.two_stage is not False
        if options.two_stage and dims is None:
            raise InputError(
                "two_stage was asked for, and the collection has no short vectors.\n  Set index.two_stage_dims first."
            )
        if sparse is not None:
            # Each side hands on more than is wanted, so that a passage that both rank middling can come first.
            depth = max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * options.limit)
            prefetch = (Prefetch(dense, depth, parameters=parameters), Prefetch(sparse, depth))
            return SearchQuery(RankFusion(), options.limit, prefetch=prefetch, **shared)
        if two_stage and dims is not None:
            coarse = Nearest(first_dimensions(vector, dims), COARSE)
            return SearchQuery.two_stage(coarse, dense, limit=options.limit, parameters=parameters, **shared)
        return SearchQuery(dense, options.limit, parameters=parameters, **shared)


def maximal_marginal_relevance(
    query: NDArray[np.float32], vectors: NDArray[np.float32], weight: float, count: int
) -> list[int]:
    """Choose vectors that are near the query and far from each other.

    Each step takes the candidate with the greatest weight * cos(query, it) - (1 - weight) * max cos(chosen, it)
    (Carbonell and Goldstein, SIGIR 1998).

    Args:
        query: Shape (size,).
        vectors: Candidates, shape (candidates, size).
        weight: 1 is relevance alone, 0 difference alone.
        count: How many to choose.

    Returns:
        Places of the chosen candidates, in the order of choice.
    """
    if not len(vectors):
        return []
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    relevance = unit @ (query / max(float(np.linalg.norm(query)), float(np.finfo(np.float32).tiny)))
    chosen: list[int] = []
    nearest = np.full(len(unit), -np.inf)
    open_places = np.ones(len(unit), dtype=bool)
    while len(chosen) < min(count, len(unit)):
        spread = np.where(np.isinf(nearest), 0.0, nearest)
        scores = np.where(open_places, weight * relevance - (1.0 - weight) * spread, -np.inf)
        place = int(scores.argmax())
        chosen.append(place)
        open_places[place] = False
        nearest = np.maximum(nearest, unit @ unit[place])
    return chosen


def _diverse(query: NDArray[np.float32], hits: Sequence[Hit], options: SearchOptions) -> list[Hit]:
    if not hits:
        return []
    vectors = np.stack([np.asarray(hit.vectors[str(options.vector)], dtype=np.float32) for hit in hits])
    weight = options.mmr if options.mmr is not None else 1.0
    count = len(hits) if options.per_document is not None else options.limit + options.offset
    return [hits[place] for place in maximal_marginal_relevance(query, vectors, weight, count)]


def _limit_per_document(hits: Sequence[Hit], most: int) -> list[Hit]:
    counts: dict[str, int] = {}
    kept = []
    for hit in hits:
        source = str(hit.payload.get("source", ""))
        counts[source] = counts.get(source, 0) + 1
        if counts[source] <= most:
            kept.append(hit)
    return kept


def _to_hit(hit: Hit, text_field: str) -> SearchHit:
    payload = hit.payload
    return SearchHit(
        score=float(hit.score),
        text=str(payload.get(text_field, "")),
        source=str(payload.get("source", "")),
        title=payload.get("title"),
        headings=tuple(payload.get("headings") or ()),
        start=int(payload.get("start") or 0),
        end=int(payload.get("end") or 0),
        index=int(payload.get("index") or 0),
        metadata=payload.get("metadata") or {},
        id=str(hit.id),
    )
