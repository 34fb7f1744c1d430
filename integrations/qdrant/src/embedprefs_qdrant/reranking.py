"""A second model that reads query and passage together and orders the first hits again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from embedprefs import MissingExtraError
from embedprefs.preferences import RerankPreferences
from embedprefs_qdrant.stores.points import Hit

__all__ = ["Reranker", "make_reranker"]


def make_reranker(preferences: RerankPreferences) -> Reranker | None:
    """Make what `[rerank]` names; None where it names nothing."""
    return None if preferences.name is None else Reranker(preferences)


class Reranker:
    """Orders hits by a cross-encoder's score, or by MaxSim over a multi-vector encoder's token vectors."""

    def __init__(self, preferences: RerankPreferences) -> None:
        """Take the model's name; it is loaded when the first hits are ordered."""
        self._preferences = preferences
        self._model: Any = None

    @property
    def hits(self) -> int:
        """How many first hits are ordered again."""
        return self._preferences.hits

    def order(self, query: str, hits: Sequence[Hit], texts: Sequence[str]) -> list[Hit]:
        """Return the hits in the order of the model's scores, which replace the store's.

        Args:
            query: The question.
            hits: What the store found.
            texts: The passage of each hit.
        """
        if not hits:
            return []
        scores = self._scores(query, texts)
        scored = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)

    def _scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        model = self._load()
        if self._preferences.kind == "cross_encoder":
            return [float(score) for score in model.predict([(query, text) for text in texts], show_progress_bar=False)]
        queries = model.encode_query([query], show_progress_bar=False)
        passages = model.encode_document(list(texts), show_progress_bar=False)
        return [float(score) for score in model.similarity(queries, passages)[0]]

    def _load(self) -> Any:
        if self._model is None:
            try:
                import sentence_transformers
            except ImportError as error:
                raise MissingExtraError(
                    "sentence-transformers", extra="sentence-transformers", needed_for="[rerank]"
                ) from error
            classes = {"cross_encoder": "CrossEncoder", "multi_vector": "MultiVectorEncoder"}
            make = getattr(sentence_transformers, classes[self._preferences.kind])
            self._model = make(self._preferences.name, revision=self._preferences.revision)
        return self._model
