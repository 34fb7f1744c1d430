"""Rules that every store applies alike."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from embedprefs.errors import EmbedPrefsWarning, InputError, PreferenceMismatchError
from embedprefs_qdrant.stores.filters import Filter, HasId
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.points import RECORD_POINT_ID, PointId, canonical_id
from embedprefs_qdrant.stores.validation import canonical_payload

__all__ = [
    "RECORD_KEY",
    "canonical_record",
    "choose_points",
    "ordinary_points",
    "refuse_conflicts",
    "warn_of_unapplied",
]

#: The one key of ours in a collection's metadata and in the reserved point's payload.
RECORD_KEY = "embedprefs"


def ordinary_points(condition: Filter | None) -> Filter:
    """The filter, with the reserved point left out."""
    return Filter(must_not=(HasId((RECORD_POINT_ID,)),)) & condition


def choose_points(
    action: str,
    ids: Sequence[PointId] | None,
    condition: Filter | None,
) -> list[PointId] | Filter:
    """The points a request is about: a list of ids, or a filter that leaves the reserved point out.

    Raises:
        InputError: Neither or both are given, the filter is empty, or an id cannot be one.
    """
    if (ids is None) == (condition is None):
        raise InputError(f"{action} takes either ids or a filter.")
    if ids is not None:
        chosen = [canonical_id(point) for point in ids]
        if RECORD_POINT_ID in chosen:
            raise InputError(f"The point {RECORD_POINT_ID} is reserved for the record and cannot be changed like this.")
        return chosen
    if not condition:
        raise InputError(f"{action} with an empty filter would concern every point.\n  Name at least one condition.")
    return ordinary_points(condition)


def refuse_conflicts(collection: str, asked: CollectionLayout, stored: CollectionLayout, place: str) -> None:
    """Raise when an existing collection cannot hold what was asked.

    Raises:
        PreferenceMismatchError: With both sides, field by field.
    """
    conflicts = asked.conflicts(stored)
    if not conflicts:
        return
    lines = [f"{place}: The collection {collection!r} exists with another layout."]
    lines += [f"  {key}: asked {wanted!r}, stored {has!r}" for key, (wanted, has) in conflicts.items()]
    lines.append("  Use another collection, or a further named vector in this one.")
    raise PreferenceMismatchError(
        "\n".join(lines),
        left={key: wanted for key, (wanted, _) in conflicts.items()},
        right={key: has for key, (_, has) in conflicts.items()},
        differences=conflicts,
    )


def warn_of_unapplied(collection: str, asked: CollectionLayout, stored: CollectionLayout, reason: str) -> None:
    """Warn of settings that were asked and that the collection has otherwise."""
    unapplied = asked.unapplied(stored)
    if unapplied:
        named = ", ".join(f"{key} = {wanted!r} (it is {has!r})" for key, (wanted, has) in unapplied.items())
        warnings.warn(
            f"Settings without effect on the collection {collection!r}: {named}. {reason}",
            EmbedPrefsWarning,
            stacklevel=3,
        )


def canonical_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it is after a round trip through JSON.

    Raises:
        InputError: It is no JSON object.
    """
    try:
        return canonical_payload(record)
    except InputError as error:
        raise InputError(f"The record cannot be stored: {error}.") from error
