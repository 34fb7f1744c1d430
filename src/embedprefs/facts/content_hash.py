"""Hashes of what makes vectors what they are: weights and tokenizer, by content, never by name or path."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from embedprefs.errors import ModelFilesError, UnavailableError
from embedprefs.facts.model_facts import ModelFacts
from embedprefs.facts.sources import blob_hash
from embedprefs.facts.tokenizer_files import TOKENIZER_FILES

__all__ = ["canonical_tokenizer", "file_hash", "tokenizer_hash", "weights_hash"]

logger = logging.getLogger(__name__)

#: Files below this are hashed anew each time, which takes some hundredths of a second.
_WORTH_REMEMBERING = 64 * 1024**2
#: A file changed this recently may change again within the clock's granularity: its hash is not remembered.
_SECONDS_TO_SETTLE = 2.0

#: Settings of tokenizer_config.json that change the tokens -> the value that is the same as stating nothing.
#: Limits, sides, classes, paths and decoding are left out: they are identity fields of their own, or no tokens.
_TOKEN_SETTINGS: Mapping[str, Any] = {
    "add_bos_token": None,
    "add_eos_token": None,
    "add_prefix_space": False,
    "do_lower_case": True,
    "fix_mistral_regex": None,
    "keep_accents": None,
    "remove_space": None,
    "split_special_tokens": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
}
#: Files that only matter where there is no tokenizer.json, which holds all of them.
_VOCABULARY_FILES = tuple(
    file
    for file in TOKENIZER_FILES
    if file not in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
)
#: Component of tokenizer.json -> what older files leave out and mean.
_COMPONENT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ByteLevel": {"use_regex": True},
    "BPE": {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
    "Unigram": {"byte_fallback": False},
}


def _cache_folder() -> Path:
    from embedprefs.files.folders import cache_folder

    return cache_folder() / "content-hashes"


def _remembered(entry: Path, stamp: Mapping[str, int]) -> str | None:
    """Return a remembered hash where it is of the very file; None where there is none, or it cannot be read."""
    try:
        known = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or known.get("file") != dict(stamp):
        return None
    digest = known.get("sha256")
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _remember(entry: Path, stamp: Mapping[str, int], digest: str) -> None:
    """Write a hash down in one step, so that another process reads it whole or not at all."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"file": dict(stamp), "sha256": digest}, stream)
        Path(name).replace(entry)
    except OSError:
        # A read-only or full home costs the time to hash again, nothing else.
        return


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def file_hash(path: str | Path, *, remember: bool = True, cache_folder: Path | None = None) -> str:
    """Return the sha256 of a file's content.

    In the hub's cache a large file's hash is the name of its blob. Elsewhere a file of 64 MiB or more is hashed once
    and remembered in the user's cache folder, for as long as its path, size, time and inode stay the same.

    Args:
        path: The file.
        remember: False neither reads nor writes remembered hashes.
        cache_folder: Where hashes are remembered; None for the user's cache folder.

    Raises:
        ModelFilesError: The file is absent or cannot be read.
    """
    path = Path(path)
    if (known := blob_hash(path)) is not None:
        return known
    try:
        resolved = path.resolve()
        stamp = _stamp(resolved)
        remember = remember and stamp["size"] >= _WORTH_REMEMBERING
        entry = (cache_folder or _cache_folder()) / (hashlib.sha256(os.fsencode(resolved)).hexdigest() + ".json")
        if remember and (digest := _remembered(entry, stamp)) is not None:
            return digest
        if remember:
            logger.info("Hashing %s (%.1f GB), once.", path, stamp["size"] / 1e9)
        with resolved.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        settled = time.time() - stamp["mtime_ns"] / 1e9 > _SECONDS_TO_SETTLE
        if remember and settled and _stamp(resolved) == stamp:
            _remember(entry, stamp, digest)
    except OSError as error:
        raise ModelFilesError(f"{path} cannot be read: {error.strerror or error}.", file=path) from error
    return digest


