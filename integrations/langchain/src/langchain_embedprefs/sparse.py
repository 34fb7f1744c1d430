"""Sparse embeddings for the store of langchain-qdrant, by a `SparseEncoder` of sentence-transformers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from embedprefs import InputError, MissingExtraError
from langchain_embedprefs.asynchronous import run_in

try:
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
except ImportError as error:
    raise MissingExtraError(
        "langchain-qdrant",
        extra="langchain-qdrant",
        needed_for="EmbedPrefsSparseEmbeddings",
        distribution="langchain-embedprefs",
    ) from error

__all__ = ["EmbedPrefsSparseEmbeddings"]


class EmbedPrefsSparseEmbeddings(SparseEmbeddings):
    """A trained sparse model, such as SPLADE, for `langchain_qdrant.QdrantVectorStore` in sparse or hybrid mode.

    Setup:
        ```bash
        pip install "langchain-embedprefs[langchain-qdrant]"
        ```

    Instantiate:
        ```python
        sparse = EmbedPrefsSparseEmbeddings("naver/splade-v3")
        store = QdrantVectorStore(client, "notes", sparse_embedding=sparse, retrieval_mode=RetrievalMode.SPARSE)
        ```

    Documents and queries go through the model's own two ways. The async methods use a thread of their own.
    """

    def __init__(self, model: Any, *, revision: str | None = None, device: str | None = None) -> None:
        """Take the model; a name is loaded at the first use.

        Args:
            model: Hub name or folder of a `SparseEncoder`, or a loaded one.
            revision: Commit on the hub; only with a name.
            device: Where to compute; None leaves it to sentence-transformers. Only with a name or folder.

        Raises:
            InputError: It is neither, or arguments could take no effect.
        """
        is_name = isinstance(model, str)
        if not is_name and not (hasattr(model, "encode_query") and hasattr(model, "sparsity")):
            raise InputError(
                f"model is a {type(model).__name__}.\n  Give the name or folder of a SparseEncoder, or a loaded one."
            )
        if not is_name and (revision is not None or device is not None):
            raise InputError("revision and device have no effect on a loaded model.\n  Leave them out.")
        self._name: str | None = model if is_name else None
        self._model: Any = None if is_name else model
        self._options = {"revision": revision, "device": device}
        self._lock = threading.Lock()

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedprefs-sparse")

    @property
    def model(self) -> Any:
        """The `SparseEncoder`; loaded at the first use."""
        with self._lock:
            if self._model is None:
                from sentence_transformers import SparseEncoder

                self._model = SparseEncoder(self._name, **self._options)
            return self._model

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Sparse vectors of documents, in their order.

        Raises:
            InputError: One text is given instead of a list, or something that is no text.
        """
        given: Any = texts
        if isinstance(given, str) or not all(isinstance(text, str) for text in given):
            raise InputError("embed_documents takes a list of texts.\n  For one text write embed_documents([text]).")
        return _rows(self.model.encode_document(list(texts), show_progress_bar=False)) if texts else []

    def embed_query(self, text: str) -> SparseVector:
        """Sparse vector of one query."""
        if not isinstance(text, str):
            raise InputError(f"The query is a {type(text).__name__}, and no text.")
        return _rows(self.model.encode_query([text], show_progress_bar=False))[0]

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """As `embed_documents`, beside the event loop."""
        return await run_in(self._executor, self.embed_documents, texts)

    async def aembed_query(self, text: str) -> SparseVector:
        """As `embed_query`, beside the event loop."""
        return await run_in(self._executor, self.embed_query, text)


def _rows(matrix: Any) -> list[SparseVector]:
    """The rows of a sparse tensor, each index once and in order."""
    coordinates = matrix.coalesce().cpu()
    rows, columns = np.asarray(coordinates.indices())
    values = np.asarray(coordinates.values(), dtype=np.float32)
    found = []
    for row in range(matrix.shape[0]):
        here = (rows == row) & (values != 0)
        found.append(SparseVector(indices=columns[here].tolist(), values=values[here].tolist()))
    return found
