"""Pooling token vectors that lie end to end: the host's poolings, each text summed in its own order.

The host's pooling of flattened inputs adds with atomic operations on a GPU, in an order that changes from run to run.
Here every text is reduced by itself, so that it gets the same vector again, whatever else is in its batch.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["POOLINGS", "pool_packed"]

#: The host's names of the poolings that are known here.
POOLINGS = frozenset({"mean", "mean_sqrt_len_tokens", "cls", "max", "lasttoken", "weightedmean"})


def pool_packed(
    pooling: Any, tokens: torch.Tensor, starts: torch.Tensor, texts: int, *, prompt_tokens: int = 0
) -> torch.Tensor:
    """Return one vector for each text.

    Args:
        pooling: The host's Pooling module; what it is set to is read at each call.
        tokens: Token vectors, shape (tokens, width).
        starts: Where each sequence begins, and behind it the number of tokens: shape (sequences + 1,).
        texts: The first so many sequences are texts.
        prompt_tokens: Tokens at the beginning of each text that are the prompt's; left out where the module says so.

    Returns:
        Shape (texts, width x number of poolings).
    """
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    segments = _Segments(tokens, starts.long(), texts, 0 if pooling.include_prompt else prompt_tokens)
    return torch.cat([segments.pooled(mode) for mode in modes], dim=-1)


class _Segments:
    """Token vectors and where each text's lie, its prompt apart."""

    def __init__(self, tokens: torch.Tensor, starts: torch.Tensor, texts: int, prompt: int) -> None:
        self.tokens = tokens
        self.texts = texts
        self.prompt = prompt
        self.first, self.end = starts[:texts], starts[1 : texts + 1]
        self.length = self.end - self.first
        self.left_out = self.length.clamp(max=prompt)
        self.counted = self.length - self.left_out
        lengths = starts.diff()
        if prompt:
            # The prompt and the rest of each sequence are two segments, of which the second one is read.
            before = lengths.clamp(max=prompt)
            lengths = torch.stack([before, lengths - before], dim=1).flatten()
        self.lengths = lengths
        self.starts = starts

    def pooled(self, mode: str) -> torch.Tensor:
        """Return the vectors of one pooling, shape (texts, width)."""
        dtype = self.tokens.dtype
        if mode == "cls":
            return self.tokens[self.first + torch.where(self.length > self.prompt, self.prompt, 0)]
        if mode == "lasttoken":
            last = self.tokens[self.end - 1]
            return torch.where((self.counted > 0)[:, None], last, torch.zeros_like(last))
        if mode == "max":
            return self._reduced(self.tokens, "max")
        tokens = self.tokens.float() if dtype in (torch.float16, torch.bfloat16) else self.tokens
        count = self.counted[:, None].to(tokens.dtype)
        if mode == "mean":
            found = self._reduced(tokens, "sum") / count.clamp(min=1e-9)
        elif mode == "mean_sqrt_len_tokens":
            found = self._reduced(tokens, "sum") / count.clamp(min=1e-9).sqrt()
        elif mode == "weightedmean":
            places = torch.arange(len(tokens), device=tokens.device)
            lengths = self.starts.diff()
            begins = torch.repeat_interleave(self.starts[:-1], lengths, output_size=len(tokens))
            weighted = tokens * (places - begins + 1).to(tokens.dtype)[:, None]
            # 1 + 2 + ... + length, without what the prompt's tokens would have.
            weights = (self.length * (self.length + 1) - self.left_out * (self.left_out + 1)) // 2
            found = self._reduced(weighted, "sum") / weights[:, None].to(tokens.dtype).clamp(min=1e-9)
        else:
            raise ValueError(f"The pooling {mode!r} is not known; known are {', '.join(sorted(POOLINGS))}.")
        return found.to(dtype)

    def _reduced(self, values: torch.Tensor, how: str) -> torch.Tensor:
        # Unsafe: torch would look at the lengths, and wait for the device to do so.
        found = torch.segment_reduce(values, how, lengths=self.lengths, axis=0, unsafe=True)
        return found[1 : 2 * self.texts : 2] if self.prompt else found[: self.texts]
