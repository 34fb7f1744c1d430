"""The effective values that say what the vectors are, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.config_overrides import effective_configuration, meaningful_configuration
from embedprefs.errors import ModelFilesError

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts, ModuleFacts
    from embedprefs.resolve import Resolved

__all__ = [
    "IDENTITY_VERSION",
    "ContentHashes",
    "canonical",
    "canonical_json",
    "content_hashes",
    "context_fields",
    "fingerprint_of",
    "identity_fields",
]

#: Version of the list of fields below. It is part of what is hashed: another list gives other fingerprints.
IDENTITY_VERSION = 1

#: Fields read from files that the host writes anew when it saves a model.
REWRITTEN_BY_SAVING = frozenset(
    {
        "adapter",
        "configuration",
        "custom_code",
        "modules",
        "special_tokens",
        "tokenizer",
        "tokenizer_arguments",
        "weights",
    }
)
UNTRAINED = "untrained (from_scratch)"
_QUANTISED = ("int8", "uint8")


@dataclass(frozen=True)
class ContentHashes:
    """SHA-256 of the files that make the vectors, in hexadecimal digits; None where there is no such file."""

    weights: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    custom_code: str | None = None
    calibration: str | None = None


def content_hashes(resolved: Resolved) -> ContentHashes:
    """Hash the files of a model, its adapter, its code and its calibration.

    Raises:
        ModelFilesError: a file that is needed is not there.
    """
    from embedprefs.facts.content_hash import tokenizer_hash, weights_hash

    facts = resolved.facts
    from_scratch = resolved["model.from_scratch"]
    return ContentHashes(
        # The adapter and the model's code have fields of their own, so that a mismatch names what differs.
        weights=UNTRAINED if from_scratch else weights_hash(replace(facts, adapter=None, custom_code=())),
        tokenizer=tokenizer_hash(facts),
        adapter=_adapter_hash(resolved),
        custom_code=_custom_code_hash(facts),
        calibration=_calibration_hash(resolved),
    )


def _adapter_hash(resolved: Resolved) -> str | None:
    """Hash an adapter's weights and configuration: the one that is stated, or the one that the folder itself is."""
    from embedprefs.facts.content_hash import weights_hash

    facts = resolved.facts
    if resolved["model.adapter.name"] is not None:
        adapter = facts.adapter if facts.adapter is not None else _adapter_facts(resolved)
        config = {name: value for name, value in adapter.adapter_config.items() if name not in _ADAPTER_BOOKKEEPING}
        return _sha256(canonical_json({"weights": weights_hash(adapter), "config": config}).encode())
    if facts.adapter_config:
        # The folder is itself an adapter: its weights are hashed as the model's, its base's with them where known.
        ignored = _ADAPTER_BOOKKEEPING if facts.base is not None else _LOCAL_ALONE
        config = {name: value for name, value in facts.adapter_config.items() if name not in ignored}
        return _sha256(canonical_json(config).encode())
    return None


def _adapter_facts(resolved: Resolved) -> ModelFacts:
    from embedprefs.facts import read_facts

    return read_facts(
        resolved["model.adapter.name"],
        revision=resolved["model.adapter.revision"],
        cache_folder=_path(resolved["model.cache_folder"]),
        local_files_only=resolved["model.local_files_only"],
        base=resolved.preferences.folder,
    )


#: Fields of adapter_config.json that say nothing about the vectors.
_LOCAL_ALONE = frozenset({"inference_mode", "auto_mapping", "peft_version", "lora_dropout", "runtime_config"})
#: The same, and what names the base model, whose weights are hashed themselves.
_ADAPTER_BOOKKEEPING = _LOCAL_ALONE | {"base_model_name_or_path", "revision"}


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text is not None else None


