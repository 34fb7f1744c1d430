"""One batch, as the model reads it and hands it on."""

from __future__ import annotations

from typing import Any

import torch

from embedprefs.model.report import EncodeReport
from embedprefs.model.tokens import TokenWindow

__all__ = ["count_features", "hand_on_float32", "window_features"]


def window_features(transformer: Any, windows: list[TokenWindow], prompt: str | None) -> dict[str, Any]:
    """Return what the host's Transformer module reads, for windows instead of texts."""
    rows: dict[str, Any] = {"input_ids": [list(window.ids) for window in windows]}
    if "token_type_ids" in transformer.tokenizer.model_input_names:
        rows["token_type_ids"] = [[0] * len(window) for window in windows]
    features = dict(transformer.tokenizer.pad(rows, padding=True, return_tensors="pt"))
    features["modality"] = "text"
    if prompt:
        features["prompt_length"] = transformer._get_prompt_length(prompt)  # noqa: SLF001 - the host counts it so
    return features


def hand_on_float32(_module: Any, _arguments: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Hand what the first module computes to the others in float32; a forward hook."""
    for name in ("token_embeddings", "sentence_embedding", "cls_token_embeddings"):
        value = features.get(name)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            features[name] = value.float()
    return features


def count_features(report: EncodeReport, features: dict[str, Any]) -> None:
    """Count the tokens and the padding of one batch."""
    report.batches += 1
    mask = features.get("attention_mask")
    ids = features.get("input_ids")
    if isinstance(mask, torch.Tensor) and mask.device.type == "cpu":
        read = int(mask.sum())
        report.tokens += read
        report.padding += mask.numel() - read
    elif isinstance(ids, torch.Tensor):
        report.tokens += ids.numel()
