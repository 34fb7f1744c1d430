"""The plain host with its own defaults: what everything is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved

__all__ = ["is_float32", "plain_host"]

#: What a preference chose, and the plain host would choose by itself.
_CHOICES = ("dtype", "attn_implementation")


def plain_host(preferences: Preferences, resolved: Resolved, *, dtype: str | None = None) -> SentenceTransformer:
    """Load the model as a plain `SentenceTransformer` with the same identity, and everything else its own default.

    It gets the same weights, tokenizer settings, prompts and lengths, on the same device; an adapter or a pooling that
    the preferences name is laid over it as over the preferred model. Number format, attention, backend, batches and
    threads are what it takes when nobody says anything.

    Args:
        preferences: The preferences.
        resolved: What they become here.
        dtype: A number format to load in; the host's own choice by default.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    from embedprefs.arguments import load_arguments
    from embedprefs.model.additions import lay_adapter, set_pooling, without_weights_bar

    if preferences.model.from_scratch:
        return _untrained_host(preferences, resolved, dtype)
    arguments: dict[str, Any] = {**load_arguments(resolved)}
    arguments["backend"] = "torch"
    if "model_kwargs" in arguments:
        kept = {
            name: value for name, value in arguments["model_kwargs"].items() if name not in (*_CHOICES, "file_name")
        }
        arguments["model_kwargs"] = {**kept, **({"dtype": dtype} if dtype is not None else {})}
    with without_weights_bar():
        host = SentenceTransformer(**arguments)
    set_pooling(host, resolved)
    if lay_adapter(host, resolved) and dtype is not None:
        host.to(dtype=getattr(torch, dtype))  # the adapter has a number format of its own
    return host.eval()


def _untrained_host(preferences: Preferences, resolved: Resolved, dtype: str | None) -> SentenceTransformer:
    """Return a plain host of the modules of an untrained model, which the host's constructor does not build.

    Attention is what the host takes by itself: sdpa where the architecture has it, never an implementation of ours.
    """
    from sentence_transformers import SentenceTransformer

    from embedprefs.layers import with_overrides
    from embedprefs.model import load_model
    from embedprefs.resolve.compute import SDPA_MODEL_TYPES

    as_the_host = {
        "compute.dtype": dtype or "float32",
        "compute.backend": "torch",
        "compute.weights": "full",
        "compute.compile": False,
        "compute.attention": "sdpa" if resolved.facts.model_type in SDPA_MODEL_TYPES else "eager",
    }
    ours = load_model(with_overrides(preferences, as_the_host))
    return SentenceTransformer(
        modules=list(ours), device=resolved.devices[0], prompts=dict(ours.prompts), truncate_dim=ours.truncate_dim
    )


def is_float32(host: SentenceTransformer) -> bool:
    """Say whether every weight of a model is in float32."""
    import torch

    return all(parameter.dtype is torch.float32 for parameter in host.parameters() if parameter.is_floating_point())
