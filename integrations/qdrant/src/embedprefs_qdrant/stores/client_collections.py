"""The collections of a Qdrant server or of the client's emulation: made, described, renamed, with their record."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedprefs.errors import EmbedPrefsWarning, InputError
from embedprefs_qdrant.stores import client_bulk, contract
from embedprefs_qdrant.stores import client_conversion as conversion
from embedprefs_qdrant.stores.client_calls import Calls
from embedprefs_qdrant.stores.failures import StoreError, suggest_collection
from embedprefs_qdrant.stores.filters import Filter
from embedprefs_qdrant.stores.layout import CollectionLayout, PayloadIndex
from embedprefs_qdrant.stores.points import RECORD_POINT_ID
from embedprefs_qdrant.stores.protocol import CollectionDescription, RecordPlace

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

__all__ = ["ClientCollections"]

T = TypeVar("T")


class ClientCollections:
    """Everything about collections but their points.

    Args:
        call: The way to the server.
        kind: "server" or "local".
    """

    def __init__(self, call: Calls, kind: Literal["server", "local"]) -> None:
        self._call = call
        self._kind = kind
        self._layouts: dict[str, CollectionLayout] = {}

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        return self._call.url

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        found = self._call("list the collections", lambda client, _: client.get_collections())
        return sorted(collection.name for collection in found.collections)

    def aliases(self) -> dict[str, str]:
        """Collection by alias."""
        found = self._call("list the aliases", lambda client, _: client.get_aliases())
        return {alias.alias_name: alias.collection_name for alias in found.aliases}

    def switch(self, alias: str, collection: str) -> str | None:
        """Let `alias` lead to `collection`, atomically; returns where it led before."""
        from qdrant_client import models

        if alias in self.collections():
            raise InputError(f"{self.url}: {alias!r} is a collection and cannot become an alias.")
        target = self._existing_name(collection)
        before = self.aliases().get(alias)
        operations: list[Any] = []
        if before is not None:
            operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        create = models.CreateAlias(collection_name=target, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
        self._call(
            f"switch the alias {alias!r}", lambda client, timeout: client.update_collection_aliases(operations, timeout)
        )
        self._layouts.pop(alias, None)
        return before

    def describe(self, collection: str) -> CollectionDescription | None:
        """A collection as it is now; None if it does not exist."""
        info = self._info(collection)
        if info is None:
            return None
        aliases = self.aliases()
        name = aliases.get(collection, collection)
        failed = str(info.status) == "red"
        local = self._kind == "local"
        record = self._find_record(name, info)
        return CollectionDescription(
            name=name,
            aliases=tuple(sorted(alias for alias, target in aliases.items() if target == name)),
            layout=conversion.layout_of(info),
            points=self.count(name),
            indexed_vectors=None if local else info.indexed_vectors_count,
            segments=None if local else info.segments_count,
            status="failed" if failed else "indexing" if str(info.status) == "yellow" else "ready",
            detail=str(info.optimizer_status) if failed else None,
            record_place=None if record is None else record[1],
        )

    def ensure(self, collection: str, layout: CollectionLayout) -> bool:
        """Create the collection, or add what an existing one lacks; returns whether it was created."""
        info = self._info(collection)
        created = info is None and self._create(collection, layout)
        info = info or self._require_info(collection)
        stored = conversion.layout_of(info)
        contract.refuse_conflicts(collection, layout, stored, self.url)
        name = collection if created else self._existing_name(collection)
        if not created:
            client_bulk.restore(info, partial(self._update, name))
        self._add_missing(name, layout, stored)
        if self._kind == "local":
            if created:
                self._warn_of_ignored(collection, layout)
        elif not created:
            contract.warn_of_unapplied(
                collection, layout, stored, "They are fixed when a vector is created; change them on the server."
            )
        self._layouts.pop(collection, None)
        return created

    def _create(self, name: str, layout: CollectionLayout) -> bool:
        try:
            self._call(
                f"create the collection {name!r}",
                lambda client, timeout: client.create_collection(
                    name,
                    vectors_config=conversion.dense_params(layout),
                    sparse_vectors_config=conversion.sparse_params(layout),
                    on_disk_payload=layout.on_disk_payload,
                    timeout=timeout,
                ),
            )
        except StoreError as error:
            # Another process was faster, or the answer to our own first attempt was lost.
            if error.status == 409 or (error.status == 400 and "already exists" in str(error)):
                return False
            raise
        return True

    def _add_missing(self, name: str, layout: CollectionLayout, stored: CollectionLayout) -> None:
        missing: dict[str, Any] = {
            vector: conversion.dense_name_config(layout.vectors[vector])
            for vector in layout.vectors
            if vector not in stored.vectors
        }
        missing |= {
            vector: conversion.sparse_name_config(layout.sparse_vectors[vector])
            for vector in layout.sparse_vectors
            if vector not in stored.sparse_vectors
        }
        for vector, config in missing.items():
            self._add_vector(name, vector, config)
        if self._kind == "local":
            return  # The emulation keeps no payload indexes; filters work without.
        for field, index in layout.payload_indexes.items():
            if field not in stored.payload_indexes:
                self._add_payload_index(name, field, index)

    def _add_vector(self, name: str, vector: str, config: Any) -> None:
        self._call(
            f"add the vector {vector!r} to {name!r}",
            lambda client, timeout: client.create_vector_name(name, vector, config, timeout=timeout),
        )

    def _add_payload_index(self, name: str, field: str, index: PayloadIndex) -> None:
        schema = conversion.client_index(index)
        self._call(
            f"index the payload field {field!r} of {name!r}",
            lambda client, timeout: client.create_payload_index(name, field, schema, timeout=timeout),
        )

    def _warn_of_ignored(self, collection: str, layout: CollectionLayout) -> None:
        asked = {
            f"vectors.{name}.{key}"
            for name, vector in layout.vectors.items()
            for key in ("hnsw", "quantization", "on_disk", "datatype")
            if getattr(vector, key) not in (None, "float32")
        }
        asked |= {
            f"sparse_vectors.{name}.on_disk"
            for name, sparse in layout.sparse_vectors.items()
            if sparse.on_disk is not None
        }
        if layout.on_disk_payload is not None:
            asked.add("on_disk_payload")
        if asked:
            warnings.warn(
                f"Settings without effect on the collection {collection!r}: {', '.join(sorted(asked))}. The client's "
                "emulation keeps float32 vectors in memory and scans them. Use edge:PATH or a server for these.",
                EmbedPrefsWarning,
                stacklevel=3,
            )

    def drop(self, collection: str) -> bool:
        """Delete a collection and its aliases; False if there was none."""
        if self._info(collection) is None:
            return False
        name = self._existing_name(collection)
        self._call(
            f"delete the collection {name!r}", lambda client, timeout: client.delete_collection(name, timeout=timeout)
        )
        self._layouts.clear()
        return True

    # The record

    def read_record(self, collection: str) -> dict[str, Any] | None:
        """The record, from the collection's metadata or from the reserved point; None if there is none."""
        info = self._info(collection)
        found = None if info is None else self._find_record(collection, info)
        return None if found is None else found[0]

    def write_record(self, collection: str, record: Mapping[str, Any]) -> None:
        """Store the record in the collection's metadata, or in the reserved point where the server drops it.

        Of two processes that write at once the later one wins; the other finds so when it reads.
        """
        from qdrant_client import models

        name = self._existing_name(collection)
        wanted = contract.canonical_record(record)
        before = self._find_record(name, self._require_info(name))
        try:
            # Top-level keys are merged and nested objects replaced, so that the one key always carries everything.
            self._update(name, {"metadata": {contract.RECORD_KEY: wanted}})
        except StoreError as error:
            if error.status not in (400, 422):
                raise
        found = self._find_record(name, self._require_info(name))
        if found == (wanted, "collection metadata"):
            return
        if found is not None and found != before and found[1] == "collection metadata":
            return  # another process has written its own since
        payload = {contract.RECORD_KEY: json.dumps(wanted)}
        point = models.PointStruct(id=RECORD_POINT_ID, vector={}, payload=payload)
        self._call(
            f"write the record of {name!r}", lambda client, timeout: client.upsert(name, [point], timeout=timeout)
        )
        if self._find_record(name, self._require_info(name)) != (wanted, "reserved point"):
            raise StoreError(f"{self.url}: The record of {name!r} was not kept as written.", action="record")

    def _find_record(self, name: str, info: models.CollectionInfo) -> tuple[dict[str, Any], RecordPlace] | None:
        kept = (info.config.metadata or {}).get(contract.RECORD_KEY)
        if kept is not None:
            return kept, "collection metadata"
        found = self._call(
            f"read the record of {name!r}",
            lambda client, timeout: client.retrieve(name, [RECORD_POINT_ID], with_payload=True, timeout=timeout),
        )
        return (json.loads((found[0].payload or {})[contract.RECORD_KEY]), "reserved point") if found else None

    def count(self, collection: str, *, filter: Filter | None = None) -> int:  # noqa: A002
        """Exact number of points that meet the filter."""
        condition = conversion.client_filter(contract.ordinary_points(filter))
        return self._point_call(
            f"count the points of {collection!r}",
            collection,
            lambda client, timeout: client.count(collection, count_filter=condition, exact=True, timeout=timeout),
        ).count

    # Names, layouts, requests

    def _info(self, collection: str) -> models.CollectionInfo | None:
        """The collection as the server reports it; None if it does not exist."""
        if self._kind == "local" and not self._call(
            f"look for the collection {collection!r}", lambda client, _: client.collection_exists(collection)
        ):
            return None
        try:
            return self._call(
                f"describe the collection {collection!r}", lambda client, _: client.get_collection(collection)
            )
        except StoreError as error:
            if error.status == 404:
                return None
            raise

    def _require_info(self, collection: str) -> models.CollectionInfo:
        info = self._info(collection)
        if info is None:
            raise self._no_such(collection)
        return info

    def _no_such(self, collection: str) -> InputError:
        return suggest_collection(collection, [*self.collections(), *self.aliases()], self.url)

    def _existing_name(self, collection: str) -> str:
        """The collection's own name, which changes to its settings need."""
        name = self.aliases().get(collection, collection)
        if name not in self.collections():
            raise self._no_such(collection)
        return name

    def _update(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._call(
            f"change the settings of {name!r}",
            lambda client, timeout: client.update_collection(name, timeout=timeout, **arguments),
        )

    def _point_call(self, action: str, collection: str, send: Callable[[QdrantClient, int], T]) -> T:
        """A request about points, whose collection may not exist."""
        try:
            return self._call(action, send)
        except StoreError as error:
            if (error.status == 404 or self._kind == "local") and self._info(collection) is None:
                raise self._no_such(collection) from error
            raise

    def _validated(self, collection: str, validate: Callable[[CollectionLayout], T]) -> T:
        """What `validate` returns for the collection's layout, which is read again before anything is refused.

        An alias may have been switched to a collection of another layout by another process.
        """
        known = self._layouts.get(collection)
        if known is not None:
            try:
                return validate(known)
            except InputError:
                self._layouts.pop(collection)
        self._layouts[collection] = conversion.layout_of(self._require_info(collection))
        return validate(self._layouts[collection])
