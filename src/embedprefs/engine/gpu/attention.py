"""Attention over sequences that lie end to end, each attending itself alone."""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import Any

import torch

from embedprefs.engine.attention.local import local_attention, local_mask

__all__ = ["kernel_problem", "packed_attention", "packed_mask"]


def packed_mask(*, attention_mask: torch.Tensor | None = None, **further: Any) -> torch.Tensor | None:
    """Make no mask of a packed batch, and that of `local_mask` for a padded one; transformers calls it by name.

    Args:
        attention_mask: Shape (texts, length), True for tokens and False for padding; None in a packed batch, and where
            a caller has nothing to hide.
        **further: The rest of what the host hands over.
    """
    return None if attention_mask is None else local_mask(attention_mask=attention_mask, **further)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_further: Any,
) -> tuple[torch.Tensor, None]:
    """Compute one layer's attention; transformers calls it for each.

    A batch is either packed, and then `cu_seq_lens_q` says where each sequence begins, or padded, as the host's own
    loop and training make it; `local_attention` computes that.

    Args:
        module: The layer. One that looks at earlier tokens only is refused.
        query: Shape (1, heads, tokens, head size) of a packed batch, or (texts, heads, length, head size).
        key: The same shape.
        value: The same shape.
        attention_mask: What the mask function made of a padded batch.
        dropout: Share of the attention that is dropped, in training.
        scaling: Factor of the scores; 1 / sqrt(head size) where None.
        sliding_window: Tokens seen to either side, plus one; None in global layers.
        cu_seq_lens_q: Where each sequence begins, and behind it the number of tokens: shape (sequences + 1,), int32.
            The host's name, as that of the next one.
        max_length_q: Tokens of the longest sequence.

    Returns:
        Shape (1, tokens, heads, head size) or (texts, length, heads, head size), and None for the attention weights,
        which are never held.

    Raises:
        ValueError: the layer is causal.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        return local_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
        )
    if getattr(module, "is_causal", False):
        raise ValueError(
            f"{type(module).__name__} looks at earlier tokens only, and this attention looks both ways.\n"
            '  Use attn_implementation="sdpa".'
        )
    if query.device.type == "cpu":
        found = _one_after_another(module, query, key, value, cu_seq_lens_q, scaling, sliding_window)
    else:
        found = _at_once(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return found[None], None


def _at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Return what torch's kernel computes for all sequences: shape (tokens, heads, head size)."""
    from torch.nn.attention.varlen import varlen_attn

    radius = -1 if sliding_window is None else sliding_window - 1
    # One split: a text gets the same vector, bit for bit, whatever else is in its batch.
    found: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(radius, radius),
        num_splits=1,
    )
    attended: torch.Tensor = found  # and no further output, since none was asked for
    return attended


def _one_after_another(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Return the same from torch's fused attention; neighbours of one length are computed together."""
    parts: list[torch.Tensor] = []
    at = 0
    for length, group in groupby(starts.diff().tolist()):
        if not length:
            continue
        count = len(list(group))
        until = at + count * length
        queries, keys, values = (
            states[0, :, at:until].reshape(states.shape[1], count, length, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        found, _ = local_attention(module, queries, keys, values, None, scaling=scaling, sliding_window=sliding_window)
        parts.append(found.flatten(0, 1))
        at = until
    return torch.cat(parts)


def kernel_problem() -> str | None:
    """Say, as a clause, why the installed torch has no kernel for packed sequences; None where it has one."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    missing = {"window_size", "num_splits", "scale"} - set(inspect.signature(varlen_attn).parameters)
    if missing:
        return f"torch.nn.attention.varlen of torch {torch.__version__} does not know {', '.join(sorted(missing))}"
    return None
