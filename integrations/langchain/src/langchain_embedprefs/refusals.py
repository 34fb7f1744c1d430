"""What `[index]` may ask for and a LangChain vector store cannot do."""

from __future__ import annotations

from embedprefs import InvalidPreferenceError, Problem
from embedprefs.preferences import IndexPreferences

__all__ = ["refuse_additions_in_context", "refuse_named_vectors"]


def refuse_named_vectors(index: IndexPreferences) -> None:
    """Refuse further vectors.

    Raises:
        InvalidPreferenceError: There are some.
    """
    if index.vectors:
        raise InvalidPreferenceError(
            Problem(
                f"index.vectors names the further vectors {', '.join(index.vectors)}, which a LangChain store would "
                "leave empty.",
                key="index.vectors",
                fix="Index with QdrantIngestor, which fills them; or give this store index=IndexPreferences(...).",
            )
        )


def refuse_additions_in_context(index: IndexPreferences) -> None:
    """Refuse to add documents where a vector is to be made of a whole document: they come as they were split.

    Raises:
        InvalidPreferenceError: It is.
    """
    if index.chunk_context == "document":
        raise InvalidPreferenceError(
            Problem(
                'index.chunk_context is "document": each vector is made of a whole document, and this store is given '
                "documents as they were split. Nothing was stored.",
                key="index.chunk_context",
                value="document",
                allowed='"chunk" for adding documents here; searching works with either',
                fix="Index the whole documents with QdrantIngestor or `embedprefs index`, which split them.",
            )
        )
