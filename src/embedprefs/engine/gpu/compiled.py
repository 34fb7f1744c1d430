"""The transformer compiled by torch, once for each of a few numbers of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from embedprefs.engine.gpu.packing import bucket_sizes
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.model.callers import warn_caller

__all__ = ["CompiledTransformer", "token_vectors"]

logger = logging.getLogger("embedprefs.engine")


def token_vectors(
    transformer: Any, ids: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, longest: torch.Tensor
) -> torch.Tensor:
    """Run the host's Transformer module on a packed batch.

    Args:
        transformer: The module.
        ids: Token ids, shape (1, tokens).
        positions: Their positions, shape (1, tokens).
        starts: Where each sequence begins, and behind it the number of tokens: shape (sequences + 1,), int32.
        longest: Any tensor as long as the longest sequence. A length is what a compiler may leave open; a number it
            would take for constant.

    Returns:
        Token vectors, shape (tokens, width).
    """
    length = longest.shape[0]
    features = transformer(
        {
            "input_ids": ids,
            "position_ids": positions,
            "cu_seq_lens_q": starts,
            "cu_seq_lens_k": starts,
            "max_length_q": length,
            "max_length_k": length,
            "modality": "text",
        }
    )
    found: torch.Tensor = features["token_embeddings"][0]
    return found


class CompiledTransformer:
    """Runs `token_vectors` compiled: the number of tokens is fixed in each form, sequences and lengths are open.

    Where torch cannot compile it, the module runs as it is from then on, and a warning says why.
    """

    def __init__(self, batch_tokens: int, *, backend: str | Callable[..., Any] = "inductor") -> None:
        """Choose the sizes; torch compiles each when a batch of it first comes.

        Args:
            batch_tokens: Tokens of the largest batch.
            backend: What torch compiles with.
        """
        self._sizes = bucket_sizes(batch_tokens)
        self._compiled: Callable[..., torch.Tensor] | None = torch.compile(
            token_vectors, fullgraph=True, backend=backend
        )

    @property
    def runs(self) -> bool:
        """Whether what is compiled is what runs."""
        return self._compiled is not None

    def size_of(self, tokens: int) -> int:
        """Return the number of tokens that a batch of so many is filled up to."""
        if self._compiled is None:
            return tokens
        return next((size for size in self._sizes if size >= tokens), tokens)

    def __call__(
        self, transformer: Any, ids: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, longest: torch.Tensor
    ) -> torch.Tensor:
        """Do as `token_vectors`."""
        if self._compiled is not None and ids.shape[1] in self._sizes:
            for tensor in (ids, positions):
                torch._dynamo.mark_static(tensor)  # noqa: SLF001 - torch's documented name for it
            for tensor in (starts, longest):
                torch._dynamo.mark_dynamic(tensor, 0)  # noqa: SLF001 - likewise
            try:
                return self._compiled(transformer, ids, positions, starts, longest)
            except Exception as error:  # a compiler may raise anything, and what it compiles runs without it
                if is_out_of_memory(error):
                    raise
                logger.info("the compiled transformer cannot be used", exc_info=True)
                self._compiled = None
                said = " ".join(str(error).split("\n")[:2]).strip()
                warn_caller(
                    f"torch.compile cannot compile this model ({type(error).__name__}: {said}); it runs as it is.\n"
                    "  Write compile = false under [compute] to keep to that without this warning."
                )
        return token_vectors(transformer, ids, positions, starts, longest)
