"""Our layouts, points, filters and queries in the words of the embedded engine, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedprefs_qdrant.stores.filters import Condition, Filter, HasId, IsEmpty, Match, MatchAny, Range
from embedprefs_qdrant.stores.layout import (
    CollectionLayout,
    HnswOptions,
    PayloadIndex,
    Quantization,
    SparseVectorLayout,
    VectorLayout,
)
from embedprefs_qdrant.stores.points import Hit, Point, PointId, SparseVector, StoredPoint, Vector
from embedprefs_qdrant.stores.queries import Nearest, Prefetch, RankFusion, ScoreFusion, SearchParameters, SearchQuery

__all__ = [
    "engine_config",
    "engine_filter",
    "engine_ids",
    "engine_index",
    "engine_point",
    "engine_query",
    "layout_of",
    "our_hit",
    "our_point",
    "selection",
]

#: The engine asks for all three numbers where one is given; these are its own defaults.
_HNSW_DEFAULTS = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}

_BITS: Mapping[tuple[str, float], str] = {
    ("binary", 1): "OneBit",
    ("binary", 1.5): "OneAndHalfBits",
    ("binary", 2): "TwoBits",
    ("turbo", 1): "Bits1",
    ("turbo", 1.5): "Bits1_5",
    ("turbo", 2): "Bits2",
    ("turbo", 4): "Bits4",
    ("turbo", 8): "Bits8",
}

#: How edge_config.json spells the bits of a quantisation.
_WRITTEN_BITS = {
    "one_bit": 1,
    "one_and_half_bits": 1.5,
    "two_bits": 2,
    "bits1": 1,
    "bits1_5": 1.5,
    "bits2": 2,
    "bits4": 4,
    "bits8": 8,
}


def engine_config(layout: CollectionLayout) -> Any:
    """An `EdgeConfig`; the write-ahead log is always on."""
    import qdrant_edge as edge

    return edge.EdgeConfig(
        vectors={name: _vector_params(vector) for name, vector in layout.vectors.items()} or None,
        sparse_vectors={
            name: edge.EdgeSparseVectorParams(
                on_disk=sparse.on_disk, modifier=edge.Modifier.Idf if sparse.idf else None
            )
            for name, sparse in layout.sparse_vectors.items()
        }
        or None,
        on_disk_payload=layout.on_disk_payload,
        wal_enabled=True,
    )


def _vector_params(vector: VectorLayout) -> Any:
    import qdrant_edge as edge

    return edge.EdgeVectorParams(
        vector.size,
        engine_distance(vector),
        on_disk=vector.on_disk,
        multivector_config=engine_multivector(vector),
        datatype=engine_datatype(vector),
        quantization_config=_quantization(vector.quantization),
        hnsw_config=_hnsw(vector.hnsw),
    )


def engine_distance(vector: VectorLayout) -> Any:
    """A `Distance`."""
    import qdrant_edge as edge

    return getattr(edge.Distance, vector.distance.capitalize())


def engine_datatype(vector: VectorLayout) -> Any:
    """A `VectorStorageDatatype`, or None for the default."""
    import qdrant_edge as edge

    if vector.datatype == "float32":
        return None
    return getattr(edge.VectorStorageDatatype, vector.datatype.capitalize())


def engine_multivector(vector: VectorLayout) -> Any:
    """A `MultiVectorConfig`, or None."""
    import qdrant_edge as edge

    return edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim) if vector.multivector else None


def _hnsw(options: HnswOptions | None) -> Any:
    import qdrant_edge as edge

    if options is None:
        return None
    numbers: dict[str, Any] = {
        name: default if getattr(options, name) is None else getattr(options, name)
        for name, default in _HNSW_DEFAULTS.items()
    }
    return edge.HnswIndexConfig(**numbers, on_disk=options.on_disk, payload_m=options.payload_m)


def _quantization(options: Quantization | None) -> Any:
    import qdrant_edge as edge

    if options is None:
        return None
    if options.method == "scalar":
        return edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, quantile=options.quantile, always_ram=options.always_ram
        )
    if options.method == "product":
        ratio = getattr(edge.CompressionRatio, (options.compression or "x16").upper())
        return edge.ProductQuantizationConfig(ratio, always_ram=options.always_ram)
    bits = None if options.bits is None else _BITS[options.method, options.bits]
    if options.method == "binary":
        encoding = None if bits is None else getattr(edge.BinaryQuantizationEncoding, bits)
        return edge.BinaryQuantizationConfig(always_ram=options.always_ram, encoding=encoding)
    size = None if bits is None else getattr(edge.TurboQuantBitSize, bits)
    return edge.TurboQuantQuantizationConfig(always_ram=options.always_ram, bits=size)


def engine_index(index: PayloadIndex) -> Any:
    """What `create_field_index` takes."""
    import qdrant_edge as edge

    if index.tenant:
        params = edge.KeywordIndexParams if index.type == "keyword" else edge.UuidIndexParams
        return params(is_tenant=True)
    return getattr(edge.PayloadSchemaType, index.type.capitalize())


def layout_of(config: Mapping[str, Any], payload_schema: Mapping[str, Any]) -> CollectionLayout:
    """The layout that an edge_config.json and the engine's payload schema describe."""
    return CollectionLayout(
        vectors={name: _vector_layout(written) for name, written in sorted((config.get("vectors") or {}).items())},
        sparse_vectors={
            name: SparseVectorLayout(idf=written.get("modifier") == "idf", on_disk=written.get("on_disk"))
            for name, written in sorted((config.get("sparse_vectors") or {}).items())
        },
        payload_indexes={
            name: PayloadIndex(
                str(info.data_type).rpartition(".")[2].lower(),  # type: ignore[arg-type]
                tenant=bool(getattr(info.params, "is_tenant", False)),
            )
            for name, info in sorted(payload_schema.items())
        },
        on_disk_payload=config.get("on_disk_payload"),
    )


