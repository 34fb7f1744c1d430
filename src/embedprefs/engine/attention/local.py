"""Exact attention within a window, computed in blocks, for torch.

A query at position i of a local layer attends the keys at |i - j| <= r. Queries are taken in blocks of w; the keys that
any of them attends lie in one stretch of w + 2r. All blocks of all texts become one batch of small attentions, which
torch's fused kernel computes: length x (w + 2r) products instead of length x length, and no mask but the blocks' own.
That is made once for a forward pass, by the mask function, and shared by the layers.

Gradients flow as through any torch function, so it serves training as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

__all__ = ["local_attention", "local_mask"]

#: Queries of one block. Measured for windows of 64 to either side on a Zen 4: 32 and 64 are within 10 % of each other,
#: 128 costs a quarter more, 256 three quarters; below 64 more is copied where texts are batched.
_BLOCK = 64


def local_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **further: Any,
) -> torch.Tensor | None:
    """Make what the layers of one kind need to know of padding and window; transformers calls it once a forward pass.

    Args:
        batch_size: Number of texts.
        q_length: Tokens of each, padding included.
        kv_length: The same, in an encoder.
        attention_mask: Shape (texts, length), True for tokens and False for padding; None where nothing is padded.
        local_size: Tokens seen to either side in local layers; None for global layers.
        use_vmap: True where the model lays a mask of its own over the usual one.
        dtype: What the layers compute in.
        device: Where they do.
        **further: The rest of what the host hands over; used for masks that only the host can make.

    Returns:
        None where nothing is hidden. Global layers and short texts: shape (texts, 1, 1, length), True for tokens.
        Local layers: what is added to the scores, of shape (texts x blocks, 1, w, w + 2r), or (texts or 1, 1, length,
        length) where one block holds the whole text.
    """
    if use_vmap or q_length != kv_length:
        from transformers.masking_utils import sdpa_mask

        mask: torch.Tensor | None = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            attention_mask=attention_mask,
            local_size=local_size,
            use_vmap=use_vmap,
            device=device,
            **further,
        )
        return mask
    if attention_mask is not None and bool(attention_mask.all()):
        attention_mask = None
    if local_size is None or q_length <= local_size + 1:
        return None if attention_mask is None else attention_mask[:, None, None, :]
    return _bias(batch_size, q_length, local_size, attention_mask, dtype, torch.device(device))


def local_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_further: Any,
) -> tuple[torch.Tensor, None]:
    """Compute one layer's attention; transformers calls it for each.

    Args:
        module: The layer. One that looks at earlier tokens only is refused.
        query: Shape (texts, heads, length, head size).
        key: The same shape.
        value: The same shape.
        attention_mask: What `local_mask` made, or a mask of the caller's own of shape (texts, 1, length, length).
        dropout: Share of the attention that is dropped, in training.
        scaling: Factor of the scores; 1 / sqrt(head size) where None.
        sliding_window: Tokens seen to either side, plus one; None in global layers.

    Returns:
        Shape (texts, length, heads, head size), and None for the attention weights, which are never held.

    Raises:
        ValueError: the layer is causal.
    """
    if getattr(module, "is_causal", False):
        raise ValueError(
            f"{type(module).__name__} looks at earlier tokens only, and this attention looks both ways.\n"
            '  Use attn_implementation="sdpa".'
        )
    texts, heads, length, size = query.shape
    radius = None if sliding_window is None else sliding_window - 1
    if attention_mask is None and radius is not None and length > radius + 1:
        attention_mask = _bias(texts, length, radius, None, query.dtype, query.device)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(query.dtype)
    if radius is None or attention_mask is None or attention_mask.shape[-1] == length:
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return found.transpose(1, 2).contiguous(), None
    blocks = -(-length // _BLOCK)
    behind = blocks * _BLOCK - length
    queries = pad(query, (0, 0, 0, behind)).reshape(texts, heads, blocks, _BLOCK, size).transpose(1, 2).flatten(0, 1)
    found = scaled_dot_product_attention(
        queries,
        _neighbourhoods(key, radius, behind),
        _neighbourhoods(value, radius, behind),
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    rows = found.transpose(1, 2).reshape(texts, blocks * _BLOCK, heads, size)
    return rows[:, :length].contiguous(), None


def _neighbourhoods(states: torch.Tensor, radius: int, behind: int) -> torch.Tensor:
    """Return for each block the states that its queries may attend: (texts x blocks, heads, w + 2r, head size).

    For one text this is a view: neighbouring blocks share the memory of what they share.
    """
    padded = pad(states, (0, 0, radius, radius + behind))
    stretches = padded.unfold(2, _BLOCK + 2 * radius, _BLOCK)
    return stretches.permute(0, 2, 1, 4, 3).flatten(0, 1)


def _bias(
    texts: int,
    length: int,
    radius: int,
    attention_mask: torch.Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return what is added to the scores of a local layer: 0 for what is attended, a huge negative number else.

    The number is finite, so that a row of padding that attends nothing at all stays finite too.
    """
    if length <= _BLOCK + 2 * radius:
        places = torch.arange(length, device=device)
        seen = ((places[:, None] - places[None, :]).abs() <= radius)[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None, :]
    else:
        blocks = -(-length // _BLOCK)
        behind = blocks * _BLOCK - length
        if attention_mask is None:
            attention_mask = torch.ones(1, length, dtype=torch.bool, device=device)
        tokens = pad(attention_mask, (radius, radius + behind)).unfold(1, _BLOCK + 2 * radius, _BLOCK)
        ahead = torch.arange(_BLOCK + 2 * radius, device=device)[None, :] - torch.arange(_BLOCK, device=device)[:, None]
        seen = tokens[:, :, None, None, :] & ((ahead >= 0) & (ahead <= 2 * radius))
        seen = seen.expand(texts, -1, -1, -1, -1).flatten(0, 1)
    hidden = torch.finfo(dtype).min / 2
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, hidden)
