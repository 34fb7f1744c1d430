"""Which model this is, and which it was made from, as its own files say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from embedprefs.facts.sources import SourceReader

__all__ = ["base_models", "card_base_models", "card_name", "read_card"]

#: Longest model card that is looked into, in bytes; cards with benchmark tables reach some hundred kilobytes.
_LONGEST_CARD = 4_000_000
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+)$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)
_QUOTED_HUB_NAME = re.compile(rf"(?<=[\"'])({_HUB_NAME.pattern})(?=[\"'])")


def read_card(reader: SourceReader) -> str:
    """Return the model card; "" where there is none, or one that is too long to be looked into."""
    if not 0 < (reader.source.size("README.md") or 0) <= _LONGEST_CARD:
        return ""
    return (reader.source.read("README.md") or b"").decode("utf-8-sig", errors="replace")


def card_name(card: str) -> str | None:
    """Return the hub name of the model that a card is about, where the card leaves no doubt of it.

    That is where its first heading is the short name, and its code names one model of that short name, as in
    `SentenceTransformer("owner/short-name")` beneath `# short-name`. A card is copied with the files, and some ways of
    saving keep it in a model that was trained further: the name says what a model is or was made from.
    """
    body = _FRONT_MATTER.sub("", card, count=1)
    heading = _HEADING.search(body)
    if heading is None:
        return None
    title = heading[1].strip(" \t\r#*_`").casefold()
    named = {name.casefold(): name for name in _QUOTED_HUB_NAME.findall(body)}
    fitting = [name for folded, name in named.items() if title in (folded, folded.rpartition("/")[2])]
    return fitting[0] if len(fitting) == 1 else None


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


def base_models(card: str, config: Mapping[str, Any], adapter: Mapping[str, Any], own_name: str) -> tuple[str, ...]:
    """Return the hub names that a model says it was made from, nearest first.

    An adapter's base comes first, then config.json's `_name_or_path` (what the checkpoint was loaded from), then the
    model card. Folders of another machine are left out, they name no model.
    """
    named = card_base_models(card)
    stated: list[Any] = [adapter.get("base_model_name_or_path"), config.get("_name_or_path"), *named]
    return tuple(dict.fromkeys(_hub_names(stated, own_name)))


def _hub_names(stated: Iterable[Any], own_name: str) -> Iterable[str]:
    for name in stated:
        if isinstance(name, str) and _HUB_NAME.fullmatch(name) and name != own_name:
            yield name
