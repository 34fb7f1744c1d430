"""What is kept beside vectors, so that they are only ever compared with vectors of their own space.

A `Record` holds the identity (what the vectors are), the numerics (how they were computed) and the provenance (when and
by what). Any vector database can keep it: it is plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from embedprefs.errors import PreferenceMismatchError
from embedprefs.record.comparison import Comparison, FieldDifference, compare_identities
from embedprefs.record.identity import (
    ContentHashes,
    canonical,
    content_hashes,
    context_fields,
    fingerprint_of,
    identity_fields,
)
from embedprefs.record.numerics import CANARY_TEXTS, canary_bound, numerics_of
from embedprefs.record.saved import SAVED_CALIBRATION, SAVED_FILE, compare_with_saved, saved_preferences
from embedprefs.resolve import Resolved

if TYPE_CHECKING:
    from embedprefs.model import PreferredSentenceTransformer

__all__ = [
    "CANARY_TEXTS",
    "RECORD_VERSION",
    "SAVED_CALIBRATION",
    "SAVED_FILE",
    "Comparison",
    "ContentHashes",
    "FieldDifference",
    "Record",
    "canary_bound",
    "compare_with_saved",
    "content_hashes",
    "context_fields",
    "fingerprint",
    "identity_fields",
    "numerics_of",
    "saved_preferences",
]

#: Major and minor. A new minor only adds numerics or provenance; whatever changes the identity is a new major.
RECORD_VERSION = "1.0"


@runtime_checkable
class _HasRecord(Protocol):
    @property
    def record(self) -> Record: ...


def fingerprint(subject: Resolved | Record | PreferredSentenceTransformer) -> str:
    """Return the fingerprint of what the vectors are: equal fingerprints, comparable vectors.

    Args:
        subject: Effective preferences (`resolve(...)`), a record, or a loaded model.

    Returns:
        64 hexadecimal digits (SHA-256 of the effective identity).

    Raises:
        ModelFilesError: a file that has to be hashed is not there.
        TypeError: the subject is none of these; preferences have to be resolved first.
    """
    if isinstance(subject, Resolved):
        return fingerprint_of(identity_fields(subject))
    if isinstance(subject, Record):
        return subject.fingerprint
    if isinstance(subject, _HasRecord):
        return subject.record.fingerprint
    raise TypeError(
        f"fingerprint() takes resolved preferences, a record or a loaded model, not {type(subject).__name__}.\n"
        "  Of preferences: fingerprint(resolve(preferences))."
    )


@dataclass(frozen=True)
class Record:
    """What the vectors of a model or a collection are, and how they were computed."""

    identity: Mapping[str, Any]
    """Effective fields, readable; two records with equal identities hold vectors of one space."""
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """What ran: backend, dtype, weights, attention, device, versions, and the measured cosine to float32."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """When it was made, by what, and the model's name; never compared."""
    version: str = RECORD_VERSION
    further: Mapping[str, Any] = field(default_factory=dict)
    """Entries that a newer minor version wrote; kept, so that writing the record again loses nothing."""

    @classmethod
    def of(
        cls,
        resolved: Resolved,
        numerics: Mapping[str, Any] | None = None,
        template: str | None = None,
        *,
        hashes: ContentHashes | None = None,
        chunk_context: str | None = None,
    ) -> Self:
        """Make the record of effective preferences.

        Args:
            resolved: The effective preferences.
            numerics: What was seen to run, laid over what the preferences chose: `{"cosine_to_float32": 0.99998}`.
            template: For a collection, the template of the embedded text.
            hashes: Content hashes that are known already, or differ from the files' (a model trained since it was
                loaded).
            chunk_context: For a collection, what is read for a chunk's vector: "chunk" or "document".

        Raises:
            ModelFilesError: a file that has to be hashed is not there.
        """
        from embedprefs import __version__

        return cls(
            identity=identity_fields(resolved, template, hashes, chunk_context=chunk_context),
            numerics=canonical({**numerics_of(resolved), **(numerics or {})}),
            provenance={
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "written_by": f"embedprefs {__version__}",
                "model": _public_name(resolved),
                "revision": resolved.effective("model.revision"),
            },
        )

    @classmethod
    def for_collection(
        cls,
        resolved: Resolved,
        *,
        template: str | None = None,
        numerics: Mapping[str, Any] | None = None,
        hashes: ContentHashes | None = None,
        chunk_context: str | None = None,
    ) -> Self:
        """Make the record of a collection: the model's, with the template and what is read for a chunk's vector.

        Args:
            resolved: The effective preferences.
            template: The template; that of the preferences (`index.template`) if not given.
            numerics: As in `of`.
            hashes: As in `of`.
            chunk_context: As in `of`; that of the preferences (`index.chunk_context`) if not given.
        """
        template = template if template is not None else resolved["index.template"]
        context = chunk_context if chunk_context is not None else resolved["index.chunk_context"]
        return cls.of(resolved, numerics, template, hashes=hashes, chunk_context=context)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits: SHA-256 of the identity."""
        return fingerprint_of(self.identity)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, to be kept anywhere."""
        return {
            **self.further,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "identity": dict(self.identity),
            "numerics": dict(self.numerics),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str | bytes) -> Self:
        """Read a record back.

        Args:
            value: What `to_json` returned, or its text.

        Raises:
            PreferenceMismatchError: it is no record, was written by a newer major version, or was changed.
        """
        data = _decoded(value)
        version = data.get("version")
        _refuse_other_major(version)
        identity = data.get("identity")
        if not isinstance(identity, Mapping):
            raise PreferenceMismatchError('The record has no table "identity", so it says nothing about the vectors.')
        numerics, provenance = (data.get(name, {}) for name in ("numerics", "provenance"))
        if not isinstance(numerics, Mapping) or not isinstance(provenance, Mapping):
            raise PreferenceMismatchError('"numerics" and "provenance" of a record have to be tables.')
        record = cls(
            identity={name: canonical(item) for name, item in identity.items()},
            numerics=canonical(numerics),
            provenance=dict(provenance),
            version=str(version),
            further={name: item for name, item in data.items() if name not in _OWN_ENTRIES},
        )
        stated = data.get("fingerprint")
        if stated != record.fingerprint:
            raise PreferenceMismatchError(
                f"The record's fingerprint is {stated}, but its fields give {record.fingerprint}: it was changed or "
                "damaged after it was written.\n  Record the collection again with `embedprefs adopt`.",
                left={"fingerprint": stated},
                right={"fingerprint": record.fingerprint},
                differences=["fingerprint"],
            )
        return record

    def compare(self, other: Record) -> Comparison:
        """Compare field by field: same, soft (rounding may differ) or different (another vector space).

        Template and chunk context count only between collections: a model alone has neither.
        """
        return compare_identities(self.identity, other.identity, self.numerics, other.numerics)


