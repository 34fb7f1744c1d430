"""The retriever over an `EmbedPrefsVectorStore`."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import Field

from langchain_embedprefs.embeddings import EmbedPrefsEmbeddings

__all__ = ["EmbedPrefsRetriever"]


class EmbedPrefsRetriever(VectorStoreRetriever):
    """Finds the documents that answer a question, in a chain or alone.

    Setup:
        ```bash
        pip install "langchain-embedprefs[qdrant]"
        ```

    Key init args:
        vectorstore: An `EmbedPrefsVectorStore`; `store.as_retriever(...)` fills it in.
        k: Documents to return.
        search_type: "similarity", "similarity_score_threshold" or "mmr".
        search_kwargs: Further arguments of the search: `filter`, `score_threshold`, `fetch_k`, `lambda_mult`,
            `hybrid` ...

    Instantiate:
        ```python
        retriever = EmbedPrefsRetriever(vectorstore=store, k=3, search_kwargs={"filter": {"language": "en"}})
        ```

    Usage:
        ```python
        retriever.invoke("Which harbour froze over?")
        await retriever.ainvoke("Which harbour froze over?", k=1)
        ```
    """

    k: int | None = Field(default=None, ge=1)
    """Documents to return; None leaves it to `search_kwargs`, or to LangChain's default of 4. An argument of the call
    wins."""

    def _with_k(self, named: dict[str, Any]) -> dict[str, Any]:
        return named if self.k is None else {"k": self.k, **named}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return super()._get_relevant_documents(query, run_manager=run_manager, **self._with_k(kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **self._with_k(kwargs))

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        """What a trace says: the store, the provider, and the model that LangChain leaves out."""
        parameters = super()._get_ls_params(**kwargs)
        embeddings = self.vectorstore.embeddings
        if isinstance(embeddings, EmbedPrefsEmbeddings):
            parameters["ls_embedding_model"] = embeddings.effective_preferences.model.name
        return parameters