def _custom_code_hash(facts: ModelFacts) -> str | None:
    """Hash the model's own Python files by name and content, and the foreign classes by name."""
    from embedprefs.facts.content_hash import file_hash

    if not facts.custom_code:
        return None
    parts = {}
    folder = facts.folder if facts.folder is not None else facts.downloaded_to
    for name in facts.custom_code:
        path = folder / name if folder is not None and name.endswith(".py") else None
        parts[name] = file_hash(path) if path is not None and path.is_file() else "installed"
    return _sha256(canonical_json(parts).encode())


def _calibration_hash(resolved: Resolved) -> str | None:
    from embedprefs.facts.content_hash import file_hash

    path = resolved.calibration_file
    if path is None or resolved["vectors.precision"] not in _QUANTISED:
        return None
    if not path.is_file():
        raise ModelFilesError(
            f"vectors.calibration names {path}, which does not exist.\n"
            "  Make it with `embedprefs calibrate TEXTS`, or correct the path.",
            file=path,
        )
    return file_hash(path)


def _module(module: ModuleFacts, routes: Mapping[str, tuple[ModuleFacts, ...]] | None = None) -> dict[str, Any]:
    """Return one module of the chain by what it computes, whichever library version wrote its configuration."""
    config = dict(module.config)
    if module.kind == "Transformer":
        return {"kind": "Transformer"}
    if module.kind == "Pooling":
        return {"kind": "Pooling", "mode": _pooling_mode(config), "include_prompt": config.get("include_prompt", True)}
    if module.kind == "Dense":
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
        return {
            "kind": "Dense",
            "in_features": config.get("in_features"),
            "out_features": config.get("out_features"),
            "bias": config.get("bias", True),
            "activation": activation,
        }
    if module.kind == "Router":
        chains = {name: [_module(part) for part in chain] for name, chain in sorted((routes or {}).items())}
        return {"kind": "Router", "routes": chains, "parameters": config.get("parameters", {})}
    kind = module.kind if module.type.startswith("sentence_transformers.") else module.type
    return {"kind": kind, **({"config": config} if config else {})}


def _pooling_mode(config: Mapping[str, Any]) -> str | None:
    """Return the mode of a pooling in today's words: older files hold one truth value for each mode."""
    mode = config.get("pooling_mode")
    if isinstance(mode, (list, tuple)):
        return "+".join(str(name) for name in mode)
    if mode is not None:
        return str(mode)
    names = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
    return "+".join(today for name, today in names.items() if config.get(name)) or None


def _modules(resolved: Resolved) -> list[dict[str, Any]]:
    facts = resolved.facts
    chain = [_module(module, facts.routes) for module in facts.modules]
    if not chain and not facts.is_static:
        chain = [{"kind": "Transformer"}]
    pooling = resolved["model.pooling"]
    poolings = [module for module in chain if module["kind"] == "Pooling"]
    if pooling is not None and not poolings and not facts.is_static:
        chain.append({"kind": "Pooling", "mode": pooling, "include_prompt": True})
    elif pooling is not None and len(poolings) == 1:
        poolings[0]["mode"] = pooling
    # Whether the last step is a module or the preference makes no difference to the vectors: `normalize` says it.
    while chain and chain[-1]["kind"] == "Normalize" and resolved["vectors.normalize"]:
        chain.pop()
    return chain


def _special_tokens(resolved: Resolved) -> dict[str, Any]:
    own = resolved.facts.tokenizer.special_tokens if resolved.facts.tokenizer is not None else {}
    return {name: token for name, token in resolved["tokenizer.special_tokens"].items() if own.get(name) != token}


def _tokenizer_arguments(resolved: Resolved) -> dict[str, Any]:
    own = resolved.facts.tokenizer.config if resolved.facts.tokenizer is not None else {}
    stated: Mapping[str, Any] = resolved["tokenizer.kwargs"]
    return {name: value for name, value in stated.items() if name not in own or own[name] != value}


