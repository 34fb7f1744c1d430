"""How a preference is declared: its kind, and what a reader is told about it.

The JSON schema, the reference page, the file that `init` writes and the error texts are all derived from these
declarations, so a field is described once.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

__all__ = [
    "FieldDeclaration",
    "Kind",
    "Section",
    "allowed_words",
    "declarations",
    "field_declaration",
    "preference",
    "section_of",
]


class Kind(StrEnum):
    """What changing a preference changes."""

    IDENTITY = "identity"
    """What the vectors are. Changing it changes the vector space; it is part of the fingerprint."""
    COMPUTE = "compute"
    """How fast the vectors come. Changing it may move a vector by rounding, never by meaning."""
    ACCESS = "access"
    """How the model's files are reached and read."""
    REPORT = "report"
    """What is said about inputs; the vectors stay the same."""
    TRAINING = "training"
    """How the model is fine-tuned."""
    INDEX = "index"
    """What is indexed, how it is cut into chunks, and where the vectors are kept."""
    FILE = "file"
    """The preferences file itself."""


class Section(BaseModel):
    """A table of the preferences file. Unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


def preference(
    default: Any = None,
    *,
    kind: Kind,
    example: Any = None,
    effective_default: str | None = None,
    allowed: str | None = None,
    **constraints: Any,
) -> Any:
    """Declare one preference; its description is the docstring beneath it.

    Args:
        default: The value when nothing states it. None means "not stated": the model's own files decide, or the
            preference does not apply.
        kind: What changing it changes.
        example: A value worth showing in the reference and in the file that `init` writes.
        effective_default: What holds when it is not stated, in words, where `default` does not say it.
        allowed: What is allowed, in words, where the annotation does not say it (a pattern).
        **constraints: Passed to `pydantic.Field` (`ge`, `gt`, `le`, `min_length`, `pattern` ...).
    """
    extra: dict[str, Any] = {"x-kind": kind.value}
    if example is not None:
        extra["examples"] = [example]
    if effective_default is not None:
        extra["x-effective-default"] = effective_default
    if allowed is not None:
        extra["x-allowed"] = allowed
    if callable(default):
        return Field(default_factory=default, json_schema_extra=extra, **constraints)
    return Field(default, json_schema_extra=extra, **constraints)


@dataclass(frozen=True)
class FieldDeclaration:
    """Everything that is known about one preference, by its dotted key."""

    key: str
    """`"vectors.truncate_dim"`; `*` stands for a name that the user chooses: `"index.vectors.*.prompts.query"`."""
    kind: Kind
    type: str
    """The type in a reader's words: `a whole number`, `one of: float32, int8`."""
    allowed: str
    """The type with its bounds, as error texts and the reference give it."""
    default: Any
    effective_default: str
    """What holds when nothing states it, in words."""
    description: str
    example: Any
    choices: tuple[Any, ...]
    """The closed list of values, where there is one."""
    required: bool

    @property
    def section(self) -> str:
        """The table it stands in: `"vectors"`, or `""` for the top of the file."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.key.rpartition(".")[2]


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section class an annotation names, through `| None`; None for a plain value or a mapping."""
    for candidate in _alternatives(annotation):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(item for part in get_args(annotation) for item in _alternatives(part))
    return (annotation,)


def _mapped_section(annotation: Any) -> type[Section] | None:
    """Return the section class of a `dict[str, Section]`, whose names the user chooses."""
    for candidate in _alternatives(annotation):
        if get_origin(candidate) is dict:
            return section_of(get_args(candidate)[1])
    return None


_TYPE_WORDS: Mapping[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Any: "any value",
    dict: "a table",
}


def _words(annotation: Any) -> list[str]:
    words: list[str] = []
    for candidate in _alternatives(annotation):
        if candidate is type(None):
            continue
        origin = get_origin(candidate)
        if origin is Literal:
            words.extend(str(value) for value in get_args(candidate))
        elif origin in (list, tuple):
            inner = [item for item in get_args(candidate) if item is not Ellipsis]
            words.append("a list of " + " or ".join(_plural(word) for word in _words(inner[0])))
        elif origin is dict or (isinstance(candidate, type) and issubclass(candidate, Section)):
            words.append("a table")
        else:
            words.append(_TYPE_WORDS.get(candidate, getattr(candidate, "__name__", str(candidate))))
    return words


