"""A training batch's forward pass in parts of similar length: the same vectors and gradients, with little padding.

Contrastive losses want large batches, and a large batch of real texts is padded to its longest: with the descriptions
and commands of a manual three of four tokens were padding. Each part is padded to its own longest text. The vectors are
put together again in the order of the batch, so that the loss sees what it would have seen; gradients flow through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from embedprefs.engine.batching import plan_batches
from embedprefs.training.losses import LossChoice

__all__ = ["forward_in_parts", "vectors_in_parts"]

#: Tokens and texts of a part. What is kept for the backward pass of more of them leaves the processor's caches.
_TOKENS_OF_A_PART = 2048
_TEXTS_OF_A_PART = 32
#: Losses that look into the transformer, or at its token vectors, and need the batch in one piece.
_NEEDS_THE_WHOLE = frozenset({"AdaptiveLayerLoss", "Matryoshka2dLoss", "DenoisingAutoEncoderLoss"})


@contextmanager
def forward_in_parts(model: Any, loss: LossChoice, *, compiled: bool) -> Iterator[bool]:
    """Let a model that is trained on a processor compute its batches in parts.

    On a GPU a batch stays whole: there it is the number of texts at a time that makes it fast.

    Args:
        model: The model that is trained, not yet wrapped by the trainer.
        loss: The loss; some need the batch in one piece.
        compiled: Whether torch compiles the model, which would have to do so for every part's shape.

    Yields:
        Whether it does.
    """
    names = {loss.name} if loss.wrapper is None else {loss.name, loss.wrapper.name}
    if model.device.type != "cpu" or compiled or names & _NEEDS_THE_WHOLE or "forward" in vars(model):
        yield False
        return
    whole = model.forward

    def forward(features: Any, *further: Any, **named: Any) -> Any:
        if model.training and not further and not named:
            found = vectors_in_parts(whole, features)
            if found is not None:
                return found
        return whole(features, *further, **named)

    model.__dict__["forward"] = forward
    try:
        yield True
    finally:
        model.__dict__.pop("forward", None)  # what is left is the class's own method


def vectors_in_parts(forward: Any, features: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a batch's features with its vectors, computed in parts of similar length.

    Args:
        forward: Computes features with `sentence_embedding` from features.
        features: What the host's collator made: `input_ids` and `attention_mask` of shape (texts, length), padded on
            the right, beside tensors with a row for each text and values for the whole batch.

    Returns:
        The features with `sentence_embedding` of shape (texts, dimension); None where they are of another kind, or
        where one part would hold them all.
    """
    mask = features.get("attention_mask")
    ids = features.get("input_ids")
    if not isinstance(mask, torch.Tensor) or not isinstance(ids, torch.Tensor) or mask.ndim != 2:
        return None
    if ids.shape != mask.shape or not bool((mask[:, 0] == 1).all()) or not bool((mask.diff(dim=1) <= 0).all()):
        return None
    lengths = mask.sum(dim=1)
    plan = plan_batches(lengths.numpy(), batch_tokens=_TOKENS_OF_A_PART, max_batch_size=_TEXTS_OF_A_PART)
    if len(plan) < 2:
        return None
    rows: list[torch.Tensor] = []
    order: list[torch.Tensor] = []
    for positions in plan:
        chosen = torch.from_numpy(positions)
        longest = int(lengths[chosen].max())
        part = {name: _part(value, chosen, longest, mask.shape) for name, value in features.items()}
        rows.append(forward(part)["sentence_embedding"])
        order.append(chosen)
    back = torch.argsort(torch.cat(order))
    return {**features, "sentence_embedding": torch.cat(rows).index_select(0, back)}


def _part(value: Any, chosen: torch.Tensor, longest: int, shape: torch.Size) -> Any:
    """Return some texts' share of a value: rows and columns of what has a number for each token, else rows."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != shape[0]:
        return value
    rows = value.index_select(0, chosen)
    return rows[:, :longest] if rows.ndim >= 2 and rows.shape[1] == shape[1] else rows
