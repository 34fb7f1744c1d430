"""Which parameters are trained: all of them, those that are not frozen, or added low-rank matrices."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from embedprefs.errors import InvalidPreferenceError, MissingExtraError, ModelFilesError, Problem
from embedprefs.preferences import LoraPreferences

__all__ = ["MERGE_TOLERANCE", "PROBE_TEXTS", "add_lora", "freeze", "has_adapter", "merge_adapter", "trained_share"]

#: Layers that get low-rank matrices, by model type. ModernBERT's are those of its own attention and its gated MLP.
_TARGETS: dict[str, tuple[str, ...]] = {
    "bert": ("query", "key", "value", "dense"),
    "roberta": ("query", "key", "value", "dense"),
    "xlm-roberta": ("query", "key", "value", "dense"),
    "mpnet": ("q", "k", "v", "o", "dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "modernbert": ("Wqkv", "Wo", "Wi"),
}
#: How far a merged vector may be from the adapter's, in any of its dimensions.
MERGE_TOLERANCE = 1e-4
PROBE_TEXTS = (
    "How is bread made?",
    "Mix flour, water and salt, let the dough rest, and bake it in a hot oven until the crust is brown.",
    "x",
)


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep parameters as they are.

    Args:
        model: The model.
        patterns: Names of parameters, `*` for any characters: `"*embeddings*"`.

    Returns:
        The names that were frozen.

    Raises:
        InvalidPreferenceError: a pattern fits no parameter, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    problems = []
    for pattern in patterns:
        matched = {name for name in parameters if fnmatchcase(name, pattern)}
        if not matched:
            close = get_close_matches(pattern.strip("*"), parameters, n=1, cutoff=0.3)
            problems.append(
                Problem(
                    f'training.freeze: no parameter is called "{pattern}".',
                    key="training.freeze",
                    value=pattern,
                    allowed=f"names such as {', '.join(list(parameters)[:2])}, with * for any characters",
                    fix=f"The nearest is {close[0]}; did you forget a *?" if close else None,
                )
            )
        frozen |= matched
    if not problems and patterns and not any(p.requires_grad for n, p in parameters.items() if n not in frozen):
        problems.append(
            Problem(
                "training.freeze leaves no parameter to train.",
                key="training.freeze",
                value=list(patterns),
                fix="Remove a pattern.",
            )
        )
    if problems:
        raise InvalidPreferenceError(problems)
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sorted(frozen)


def trained_share(model: torch.nn.Module) -> tuple[int, int]:
    """Return how many values are trained, and how many there are."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def has_adapter(model: Any) -> bool:
    """Tell whether an adapter is laid over a model."""
    transformer = model.transformers_model
    return bool(getattr(transformer, "_hf_peft_config_loaded", False)) if transformer is not None else False


def add_lora(model: Any, preferences: LoraPreferences) -> list[str]:
    """Freeze a model's weights and lay trainable low-rank matrices over its linear layers.

    Args:
        model: The host's model.
        preferences: `[training.lora]`.

    Returns:
        Names of the layers that got them.

    Raises:
        MissingExtraError: peft is not installed.
        InvalidPreferenceError: the model has no transformer, or no layer of that name.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", extra="train", needed_for="training.lora")
    from peft import LoraConfig, TaskType
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer = model.transformers_model
    if transformer is None:
        raise InvalidPreferenceError(
            Problem(
                "training.lora needs a transformer, and this model has none.", key="training.lora", fix="Leave it out."
            )
        )
    linear = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
    stated = preferences.target_modules
    known = _TARGETS.get(transformer.config.model_type, ())
    targets = list(stated) if stated is not None else [name for name in known if name in ends] or ends
    absent = [name for name in targets if not any(full == name or full.endswith(f".{name}") for full in linear)]
    if absent:
        raise InvalidPreferenceError(
            [
                Problem(
                    f'training.lora.target_modules: the model has no linear layer "{name}".',
                    key="training.lora.target_modules",
                    value=name,
                    allowed=", ".join(ends),
                    fix=f"Did you mean {close[0]}?" if (close := get_close_matches(name, ends, n=1)) else None,
                )
                for name in absent
            ]
        )
    pooler = any(".pooler." in f".{name}" for name in linear)
    model.add_adapter(
        LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=preferences.r,
            lora_alpha=preferences.lora_alpha,
            lora_dropout=preferences.lora_dropout,
            target_modules=targets,
            # Its output is thrown away by sentence-transformers, so that nothing would be learned there.
            exclude_modules=r"(.*\.)?pooler\..*" if pooler else None,
        )
    )
    return [name for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)]


def merge_adapter(model: Any, probes: Sequence[str] = PROBE_TEXTS) -> float:
    """Add an adapter to the weights, so that the model is an ordinary one again, and compare the vectors.

    Args:
        model: A model with an adapter.
        probes: Texts that are embedded before and after.

    Returns:
        The largest difference in any dimension of the probes' vectors.

    Raises:
        ModelFilesError: the merged model computes something else (by more than `MERGE_TOLERANCE`).
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer = model.transformers_model
    before = _vectors(model, probes)
    layers = [(name, layer) for name, layer in transformer.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, attribute = name.rpartition(".")
        setattr(transformer.get_submodule(parent) if parent else transformer, attribute, layer.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
    transformer._hf_peft_config_loaded = False  # noqa: SLF001 - the host asks it whether to save weights or an adapter
    difference = float(np.abs(_vectors(model, probes) - before).max())
    if not difference <= MERGE_TOLERANCE:
        raise ModelFilesError(
            f"The merged model's vectors differ from the adapter's by up to {difference:.2g} (allowed: "
            f"{MERGE_TOLERANCE:g}).\n  Keep the adapter apart: training.lora.merge = false."
        )
    return difference


def _vectors(model: Any, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors: np.ndarray[Any, np.dtype[np.float32]] = model.encode(
        list(texts), precision="float32", truncate_dim=None, show_progress_bar=False
    )
    return vectors