def _plural(word: str) -> str:
    return {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}.get(word, word)


def _choices(annotation: Any) -> tuple[Any, ...]:
    values: list[Any] = []
    for candidate in _alternatives(annotation):
        if candidate is type(None):
            continue
        if get_origin(candidate) is not Literal:
            return ()
        values.extend(get_args(candidate))
    return tuple(values)


def _constraints(annotation: Any) -> Iterator[Any]:
    """Yield the constraints of an annotation and of the alternatives and items within it."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            if isinstance(item, FieldInfo):
                yield from item.metadata
            else:
                yield item
        yield from _constraints(inner)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _constraints(part)


def _bounds(metadata: list[Any], annotation: Any) -> list[str]:
    parts: list[str] = []
    items = [*metadata, *_constraints(annotation)]
    for item in items:
        if isinstance(item, annotated_types.Ge):
            parts.append(f"at least {item.ge}")
        elif isinstance(item, annotated_types.Gt):
            parts.append(f"more than {item.gt}")
        elif isinstance(item, annotated_types.Le):
            parts.append(f"at most {item.le}")
        elif isinstance(item, annotated_types.Lt):
            parts.append(f"less than {item.lt}")
        elif isinstance(item, annotated_types.MinLen) and item.min_length:
            parts.append("not empty")
    return list(dict.fromkeys(parts))


def allowed_words(annotation: Any) -> str:
    """Return what an annotation allows, in words: for the values of a table whose keys the user chooses."""
    words = list(dict.fromkeys(_words(annotation)))
    return ", ".join(words) if _choices(annotation) else " or ".join(words)


def _declaration(key: str, info: FieldInfo) -> FieldDeclaration:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    words = list(dict.fromkeys(_words(info.annotation)))
    choices = _choices(info.annotation)
    type_text = "one of " + ", ".join(words) if len(choices) > 1 else " or ".join(words)
    bounds = _bounds(info.metadata, info.annotation)
    allowed = ", ".join(words) if choices else " or ".join(words)
    if bounds:
        allowed = f"{allowed}, {' and '.join(bounds)}"
    allowed = str(extra.get("x-allowed", allowed))
    required = info.is_required()
    default = None if required else info.get_default(call_default_factory=True, validated_data={})
    effective = extra.get("x-effective-default")
    if required:
        table = key.rpartition(".")[0]
        optional = table.rpartition(".")[2] != "model"
        effective = f"none; required where [{table}] is written" if optional else "required"
    elif effective is None:
        effective = "not stated" if default is None else _toml_words(default)
    examples = typing.cast("list[Any]", extra.get("examples", [None]))
    return FieldDeclaration(
        key=key,
        kind=Kind(str(extra["x-kind"])),
        type=type_text,
        allowed=allowed,
        default=default,
        effective_default=str(effective),
        description=" ".join((info.description or "").split()),
        example=examples[0],
        choices=choices,
        required=required,
    )


def _toml_words(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_words(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    return str(value)


def _walk(section: type[Section], prefix: str) -> Iterator[FieldDeclaration]:
    for name, info in section.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        inner = section_of(info.annotation)
        named = _mapped_section(info.annotation)
        if inner is not None:
            yield from _walk(inner, f"{key}.")
        elif named is not None:
            yield from _walk(named, f"{key}.*.")
        else:
            yield _declaration(key, info)


@cache
def declarations(section: type[Section]) -> tuple[FieldDeclaration, ...]:
    """Return every preference beneath a section, in the order of the declaration."""
    return tuple(_walk(section, ""))


def field_declaration(section: type[Section], key: str) -> FieldDeclaration | None:
    """Return the declaration of a dotted key, None if there is none; a name the user chose matches `*`."""
    by_key = {declaration.key: declaration for declaration in declarations(section)}
    if key in by_key:
        return by_key[key]
    parts = key.split(".")
    for pattern, declaration in by_key.items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(want in ("*", part) for want, part in zip(wanted, parts, strict=True)):
            return declaration
    return None
