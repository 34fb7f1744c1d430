"""How a collection is laid out: its vectors, their storage, and the payload fields that are indexed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

from embedprefs.errors import InvalidPreferenceError, Problem

__all__ = [
    "CollectionLayout",
    "Compression",
    "Datatype",
    "Distance",
    "HnswOptions",
    "PayloadIndex",
    "PayloadType",
    "Quantization",
    "QuantizationMethod",
    "SparseVectorLayout",
    "VectorLayout",
]

Distance = Literal["cosine", "dot", "euclid", "manhattan"]
Datatype = Literal["float32", "float16", "uint8"]
PayloadType = Literal["keyword", "integer", "float", "bool", "datetime", "text", "uuid"]
QuantizationMethod = Literal["scalar", "product", "binary", "turbo"]
Compression = Literal["x4", "x8", "x16", "x32", "x64"]

#: Bits per dimension that each method offers; the other methods have no such choice.
_BITS: Mapping[str, tuple[float, ...]] = {"binary": (1, 1.5, 2), "turbo": (1, 1.5, 2, 4, 8)}


def _require(key: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value in allowed:
        return
    near = get_close_matches(str(value), [str(choice) for choice in allowed], n=1)
    raise InvalidPreferenceError(
        Problem(
            f"{key} is {value!r}.",
            key=key,
            value=value,
            allowed=", ".join(str(choice) for choice in allowed),
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
    )


def _require_at_least(key: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise InvalidPreferenceError(
            Problem(f"{key} is {value}.", key=key, value=value, allowed=f"an integer of at least {least}")
        )


@dataclass(frozen=True)
class HnswOptions:
    """Options of the HNSW graph; None leaves the engine's own default.

    Attributes:
        m: Edges per node. 0 builds no graph.
        ef_construct: Neighbours considered while building.
        full_scan_threshold: Size in kilobytes below which the vectors are scanned instead.
        payload_m: Edges per node among points that share an indexed payload value.
        on_disk: Keep the graph on disk.
    """

    m: int | None = None
    ef_construct: int | None = None
    full_scan_threshold: int | None = None
    payload_m: int | None = None
    on_disk: bool | None = None

    def __post_init__(self) -> None:
        _require_at_least("hnsw.m", self.m, 0)
        _require_at_least("hnsw.ef_construct", self.ef_construct, 4)
        _require_at_least("hnsw.full_scan_threshold", self.full_scan_threshold, 0)
        _require_at_least("hnsw.payload_m", self.payload_m, 0)


@dataclass(frozen=True)
class Quantization:
    """A smaller copy of the vectors that the engine searches first.

    Attributes:
        method: "scalar" (int8), "product", "binary" or "turbo".
        quantile: Share of values that the int8 range covers (scalar only); None covers all.
        compression: How many times smaller (product only); None means "x16".
        bits: Bits per dimension (binary: 1, 1.5, 2; turbo: 1, 1.5, 2, 4, 8); None leaves the engine's default.
        always_ram: Keep the copy in memory even where the vectors are on disk.
    """

    method: QuantizationMethod
    quantile: float | None = None
    compression: Compression | None = None
    bits: float | None = None
    always_ram: bool | None = None

    def __post_init__(self) -> None:
        _require("quantization.method", self.method, get_args(QuantizationMethod))
        for name, owner in (("quantile", "scalar"), ("compression", "product")):
            if getattr(self, name) is not None and self.method != owner:
                self._does_not_apply(name, owner)
        if self.compression is not None:
            _require("quantization.compression", self.compression, get_args(Compression))
        if self.bits is not None:
            if self.method not in _BITS:
                self._does_not_apply("bits", "binary and turbo")
            _require("quantization.bits", self.bits, _BITS[self.method])
        if self.quantile is not None and not 0.5 <= self.quantile <= 1.0:
            raise InvalidPreferenceError(
                Problem(
                    f"quantization.quantile is {self.quantile}.",
                    key="quantization.quantile",
                    value=self.quantile,
                    allowed="0.5 to 1.0",
                )
            )

    def _does_not_apply(self, name: str, owner: str) -> None:
        raise InvalidPreferenceError(
            Problem(
                f"quantization.{name} has no meaning for the method {self.method!r}.",
                key=f"quantization.{name}",
                value=getattr(self, name),
                allowed=f"only with {owner}",
                fix=f"Leave out {name}, or choose another method.",
            )
        )


@dataclass(frozen=True)
class VectorLayout:
    """One named dense vector, or one named set of vectors per point.

    Attributes:
        size: Dimensions of a vector.
        distance: How two vectors are compared. With "cosine" the engines store the vectors normalised.
        datatype: What the engine stores: "float32", "float16", or "uint8" (only for vectors of integers 0 to 255).
        multivector: Each point holds a matrix of shape (tokens, size), compared by MaxSim.
        on_disk: Keep the vectors on disk; None leaves the engine's default.
        hnsw: Options of this vector's graph.
        quantization: A quantised copy; None keeps none.
    """

    size: int
    distance: Distance = "cosine"
    datatype: Datatype = "float32"
    multivector: bool = False
    on_disk: bool | None = None
    hnsw: HnswOptions | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        _require_at_least("size", self.size, 1)
        _require("distance", self.distance, get_args(Distance))
        _require("datatype", self.datatype, get_args(Datatype))


@dataclass(frozen=True)
class SparseVectorLayout:
    """One named sparse vector.

    Attributes:
        idf: The engine multiplies each query weight by the term's inverse document frequency in the collection.
        on_disk: Keep the inverted index on disk; None leaves the engine's default.
    """

    idf: bool = False
    on_disk: bool | None = None


@dataclass(frozen=True)
class PayloadIndex:
    """An index on one payload field.

    Attributes:
        type: Type of the values; points whose value is of another type are not found through the index.
        tenant: Points of one value are stored together (only "keyword" and "uuid").
    """

    type: PayloadType = "keyword"
    tenant: bool = False

    def __post_init__(self) -> None:
        _require("payload index", self.type, get_args(PayloadType))
        if self.tenant:
            _require("tenant field's index", self.type, ("keyword", "uuid"))


@dataclass(frozen=True)
class CollectionLayout:
    """Everything that is fixed when a collection is created.

    Attributes:
        vectors: Dense vectors by name. The name "" is the engine's unnamed vector, which collections made by other
            libraries often have.
        sparse_vectors: Sparse vectors by name.
        payload_indexes: Index by payload field; a dotted path reaches into nested objects.
        on_disk_payload: Keep payloads on disk; None leaves the engine's default.
    """

    vectors: Mapping[str, VectorLayout] = field(default_factory=dict)
    sparse_vectors: Mapping[str, SparseVectorLayout] = field(default_factory=dict)
    payload_indexes: Mapping[str, PayloadIndex] = field(default_factory=dict)
    on_disk_payload: bool | None = None

    def __post_init__(self) -> None:
        if not self.vectors and not self.sparse_vectors:
            raise InvalidPreferenceError(
                Problem("The collection's layout names no vector.", fix="Name at least one dense or sparse vector.")
            )
        both = sorted(set(self.vectors) & set(self.sparse_vectors))
        if both:
            raise InvalidPreferenceError(
                Problem(
                    f"The vector name {both[0]!r} is both dense and sparse.",
                    fix="Give the two vectors different names.",
                )
            )

    def conflicts(self, stored: CollectionLayout) -> dict[str, tuple[Any, Any]]:
        """What a stored collection has otherwise than asked, in a way that no setting can change.

        Returns:
            Field to (asked, stored), such as `{"vectors.dense.size": (384, 768)}`. A vector that the collection
            lacks is no conflict: it can be added.
        """
        found: dict[str, tuple[Any, Any]] = {}
        for name, asked in self.vectors.items():
            if name in stored.sparse_vectors:
                found[f"vectors.{name}"] = ("dense", "sparse")
            elif name in stored.vectors:
                has = stored.vectors[name]
                for key in ("size", "distance", "datatype", "multivector"):
                    if getattr(asked, key) != getattr(has, key):
                        found[f"vectors.{name}.{key}"] = (getattr(asked, key), getattr(has, key))
        for name, asked_sparse in self.sparse_vectors.items():
            if name in stored.vectors:
                found[f"sparse_vectors.{name}"] = ("sparse", "dense")
            elif name in stored.sparse_vectors and asked_sparse.idf != stored.sparse_vectors[name].idf:
                found[f"sparse_vectors.{name}.idf"] = (asked_sparse.idf, stored.sparse_vectors[name].idf)
        for name, index in self.payload_indexes.items():
            if name in stored.payload_indexes and index.type != stored.payload_indexes[name].type:
                found[f"payload_indexes.{name}"] = (index.type, stored.payload_indexes[name].type)
        return found

    def unapplied(self, stored: CollectionLayout) -> dict[str, tuple[Any, Any]]:
        """What was asked about speed and memory and a stored collection has otherwise; values as in `conflicts`."""
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted(set(self.vectors) & set(stored.vectors)):
            _collect_unapplied(f"vectors.{name}", self.vectors[name], stored.vectors[name], found)
        for name in sorted(set(self.sparse_vectors) & set(stored.sparse_vectors)):
            key = f"sparse_vectors.{name}"
            _collect_unapplied(key, self.sparse_vectors[name], stored.sparse_vectors[name], found)
        for name in sorted(set(self.payload_indexes) & set(stored.payload_indexes)):
            if self.payload_indexes[name].tenant != stored.payload_indexes[name].tenant:
                key = f"payload_indexes.{name}.tenant"
                found[key] = (self.payload_indexes[name].tenant, stored.payload_indexes[name].tenant)
        if self.on_disk_payload not in (None, stored.on_disk_payload):
            found["on_disk_payload"] = (self.on_disk_payload, stored.on_disk_payload)
        return found


def _collect_unapplied(place: str, asked: Any, stored: Any, found: dict[str, tuple[Any, Any]]) -> None:
    for entry in fields(asked):
        if entry.name in {"size", "distance", "datatype", "multivector", "idf"}:
            continue
        wanted, has = getattr(asked, entry.name), getattr(stored, entry.name)
        if isinstance(wanted, (HnswOptions, Quantization)) and type(wanted) is type(has):
            _collect_unapplied(f"{place}.{entry.name}", wanted, has, found)
        elif wanted is not None and wanted != has:
            found[f"{place}.{entry.name}"] = (wanted, has)
