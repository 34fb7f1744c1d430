"""Embedding spaces over LangChain embeddings: ours with its full record, any other by what can be seen of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from embedprefs import InputError, Record, Resolved
from embedprefs.preferences import IndexPreferences
from embedprefs.record import CANARY_TEXTS
from embedprefs_qdrant.spaces import EmbeddingSpace, ModelSpace
from embedprefs_qdrant.stores.layout import Datatype, Distance
from langchain_embedprefs.embeddings import EmbedPrefsEmbeddings

if TYPE_CHECKING:
    from embedprefs import Encoder, PreferredSentenceTransformer
    from embedprefs_qdrant.chunking import Chunker

__all__ = ["LangChainSpace", "PreferredSpace", "aembed_documents", "aembed_query", "space_of"]

Vectors = NDArray[np.float32]


def space_of(
    embedding: Embeddings,
    distance: Distance | None,
    template: str | None = None,
    chunk_context: str | None = None,
) -> EmbeddingSpace:
    """The space of LangChain embeddings.

    Args:
        embedding: Any of them.
        distance: How its vectors are compared; None takes the preferences' similarity, or cosine where there are none.
        template: What makes the embedded text of a document; None takes that of the preferences.
        chunk_context: What was read for the vector of a chunk; None takes that of the preferences.

    Raises:
        InputError: It is no LangChain embedding, or preferences state another similarity.
    """
    if isinstance(embedding, EmbedPrefsEmbeddings):
        space = PreferredSpace(embedding, template, chunk_context)
        if distance is not None and distance != space.distance:
            raise InputError(
                f'distance is "{distance}", and the preferences compare vectors by "{space.distance}".\n'
                "  Leave out distance, or set vectors.similarity_fn_name in the preferences."
            )
        return space
    if not isinstance(embedding, Embeddings):
        raise InputError(
            f"embedding is a {type(embedding).__name__}.\n"
            "  Give LangChain embeddings: EmbedPrefsEmbeddings(...), or any other subclass of "
            "langchain_core.embeddings.Embeddings."
        )
    return LangChainSpace(embedding, distance or "cosine")


class PreferredSpace(ModelSpace):
    """The space of `EmbedPrefsEmbeddings`: the same model in memory, the whole record in the collection."""

    def __init__(
        self, embeddings: EmbedPrefsEmbeddings, template: str | None = None, chunk_context: str | None = None
    ) -> None:
        super().__init__(embeddings.effective_preferences, template=template, chunk_context=chunk_context)
        self.embeddings = embeddings

    @property
    def record(self) -> Record:
        """The identity, with the template that makes the embedded text.

        Raises:
            PreferenceMismatchError: A loaded model was changed since, so that its files no longer say what it is.
        """
        if self.loaded or not self.embeddings.is_loaded_on_demand:
            self.embeddings.record  # noqa: B018 - raises where the model is no longer what was loaded
        return super().record

    @property
    def resolved(self) -> Resolved:
        """The effective preferences on this machine."""
        return self.embeddings.resolved

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self.embeddings.loaded

    @property
    def model(self) -> PreferredSentenceTransformer | Encoder:
        """What embeds; loaded at the first use."""
        return self.embeddings.encoder

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents, with the document prompt; shape (texts, size), float32."""
        return self.embeddings.embed_documents_array(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, with the query prompt; shape (texts, size), float32."""
        return self.embeddings.embed_queries_array(texts)

    def close(self) -> None:
        """Nothing: the embeddings belong to whoever made them."""


class LangChainSpace:
    """The space of embeddings that say nothing about themselves: known by class, dimension and canary vectors."""

    def __init__(self, embedding: Embeddings, distance: Distance) -> None:
        self.embedding = embedding
        self._distance = distance
        self._canaries: Vectors | None = None
        self._lock = threading.Lock()

    @property
    def record(self) -> Record | None:
        """None: nothing is known of model, prompts and truncation."""
        return None

    @property
    def description(self) -> Mapping[str, Any]:
        """Class and dimension."""
        kind = type(self.embedding)
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "dimension": self.size}

    @property
    def size(self) -> int:
        """Length of the vectors, as the embeddings give them."""
        return int(self._canary_vectors().shape[1])

    @property
    def distance(self) -> Distance:
        """How two vectors are compared."""
        return self._distance

    @property
    def datatype(self) -> Datatype:
        """float32."""
        return "float32"

    @property
    def loaded(self) -> bool:
        """Whether anything was embedded yet."""
        return self._canaries is not None

    def _canary_vectors(self) -> Vectors:
        with self._lock:
            if self._canaries is None:
                self._canaries = as_array(self.embedding.embed_documents(list(CANARY_TEXTS)), len(CANARY_TEXTS))
            return self._canaries

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents; the canary strings are asked for once, since a provider may charge for each."""
        if tuple(texts) == CANARY_TEXTS:
            return self._canary_vectors()
        return as_array(self.embedding.embed_documents(list(texts)), len(texts))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, shape (texts, size), float32."""
        return as_array([self.embedding.embed_query(text) for text in texts], len(texts))

    def make_chunker(self, index: IndexPreferences) -> Chunker:  # noqa: ARG002 - the protocol of spaces
        """Not possible: LangChain embeddings have no tokenizer to measure chunks with.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{type(self.embedding).__name__} has no tokenizer, so documents cannot be cut to what it reads.\n"
            "  Cut them with a LangChain text splitter and add them to an EmbedPrefsVectorStore, or use "
            "EmbedPrefsEmbeddings."
        )

    def close(self) -> None:
        """Nothing: the embeddings belong to whoever made them."""


def as_array(vectors: Any, expected: int) -> Vectors:
    """Vectors as an array of shape (texts, size), float32.

    Raises:
        InputError: There are more or fewer than texts, or their lengths differ.
    """
    listed = list(vectors)
    lengths = {len(vector) for vector in listed}
    if len(listed) != expected or len(lengths) > 1:
        found = f"{len(listed)} vectors" if len(listed) != expected else f"vectors of the lengths {sorted(lengths)}"
        raise InputError(f"The embeddings gave {found} for {expected} texts.\n  Nothing was stored.")
    return np.asarray(listed, dtype=np.float32)


async def aembed_documents(embedding: Embeddings, texts: Sequence[str]) -> Vectors:
    """Vectors of documents beside an event loop, in whichever way the embeddings have; shape (texts, size), float32."""
    if isinstance(embedding, EmbedPrefsEmbeddings):
        return await embedding.aembed_documents_array(texts)
    return as_array(await embedding.aembed_documents(list(texts)), len(texts))


async def aembed_query(embedding: Embeddings, text: str) -> Vectors:
    """Vector of a query beside an event loop; shape (size,), float32."""
    if isinstance(embedding, EmbedPrefsEmbeddings):
        return await embedding.aembed_query_array(text)
    return np.asarray(await embedding.aembed_query(text), dtype=np.float32)
