"""The layout of a collection that `[index]` asks for."""

from __future__ import annotations

from collections.abc import Mapping

from embedprefs import InvalidPreferenceError, Problem
from embedprefs.preferences import HnswPreferences, IndexPreferences
from embedprefs.preferences.index_limits import OWN_VECTOR_NAMES, chunk_context_problems
from embedprefs_qdrant.spaces import EmbeddingSpace, ModelSpace
from embedprefs_qdrant.stores.layout import (
    CollectionLayout,
    HnswOptions,
    PayloadIndex,
    Quantization,
    SparseVectorLayout,
    VectorLayout,
)

__all__ = ["COARSE", "DENSE", "LATE", "SPARSE", "collection_layout", "refuse_context", "refuse_reserved_names"]

#: Names of the vectors in a collection.
DENSE, COARSE, SPARSE, LATE = OWN_VECTOR_NAMES


def refuse_reserved_names(index: IndexPreferences) -> None:
    """Refuse further vectors that are called like those which other preferences make.

    Raises:
        InvalidPreferenceError: One is.
    """
    problems = [
        Problem(
            f"The vector {name!r} is what the collection calls one of its own.",
            key=f"index.vectors.{name}",
            value=name,
            allowed=f"any name but {', '.join(OWN_VECTOR_NAMES)}",
            fix="Give it another name.",
        )
        for name in index.vectors
        if name in OWN_VECTOR_NAMES
    ]
    if problems:
        raise InvalidPreferenceError(problems)


def refuse_context(index: IndexPreferences, space: EmbeddingSpace) -> None:
    """Refuse chunks that are to be read in their documents where something else of the index speaks against it.

    Raises:
        InvalidPreferenceError: A template or further vectors are asked for too, or the space is of no model of ours.
    """
    problems = chunk_context_problems(index)
    if index.chunk_context == "document" and not isinstance(space, ModelSpace):
        problems.append(
            Problem(
                f'index.chunk_context is "document", and a {type(space).__name__} embeds whole texts alone.',
                key="index.chunk_context",
                value="document",
                allowed='"chunk" for this embedding function',
                fix="Leave it out, or index with a sentence-transformers model.",
            )
        )
    if problems:
        raise InvalidPreferenceError(problems)


def collection_layout(
    spaces: Mapping[str, EmbeddingSpace],
    index: IndexPreferences,
    *,
    main: str = DENSE,
    sparse_idf: bool | None,
    late_size: int | None = None,
) -> CollectionLayout:
    """The layout that `[index]` asks for.

    Args:
        spaces: Space by name of its vector.
        index: The preferences.
        main: Name of the main vector.
        sparse_idf: Whether the engine weighs the sparse vector by inverse document frequency; None keeps no sparse
            vector.
        late_size: Length of the token vectors of a late-interaction model; None keeps none.

    Raises:
        InvalidPreferenceError: The first stage of a search has as many dimensions as the whole vector.
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
        _refuse_long_first_stage(index.two_stage_dims, vectors[main].size)
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
    for field, kind in index.typed_fields.items():
        indexes[f"metadata.{field}"] = PayloadIndex(kind, tenant=field == index.tenant_field)
    return CollectionLayout(
        vectors=vectors,
        sparse_vectors={} if sparse_idf is None else {SPARSE: SparseVectorLayout(idf=sparse_idf)},
        payload_indexes=indexes,
        on_disk_payload=index.on_disk or None,
    )


def _refuse_long_first_stage(dims: int, size: int) -> None:
    if dims >= size:
        raise InvalidPreferenceError(
            Problem(
                f"index.two_stage_dims is {dims}, and the vectors have {size} dimensions.",
                key="index.two_stage_dims",
                value=dims,
                allowed=f"fewer than {size}",
                fix="Write fewer dimensions, or leave it out.",
            )
        )


def _hnsw(preferences: HnswPreferences) -> HnswOptions | None:
    options = HnswOptions(m=preferences.m, ef_construct=preferences.ef_construct)
    return None if options == HnswOptions() else options