def _vector_layout(written: Mapping[str, Any]) -> VectorLayout:
    hnsw = written.get("hnsw_config")
    return VectorLayout(
        size=written["size"],
        distance=written["distance"].lower(),
        datatype=written.get("datatype") or "float32",
        multivector=bool(written.get("multivector_config")),
        on_disk=written.get("on_disk"),
        hnsw=None
        if hnsw is None
        else HnswOptions(**{name: hnsw.get(name) for name in (*_HNSW_DEFAULTS, "payload_m", "on_disk")}),
        quantization=_written_quantization(written.get("quantization_config")),
    )


def _written_quantization(written: Mapping[str, Any] | None) -> Quantization | None:
    if not written:
        return None
    method, options = next(iter(written.items()))
    bits = options.get("bits") or options.get("encoding")
    return Quantization(
        method,  # type: ignore[arg-type]
        quantile=options.get("quantile"),
        compression=options.get("compression"),
        bits=None if bits is None else _WRITTEN_BITS[bits],
        always_ram=options.get("always_ram"),
    )


def engine_point(point: Point) -> Any:
    """A `Point` of the engine, from a validated one."""
    import qdrant_edge as edge

    vectors = {name: _engine_vector(vector) for name, vector in point.vectors.items()}
    return edge.Point(point.id, vectors, dict(point.payload))


def _engine_vector(vector: Vector) -> Any:
    import qdrant_edge as edge

    if isinstance(vector, SparseVector):
        return edge.SparseVector(vector.indices.tolist(), vector.values.tolist())
    return vector if vector.ndim == 1 else list(vector)


def engine_ids(ids: Sequence[PointId]) -> list[Any]:
    """Ids as the engine takes them."""
    return list(ids)


def our_id(point: Any) -> PointId:
    """An id as every store returns it."""
    return point if isinstance(point, int) else str(point)


def our_vectors(vectors: Any) -> dict[str, Vector]:
    """Vectors by name, float32; a lone unnamed vector gets the name ""."""
    if vectors is None:
        return {}
    if not isinstance(vectors, dict):
        return {"": np.asarray(vectors, dtype=np.float32)} if len(vectors) else {}
    return {name: _our_vector(vector) for name, vector in vectors.items()}


def _our_vector(vector: Any) -> Vector:
    if hasattr(vector, "indices"):
        return SparseVector(np.asarray(vector.indices, np.uint32), np.asarray(vector.values, np.float32))
    return np.asarray(vector, dtype=np.float32)