def _joined(parts: Any) -> str:
    """Return the hash of a structure of hashes and values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _hash_of(facts: ModelFacts, file: str, remember: bool) -> str:
    if file in facts.content_hashes:
        return facts.content_hashes[file]
    folder = facts.folder or facts.downloaded_to
    if folder is not None and (folder / file).exists():
        return file_hash(folder / file, remember=remember)
    raise UnavailableError(
        f"The content of {file} of {facts.name} is not known: it is not on this machine, and the hub states no hash of "
        f"it.\n  Download the model with `hf download {facts.name}`."
    )


def _module_of(facts: ModelFacts, file: str) -> str:
    """Return the folder of the module that a weights file belongs to: the longest one that holds it."""
    parts = PurePosixPath(file).parent
    paths = [module.path for module in (*facts.modules, *(part for chain in facts.routes.values() for part in chain))]
    matches = [path for path in paths if path and PurePosixPath(path) in (parts, *parts.parents)]
    return max(matches, key=len, default="")


def _components(facts: ModelFacts, remember: bool) -> list[Any]:
    """Return the hashes of every part in the order of the chain; shards of one part in the order of their hashes."""
    by_module: dict[str, list[str]] = {}
    for file in facts.weight_files:
        by_module.setdefault(_module_of(facts, file), []).append(_hash_of(facts, file, remember))
    # weight_files lists the modules in the order of the chain, so that their folders' names do not count.
    parts: list[Any] = [sorted(hashes) for hashes in by_module.values()]
    if facts.base is not None:
        parts.append({"base": _components(facts.base, remember)})
    return parts


def weights_hash(facts: ModelFacts, *, remember: bool = True) -> str:
    """Return one hash of a model's weights, those of every module, and of an adapter folder's base included.

    It depends on the files' content alone: the same files in another folder, or downloaded anew, have the same hash.
    The same tensors written in another way (one file or several, other metadata) have another one. Where a model's
    only weights are one file, the hash is that file's sha256, as the hub shows it. An adapter that preferences lay over
    the model, and Python code that comes with it, have hashes of their own.

    Args:
        facts: The model.
        remember: False neither reads nor writes remembered hashes of large files.

    Raises:
        ModelFilesError: The model has no weights, or a file cannot be read.
        UnavailableError: The weights are not on this machine, and the hub states no hash of them.
    """
    parts = _components(facts, remember)
    if not facts.weight_files and facts.base is None:
        place = f" in {facts.folder}" if facts.folder is not None else ""
        raise ModelFilesError(f"The model {facts.name!r} has no weights{place}.", model=facts.name, file=facts.folder)
    if len(parts) == 1 and isinstance(parts[0], list) and len(parts[0]) == 1:
        return str(parts[0][0])
    return _joined(parts)


def _canonical(value: Any) -> Any:
    """Return a component of tokenizer.json without what older and newer versions write differently."""
    if isinstance(value, dict):
        whole = {**_COMPONENT_DEFAULTS.get(str(value.get("type")), {}), **value}
        if whole.get("type") == "Metaspace" and "prepend_scheme" not in whole:
            whole["prepend_scheme"] = "always" if whole.get("add_prefix_space", True) else "never"
        if whole.get("type") == "Metaspace":
            whole.pop("add_prefix_space", None)
            whole.pop("str_rep", None)
            whole.setdefault("split", True)
        # Offsets say where a token stood, not which token it is.
        whole.pop("trim_offsets", None)
        return {name: _canonical(item) for name, item in whole.items() if item is not None and item != ""}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def canonical_tokenizer(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what in tokenizer.json decides about the tokens of a text.

    Padding and truncation are left out (the host sets them on every call and writes them on saving), and so is the
    decoder. Merges are pairs, whether written as pairs or as texts.
    """
    stated = tokenizer.get("model")
    model = _canonical(stated) if isinstance(stated, dict) else {}
    pre_tokenizer = _canonical(tokenizer.get("pre_tokenizer"))
    if isinstance(model.get("merges"), list):
        model["merges"] = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    if model.get("type", "BPE") == "BPE" and "ByteLevel" in json.dumps(pre_tokenizer):
        # Every byte has a token of its own, so the unknown token is never used.
        model.pop("unk_token", None)
    model.pop("type", None)
    return {
        "model": model,
        "normalizer": _canonical(tokenizer.get("normalizer")),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _canonical(tokenizer.get("post_processor")),
        "added_tokens": _canonical(tokenizer.get("added_tokens") or []),
    }


def _extra_tokens(config: Mapping[str, Any]) -> list[str]:
    """Return further special tokens that tokenizer_config.json adds."""
    found: list[Any] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        stated = config.get(name)
        found.extend(stated.values() if isinstance(stated, dict) else stated if isinstance(stated, list) else ())
    return sorted({str(token.get("content")) if isinstance(token, dict) else str(token) for token in found})


def _present(folder: Path, files: Iterable[str]) -> list[Path]:
    return [folder / file for file in files if (folder / file).is_file()]


def tokenizer_hash(facts: ModelFacts) -> str | None:
    """Return one hash of what turns a text into tokens; None where the model has no tokenizer files.

    It covers tokenizer.json (or the older vocabulary files), the special tokens and the settings that change tokens.
    `model_max_length`, sides, classes and file names are left out, so that a model and what the host saves of it have
    the same hash.

    Raises:
        ModelFilesError: A file cannot be read.
    """
    root = facts.folder or facts.downloaded_to
    if facts.tokenizer is None or root is None:
        return None
    folder = root / facts.tokenizer.folder
    config = facts.tokenizer.config
    settings = {
        name: config[name]
        for name, neutral in _TOKEN_SETTINGS.items()
        if config.get(name) is not None and config[name] != neutral
    }
    if facts.sentence_bert_config.get("do_lower_case"):
        settings["lowercased_by_the_host"] = True
    parts: dict[str, Any] = {
        "special_tokens": dict(facts.tokenizer.special_tokens),
        "extra_tokens": _extra_tokens(config),
        "settings": settings,
    }
    try:
        whole = json.loads((folder / "tokenizer.json").read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        parts["vocabulary"] = {path.name: file_hash(path) for path in _present(folder, _VOCABULARY_FILES)}
    except (OSError, ValueError) as error:
        raise ModelFilesError(
            f"{folder / 'tokenizer.json'} cannot be read: {error}. Copy or download it again.",
            model=facts.name,
            file=folder / "tokenizer.json",
        ) from error
    else:
        parts["tokenizer"] = canonical_tokenizer(whole) if isinstance(whole, dict) else whole
    return _joined(parts)
