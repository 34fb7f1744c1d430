"""Keyword arguments that a preference stands for, so that nothing is said twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from embedprefs.errors import Problem
from embedprefs.preferences import Preferences

__all__ = ["COVERED_MODEL_KEYWORDS", "COVERED_TOKENIZER_KEYWORDS", "SPECIAL_TOKEN_NAMES", "covered_keywords"]

#: Keyword of the host's `model_kwargs` -> the preference that stands for it.
COVERED_MODEL_KEYWORDS: Mapping[str, str] = {
    "dtype": "compute.dtype",
    "torch_dtype": "compute.dtype",
    "attn_implementation": "compute.attention",
    "device": "compute.device",
    "device_map": "compute.device",
    "max_memory": "compute.memory_limit",
    "use_safetensors": "model.allow_pickle",
    "trust_remote_code": "model.trust_remote_code",
    "revision": "model.revision",
    "cache_dir": "model.cache_folder",
    "local_files_only": "model.local_files_only",
    "config": "model.config",
    "file_name": "model.onnx_file",
    "provider": "compute.device",
    "adapter_name": "model.adapter.name",
    "load_in_8bit": "compute.weights",
    "quantization_config": "compute.weights",
}
#: Keywords of `model_kwargs` that are refused altogether, with the reason.
REFUSED_MODEL_KEYWORDS: Mapping[str, str] = {
    "ignore_mismatched_sizes": "Weights that do not fit would be replaced by random ones.",
    "token": "A token belongs into the environment (HF_TOKEN), never into a file.",
    "use_auth_token": "A token belongs into the environment (HF_TOKEN), never into a file.",
    "state_dict": "The weights come from the model's files.",
}

SPECIAL_TOKEN_NAMES = frozenset(
    {
        "additional_special_tokens",
        "bos_token",
        "cls_token",
        "eos_token",
        "extra_special_tokens",
        "mask_token",
        "pad_token",
        "sep_token",
        "unk_token",
    }
)

#: Keyword of the host's `processor_kwargs` -> the preference that stands for it.
COVERED_TOKENIZER_KEYWORDS: Mapping[str, str] = {
    "model_max_length": "tokenizer.max_seq_length",
    "max_length": "tokenizer.max_seq_length",
    "max_seq_length": "tokenizer.max_seq_length",
    "padding_side": "tokenizer.padding_side",
    "truncation_side": "tokenizer.truncation_side",
    "truncation": "tokenizer.overflow",
    "stride": "tokenizer.window_overlap",
    "return_overflowing_tokens": "tokenizer.overflow",
    "trust_remote_code": "model.trust_remote_code",
    "revision": "model.revision",
    "cache_dir": "model.cache_folder",
    "local_files_only": "model.local_files_only",
    **dict.fromkeys(sorted(SPECIAL_TOKEN_NAMES), "tokenizer.special_tokens"),
}
REFUSED_TOKENIZER_KEYWORDS: Mapping[str, str] = {
    "token": "A token belongs into the environment (HF_TOKEN), never into a file.",
    "use_auth_token": "A token belongs into the environment (HF_TOKEN), never into a file.",
    "init_kwargs": "It is a record of how a tokenizer was made; setting it changes nothing.",
    "name_or_path": "The tokenizer is the model's own; another one would not fit its weights.",
}


def _problems(
    preferences: Preferences,
    table: str,
    stated: Mapping[str, Any],
    covered: Mapping[str, str],
    refused: Mapping[str, str],
) -> Iterator[Problem]:
    for name, value in stated.items():
        key = f"{table}.{name}"
        if name not in covered and name not in refused:
            continue
        origins = preferences.origins
        origin = origins.get(key) or origins.get(table)
        secret = "token" in name and name in refused
        fix = f"Write it as {covered[name]}." if name in covered else f"{refused[name]} Leave it out."
        yield Problem(
            f"{key} is set, which a preference stands for." if name in covered else f"{key} is not allowed.",
            key=key,
            value=None if secret else value,
            fix=fix,
            source=origin.source or None if origin is not None else None,
            line=origin.line if origin is not None else None,
        )


def covered_keywords(preferences: Preferences) -> list[Problem]:
    """Return a problem for each of `model.kwargs` and `tokenizer.kwargs` that a preference stands for."""
    return [
        *_problems(
            preferences, "model.kwargs", preferences.model.kwargs, COVERED_MODEL_KEYWORDS, REFUSED_MODEL_KEYWORDS
        ),
        *_problems(
            preferences,
            "tokenizer.kwargs",
            preferences.tokenizer.kwargs,
            COVERED_TOKENIZER_KEYWORDS,
            REFUSED_TOKENIZER_KEYWORDS,
        ),
    ]
