"""ModernBERT models of a tiny width, with the window of the published ones and with a narrow one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def modernbert() -> Callable[..., Any]:
    """Make a random ModernBERT: two global and two local layers, large weights so that attention matters."""

    def made(local_attention: int = 128, **config: Any) -> Any:
        import torch
        from transformers import ModernBertConfig, ModernBertModel

        torch.manual_seed(7)
        values = {
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "initializer_range": 0.5,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "bos_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
        }
        return ModernBertModel(ModernBertConfig(**{**values, "local_attention": local_attention, **config})).eval()

    return made


@pytest.fixture(scope="session")
def batch() -> Callable[..., tuple[Any, Any]]:
    """Make random token ids and their mask, padded on the right: `batch(5, 64)` has texts of 5 and of 64 tokens."""

    def made(*lengths: int) -> tuple[Any, Any]:
        import torch

        generator = torch.Generator().manual_seed(sum(lengths))
        mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
        return torch.randint(3, 97, mask.shape, generator=generator) * mask, mask

    return made
