"""The same attention, written for a trace: every size is computed in the graph, so that batch and length stay open.

Local layers take queries in blocks of w = min(256, length), and for each block the stretch of min(w + 2r, length) keys
that holds every key its queries may attend. Stretches at either end are moved inwards instead of padded, and a bias
hides the keys that lie further away than r; so a short text costs what it would without blocks, and one graph serves
every length. Blocks are folded into the batch: scores keep four dimensions, and a compiler finds the attention that it
knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from embedprefs.engine.attention import SUPPORTED

__all__ = ["traceable"]

_NAME = "embedprefs_traceable"
#: Queries of one block. Keys are copied (w + 2r) / w times, 1.5 times for r = 64; with 128 it would be twice, and the
#: memory that a text of 8192 tokens takes in float32 a tenth more. A layer of ModernBERT-base's size takes 12 to 18 ms
#: longer than with 128, of 550 ms and more (OpenVINO 2026.4, two Zen 4 cores).
_BLOCK = 256
#: Added to the scores of what is not attended. Finite in float32 and bfloat16, so that rows of padding stay finite.
_HIDDEN = -1e30


class _Blocks(NamedTuple):
    """What the local layers of one forward pass share."""

    bias: torch.Tensor
    """Added to the scores: shape (texts x blocks, 1, w, stretch)."""
    keys: torch.Tensor
    """Positions of every block's keys: shape (blocks x stretch,)."""
    width: Any
    """w, the queries of one block; this and the next two are whole numbers, or in a trace tensors of one."""
    count: Any
    """How many blocks a text has."""
    stretch: Any
    """Keys of one block."""


@contextmanager
def traceable(model: Any) -> Iterator[None]:
    """Let the transformers of supported types in `model` be traced; see `traceable_attention`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    configs = {id(config): config for module in model.modules() if _is_supported(config := _config(module))}
    before = {key: config._attn_implementation for key, config in configs.items()}  # noqa: SLF001 - no public reader
    try:
        for config in configs.values():
            config._attn_implementation = _NAME  # noqa: SLF001
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]  # noqa: SLF001


def _config(module: Any) -> Any:
    return getattr(module, "config", None)


def _is_supported(config: Any) -> bool:
    return getattr(config, "model_type", None) in SUPPORTED


def _mask(
    batch_size: Any,
    q_length: Any,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **_further: Any,
) -> torch.Tensor | _Blocks:
    """Make what the layers of one kind share; transformers calls it once a forward pass.

    Sizes are tensors while a trace runs. Nothing here looks into the data, so that the trace holds for any.
    """
    if attention_mask is None:
        attention_mask = torch.ones((batch_size, q_length), dtype=torch.bool, device=device)
    if local_size is None:
        return _bias(attention_mask[:, None, None, :])
    length = torch.as_tensor(q_length, device=device)
    width: Any = torch.minimum(length, torch.as_tensor(_BLOCK, device=device))
    count: Any = (length + width - 1) // width
    stretch: Any = torch.minimum(length, width + 2 * local_size)
    starts = torch.clamp(torch.arange(count, device=device) * width - local_size, min=0)
    starts = torch.minimum(starts, length - stretch)
    keys = starts[:, None] + torch.arange(stretch, device=device)[None, :]
    queries = torch.arange(count * width, device=device).reshape(count, width)
    near = (queries[:, :, None] - keys[:, None, :]).abs() <= local_size
    flat = keys.reshape(-1)
    tokens = attention_mask[:, flat].reshape(-1, count, 1, stretch)
    bias = _bias(tokens & near[None]).reshape(-1, 1, width, stretch)
    return _Blocks(bias, flat, width, count, stretch)


def _bias(seen: torch.Tensor) -> torch.Tensor:
    return torch.where(seen, 0.0, _HIDDEN)


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | _Blocks,
    *,
    scaling: float | None = None,
    **_further: Any,
) -> tuple[torch.Tensor, None]:
    """Compute one layer's attention; shapes are those of `local_attention`."""
    if not isinstance(attention_mask, _Blocks):
        found = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        return found.transpose(1, 2), None
    blocks = attention_mask
    # Heads are static, so that the graph knows how wide a token is; sizes of batch and length are not.
    heads, size = int(query.shape[1]), int(query.shape[3])
    length = query.shape[2]
    # Padded by a constant, and cut to what is needed: a computed padding is one that converters refuse.
    queries = pad(query.transpose(1, 2), (0, 0, 0, 0, 0, _BLOCK - 1))[:, : blocks.count * blocks.width]
    queries = queries.reshape(-1, blocks.width, heads, size).transpose(1, 2)
    found = scaled_dot_product_attention(
        queries, _stretches(key, blocks), _stretches(value, blocks), attn_mask=blocks.bias, scale=scaling
    )
    rows = found.transpose(1, 2).reshape(-1, blocks.count * blocks.width, heads, size)
    return rows[:, :length], None


def _stretches(states: torch.Tensor, blocks: _Blocks) -> torch.Tensor:
    """Return every block's keys or values: shape (texts x blocks, heads, stretch, head size)."""
    heads, size = int(states.shape[1]), int(states.shape[3])
    # Written as an index, it would be converted with two more transpositions, each a copy of all stretches.
    gathered = states.transpose(1, 2).index_select(1, blocks.keys)
    return gathered.reshape(-1, blocks.stretch, heads, size).transpose(1, 2)
