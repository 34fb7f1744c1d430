"""The plain host with its own defaults: what everything is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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

    It gets the same weights, tokenizer settings, prompts and lengths, on the same device. Number format, attention,
    backend, batches and threads are what it takes when nobody says anything.

    Args:
        preferences: The preferences.
        resolved: What they become here.
        dtype: A number format to load in; the host's own choice by default.
    """
    from sentence_transformers import SentenceTransformer

    from embedprefs.arguments import load_arguments
    from embedprefs.layers import with_overrides
    from embedprefs.model import load_model

    stated = preferences.model
    if stated.adapter is not None or stated.from_scratch or stated.pooling is not None:
        # The host's own constructor has no argument for these; a model that has them lends its modules.
        plain = {"compute.dtype": dtype or "float32", "compute.backend": "torch", "compute.weights": "full"}
        ours = load_model(with_overrides(preferences, {**plain, "compute.attention": "auto", "compute.compile": False}))
        return SentenceTransformer(
            modules=list(ours), device=resolved.devices[0], prompts=dict(ours.prompts), truncate_dim=ours.truncate_dim
        )
    arguments: dict[str, Any] = {**load_arguments(resolved)}
    arguments["backend"] = "torch"
    if "model_kwargs" in arguments:
        kept = {
            name: value for name, value in arguments["model_kwargs"].items() if name not in (*_CHOICES, "file_name")
        }
        arguments["model_kwargs"] = {**kept, **({"dtype": dtype} if dtype is not None else {})}
    with _without_bars():
        return SentenceTransformer(**arguments).eval()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the host's bar for reading weights off the screen."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def is_float32(host: SentenceTransformer) -> bool:
    """Say whether every weight of a model is in float32."""
    import torch

    return all(parameter.dtype is torch.float32 for parameter in host.parameters() if parameter.is_floating_point())
