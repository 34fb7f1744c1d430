"""The declaration of every preference.

A `Preferences` value is what a user stated, layer upon layer, with the origin of each value. What the model's own
files and the machine add to it is found by `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PrivateAttr, StrictStr

from embedprefs.preferences.compute import ComputePreferences
from embedprefs.preferences.declaration import (
    FieldDeclaration,
    Kind,
    Section,
    declarations,
    field_declaration,
    preference,
)
from embedprefs.preferences.identity import (
    AdapterPreferences,
    ModelPreferences,
    Precision,
    PromptsPreferences,
    SimilarityName,
    TokenizerPreferences,
    VectorsPreferences,
)
from embedprefs.preferences.index import (
    HnswPreferences,
    IndexPreferences,
    NamedVectorPreferences,
    RerankPreferences,
    SparsePreferences,
)
from embedprefs.preferences.training import (
    EarlyStoppingPreferences,
    LoraPreferences,
    NegativesPreferences,
    SplitPreferences,
    TrainingPreferences,
)

__all__ = [
    "DEFAULT_ORIGIN",
    "SCHEMA_VERSION",
    "AdapterPreferences",
    "ChecksPreferences",
    "ComputePreferences",
    "EarlyStoppingPreferences",
    "FieldDeclaration",
    "HnswPreferences",
    "IndexPreferences",
    "Kind",
    "Layer",
    "LoraPreferences",
    "ModelPreferences",
    "NamedVectorPreferences",
    "NegativesPreferences",
    "Origin",
    "Precision",
    "Preferences",
    "PromptsPreferences",
    "RerankPreferences",
    "Section",
    "SimilarityName",
    "SparsePreferences",
    "SplitPreferences",
    "TokenizerPreferences",
    "TrainingPreferences",
    "VectorsPreferences",
    "every_field",
    "find_field",
]

SCHEMA_VERSION = 1


class Layer(IntEnum):
    """Where a value can come from, weakest first."""

    DEFAULT = 1
    KNOWN_MODEL = 2
    MODEL_FILES = 3
    USER_FILE = 4
    PROJECT_FILE = 5
    TUNED_LOCK = 6
    ENVIRONMENT = 7
    EXPLICIT = 8

    @property
    def words(self) -> str:
        """The layer in a reader's words."""
        return {
            Layer.DEFAULT: "default",
            Layer.KNOWN_MODEL: "known-model table",
            Layer.MODEL_FILES: "the model's own files",
            Layer.USER_FILE: "user file",
            Layer.PROJECT_FILE: "preferences file",
            Layer.TUNED_LOCK: "tuned.lock",
            Layer.ENVIRONMENT: "environment",
            Layer.EXPLICIT: "explicit",
        }[self]


@dataclass(frozen=True)
class Origin:
    """Where one effective value was written."""

    layer: Layer
    source: str = ""
    """File, environment variable or option, in the words to show; empty for a default."""
    line: int | None = None

    def __str__(self) -> str:
        if not self.source:
            return self.layer.words
        return f"{self.source}:{self.line}" if self.line is not None else self.source


DEFAULT_ORIGIN = Origin(Layer.DEFAULT)


class ChecksPreferences(Section):
    """Which findings are not reported."""

    ignore: list[StrictStr] = preference(list, kind=Kind.REPORT, example=["prompts-missing"])
    """Codes of findings to leave out; `embedprefs explain CODE` says what each is about."""


