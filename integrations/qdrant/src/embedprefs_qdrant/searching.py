"""Questions in, passages out: under the same identity check as indexing, with the query prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs import InputError
from embedprefs_qdrant.collection import COARSE, LATE, SPARSE, Collection
from embedprefs_qdrant.diversity import (
    limit_per_document,
    maximal_marginal_relevance,
    scaled_relevance,
    select_diverse,
)
from embedprefs_qdrant.reranking import Reranker
from embedprefs_qdrant.sparse import SparseEmbedder
from embedprefs_qdrant.status import require_collection
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.points import Hit
from embedprefs_qdrant.stores.queries import Nearest, Prefetch, RankFusion, SearchParameters, SearchQuery
from embedprefs_qdrant.vectors import first_dimensions

__all__ = ["SearchHit", "SearchOptions", "Searcher", "maximal_marginal_relevance", "passage"]

#: Candidates that MMR and grouping choose from, as a multiple of the hits wanted, and at least.
CANDIDATES_PER_HIT = 5
LEAST_CANDIDATES = 50


@dataclass(frozen=True)
class SearchHit:
    """One passage that answers a query.

    Attributes:
        score: The store's similarity, the fused rank score of a hybrid search, or the reranker's score, greatest first;
            with the similarities "euclidean" and "manhattan" the distance, smallest first.
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
        score_threshold: Leave out hits that score worse, on the scale of the hits' own scores.
        exact: Compare with every vector; None takes `index.hnsw.exact`, else lets the store choose.
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
    recheck_seconds: float = 10.0
    """A collection that is searched for longer is looked at again: an alias may lead to another one by now."""
    _checked_at: float | None = field(default=None, init=False)
    _uuid: str | None = field(default=None, init=False)

    def search(self, queries: Sequence[str], options: SearchOptions) -> list[list[SearchHit]]:
        """Answer each query; the hits of each, best first.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            InputError: There is no such collection or vector, or the options contradict each other.
        """
        self._open()
        if not queries:
            return []
        options = replace(
            options,
            vector=options.vector if options.vector is not None else self.collection.main,
            exact=options.exact if options.exact is not None else self.collection.index.hnsw.exact,
        )
        plan = self._plan(options)
        vectors = self._query_vectors(queries, str(options.vector))
        weights = self.sparse.embed_queries(queries) if plan.hybrid and self.sparse is not None else None
        tokens = None
        if plan.late and self.collection.late is not None:
            tokens = self.collection.late.embed_queries(queries)
        asked = [
            _Asked(
                query,
                vector,
                None if weights is None else Nearest(weights[place], SPARSE),
                None if tokens is None else Nearest(tokens[place], LATE),
            )
            for place, (query, vector) in enumerate(zip(queries, vectors, strict=True))
        ]
        return [
            [_to_hit(hit, self.collection.text_field) for hit in hits[options.offset : options.offset + options.limit]]
            for hits in self._answer(asked, plan, options)
        ]

    def sources(self) -> Iterable[str]:
        """The sources in the collection, each once."""
        seen = set()
        for point in self.collection.store.scroll(self.collection.name, payload=("source",), batch_size=1024):
            seen.add(str(point.payload.get("source", "")))
        return sorted(seen)

    def _open(self) -> None:
        now = time.monotonic()
        if self._checked_at is not None and now - self._checked_at < self.recheck_seconds:
            return
        recorded = self.collection.read()
        if self._checked_at is None or recorded is None or recorded.get("uuid") != self._uuid:
            require_collection(self.collection)
            self.collection.open(create=False)
            self._uuid = (recorded or {}).get("uuid")
        self._checked_at = now

    def _query_vectors(self, queries: Sequence[str], name: str) -> NDArray[np.float32]:
        vectors = self.collection.spaces[name].embed_queries(queries)
        # After embedding, so that the model is loaded once and its own warm-up is over.
        self.collection.check_canaries_of(name)
        return vectors

    def _plan(self, options: SearchOptions) -> _SearchPlan:
        """What the options and the preferences come to.

        Raises:
            InputError: Something was asked for that the collection or the preferences do not have.
        """
        collection, name = self.collection, str(options.vector)
        space = collection.spaces.get(name)
        if space is None:
            known = ", ".join(repr(known) for known in collection.spaces)
            raise InputError(f"The preferences name no vector {name!r}.\n  Allowed: {known}")
        late = collection.has_token_vectors and options.rerank is not False
        rerank = not late and self._wants("rerank", options.rerank, self.reranker is not None)
        hybrid = self._wants("hybrid", options.hybrid, self.sparse is not None)
        dims = collection.index.two_stage_dims
        has_two_stages = dims is not None and name == collection.main
        if options.two_stage and not has_two_stages:
            raise InputError(
                f"two_stage was asked for, and the vector {name!r} has no short one beside it.\n"
                "  Set index.two_stage_dims first; it holds for the main vector."
            )
        if hybrid and not rerank and not late and options.score_threshold is not None:
            _refuse_threshold_out_of_reach(options.score_threshold)
        return _SearchPlan(
            hybrid=hybrid,
            late=late,
            rerank=rerank,
            first_dims=dims if has_two_stages and options.two_stage is not False else None,
            is_cosine=space.distance == "cosine" and not (hybrid or late or rerank),
        )

    @staticmethod
    def _wants(name: str, asked: bool | None, available: bool) -> bool:
        if asked and not available:
            where = {"hybrid": "index.hybrid = true", "rerank": "a model in [rerank]"}[name]
            raise InputError(f"{name} was asked for, and the preferences have none.\n  Set {where} first.")
        return available if asked is None else asked

    def _answer(self, asked: Sequence[_Asked], plan: _SearchPlan, options: SearchOptions) -> list[list[Hit]]:
        """The ordered hits of each query, as many as limit and offset ask for where there are so many."""
        wanted = options.limit + options.offset
        depth = options.candidates
        reranked = 0
        if plan.rerank and self.reranker is not None:
            reranked = max(self.reranker.hits, wanted)
            depth = max(depth, reranked)
        results: list[list[Hit]] = [[] for _ in asked]
        places = list(range(len(asked)))
        while places:
            requests = [self._request(asked[place], plan, replace(options, limit=depth)) for place in places]
            found = self.collection.store.search(self.collection.name, requests)
            short = []
            for place, hits in zip(places, found, strict=True):
                ordered = self._order(asked[place], hits, plan, options, reranked)
                results[place] = ordered
                # One document with many near passages must not hide the others.
                if options.per_document is not None and len(ordered) < wanted and len(hits) >= depth:
                    short.append(place)
            places, depth = short, depth * 4
        return results

    def _order(
        self, asked: _Asked, hits: Sequence[Hit], plan: _SearchPlan, options: SearchOptions, reranked: int
    ) -> list[Hit]:
        ordered = list(hits)
        if plan.rerank and self.reranker is not None:
            if options.per_document is not None:
                # Each document comes with its best passages of the first stage, so that the model reads no more.
                ordered = limit_per_document(ordered, options.per_document)
            ordered = ordered[:reranked]
            ordered = self.reranker.order(asked.query, ordered, [self._text(hit) for hit in ordered])
            if options.score_threshold is not None:
                ordered = [hit for hit in ordered if hit.score >= options.score_threshold]
        if options.mmr is not None and ordered:
            ordered = self._diverse(asked.vector, ordered, plan, options)
        if options.per_document is not None:
            ordered = limit_per_document(ordered, options.per_document)
        return ordered

    def _text(self, hit: Hit) -> str:
        return passage(hit.payload, self.collection.text_field)

    @staticmethod
    def _diverse(
        query: NDArray[np.float32], hits: Sequence[Hit], plan: _SearchPlan, options: SearchOptions
    ) -> list[Hit]:
        weight = options.mmr if options.mmr is not None else 1.0
        name = str(options.vector)
        # A point of an adopted collection may lack the vector: nothing is known to be like it.
        blank = np.zeros_like(query)
        vectors = np.stack([np.asarray(hit.vectors.get(name, blank), dtype=np.float32) for hit in hits])
        count = len(hits) if options.per_document is not None else options.limit + options.offset
        if plan.is_cosine:
            places = maximal_marginal_relevance(query, vectors, weight, count)
        else:
            places = select_diverse(scaled_relevance([hit.score for hit in hits]), vectors, weight, count)
        return [hits[place] for place in places]

    def _request(self, asked: _Asked, plan: _SearchPlan, options: SearchOptions) -> SearchQuery:
        query = self._first_stage(asked, plan, options)
        if asked.tokens is None or self.collection.late is None:
            return query
        # What the first stage finds is scored again by MaxSim over the tokens, in the engine.
        depth = max(options.limit, self.collection.late.hits)
        first = Prefetch(query.query, depth, parameters=query.parameters, prefetch=query.prefetch)
        return replace(query, query=asked.tokens, prefetch=(first,), parameters=SearchParameters())

    def _first_stage(self, asked: _Asked, plan: _SearchPlan, options: SearchOptions) -> SearchQuery:
        parameters = SearchParameters(exact=options.exact, hnsw_ef=self.collection.index.hnsw.ef)
        name = str(options.vector)
        dense = Nearest(asked.vector, name)
        shared: dict[str, Any] = {
            "filter": options.filter,
            # A reranker's scores are compared with the threshold once they are known.
            "score_threshold": None if plan.rerank else options.score_threshold,
            "vectors": [name] if options.mmr is not None else False,
        }
        shorter: tuple[Prefetch, ...] = ()
        if plan.first_dims is not None:
            coarse = Nearest(first_dimensions(asked.vector, plan.first_dims), COARSE)
            shorter = (Prefetch(coarse, _deeper(options.limit), parameters=parameters),)
        if asked.sparse is not None:
            # Each side hands on more than is wanted, so that a passage that both rank middling can come first.
            depth = max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * options.limit)
            if shorter:
                shorter = (replace(shorter[0], limit=_deeper(depth)),)
            prefetch = (Prefetch(dense, depth, parameters=parameters, prefetch=shorter), Prefetch(asked.sparse, depth))
            return SearchQuery(RankFusion(), options.limit, prefetch=prefetch, **shared)
        return SearchQuery(dense, options.limit, parameters=parameters, prefetch=shorter, **shared)


