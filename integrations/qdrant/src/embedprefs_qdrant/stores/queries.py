"""What to search for: one vector, a fusion of several searches, or candidates rescored by a finer vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from embedprefs.errors import InputError
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.points import SparseVector, Vector

__all__ = ["Nearest", "Prefetch", "RankFusion", "ScoreFusion", "SearchParameters", "SearchQuery"]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The points whose vector `using` is most similar to `vector`.

    Attributes:
        vector: Shape (size,) for a dense vector, (tokens, size) for MaxSim over a multivector, or sparse.
        using: Name of the vector to compare with.
    """

    vector: Vector
    using: str


@dataclass(frozen=True)
class RankFusion:
    """Reciprocal rank fusion of all prefetches.

    The score of a point is the sum of 1 / (k + rank / weight - 1) over the prefetches that found it, ranks from 1.

    Attributes:
        k: The constant that damps the first ranks. 2 is Qdrant's own: a first place counts clearly more than a tenth.
            60, of Cormack, Clarke and Buettcher (SIGIR 2009), was found for fusing many rankings; of two, of which one
            is better, it makes less than the better one. Measured with all-MiniLM-L6-v2 and BM25 on 1,500 training
            questions of squadshifts-wiki: nDCG@10 0.874 with 2, 0.853 with 60, BM25 alone 0.865, vectors alone 0.771.
        weights: One per prefetch, greater counts more; None weighs all alike.
    """

    k: int = 2
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"The constant k of the rank fusion is {self.k}.\n  Allowed: an integer of at least 1")
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
            if any(not 0 < weight < float("inf") for weight in self.weights):
                raise InputError(f"The rank fusion's weights are {self.weights}.\n  Allowed: finite numbers above 0")


@dataclass(frozen=True)
class ScoreFusion:
    """Distribution-based score fusion (DBSF) of all prefetches, Qdrant's own.

    Each prefetch's scores are put on one scale, mean - 3 standard deviations at 0 and mean + 3 at 1, and a point's are
    added up; a prefetch with one point, or with equal scores, gives 0.5. It keeps how clearly a side prefers a point,
    which ranks throw away: on the questions of `RankFusion` it reaches nDCG@10 0.891. But a rare word that stands in
    one document alone gives that document 0.5, which the first of a dense search exceeds, so it is not the default.
    """


@dataclass(frozen=True)
class SearchParameters:
    """How one vector is searched.

    Attributes:
        exact: Compare with every vector instead of walking the graph. None lets the store choose: the embedded engine
            scans small collections, where that costs no more and misses nothing.
        hnsw_ef: Size of the candidate list while walking the graph; None leaves the engine's default.
        rescore: Score quantised candidates again with the original vectors; None leaves the engine's default.
        oversampling: How many times `limit` quantised candidates are taken before rescoring.
    """

    exact: bool | None = None
    hnsw_ef: int | None = None
    rescore: bool | None = None
    oversampling: float | None = None


