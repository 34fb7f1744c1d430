"""Our layouts, points, filters and queries in the words of qdrant-client, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

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
from embedprefs_qdrant.stores.points import Hit, Point, SparseVector, StoredPoint, Vector
from embedprefs_qdrant.stores.queries import Nearest, Prefetch, RankFusion, ScoreFusion, SearchParameters, SearchQuery

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "client_filter",
    "client_index",
    "client_point",
    "client_query",
    "dense_name_config",
    "dense_params",
    "grpc_point",
    "layout_of",
    "our_hit",
    "our_point",
    "selection",
    "sparse_name_config",
    "sparse_params",
]

#: How the REST interface spells the bits of a quantisation.
_BITS = {
    ("binary", 1): "one_bit",
    ("binary", 1.5): "one_and_half_bits",
    ("binary", 2): "two_bits",
    ("turbo", 1): "bits1",
    ("turbo", 1.5): "bits1_5",
    ("turbo", 2): "bits2",
    ("turbo", 4): "bits4",
    ("turbo", 8): "bits8",
}

_HNSW_FIELDS = ("m", "ef_construct", "full_scan_threshold", "payload_m", "on_disk")


def dense_params(layout: CollectionLayout) -> Any:
    """What `create_collection` takes as `vectors_config`."""
    params = {name: _vector_params(vector) for name, vector in layout.vectors.items()}
    return params[""] if set(params) == {""} else params


def _vector_params(vector: VectorLayout) -> models.VectorParams:
    from qdrant_client import models

    return models.VectorParams(
        size=vector.size,
        distance=models.Distance(vector.distance.capitalize()),
        # Left out where it is the default, which servers before 1.9 do not know by name.
        datatype=None if vector.datatype == "float32" else models.Datatype(vector.datatype),
        multivector_config=_multivector() if vector.multivector else None,
        on_disk=vector.on_disk,
        hnsw_config=None
        if vector.hnsw is None
        else models.HnswConfigDiff(**{name: getattr(vector.hnsw, name) for name in _HNSW_FIELDS}),
        quantization_config=_quantization(vector.quantization),
    )


def _multivector() -> models.MultiVectorConfig:
    from qdrant_client import models

    return models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)


def _quantization(options: Quantization | None) -> Any:
    from qdrant_client import models

    if options is None:
        return None
    ram = options.always_ram
    bits = None if options.bits is None else _BITS[options.method, options.bits]
    match options.method:
        case "scalar":
            return models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8, quantile=options.quantile, always_ram=ram
                )
            )
        case "product":
            ratio = models.CompressionRatio(options.compression or "x16")
            return models.ProductQuantization(
                product=models.ProductQuantizationConfig(compression=ratio, always_ram=ram)
            )
        case "binary":
            encoding = None if bits is None else models.BinaryQuantizationEncoding(bits)
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(encoding=encoding, always_ram=ram))
        case "turbo":
            size = None if bits is None else models.TurboQuantBitSize(bits)
            return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=size, always_ram=ram))


def sparse_params(layout: CollectionLayout) -> dict[str, models.SparseVectorParams] | None:
    """What `create_collection` takes as `sparse_vectors_config`."""
    from qdrant_client import models

    return {
        name: models.SparseVectorParams(
            modifier=models.Modifier.IDF if sparse.idf else None,
            index=None if sparse.on_disk is None else models.SparseIndexParams(on_disk=sparse.on_disk),
        )
        for name, sparse in layout.sparse_vectors.items()
    } or None


def dense_name_config(vector: VectorLayout) -> models.DenseVectorNameConfig:
    """What `create_vector_name` takes for a dense vector."""
    from qdrant_client import models

    return models.DenseVectorNameConfig(
        dense=models.DenseVectorConfig(
            size=vector.size,
            distance=models.Distance(vector.distance.capitalize()),
            datatype=None if vector.datatype == "float32" else models.Datatype(vector.datatype),
            multivector_config=_multivector() if vector.multivector else None,
        )
    )


def sparse_name_config(sparse: SparseVectorLayout) -> models.SparseVectorNameConfig:
    """What `create_vector_name` takes for a sparse vector."""
    from qdrant_client import models

    return models.SparseVectorNameConfig(
        sparse=models.SparseVectorConfig(modifier=models.Modifier.IDF if sparse.idf else None)
    )


def client_index(index: PayloadIndex) -> Any:
    """What `create_payload_index` takes as `field_schema`."""
    from qdrant_client import models

    if index.tenant and index.type == "keyword":
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    if index.tenant:
        return models.UuidIndexParams(type=models.UuidIndexType.UUID, is_tenant=True)
    return models.PayloadSchemaType(index.type)


def layout_of(info: models.CollectionInfo) -> CollectionLayout:
    """The layout of a collection as the server reports it."""
    params = info.config.params
    dense: Any = params.vectors or {}
    if not isinstance(dense, Mapping):
        dense = {"": dense}
    return CollectionLayout(
        vectors={name: _vector_layout(vector, info) for name, vector in sorted(dense.items())},
        sparse_vectors={
            name: SparseVectorLayout(
                idf=_word(sparse.modifier) == "idf", on_disk=None if sparse.index is None else sparse.index.on_disk
            )
            for name, sparse in sorted((params.sparse_vectors or {}).items())
        },
        payload_indexes={
            name: PayloadIndex(
                _word(index.data_type),  # type: ignore[arg-type]
                tenant=bool(getattr(index.params, "is_tenant", False)),
            )
            for name, index in sorted(info.payload_schema.items())
            # Geographic fields are not ours and take no part in a comparison.
            if _word(index.data_type) != "geo"
        },
        on_disk_payload=params.on_disk_payload,
    )


def _vector_layout(vector: models.VectorParams, info: models.CollectionInfo) -> VectorLayout:
    hnsw: Any = vector.hnsw_config
    quantization: Any = vector.quantization_config or info.config.quantization_config
    datatype = _word(vector.datatype)
    return VectorLayout(
        size=vector.size,
        distance=_word(vector.distance).lower(),  # type: ignore[arg-type]
        # A datatype that we do not offer is read as the one that takes the same vectors.
        datatype=datatype if datatype in {"float16", "uint8"} else "float32",  # type: ignore[arg-type]
        multivector=vector.multivector_config is not None,
        on_disk=vector.on_disk,
        hnsw=None if hnsw is None else HnswOptions(**{name: getattr(hnsw, name) for name in _HNSW_FIELDS}),
        quantization=None if quantization is None else _written_quantization(quantization),
    )


def _written_quantization(written: Any) -> Quantization:
    method = next(name for name in ("scalar", "product", "binary", "turbo") if hasattr(written, name))
    options = getattr(written, method)
    bits = _word(getattr(options, "bits", None) or getattr(options, "encoding", None))
    compression = getattr(options, "compression", None)
    return Quantization(
        method,  # type: ignore[arg-type]
        quantile=getattr(options, "quantile", None),
        compression=None if compression is None else _word(compression),  # type: ignore[arg-type]
        bits=next((number for (_, number), word in _BITS.items() if word == bits), None),
        always_ram=options.always_ram,
    )


def _word(value: object) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)


def client_point(point: Point) -> models.PointStruct:
    """A point for REST and the emulation, from a validated one."""
    from qdrant_client import models

    return models.PointStruct(id=point.id, vector=_client_vectors(point), payload=dict(point.payload))


def grpc_point(point: Point) -> Any:
    """A point for gRPC: numpy rows are copied as they are instead of being turned into Python floats."""
    from qdrant_client import grpc
    from qdrant_client.conversions.conversion import RestToGrpc, payload_to_grpc
    from qdrant_client.uploader.grpc_uploader import convert_vector_struct

    return grpc.PointStruct(
        id=RestToGrpc.convert_extended_point_id(point.id),
        vectors=convert_vector_struct(_client_vectors(point)),
        payload=payload_to_grpc(dict(point.payload)),
    )


def _client_vectors(point: Point) -> Any:
    vectors = {name: _client_vector(vector) for name, vector in point.vectors.items()}
    return vectors[""] if set(vectors) == {""} else vectors


def _client_vector(vector: Vector) -> Any:
    from qdrant_client import models

    if isinstance(vector, SparseVector):
        return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector


def our_point(record: models.Record) -> StoredPoint:
    """A stored point, from the client's record."""
    return StoredPoint(_our_id(record.id), record.payload or {}, _our_vectors(record.vector))