def _public_name(resolved: Resolved) -> str:
    """Return the model's hub name, or its folder's last name: a path would tell about the machine."""
    facts = resolved.facts
    return facts.folder.name if facts.source == "folder" and facts.folder is not None else facts.name


_OWN_ENTRIES = frozenset({"version", "fingerprint", "identity", "numerics", "provenance"})


def _decoded(value: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    if isinstance(value, (str, bytes)):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise PreferenceMismatchError(f"The record is no JSON: {error}.") from error
    if not isinstance(value, Mapping):
        raise PreferenceMismatchError(f"A record is a JSON object; this is {type(value).__name__}.")
    return value


def _refuse_other_major(version: Any) -> None:
    major, dot, minor = str(version).partition(".")
    if not (isinstance(version, str) and dot and major.isdecimal() and minor.isdecimal()):
        raise PreferenceMismatchError(f'The record\'s version is {version!r}; a version is like "{RECORD_VERSION}".')
    own = RECORD_VERSION.partition(".")[0]
    if int(major) != int(own):
        raise PreferenceMismatchError(
            f"The record was written by a newer embedprefs: its version is {version}, this one reads {own}.x.\n"
            "  Run: pip install --upgrade embedprefs"
            if int(major) > int(own)
            else f"The record's version is {version}; this embedprefs reads {own}.x."
        )
