"""Which models a model was made from, as its own files say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from embedprefs.facts.sources import SourceReader

__all__ = ["base_models", "card_base_models"]

#: Longest model card that is looked into, in bytes; cards with benchmark tables reach some hundred kilobytes.
_LONGEST_CARD = 4_000_000
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def card_base_models(card: str) -> list[str]:
    """Return what a model card's front matter names as `base_model`.

    Only that entry is read, a name or a list of names. The front matter of many embedding models holds thousands of
    lines of benchmark results, which a YAML parser takes seconds for.
    """
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    block: list[str] = []
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if block and line and not line.startswith((" ", "\t", "-", "#")):
            break
        if block or re.match(r"base_model\s*:", line):
            block.append(line)
    text = "\n".join(line.split(" #", 1)[0] for line in block).partition(":")[2]
    return [name.strip("\"'") for name in re.findall(r"[^\s,\[\]]+", text) if name != "-"]


def base_models(
    reader: SourceReader, config: Mapping[str, Any], adapter: Mapping[str, Any], own_name: str
) -> tuple[str, ...]:
    """Return the hub names that a model says it was made from, nearest first.

    An adapter's base comes first, then config.json's `_name_or_path` (what the checkpoint was loaded from), then the
    model card. Folders of another machine are left out, they name no model.
    """
    stated: list[Any] = [adapter.get("base_model_name_or_path"), config.get("_name_or_path")]
    if 0 < (reader.source.size("README.md") or 0) <= _LONGEST_CARD:
        card = reader.source.read("README.md") or b""
        stated.extend(card_base_models(card.decode("utf-8-sig", errors="replace")))
    return tuple(dict.fromkeys(_hub_names(stated, own_name)))


def _hub_names(stated: Iterable[Any], own_name: str) -> Iterable[str]:
    for name in stated:
        if isinstance(name, str) and _HUB_NAME.fullmatch(name) and name != own_name:
            yield name
