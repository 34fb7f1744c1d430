"""Attention for models most of whose layers look at a window of their neighbours, ModernBERT first.

transformers computes those layers with a mask of length x length entries, so that they cost more than global ones. Here
every block of tokens is compared with its own neighbourhood alone: the same numbers, in time and memory that grow with
the length rather than with its square.

    register()
    SentenceTransformer(name, model_kwargs={"attn_implementation": ATTENTION})

Importing this package imports neither torch nor transformers; calling its functions does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

__all__ = ["ATTENTION", "SUPPORTED", "register", "register_attention", "traceable_attention"]

#: The name under which transformers knows this attention: what `attn_implementation` is to be.
ATTENTION: Final = "embedprefs_local"

#: Model types (`model_type` of config.json) for which tests have shown it to be the same as the host's own.
SUPPORTED: Final = frozenset({"modernbert"})


def register() -> None:
    """Make the attention known to transformers under `ATTENTION`, with its mask function; once or many times.

    transformers looks both up by the same name. Without a mask function it would leave the mask out, and padding would
    be read as text.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    from embedprefs.engine.attention.local import local_attention, local_mask

    AttentionInterface.register(ATTENTION, local_attention)
    AttentionMaskInterface.register(ATTENTION, local_mask)


def register_attention(name: str | None) -> None:
    """Make an attention of our own known to transformers; do nothing for the host's.

    Args:
        name: As in `compute.attention`.
    """
    if name == "local":
        register()
    elif name == "varlen":
        from embedprefs.engine import gpu

        gpu.register()


def traceable_attention(model: Any) -> AbstractContextManager[None]:
    """Let a model be traced into a graph whose batch and length stay open, while the block lasts.

    Traced as it is, a ModernBERT bakes the traced length into its masks and its blocks. Within this block its attention
    is written so that every size is computed in the graph; the numbers are the same.

    Args:
        model: A `SentenceTransformer`, or any module that holds a transformers model.

    Returns:
        A context manager. Models without layers of a supported type are left as they are.
    """
    from embedprefs.engine.attention.traceable import traceable

    return traceable(model)
