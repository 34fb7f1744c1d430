"""Documents into Qdrant, crash-safe and incremental, with the embedding preferences recorded beside the vectors.

The public names are imported when they are first used: naming the package loads neither an engine nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "AsyncQdrantIngestor": "asynchronous",
    "Document": "documents",
    "EmbeddingSpace": "spaces",
    "IngestProgress": "report",
    "IngestReport": "report",
    "QdrantIngestor": "ingest",
    "SearchHit": "searching",
    "Store": "stores",
    "adopt_collection": "adoption",
    "export_collection": "transfer",
    "open_store": "stores",
    "read_documents": "documents",
}

if TYPE_CHECKING:
    from embedprefs_qdrant.adoption import adopt_collection
    from embedprefs_qdrant.asynchronous import AsyncQdrantIngestor
    from embedprefs_qdrant.documents import Document, read_documents
    from embedprefs_qdrant.ingest import QdrantIngestor
    from embedprefs_qdrant.report import IngestProgress, IngestReport
    from embedprefs_qdrant.searching import SearchHit
    from embedprefs_qdrant.spaces import EmbeddingSpace
    from embedprefs_qdrant.stores import Store, open_store
    from embedprefs_qdrant.transfer import export_collection

__all__ = [
    "AsyncQdrantIngestor",
    "Document",
    "EmbeddingSpace",
    "IngestProgress",
    "IngestReport",
    "QdrantIngestor",
    "SearchHit",
    "Store",
    "__version__",
    "adopt_collection",
    "export_collection",
    "open_store",
    "read_documents",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
