"""Models beside the embedding model: what tells one from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedprefs.facts import read_facts
from embedprefs.facts.content_hash import weights_hash

__all__ = ["encoder_identity", "is_same_encoder"]


def encoder_identity(name: str, revision: str | None) -> dict[str, Any]:
    """What has to agree between indexing and searching: the weights by their content, and a name for people.

    Args:
        name: Hub name or folder. Of a folder only the last name is kept: a path would tell about the machine.
        revision: Commit on the hub.
    """
    facts = read_facts(name, revision=revision)
    return {"model": name.rstrip("/").rpartition("/")[2], "weights": weights_hash(facts)}


def is_same_encoder(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two identities are of the same weights, whatever their names are."""
    return _essence(left) == _essence(right)


def _essence(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but what does not decide the vectors."""
    return {key: value for key, value in identity.items() if key not in ("model", "size")}