@dataclass(frozen=True)
class _SearchPlan:
    """Which stages a search has."""

    hybrid: bool
    late: bool
    rerank: bool
    first_dims: int | None
    """Dimensions of the first stage; None where there is none."""
    is_cosine: bool
    """Whether the hits' scores are cosines."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """One query, as all stages need it."""

    query: str
    vector: NDArray[np.float32]
    sparse: Nearest | None
    tokens: Nearest | None


def _deeper(limit: int) -> int:
    """Candidates that a first stage hands to the next one."""
    return max(2 * LEAST_CANDIDATES, 2 * CANDIDATES_PER_HIT * limit)


def _refuse_threshold_out_of_reach(threshold: float) -> None:
    greatest = 2 / RankFusion().k
    if threshold > greatest:
        raise InputError(
            f"score_threshold is {threshold}; the fused rank of a hybrid search is at most {greatest:.4f}, so that "
            "nothing could be found.\n"
            f"  Allowed: up to {greatest:.4f}\n"
            "  For a threshold on similarity search with hybrid=False (--dense)."
        )


def passage(payload: Mapping[str, Any], text_field: str) -> str:
    """The text of a stored chunk; of an adopted collection, in the field of the one who filled it or in ours."""
    return str(payload.get(text_field) or payload.get("text") or "")


def _to_hit(hit: Hit, text_field: str) -> SearchHit:
    payload = hit.payload
    return SearchHit(
        score=float(hit.score),
        text=passage(payload, text_field),
        source=str(payload.get("source") or ""),
        title=payload.get("title"),
        headings=tuple(payload.get("headings") or ()),
        start=int(payload.get("start") or 0),
        end=int(payload.get("end") or 0),
        index=int(payload.get("index") or 0),
        metadata=payload.get("metadata") or {},
        id=str(hit.id),
    )
