"""From effective preferences to the host's arguments: pure functions, nothing is loaded or imported.

`PLACEMENTS` says for every preference and every call site what it becomes there, or why it does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from embedprefs.arguments.keywords import covered_keywords
from embedprefs.arguments.placement import CallSite, Placement
from embedprefs.arguments.table import PLACEMENTS
from embedprefs.config_overrides import judge_override
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.resolve import Resolved

__all__ = [
    "PLACEMENTS",
    "CallSite",
    "Placement",
    "attention_implementation",
    "covered_keywords",
    "encode_arguments",
    "load_arguments",
    "multi_process_arguments",
    "refused_overrides",
    "torch_dtype",
]

#: What the host's vectors are before they are quantised with stored ranges.
_QUANTISED_HERE = ("int8", "uint8")


def refused_overrides(resolved: Resolved) -> list[Problem]:
    """Return a problem for each of `[model.config]` that would break the checkpoint or do nothing."""
    problems = []
    overrides: Mapping[str, Any] = resolved["model.config"]
    for name, value in overrides.items():
        verdict = judge_override(
            resolved.facts.model_type, name, value, resolved.facts, from_scratch=resolved["model.from_scratch"]
        )
        if verdict.allowed:
            continue
        key = f"model.config.{name}"
        origins = resolved.preferences.origins
        origin = origins.get(key) or origins.get("model.config")
        problems.append(
            Problem(
                f"{key} = {value!r} cannot be applied. {verdict.reason}",
                key=key,
                value=value,
                fix=f"Use {verdict.use_instead} instead." if verdict.use_instead else "Leave it out.",
                source=(origin.source or None) if origin is not None else None,
                line=origin.line if origin is not None else None,
            )
        )
    return problems


def load_arguments(resolved: Resolved) -> dict[str, Any]:
    """Return the keyword arguments for the host's `SentenceTransformer(...)`.

    Everything that the host would otherwise choose by itself is explicit: number format, attention, safetensors, and
    both prompts. An adapter, torch.compile, threads and from_scratch are applied around this call; the table
    `PLACEMENTS` names where. The attentions "local" and "varlen" are known to transformers once
    `embedprefs.engine.attention.register_attention` has been called.

    Raises:
        InvalidPreferenceError: `model.kwargs` or `tokenizer.kwargs` hold what a preference stands for, or
            `[model.config]` what the checkpoint would not survive; every one of them is listed.
    """
    problems = [*covered_keywords(resolved.preferences), *refused_overrides(resolved)]
    if problems:
        raise InvalidPreferenceError(problems)
    facts = resolved.facts
    is_folder = facts.source == "folder"
    arguments: dict[str, Any] = {
        "model_name_or_path": str(facts.folder) if is_folder and facts.folder is not None else facts.name,
        "device": resolved.devices[0],
        "prompts": resolved.prompts,
        "similarity_fn_name": resolved["vectors.similarity_fn_name"],
        "truncate_dim": resolved["vectors.truncate_dim"],
        "trust_remote_code": resolved["model.trust_remote_code"],
        "local_files_only": resolved["model.local_files_only"],
        "cache_folder": _folder(resolved["model.cache_folder"]),
        # What is converted is converted from torch's modules, and compared with them.
        "backend": "torch",
    }
    if not is_folder:
        # The host ignores a revision for a folder without a word. The commit that was checked is the one to load: an
        # unpinned name may mean a newer one by now.
        arguments["revision"] = facts.revision or resolved["model.revision"]
    if not facts.is_static:
        arguments |= {
            "model_kwargs": _model_kwargs(resolved),
            "processor_kwargs": _processor_kwargs(resolved),
            "config_kwargs": dict(resolved["model.config"]),
        }
    return arguments


def torch_dtype(resolved: Resolved) -> str:
    """Return the number format of torch's weights: `compute.dtype`, or float32 where another backend computes in it.

    A converted backend is made from float32 weights, and lowers precision itself.

    Args:
        resolved: The effective preferences.
    """
    return str(resolved["compute.dtype"]) if resolved["compute.backend"] == "torch" else "float32"


def attention_implementation(attention: str) -> str:
    """Return the name by which transformers knows an attention; `embedprefs.engine.attention` registers its own.

    Args:
        attention: As in `compute.attention`.
    """
    from embedprefs.engine import attention as local
    from embedprefs.engine import gpu

    return {"local": local.ATTENTION, "varlen": gpu.ATTENTION}.get(attention, attention)


def _folder(text: str | None) -> str | None:
    return str(Path(text).expanduser()) if text is not None else None


def _model_kwargs(resolved: Resolved) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(resolved["model.kwargs"])
    arguments["dtype"] = torch_dtype(resolved)
    if resolved["compute.attention"] is not None:
        arguments["attn_implementation"] = attention_implementation(resolved["compute.attention"])
    if not resolved["model.allow_pickle"]:
        arguments["use_safetensors"] = True
    return arguments


def _processor_kwargs(resolved: Resolved) -> dict[str, Any]:
    values = {
        "model_max_length": resolved["tokenizer.max_seq_length"],
        "padding_side": resolved["tokenizer.padding_side"],
        "truncation_side": resolved["tokenizer.truncation_side"],
    }
    return {
        **resolved["tokenizer.kwargs"],
        **resolved["tokenizer.special_tokens"],
        **{name: value for name, value in values.items() if value is not None},
    }


def _batch_size(resolved: Resolved) -> int:
    """Return how many texts of full length the token budget holds: the host's loop knows no budget."""
    longest: int = resolved["tokenizer.max_seq_length"] or 1
    most: int = resolved["compute.max_batch_size"]
    tokens: int = resolved["compute.batch_tokens"]
    return max(1, min(most, tokens // longest))


def encode_arguments(resolved: Resolved, role: Literal["query", "document"]) -> dict[str, Any]:
    """Return the keyword arguments for the host's `encode`, as its `encode_query` and `encode_document` call it.

    int8 and uint8 are asked of the host as float32: its own ranges change with every call, so vectors are quantised
    afterwards with the stored ranges.

    Args:
        resolved: The effective preferences.
        role: Which prompt is put before the texts.
    """
    precision = resolved["vectors.precision"]
    return {
        "prompt": resolved[f"prompts.{role}"],
        "batch_size": _batch_size(resolved),
        "normalize_embeddings": resolved["vectors.normalize"],
        "truncate_dim": resolved["vectors.truncate_dim"],
        "precision": "float32" if precision in _QUANTISED_HERE else precision,
        "task": resolved["prompts.task"] or role,
    }


def multi_process_arguments(resolved: Resolved, role: Literal["query", "document"]) -> dict[str, Any]:
    """Return the keyword arguments for the host's `encode` where several processes embed side by side.

    Args:
        resolved: The effective preferences.
        role: Which prompt is put before the texts.
    """
    devices = list(resolved.devices)
    workers: int = resolved["compute.workers"]
    # More workers than devices share them in turn; on a CPU that is how it uses many cores.
    shared = [devices[index % len(devices)] for index in range(max(workers, len(devices)))]
    return {**encode_arguments(resolved, role), "device": shared}