class Preferences(Section):
    """Everything one embedding space is made of, as stated; frozen, validated and complete.

    `prefs.vectors.truncate_dim` is the value, `prefs.origin("vectors.truncate_dim")` says where it was written.
    Values that nothing states hold their defaults; None means that the model's own files decide.
    """

    schema_version: Literal[1] = preference(1, kind=Kind.FILE)
    """Version of the file's format; `embedprefs migrate-config` brings an older file up to date."""
    extends: StrictStr | None = preference(kind=Kind.FILE, example="base.toml")
    """A file whose values hold wherever this one states none; relative to this file."""
    model: ModelPreferences = preference(..., kind=Kind.IDENTITY)
    """Which model, and how its files are read."""
    tokenizer: TokenizerPreferences = preference(TokenizerPreferences, kind=Kind.IDENTITY)
    """How texts become tokens."""
    prompts: PromptsPreferences = preference(PromptsPreferences, kind=Kind.IDENTITY)
    """What is written before a text."""
    vectors: VectorsPreferences = preference(VectorsPreferences, kind=Kind.IDENTITY)
    """The form of the vectors."""
    compute: ComputePreferences = preference(ComputePreferences, kind=Kind.COMPUTE)
    """How the model is run."""
    training: TrainingPreferences = preference(TrainingPreferences, kind=Kind.TRAINING)
    """How the model is fine-tuned."""
    index: IndexPreferences = preference(IndexPreferences, kind=Kind.INDEX)
    """What is indexed and where."""
    sparse: SparsePreferences = preference(SparsePreferences, kind=Kind.IDENTITY)
    """The sparse side of a hybrid search."""
    rerank: RerankPreferences = preference(RerankPreferences, kind=Kind.INDEX)
    """A second model that orders hits again."""
    checks: ChecksPreferences = preference(ChecksPreferences, kind=Kind.REPORT)
    """Which findings are not reported."""

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The project's preferences file these were read from; None when there was none."""
        return self._file

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the file's, or the current one."""
        return self._file.parent if self._file is not None else Path.cwd()

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Dotted key -> where it was written, for every value that is stated."""
        return dict(self._origins)

    def origin(self, key: str) -> Origin:
        """Return where a dotted key's value was written; the default's origin where nothing states it."""
        return self._origins.get(key, DEFAULT_ORIGIN)

    def get(self, key: str) -> Any:
        """Return the value of a dotted key, `prefs.get("compute.device")`.

        Raises:
            KeyError: the key is not declared.
        """
        value: Any = self
        for part in key.split("."):
            if isinstance(value, PromptsPreferences) and part in value.named:
                value = value.named[part]
            elif isinstance(value, Section) and part in type(value).model_fields:
                value = getattr(value, part)
            elif isinstance(value, dict) and part in value:
                value = value[part]
            elif value is None or (isinstance(value, Section) and part in type(value).model_fields):
                return None
            else:
                raise KeyError(key)
        return value

    def stated(self) -> dict[str, Any]:
        """Return dotted key -> value for everything that some layer states, defaults left out."""
        return dict(_stated(self, ""))

    def with_origins(self, origins: Mapping[str, Origin], file: Path | None) -> Self:
        """Return the same preferences that also know where their values were written."""
        copy = self.model_copy()
        copy._origins = dict(origins)  # noqa: SLF001 - a method of the same class
        copy._file = file  # noqa: SLF001 - a method of the same class
        return copy

    def __eq__(self, other: object) -> bool:
        """Two preferences are equal when their values are, wherever they were written."""
        if not isinstance(other, Preferences):
            return NotImplemented
        return self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def _stated(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        if name not in section.model_fields_set:
            continue
        value = getattr(section, name)
        key = f"{prefix}{name}"
        if isinstance(value, Section):
            inner = list(_stated(value, f"{key}."))
            if not inner and type(section).model_fields[name].default is None:
                # An optional table is a statement even when it is empty: `[training.lora]` asks for its defaults.
                inner = [(key, {})]
            yield from inner
        elif isinstance(value, dict) and value and all(isinstance(item, Section) for item in value.values()):
            for inner, item in value.items():
                yield from _stated(item, f"{key}.{inner}.")
        else:
            yield key, value
    if isinstance(section, PromptsPreferences):
        for name, prompt in section.named.items():
            yield f"{prefix}{name}", prompt


def every_field() -> tuple[FieldDeclaration, ...]:
    """Return the declaration of every preference, in the order of the file."""
    return declarations(Preferences)


def find_field(key: str) -> FieldDeclaration | None:
    """Return the declaration of a dotted key; None where no such preference exists."""
    return field_declaration(Preferences, key)
