"""The reference pages that are derived from the declarations, as Markdown."""

from __future__ import annotations

import json
from typing import Any

from embedprefs.preferences import FieldDeclaration, Preferences, every_field

__all__ = ["preferences_page"]

_KIND_WORDS = {
    "identity": "part of the identity: changing it changes the vector space",
    "compute": "speed, and rounding at most",
    "access": "how the files are reached",
    "report": "what is said, not what is computed",
    "training": "fine-tuning",
    "index": "the index",
    "file": "the file itself",
}


def preferences_page() -> str:
    """Return the reference of every preference as a Markdown page."""
    lines = [
        "# Preferences",
        "",
        "Every preference of `embedprefs.toml`, generated from their declaration. Only `model.name` is required.",
        "The kind says what changing a preference changes:",
        "",
        *(f"- **{kind}**: {words}." for kind, words in _KIND_WORDS.items()),
        "",
        "`embedprefs explain KEY` prints one of them, and `embedprefs schema` the JSON schema for editors.",
        "",
    ]
    by_section: dict[str, list[FieldDeclaration]] = {}
    for declaration in every_field():
        if declaration.key.startswith("index.vectors.*"):
            continue
        by_section.setdefault(declaration.section, []).append(declaration)
    for section, fields in by_section.items():
        lines.extend(_section(section, fields))
    lines.extend(
        [
            "## `[index.vectors.NAME]`",
            "",
            "A further named vector has an identity of its own: the tables `model`, `tokenizer`, `prompts` and",
            "`vectors` stand beneath it with the same keys, as in `[index.vectors.small.model]`.",
            "",
        ]
    )
    return "\n".join(lines)


def _section(section: str, fields: list[FieldDeclaration]) -> list[str]:
    lines = [f"## `[{section}]`" if section else "## Top of the file", ""]
    description = _section_description(section)
    if description:
        lines.extend([description, ""])
    if section == "prompts":
        lines.extend(["Any further key is a named prompt, for `model.encode(texts, prompt_name=...)`.", ""])
    lines.extend(["| key | allowed | when not stated | kind | what it is |", "| --- | --- | --- | --- | --- |"])
    for field in fields:
        example = f" Example: `{_toml(field.example)}`." if field.example is not None else ""
        lines.append(
            f"| `{field.name}` | {_cell(field.allowed)} | {_cell(field.effective_default)} | {field.kind.value} "
            f"| {_cell(field.description)}{_cell(example)} |"
        )
    return [*lines, ""]


def _section_description(section: str) -> str:
    current: Any = Preferences
    for part in section.split(".") if section else []:
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next(item for item in candidates if hasattr(item, "model_fields"))
    return "" if current is Preferences else (current.__doc__ or "").strip()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "\\n")
