"""Filling an empty collection on a server: graphs are held back while points arrive, and built once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedprefs_qdrant.stores.protocol import BulkState

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["hold_back", "restore"]

#: Key in the collection's metadata that remembers what was held back, should the process be killed meanwhile.
HELD_BACK_KEY = "embedprefs_bulk"

#: The server's own default, for a collection that does not say.
_DEFAULT_M = 16


@contextmanager
def hold_back(
    info: models.CollectionInfo,
    update: Callable[[Mapping[str, Any]], None],
    read: Callable[[], models.CollectionInfo],
) -> Iterator[BulkState]:
    """Build no graph within the context; afterwards build them as they were configured.

    The number of edges `m` is set to 0, which needs less memory than a high indexing threshold. Changing `m` of a
    collection that holds points would build all its graphs anew, so that such a collection is left as it is.

    Args:
        info: The collection as it is.
        update: Calls the client's `update_collection` with these arguments.
        read: The collection as it is now.
    """
    if info.points_count:
        yield BulkState(held_back=False, reason="The collection already holds points.")
        return
    edges = _edges(info)
    update({"metadata": {HELD_BACK_KEY: edges}})
    if (read().config.metadata or {}).get(HELD_BACK_KEY) != edges:
        # Should this process be killed, nobody would know that the graphs have to be switched on again.
        yield BulkState(held_back=False, reason="The server keeps no metadata (it does from 1.16).")
        return
    update(_with_edges(dict.fromkeys(edges, 0)))
    try:
        yield BulkState(held_back=True, reason="The collection is empty: its graphs are built at the end.")
    finally:
        _put_back(edges, update)


def restore(info: models.CollectionInfo, update: Callable[[Mapping[str, Any]], None]) -> bool:
    """Undo what a killed process left held back; returns whether there was anything."""
    edges = (info.config.metadata or {}).get(HELD_BACK_KEY)
    if not edges:
        return False
    _put_back({name: int(m) for name, m in edges.items()}, update)
    return True


def _put_back(edges: Mapping[str, int], update: Callable[[Mapping[str, Any]], None]) -> None:
    # A key set to None is deleted from the metadata.
    update({**_with_edges(edges), "metadata": {HELD_BACK_KEY: None}})


def _edges(info: models.CollectionInfo) -> dict[str, int]:
    """Edges per node by vector name; "*" stands for the collection's own setting."""
    general = info.config.hnsw_config.m
    edges = {"*": _DEFAULT_M if general is None else general}
    vectors: Any = info.config.params.vectors or {}
    for name, vector in (vectors if isinstance(vectors, Mapping) else {"": vectors}).items():
        own = None if vector.hnsw_config is None else vector.hnsw_config.m
        if own is not None:
            edges[name] = own
    return edges


def _with_edges(edges: Mapping[str, int]) -> dict[str, Any]:
    from qdrant_client import models

    arguments: dict[str, Any] = {"hnsw_config": models.HnswConfigDiff(m=edges["*"])}
    own = {
        name: models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=m))
        for name, m in edges.items()
        if name != "*"
    }
    if own:
        arguments["vectors_config"] = own
    return arguments
