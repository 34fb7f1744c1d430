"""`init_embeddings("embedprefs:owner/model")`, for programs that choose embeddings by a string."""

from __future__ import annotations

import inspect
from typing import Any

from embedprefs import EmbedPrefsError, MissingExtraError

__all__ = ["register_with_langchain"]

PROVIDER = "embedprefs"


def register_with_langchain() -> None:
    """Let `langchain.embeddings.init_embeddings` know the provider "embedprefs", in this process.

    LangChain has no way to register a provider: this adds an entry to its own table, which another release may keep
    elsewhere; then this raises. Where you can, construct `EmbedPrefsEmbeddings` instead.

    Raises:
        MissingExtraError: The package langchain is not installed.
        EmbedPrefsError: This release of langchain keeps its table elsewhere or in another form.
    """
    try:
        from langchain.embeddings import base
    except ImportError as error:
        raise MissingExtraError(
            "langchain", extra="langchain", needed_for="register_with_langchain", distribution="langchain-embedprefs"
        ) from error
    table: Any = getattr(base, "_BUILTIN_PROVIDERS", None)
    if not isinstance(table, dict) or not all(_is_entry(entry) for entry in table.values()):
        from importlib.metadata import version

        raise EmbedPrefsError(
            f"langchain {version('langchain')} keeps its embedding providers elsewhere than the releases this was "
            "written for.\n  Construct EmbedPrefsEmbeddings(model=...) instead of calling init_embeddings."
        )
    table[PROVIDER] = ("langchain_embedprefs", "EmbedPrefsEmbeddings", _create)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 3 and callable(entry[2]) and _takes_class(entry[2])


def _takes_class(creator: Any) -> bool:
    return next(iter(inspect.signature(creator).parameters), None) == "cls"


def _create(cls: type[Any], *, model: str, **named: Any) -> Any:
    return cls(model=model, **named)
