"""Where points are kept: the embedded engine, a Qdrant server, or the client's emulation, behind one `Store`.

store = open_store("edge:./index")
store.ensure("docs", CollectionLayout(vectors={"dense": VectorLayout(size=384)}))
store.upsert("docs", [Point(id=..., vectors={"dense": vector}, payload={"path": "a.md"})])
[hits] = store.search("docs", [SearchQuery(Nearest(query_vector, using="dense"), limit=5)])
store.close()
"""

from embedprefs_qdrant.stores.batching import MAX_BATCH_BYTES, MAX_BATCH_POINTS
from embedprefs_qdrant.stores.client import ClientStore
from embedprefs_qdrant.stores.edge import EdgeStore
from embedprefs_qdrant.stores.failures import StoreError, UploadError
from embedprefs_qdrant.stores.filters import Condition, Filter, HasId, IsEmpty, Match, MatchAny, Range
from embedprefs_qdrant.stores.layout import (
    CollectionLayout,
    HnswOptions,
    PayloadIndex,
    Quantization,
    SparseVectorLayout,
    VectorLayout,
)
from embedprefs_qdrant.stores.opening import open_store
from embedprefs_qdrant.stores.points import NAMESPACE, Hit, Point, PointId, SparseVector, StoredPoint, Vector
from embedprefs_qdrant.stores.protocol import (
    BulkState,
    Capabilities,
    CollectionDescription,
    OptimizeProgress,
    Store,
    UploadReport,
)
from embedprefs_qdrant.stores.queries import Nearest, Prefetch, RankFusion, ScoreFusion, SearchParameters, SearchQuery
from embedprefs_qdrant.stores.retry import Clock, RetryPolicy

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_POINTS",
    "NAMESPACE",
    "BulkState",
    "Capabilities",
    "ClientStore",
    "Clock",
    "CollectionDescription",
    "CollectionLayout",
    "Condition",
    "EdgeStore",
    "Filter",
    "HasId",
    "Hit",
    "HnswOptions",
    "IsEmpty",
    "Match",
    "MatchAny",
    "Nearest",
    "OptimizeProgress",
    "PayloadIndex",
    "Point",
    "PointId",
    "Prefetch",
    "Quantization",
    "Range",
    "RankFusion",
    "RetryPolicy",
    "ScoreFusion",
    "SearchParameters",
    "SearchQuery",
    "SparseVector",
    "SparseVectorLayout",
    "Store",
    "StoreError",
    "StoredPoint",
    "UploadError",
    "UploadReport",
    "Vector",
    "VectorLayout",
    "open_store",
]