def our_hit(hit: models.ScoredPoint) -> Hit:
    """A hit, from the client's scored point."""
    return Hit(_our_id(hit.id), hit.payload or {}, _our_vectors(hit.vector), hit.score)


def _our_id(point: Any) -> int | str:
    return point if isinstance(point, int) else str(point)


def _our_vectors(vectors: Any) -> dict[str, Vector]:
    if vectors is None:
        return {}
    if not isinstance(vectors, Mapping):
        return {"": np.asarray(vectors, dtype=np.float32)} if len(vectors) else {}
    return {
        name: SparseVector(np.asarray(vector.indices, np.uint32), np.asarray(vector.values, np.float32))
        if hasattr(vector, "indices")
        else np.asarray(vector, dtype=np.float32)
        for name, vector in vectors.items()
    }


def client_filter(filter: Filter | None) -> models.Filter | None:  # noqa: A002 - the word of the requests themselves
    """A filter of the client, or None for no condition."""
    from qdrant_client import models

    if not filter:
        return None
    return models.Filter(
        must=[_condition(condition) for condition in filter.must] or None,
        must_not=[_condition(condition) for condition in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    from qdrant_client import models

    match condition:
        case HasId(ids):
            return models.HasIdCondition(has_id=list(ids))
        case IsEmpty(name):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=name))
        case MatchAny(name, values):
            return models.FieldCondition(key=name, match=models.MatchAny(any=_plain(values)))
        case Match(name, float(value)):
            return models.FieldCondition(key=name, range=models.Range(gte=value, lte=value))
        case Match(name, value):
            return models.FieldCondition(key=name, match=models.MatchValue(value=_plain(value)))
        case Range(name) if condition.is_datetime:
            return models.FieldCondition(key=name, range=models.DatetimeRange(**_plain(condition.datetimes())))
        case Range(name):
            return models.FieldCondition(key=name, range=models.Range(**_plain(condition.bounds())))


