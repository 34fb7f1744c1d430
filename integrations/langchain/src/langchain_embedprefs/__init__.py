"""LangChain embeddings, vector store and retriever under one preferences file.

The public names are imported when they are first used: naming the package loads neither torch nor an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "EmbedPrefsEmbeddings": "embeddings",
    "EmbedPrefsRetriever": "retriever",
    "EmbedPrefsSparseEmbeddings": "sparse",
    "EmbedPrefsVectorStore": "vectorstore",
    "register_with_langchain": "registration",
}

if TYPE_CHECKING:
    from langchain_embedprefs.embeddings import EmbedPrefsEmbeddings
    from langchain_embedprefs.registration import register_with_langchain
    from langchain_embedprefs.retriever import EmbedPrefsRetriever
    from langchain_embedprefs.sparse import EmbedPrefsSparseEmbeddings
    from langchain_embedprefs.vectorstore import EmbedPrefsVectorStore

__all__ = [
    "EmbedPrefsEmbeddings",
    "EmbedPrefsRetriever",
    "EmbedPrefsSparseEmbeddings",
    "EmbedPrefsVectorStore",
    "__version__",
    "register_with_langchain",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