def our_point(record: Any) -> StoredPoint:
    """A stored point, from the engine's record."""
    return StoredPoint(our_id(record.id), record.payload or {}, our_vectors(record.vector))


def our_hit(hit: Any) -> Hit:
    """A hit, from the engine's scored point."""
    return Hit(our_id(hit.id), hit.payload or {}, our_vectors(hit.vector), hit.score)


def engine_filter(filter: Filter | None) -> Any:  # noqa: A002 - the word of the engine's own requests
    """A `Filter` of the engine, or None for no condition."""
    import qdrant_edge as edge

    if not filter:
        return None
    return edge.Filter(
        must=[_condition(condition) for condition in filter.must] or None,
        must_not=[_condition(condition) for condition in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    import qdrant_edge as edge

    match condition:
        case HasId(ids):
            return edge.HasIdCondition(set(ids))
        case IsEmpty(name):
            return edge.IsEmptyCondition(name)
        case MatchAny(name, values):
            return edge.FieldCondition(name, match=edge.MatchAny(_plain(values)))
        case Match(name, float(value)):
            return edge.FieldCondition(name, range=edge.RangeFloat(gte=value, lte=value))
        case Match(name, bool(flag)):
            # Python's own booleans are taken for the integers 0 and 1, which match no boolean (0.9.0).
            return edge.FieldCondition(name, match=edge.MatchValue(_plain(np.bool_(flag))))
        case Match(name, value):
            return edge.FieldCondition(name, match=edge.MatchValue(_plain(value)))
        case Range(name) if condition.is_datetime:
            return edge.FieldCondition(name, range=edge.RangeDateTime(**condition.datetimes()))
        case Range(name):
            return edge.FieldCondition(name, range=edge.RangeFloat(**_plain(condition.bounds())))


def _plain(value: Any) -> Any:
    """The value, whose type `Match`, `MatchAny` and `Range` have checked; the engine takes no tuples."""
    return list(value) if isinstance(value, tuple) else value


def engine_query(query: SearchQuery, *, exact: bool) -> Any:
    """A `QueryRequest`.

    Args:
        query: Validated.
        exact: What searches do that leave the choice to the store.
    """
    import qdrant_edge as edge

    return edge.QueryRequest(
        query.limit,
        offset=query.offset,
        query=_scoring(query.query),
        prefetches=[_prefetch(inner, query.filter, exact=exact) for inner in query.prefetch] or None,
        with_vector=selection(query.vectors),
        with_payload=selection(query.payload),
        filter=engine_filter(query.filter),
        score_threshold=query.score_threshold,
        params=_parameters(query.parameters, exact=exact),
    )


def _prefetch(prefetch: Prefetch, outer: Filter | None, *, exact: bool) -> Any:
    import qdrant_edge as edge

    both = prefetch.filter & outer if prefetch.filter else outer
    return edge.Prefetch(
        prefetch.limit,
        query=_scoring(prefetch.query),
        prefetches=[_prefetch(inner, both, exact=exact) for inner in prefetch.prefetch] or None,
        params=_parameters(prefetch.parameters, exact=exact),
        filter=engine_filter(both),
        score_threshold=prefetch.score_threshold,
    )


def _scoring(query: Nearest | RankFusion | ScoreFusion) -> Any:
    import qdrant_edge as edge

    if isinstance(query, ScoreFusion):
        return edge.Fusion.Dbsf()
    if isinstance(query, RankFusion):
        return edge.Fusion.Rrf(query.k, list(query.weights) if query.weights else None)
    return edge.Query.Nearest(_engine_vector(query.vector), query.using)


def _parameters(parameters: SearchParameters, *, exact: bool) -> Any:
    import qdrant_edge as edge

    quantization = None
    if parameters.rescore is not None or parameters.oversampling is not None:
        quantization = edge.QuantizationSearchParams(rescore=parameters.rescore, oversampling=parameters.oversampling)
    return edge.SearchParams(
        hnsw_ef=parameters.hnsw_ef,
        exact=exact if parameters.exact is None else parameters.exact,
        quantization=quantization,
    )


def selection(wanted: bool | Sequence[str]) -> bool | list[str]:
    """Which payload fields or vectors to return, as the engine takes it."""
    return wanted if isinstance(wanted, bool) else list(wanted)
