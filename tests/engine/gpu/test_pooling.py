"""Each pooling gives what the host's Pooling module gives for padded batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from embedprefs.engine.gpu.pooling import POOLINGS, pool_packed

LENGTHS = (7, 4, 4, 3, 12)
FILLING = 5


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token vectors end to end, where texts begin, and the same padded with its mask."""
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(sum(LENGTHS) + FILLING, 6, generator=generator).to(dtype)
    starts = torch.tensor([0, *np.cumsum([*LENGTHS, FILLING])], dtype=torch.int32)
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    padded = torch.full((*mask.shape, 6), 99.0, dtype=dtype)
    padded[mask.bool()] = flat[: sum(LENGTHS)]
    return flat, starts, padded, mask


@pytest.mark.parametrize("prompt_tokens", [0, 3])
@pytest.mark.parametrize("mode", [*sorted(POOLINGS), ("mean", "cls", "max")])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_pooling_is_the_hosts(mode: str | tuple[str, ...], prompt_tokens: int, *, include_prompt: bool) -> None:
    """Filling behind the texts counts for nothing; a prompt is left out where the module says so."""
    flat, starts, padded, mask = batch()
    pooling = Pooling(6, mode, include_prompt=include_prompt)
    features = {"token_embeddings": padded, "attention_mask": mask}
    if prompt_tokens:
        features["prompt_length"] = prompt_tokens
    theirs = pooling(features)["sentence_embedding"]
    ours = pool_packed(pooling, flat, starts, len(LENGTHS), prompt_tokens=prompt_tokens)
    if prompt_tokens and not include_prompt and mode in ("max", ("mean", "cls", "max")):
        # A text that is nothing but the prompt: its largest number is that of none.
        theirs, ours = (torch.nan_to_num(vectors, neginf=0) for vectors in (theirs, ours))
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "weightedmean", "max"])
def test_half_precision_is_summed_in_float32(mode: str) -> None:
    flat, starts, padded, mask = batch(torch.bfloat16)
    pooling = Pooling(6, mode)
    theirs = pooling({"token_embeddings": padded, "attention_mask": mask})["sentence_embedding"]
    ours = pool_packed(pooling, flat, starts, len(LENGTHS))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)


def test_an_unknown_pooling_is_refused() -> None:
    flat, starts, _, _ = batch()
    pooling = Pooling(6, "mean")
    pooling.pooling_mode = "median"
    with pytest.raises(ValueError, match="median"):
        pool_packed(pooling, flat, starts, len(LENGTHS))