@dataclass(frozen=True, eq=False)
class Prefetch:
    """A first search, whose points the outer query fuses or scores again.

    Attributes:
        query: What to search for.
        limit: How many points to hand on.
        filter: Conditions besides those of the outer query, which hold here too.
        score_threshold: Leave out points that score worse.
        parameters: How to search.
        prefetch: Searches whose points this one scores again or fuses.
    """

    query: Nearest | RankFusion | ScoreFusion
    limit: int
    filter: Filter | None = None
    score_threshold: float | None = None
    parameters: SearchParameters = SearchParameters()
    prefetch: tuple[Prefetch, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefetch", tuple(self.prefetch))
        _check(self)


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """One search.

    Attributes:
        query: What to search for; with `prefetch`, what scores or fuses the prefetched points.
        limit: Most hits to return.
        offset: Hits to skip first.
        filter: Conditions that every hit meets.
        score_threshold: Leave out hits that score worse (below it; above it where the score is a distance).
        parameters: How to search.
        prefetch: First searches.
        payload: True for all fields, or the names of those wanted.
        vectors: True for all vectors, or the names of those wanted.
    """

    query: Nearest | RankFusion | ScoreFusion
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    score_threshold: float | None = None
    parameters: SearchParameters = SearchParameters()
    prefetch: tuple[Prefetch, ...] = ()
    payload: bool | Sequence[str] = True
    vectors: bool | Sequence[str] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefetch", tuple(self.prefetch))
        _check(self)

    @classmethod
    def hybrid(
        cls,
        dense: Nearest,
        sparse: Nearest,
        *,
        limit: int = 10,
        candidates: int | None = None,
        fusion: RankFusion | ScoreFusion | None = None,
        parameters: SearchParameters | None = None,
        **options: Any,
    ) -> SearchQuery:
        """A dense and a sparse search, fused.

        Args:
            dense: The dense search.
            sparse: The sparse search.
            limit: Most hits to return.
            candidates: Points that each search hands on; None takes the greater of 100 and five times
                (`limit` + `offset`).
            fusion: How they are fused; None uses the defaults of `RankFusion`.
            parameters: How the dense vector is searched.
            **options: Further fields of `SearchQuery`.
        """
        count = candidates or max(100, 5 * (limit + options.get("offset", 0)))
        searches = (Prefetch(dense, count, parameters=parameters or SearchParameters()), Prefetch(sparse, count))
        return cls(fusion or RankFusion(), limit, prefetch=searches, **options)

    @classmethod
    def two_stage(
        cls,
        coarse: Nearest | Prefetch,
        fine: Nearest,
        *,
        limit: int = 10,
        candidates: int | None = None,
        parameters: SearchParameters | None = None,
        **options: Any,
    ) -> SearchQuery:
        """Candidates by a cheap vector, scored again by a better one.

        Used for the first dimensions of a Matryoshka embedding before all of them, and for one vector per text
        before MaxSim over its tokens.

        Args:
            coarse: The cheap search; a `Prefetch` states its own limit and parameters.
            fine: What scores the candidates.
            limit: Most hits to return.
            candidates: Points that the cheap search hands on; None takes the greater of 100 and ten times
                (`limit` + `offset`).
            parameters: How the cheap vector is searched.
            **options: Further fields of `SearchQuery`.
        """
        if isinstance(coarse, Nearest):
            count = candidates or max(100, 10 * (limit + options.get("offset", 0)))
            coarse = Prefetch(coarse, count, parameters=parameters or SearchParameters())
        elif candidates is not None or parameters is not None:
            raise InputError("A Prefetch states its own limit and parameters; leave out candidates and parameters.")
        return cls(fine, limit, prefetch=(coarse,), **options)


def _check(query: SearchQuery | Prefetch) -> None:
    if query.limit < 1:
        raise InputError(f"The search's limit is {query.limit}.\n  Allowed: an integer of at least 1")
    if isinstance(query, SearchQuery) and query.offset < 0:
        raise InputError(f"The search's offset is {query.offset}.\n  Allowed: an integer of at least 0")
    if isinstance(query.query, (RankFusion, ScoreFusion)) and not query.prefetch:
        raise InputError("A fusion has nothing to fuse.\n  Name the searches in `prefetch`.")
    if isinstance(query.query, RankFusion):
        weights = query.query.weights
        if weights is not None and len(weights) != len(query.prefetch):
            raise InputError(f"The rank fusion has {len(weights)} weights for {len(query.prefetch)} searches.")


Q = TypeVar("Q", "SearchQuery", "Prefetch")


def without_empty_searches(query: SearchQuery) -> SearchQuery | None:
    """The query without its searches by an empty sparse vector; None when nothing remains to be found.

    A query of stop words alone has an empty sparse vector, and engines differ in whether they accept one.
    """
    return _prune(query)


def _prune(query: Q) -> Q | None:
    what = query.query
    if isinstance(what, Nearest) and isinstance(what.vector, SparseVector) and not len(what.vector):
        return None
    kept = [(place, inner) for place, outer in enumerate(query.prefetch) if (inner := _prune(outer)) is not None]
    if query.prefetch and not kept:
        return None
    if isinstance(what, RankFusion) and what.weights is not None:
        what = replace(what, weights=tuple(what.weights[place] for place, _ in kept))
    return replace(query, query=what, prefetch=tuple(inner for _, inner in kept))
