"""Options that the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs.cli.plugin import load

if TYPE_CHECKING:
    from embedprefs_qdrant.ingest import QdrantIngestor

__all__ = [
    "CollectionOption",
    "IdFieldOption",
    "StoreOption",
    "TextFieldOption",
    "given_documents",
    "here",
    "open_ingestor",
]

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where the vectors are kept, in place of index.store: edge:PATH, http(s)://, grpc(s)://, local:PATH.",
    ),
]
CollectionOption = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="The collection, in place of index.collection.")
]
TextFieldOption = Annotated[
    str | None, typer.Option("--text-field", help="Field with the text, in .jsonl, .csv and .parquet.")
]
IdFieldOption = Annotated[
    str | None, typer.Option("--id-field", help="Field with the id, in .jsonl, .csv and .parquet.")
]


def here(store: str) -> str:
    """A store's address as given on the command line, where a path is relative to the current folder."""
    scheme, _, path = store.partition(":")
    if scheme in ("edge", "local") and path:
        return f"{scheme}:{Path(path).expanduser().absolute()}"
    return store


def given_documents(paths: list[str] | None, ingestor: QdrantIngestor) -> list[str]:
    """What a command is to read: the paths that were given, else `index.root`.

    Where some of them lead to nothing, the others are read and those are named as failed.

    Raises:
        InputError: None of them leads to anything.
    """
    from embedprefs import InputError
    from embedprefs_qdrant.documents.discovery import names_nothing

    documents = paths or [str(ingestor.root)]
    if all(names_nothing(path) for path in documents):
        named = "".join(f"\n  {path}" for path in documents)
        advice = "Check the path; a relative one starts at the current folder." if paths else "Check index.root."
        raise InputError(f"There is no such file or folder:{named}\n  {advice}")
    return documents


def open_ingestor(
    preferences: Path | None, set_options: list[str] | None, store: str | None, collection: str | None
) -> QdrantIngestor:
    """Open what the options name."""
    from embedprefs_qdrant.ingest import QdrantIngestor

    return QdrantIngestor(load(preferences, set_options), here(store) if store else None, collection=collection)
