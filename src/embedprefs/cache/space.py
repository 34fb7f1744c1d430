"""What vectors have to share before one of them may stand for another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

__all__ = ["CacheSpace", "Role"]

Role = Literal["query", "document", "plain"]

#: Version of what is hashed below; another list of fields finds no older entry.
_SPACE_VERSION = 1
#: Numerics that are results, and say nothing about how a vector is computed.
_MEASURED = frozenset({"cosine_to_float32"})


@dataclass(frozen=True)
class CacheSpace:
    """What vectors have to share besides the text, so that one may stand for the other to the last bit."""

    fingerprint: str
    """What the vectors are."""
    numerics: Mapping[str, Any]
    """How they are computed: whatever may move a vector by rounding, JSON values."""
    role: Role
    prompt: str = ""
    """The prompt that is put before the text."""
    task: str | None = None
    """What the model's modules are told about the role; some embed queries and documents in other ways."""

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that no other space has."""
        from embedprefs.record.identity import canonical_json

        described = {
            "version": _SPACE_VERSION,
            "fingerprint": self.fingerprint,
            "numerics": {name: value for name, value in self.numerics.items() if name not in _MEASURED},
            "role": self.role,
            "prompt": self.prompt,
            "task": self.task,
        }
        return hashlib.sha256(canonical_json(described).encode("utf-8", "surrogatepass")).digest()

    def key(self, text: str) -> bytes:
        """Return the key of a text: SHA-256 over the space and the text's bytes, so that equal keys are equal texts."""
        return hashlib.sha256(self.digest + text.encode("utf-8", "surrogatepass")).digest()
