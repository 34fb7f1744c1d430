"""What a tokenizer's files say, without a tokenizer being built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from embedprefs.facts.model_facts import TokenizerFacts
from embedprefs.facts.sources import SourceReader

__all__ = ["TOKENIZER_FILES", "read_tokenizer"]

#: Files that decide how a text becomes tokens.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "bpe.codes",
)

#: transformers' own names of the special tokens that have a role.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: A `model_max_length` above this is transformers' way to write "no limit".
_NO_LIMIT = 1_000_000_000


def _items(value: Any) -> list[Any]:
    """Return a list as it is, and nothing for a value of any other type."""
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return an object as it is, and an empty one for a value of any other type."""
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> str | None:
    """Return a token's text, whether it is written as text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _special_tokens(
    config: Mapping[str, Any], special_map: Mapping[str, Any], padding: Mapping[str, Any]
) -> dict[str, str]:
    """Return role -> token by transformers' rule.

    special_tokens_map.json wins over tokenizer_config.json, unless the latter has the newer `added_tokens_decoder`:
    then the map is not read at all.
    """
    values = {role: config.get(role) for role in _ROLES}
    if "added_tokens_decoder" not in config:
        values.update({role: special_map[role] for role in _ROLES if special_map.get(role) is not None})
    if values["pad_token"] is None:
        values["pad_token"] = padding.get("pad_token")
    found = {role: _content(token) for role, token in values.items()}
    return {role: token for role, token in found.items() if token is not None}


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Return token -> id; a unigram model lists its tokens in the order of their ids."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        return {token: number for token, number in vocabulary.items() if isinstance(number, int)}
    if isinstance(vocabulary, list):
        return {entry[0]: number for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    return {}


def _older_vocabulary(reader: SourceReader, lines: str, mapping: str) -> dict[str, int]:
    """Return token -> id from the files that stood before tokenizer.json."""
    data = reader.source.read(lines)
    if data is not None:
        return {token: number for number, token in enumerate(data.decode("utf-8", errors="replace").splitlines())}
    return {token: number for token, number in reader.json_object(mapping).items() if isinstance(number, int)}


def _parts(component: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """Yield a component, or those of a Sequence in their order."""
    if not isinstance(component, dict):
        return
    if component.get("type") == "Sequence":
        for part in _items(component.get(inner)):
            yield from _parts(part, inner)
    else:
        yield component


def _specials_per_text(post_processor: Any) -> int:
    count = 0
    for part in _parts(post_processor, "processors"):
        if part.get("type") in ("BertProcessing", "RobertaProcessing"):
            count += 2
        elif part.get("type") == "TemplateProcessing":
            special = _mapping(part.get("special_tokens"))
            for piece in _items(part.get("single")):
                token = _mapping(_mapping(piece).get("SpecialToken"))
                if token:
                    ids = _mapping(special.get(str(token.get("id")))).get("ids")
                    count += max(1, len(_items(ids)))
    return count


def _side(stated: Any, direction: Any) -> Literal["left", "right"]:
    """Return a side as transformers finds it: tokenizer_config.json, then tokenizer.json, then right."""
    for value in (stated, direction):
        if isinstance(value, str) and value.lower() in ("left", "right"):
            return "left" if value.lower() == "left" else "right"
    return "right"


def read_tokenizer(reader: SourceReader, folder: str = "") -> TokenizerFacts | None:
    """Read a tokenizer's files; None where there are none.

    Args:
        reader: The model's files; problems are noted there.
        folder: Folder of the tokenizer inside the model.
    """

    def inside(file: str) -> str:
        return (PurePosixPath(folder) / file).as_posix()

    if not any(reader.source.size(inside(file)) is not None for file in TOKENIZER_FILES):
        return None
    config = reader.json_object(inside("tokenizer_config.json"))
    whole = reader.json_object(inside("tokenizer.json"))
    model = _mapping(whole.get("model"))
    padding = _mapping(whole.get("padding"))
    truncation = _mapping(whole.get("truncation"))
    special = _special_tokens(config, reader.json_object(inside("special_tokens_map.json")), padding)
    ids = _vocabulary(model) if whole else _older_vocabulary(reader, inside("vocab.txt"), inside("vocab.json"))
    for token in _items(whole.get("added_tokens")):
        if isinstance(token, dict) and isinstance(token.get("id"), int) and isinstance(token.get("content"), str):
            ids[token["content"]] = token["id"]
    decoder = config.get("added_tokens_decoder")
    for number, token in _mapping(decoder).items():
        content = _content(token)
        if content is not None and str(number).isdigit():
            ids.setdefault(content, int(number))
    if whole and not ids:
        reader.note(f"{inside('tokenizer.json')} holds no vocabulary. Restore the file from the model's source.")
    numbers = set(ids.values())
    limit = config.get("model_max_length")
    stated = int(limit) if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT else None
    return TokenizerFacts(
        config=config,
        size=len(numbers) if numbers else None,
        largest_id=max(numbers) if numbers else None,
        model_max_length=stated,
        padding_side=_side(config.get("padding_side"), padding.get("direction")),
        truncation_side=_side(config.get("truncation_side"), truncation.get("direction")),
        special_tokens=special,
        special_ids={role: ids[token] for role, token in special.items() if token in ids},
        byte_level=model.get("type") == "BPE"
        and any(part.get("type") == "ByteLevel" for part in _parts(whole.get("pre_tokenizer"), "pretokenizers")),
        specials_per_text=_specials_per_text(whole.get("post_processor")),
        folder=folder,
    )
