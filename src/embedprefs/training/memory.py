"""What a training step keeps in memory, measured on torch's meta device: shapes alone, no weights, no numbers.

The model is built from its configuration where tensors have shapes and no content, and one forward pass is run. What
autograd keeps for the backward pass is counted, each storage once, parameters left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["measure_activations"]


def measure_activations(facts: ModelFacts, *, rows: int, length: int, scores: bool = False) -> int | None:
    """Return the bytes in float32 that a forward pass keeps for the backward pass.

    On the meta device attention keeps its scores, which the fast kernels of a processor or GPU do not; they are left
    out unless asked for.

    Args:
        facts: The model; nothing but its configuration is used.
        rows: Texts of the batch.
        length: Tokens of each, padding included.
        scores: Whether the attention that is used keeps its scores; see `activations.keeps_scores`.

    Returns:
        The bytes; None where transformers cannot build such a model from its configuration alone.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    values = {name: value for name, value in facts.config.items() if name not in ("model_type", "architectures")}
    if facts.model_type is None:
        return None
    try:
        config = AutoConfig.for_model(facts.model_type, **values)
        with torch.device("meta"):
            model = AutoModel.from_config(config, attn_implementation="eager" if scores else "sdpa")
    except (ValueError, KeyError, TypeError, AttributeError):
        # A configuration of custom code, or of a version that this transformers does not read.
        return None
    model.train()
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}  # noqa: SLF001 - a storage's identity
    kept: dict[int, Any] = {}
    left_out: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # noqa: SLF001 - as above
            kept[storage._cdata] = storage  # noqa: SLF001 - kept alive, so that no other storage gets its identity
            if not scores and tuple(tensor.shape[-2:]) == (length, length):
                left_out.add(storage._cdata)  # noqa: SLF001 - as above
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.zeros((rows, length), dtype=torch.long, device="meta"))
    return sum(int(storage.nbytes()) for identity, storage in kept.items() if identity not in left_out)
