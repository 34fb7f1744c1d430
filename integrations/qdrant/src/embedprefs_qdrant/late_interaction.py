"""A vector for every token, compared by MaxSim in the engine: the finest of the rescoring stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs import MissingExtraError
from embedprefs.preferences import RerankPreferences
from embedprefs_qdrant.encoders import encoder_identity

__all__ = ["LateInteraction", "late_interaction"]


def late_interaction(preferences: RerankPreferences) -> LateInteraction | None:
    """Make what `[rerank]` names, where that is a multi-vector encoder."""
    if preferences.name is None or preferences.kind != "multi_vector":
        return None
    return LateInteraction(preferences)


class LateInteraction:
    """A `MultiVectorEncoder` (ColBERT and its kin), loaded when the first vector is needed."""

    def __init__(self, preferences: RerankPreferences) -> None:
        self._preferences = preferences
        self._model: Any = None

    @property
    def hits(self) -> int:
        """How many first hits are scored again."""
        return self._preferences.hits

    @property
    def size(self) -> int:
        """Length of a token's vector; loads the model."""
        return int(self._load().get_embedding_dimension())

    def identity(self) -> dict[str, Any]:
        """What has to agree between indexing and searching: the weights by their content."""
        return encoder_identity(str(self._preferences.name), self._preferences.revision)

    def embed_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Token vectors of documents, each of shape (tokens, size), float32."""
        return _arrays(self._load().encode_document(list(texts), show_progress_bar=False))

    def embed_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Token vectors of queries, each of shape (tokens, size), float32."""
        return _arrays(self._load().encode_query(list(texts), show_progress_bar=False))

    def _load(self) -> Any:
        if self._model is None:
            try:
                from sentence_transformers import MultiVectorEncoder
            except ImportError as error:
                raise MissingExtraError(
                    "sentence-transformers", extra="sentence-transformers", needed_for="A multi-vector [rerank]"
                ) from error
            self._model = MultiVectorEncoder(str(self._preferences.name), revision=self._preferences.revision)
        return self._model


def _arrays(vectors: Any) -> list[NDArray[np.float32]]:
    return [np.asarray(item.cpu() if hasattr(item, "cpu") else item, dtype=np.float32) for item in vectors]
