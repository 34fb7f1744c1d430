"""Where a preference goes: which argument it becomes at each of the places where one could be given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CallSite", "Placement"]


class CallSite(StrEnum):
    """A place where the host, the trainer or a store takes settings."""

    LOAD = "load"
    """`SentenceTransformer(...)`."""
    ENCODE_QUERY = "encode_query"
    """`model.encode_query(...)`."""
    ENCODE_DOCUMENT = "encode_document"
    """`model.encode_document(...)`."""
    MULTI_PROCESS = "multi_process"
    """`model.encode(..., device=[...])` and pools."""
    TRAIN = "train"
    """`SentenceTransformerTrainer(...)` and its arguments."""
    STORE = "store"
    """Creating and filling a collection."""
    SAVE = "save"
    """`model.save_pretrained(...)`."""


@dataclass(frozen=True)
class Placement:
    """What one preference becomes at one call site, or why nothing. Exactly one of the two is set."""

    becomes: str | None = None
    """The argument or attribute, by the name it has there: `model_kwargs.dtype`."""
    reason: str | None = None
    """Why the preference does not apply there, as a sentence."""
