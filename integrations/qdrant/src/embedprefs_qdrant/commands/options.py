"""Options that the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs.cli.plugin import load

if TYPE_CHECKING:
    from embedprefs_qdrant.ingest import QdrantIngestor

__all__ = ["CollectionOption", "StoreOption", "open_ingestor"]

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


def open_ingestor(
    preferences: Path | None, set_options: list[str] | None, store: str | None, collection: str | None
) -> QdrantIngestor:
    """Open what the options name; a path given on the command line is relative to the current folder."""
    from embedprefs_qdrant.ingest import QdrantIngestor

    if store is not None:
        scheme, _, path = store.partition(":")
        if scheme in ("edge", "local") and path:
            store = f"{scheme}:{Path(path).absolute()}"
    return QdrantIngestor(load(preferences, set_options), store, collection=collection)