def _plain(value: Any) -> Any:
    """The value, whose type `Match`, `MatchAny` and `Range` have checked; the client takes no tuples."""
    return list(value) if isinstance(value, tuple) else value


def client_query(query: SearchQuery, *, tunable: bool) -> models.QueryRequest:
    """A request for `query_batch_points`.

    Args:
        query: Validated.
        tunable: Whether search parameters have an effect; the emulation warns of each.
    """
    from qdrant_client import models

    return models.QueryRequest(
        query=_scoring(query.query),
        using=query.query.using if isinstance(query.query, Nearest) and query.query.using else None,
        prefetch=[_prefetch(inner, query.filter, tunable=tunable) for inner in query.prefetch] or None,
        filter=client_filter(query.filter),
        params=_parameters(query.parameters) if tunable else None,
        score_threshold=query.score_threshold,
        limit=query.limit,
        offset=query.offset,
        with_payload=selection(query.payload),
        with_vector=selection(query.vectors),
    )


def _prefetch(prefetch: Prefetch, outer: Filter | None, *, tunable: bool) -> models.Prefetch:
    from qdrant_client import models

    both = prefetch.filter & outer if prefetch.filter else outer
    return models.Prefetch(
        query=_scoring(prefetch.query),
        using=prefetch.query.using if isinstance(prefetch.query, Nearest) and prefetch.query.using else None,
        prefetch=[_prefetch(inner, both, tunable=tunable) for inner in prefetch.prefetch] or None,
        filter=client_filter(both),
        params=_parameters(prefetch.parameters) if tunable else None,
        score_threshold=prefetch.score_threshold,
        limit=prefetch.limit,
    )


def _scoring(query: Nearest | RankFusion | ScoreFusion) -> Any:
    from qdrant_client import models

    if isinstance(query, ScoreFusion):
        return models.FusionQuery(fusion=models.Fusion.DBSF)
    if isinstance(query, RankFusion):
        return models.RrfQuery(rrf=models.Rrf(k=query.k, weights=list(query.weights) if query.weights else None))
    vector = _client_vector(query.vector)
    return models.NearestQuery(nearest=vector if isinstance(vector, models.SparseVector) else vector.tolist())


def _parameters(parameters: SearchParameters) -> models.SearchParams | None:
    from qdrant_client import models

    if parameters == SearchParameters():
        return None
    quantization = None
    if parameters.rescore is not None or parameters.oversampling is not None:
        quantization = models.QuantizationSearchParams(rescore=parameters.rescore, oversampling=parameters.oversampling)
    return models.SearchParams(hnsw_ef=parameters.hnsw_ef, exact=parameters.exact or False, quantization=quantization)


def selection(wanted: bool | Sequence[str]) -> bool | list[str]:
    """Which payload fields or vectors to return, as the client takes it."""
    return wanted if isinstance(wanted, bool) else list(wanted)
