"""The sparse side of a hybrid search: BM25, or a `SparseEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from embedprefs import InvalidPreferenceError, MissingExtraError, Problem
from embedprefs.preferences import SparsePreferences
from embedprefs_qdrant.stores.points import SparseVector

__all__ = ["Bm25Embedder", "SparseEmbedder", "SparseEncoderEmbedder", "sparse_embedder"]


class SparseEmbedder(Protocol):
    """Makes sparse vectors of texts."""

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Sparse vectors of documents."""

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """Sparse vectors of queries."""


def sparse_embedder(preferences: SparsePreferences) -> SparseEmbedder:
    """Make what `[sparse]` names."""
    if preferences.name == "bm25":
        return Bm25Embedder(preferences)
    return SparseEncoderEmbedder(preferences)


class Bm25Embedder:
    """BM25 term weights, stems and stop words by the embedded engine.

    A document's weight of a term is tf (k + 1) / (tf + k (1 - b + b words / average_words)), a query's is 1; the
    collection multiplies with the inverse document frequency it knows (Robertson and Zaragoza, "The Probabilistic
    Relevance Framework", 2009).
    """

    def __init__(self, preferences: SparsePreferences) -> None:
        """Take k, b, the average length and the language.

        Raises:
            InvalidPreferenceError: The engine has no such language.
        """
        from qdrant_edge import Bm25, Bm25Config, DisabledStemmer, StopwordsSet

        options: dict[str, Any] = {"k": preferences.k, "b": preferences.b, "avg_len": preferences.average_words}
        if preferences.language == "none":
            options |= {"stemmer": DisabledStemmer(), "stopwords": StopwordsSet(languages=set(), custom=set())}
        else:
            options["language"] = preferences.language
        try:
            self._model = Bm25(Bm25Config(**options))
        except ValueError as error:
            raise InvalidPreferenceError(
                Problem(
                    f'sparse.language is "{preferences.language}": {error}',
                    key="sparse.language",
                    value=preferences.language,
                    allowed='the name of a language in English, such as english, german or french; or "none"',
                )
            ) from error

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Term weights of documents."""
        return [_sparse(self._model.embed_document(text)) for text in texts]

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """Weight 1 for each different term of a query."""
        return [_sparse(self._model.embed_query(text)) for text in texts]


def _sparse(vector: Any) -> SparseVector:
    return SparseVector(np.asarray(vector.indices, dtype=np.uint32), np.asarray(vector.values, dtype=np.float32))


class SparseEncoderEmbedder:
    """A trained sparse model, loaded when the first vector is needed."""

    def __init__(self, preferences: SparsePreferences) -> None:
        self._preferences = preferences
        self._model: Any = None

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Sparse vectors of documents."""
        return _rows(self._load().encode_document(list(texts), convert_to_sparse_tensor=False, show_progress_bar=False))

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """Sparse vectors of queries."""
        return _rows(self._load().encode_query(list(texts), convert_to_sparse_tensor=False, show_progress_bar=False))

    def _load(self) -> Any:
        if self._model is None:
            try:
                from sentence_transformers import SparseEncoder
            except ImportError as error:
                raise MissingExtraError(
                    "sentence-transformers", extra="sentence-transformers", needed_for="A SparseEncoder"
                ) from error
            self._model = SparseEncoder(self._preferences.name, revision=self._preferences.revision)
        return self._model


def _rows(matrix: Any) -> list[SparseVector]:
    rows = []
    for row in matrix:
        values = np.asarray(row.cpu() if hasattr(row, "cpu") else row, dtype=np.float32)
        places = np.flatnonzero(values)
        rows.append(SparseVector(places.astype(np.uint32), values[places]))
    return rows