def identity_fields(
    resolved: Resolved,
    template: str | None = None,
    hashes: ContentHashes | None = None,
    *,
    chunk_context: str | None = None,
) -> dict[str, Any]:
    """Return the readable fields that say what the vectors are.

    They are effective values: what was written and changes nothing does not show. Names, paths, revisions, chunk
    sizes and everything in `[compute]` are left out.

    Args:
        resolved: The effective preferences.
        template: For a collection, the template of the embedded text.
        hashes: Content hashes that are known already; read from the files if not given.
        chunk_context: For a collection, what is read for a chunk's vector, as `index.chunk_context` says.

    Raises:
        ModelFilesError: a file that has to be hashed is not there.
    """
    hashes = hashes if hashes is not None else content_hashes(resolved)
    windows = resolved["tokenizer.overflow"] == "window"
    configuration = effective_configuration(resolved.facts.config, resolved["model.config"])
    fields: dict[str, Any] = {
        "weights": hashes.weights,
        "adapter": hashes.adapter,
        "custom_code": hashes.custom_code,
        "modules": _modules(resolved),
        "configuration": meaningful_configuration(configuration),
        "tokenizer": hashes.tokenizer,
        "tokenizer_arguments": _tokenizer_arguments(resolved),
        "special_tokens": _special_tokens(resolved),
        "max_seq_length": resolved["tokenizer.max_seq_length"],
        "padding_side": resolved["tokenizer.padding_side"],
        "truncation_side": resolved["tokenizer.truncation_side"],
        "overflow": resolved["tokenizer.overflow"],
        "window_overlap": resolved["tokenizer.window_overlap"] if windows else None,
        "window_pooling": resolved["tokenizer.window_pooling"] if windows else None,
        "query_prompt": resolved["prompts.query"],
        "document_prompt": resolved["prompts.document"],
        "task": resolved["prompts.task"],
        "truncate_dim": resolved["vectors.truncate_dim"],
        "embedding_dimension": resolved.embedding_dimension,
        "normalize": resolved["vectors.normalize"],
        "similarity_fn_name": resolved["vectors.similarity_fn_name"],
        "precision": resolved["vectors.precision"],
        "calibration": hashes.calibration,
    }
    if template is not None:
        fields["template"] = template
    fields |= context_fields(chunk_context, resolved)
    return {name: _made_from(resolved.facts, name, canonical(value)) for name, value in fields.items()}


def context_fields(chunk_context: str | None, resolved: Resolved) -> dict[str, Any]:
    """Return the fields of a collection whose chunks are read in their documents; none where each is read alone.

    So a collection that was made before there was a choice keeps its fingerprint. A document that is longer than the
    model reads is read in windows, whatever becomes of other texts that are too long.

    Args:
        chunk_context: As `index.chunk_context` says; None for a model alone.
        resolved: The effective preferences.
    """
    if chunk_context in (None, "chunk"):
        return {}
    return {"chunk_context": chunk_context, "context_window_overlap": resolved["tokenizer.window_overlap"]}


def _made_from(facts: ModelFacts, name: str, current: Any) -> Any:
    """Return what a field of a model saved by embedprefs was before saving, while its files are as they were written.

    Saving a model writes other bytes for the same weights: buffers are left out, the tokenizer's settings and the
    configuration are brought up to date. What was saved without having been changed is the same model, so its identity
    stays; a file that was changed since counts by its content.
    """
    rewritten = facts.saved_preferences.get("rewritten", {})
    entry = rewritten.get(name) if isinstance(rewritten, Mapping) and name in REWRITTEN_BY_SAVING else None
    if isinstance(entry, Mapping) and "before" in entry and entry.get("after") == current:
        return entry["before"]
    return current


def canonical(value: Any) -> Any:
    """Return JSON values that are equal whenever they mean the same: keys in order, 1.0 as 1, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def canonical_json(value: Any) -> str:
    """Return a value as JSON that is equal, character by character, whenever the value means the same."""
    return json.dumps(canonical(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the fingerprint of identity fields: 64 hexadecimal digits of a SHA-256."""
    return _sha256(canonical_json({"version": IDENTITY_VERSION, "identity": identity}).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
