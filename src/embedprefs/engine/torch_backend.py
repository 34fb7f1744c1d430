"""The model's own modules, called directly: the backend that every other one is compared with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling, StaticEmbedding

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["TorchBackend", "why_unfamiliar"]

#: What may follow the first module: each reads what stands in the features, and takes no argument of a call.
_FAMILIAR = (Pooling, Dense, Normalize, LayerNorm, Dropout)
#: Inputs that are made from token ids alone.
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


def why_unfamiliar(model: SentenceTransformer) -> str | None:
    """Say why the engine does not run a model, and its texts go to the host's own loop; None where it does.

    It runs static vectors, and a transformer on plain texts with a fast tokenizer, followed by pooling, dense layers,
    normalisation and dropout. The check takes microseconds, so that every call may make it.
    """
    modules = list(model._modules.values())  # noqa: SLF001 - torch's own dictionary; iterating the model costs more
    if not modules:
        return "the model has no modules"
    first = modules[0]
    for own in ("forward", "preprocess"):
        if own in vars(model) or own in vars(first):
            return f"the model's {own} was replaced"
    for module in modules[1:]:
        if type(module) not in _FAMILIAR:
            return f"the module {type(module).__name__} is not one the engine knows"
    if type(first) is StaticEmbedding:
        return None
    if type(first) is not Transformer:
        return f"the first module is {type(first).__name__}, neither a transformer nor static vectors"
    return _why_other_transformer(first)


def _why_other_transformer(first: Any) -> str | None:
    tokenizer = first.tokenizer
    if first.transformer_task != "feature-extraction" or first.module_output_name != "token_embeddings":
        return "the transformer does not give one vector for each token"
    if list(first.modality_config) != ["text"] or first.modality_config["text"]["method"] != "forward":
        return "the model reads more than plain texts"
    if not hasattr(tokenizer, "backend_tokenizer"):
        return "the tokenizer is not a fast one"
    if not set(tokenizer.model_input_names) <= _INPUTS:
        return f"the model reads {', '.join(sorted(set(tokenizer.model_input_names) - _INPUTS))} beside the tokens"
    if first.can_flatten_inputs:
        return "the host reads texts without padding through flash attention"
    if getattr(first, "query_expansion", None) is not None:
        return "the host lengthens queries"
    return None


class TorchBackend:
    """Runs the modules of a loaded model as they are at each call, without the host's loop around them."""

    name = "torch"

    def __init__(self, model: SentenceTransformer, *, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """Take a model; it is neither copied nor changed.

        Args:
            model: The model, of a kind that `why_unfamiliar` finds nothing against.
            autocast: Returns the context in which the modules run.
        """
        self._model = model
        self._autocast = autocast

    @property
    def _first(self) -> Any:
        # torch's own dictionary: indexing or iterating the model costs tens of microseconds.
        return next(iter(self._model._modules.values()))  # noqa: SLF001

    @property
    def numerics(self) -> str:
        """The number format of the weights."""
        weights = next(self._first.parameters(), None)
        return "float32" if weights is None else str(weights.dtype).removeprefix("torch.")

    @property
    def padding_free(self) -> bool:
        """Whether no padding is computed: static vectors are looked up token by token."""
        return type(self._first) is StaticEmbedding

    @property
    def dimension(self) -> int:
        """Length of the vectors, before any truncation."""
        for module in reversed(list(self._model._modules.values())):  # noqa: SLF001
            size: int | None = getattr(module, "get_embedding_dimension", lambda: None)()
            if size is not None:
                return int(size)
        raise ValueError("No module of the model says how long its vectors are.")

    def vectors(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> NDArray[np.float32]:
        """Compute one vector for each row, as `Backend.vectors` says."""
        with torch.inference_mode(), self._autocast():
            features = self._features(ids, mask, prompt_tokens)
            features = self._whole_chain(features)
            found: NDArray[np.float32] = features["sentence_embedding"].float().cpu().numpy()
        return found

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the transformer's last hidden state, as `Backend.token_vectors` says."""
        first = self._first
        with torch.inference_mode(), self._autocast():
            hidden = first(self._features(ids, mask, 0))["token_embeddings"].float().cpu().numpy()
        return _to_the_right(hidden, mask) if self._pads_left else hidden

    def close(self) -> None:
        """Do nothing: the model is its owner's."""

    def _whole_chain(self, features: dict[str, Any]) -> dict[str, Any]:
        model: Any = self._model
        # A compiled model, and one with hooks on the whole, is called as a whole.
        if model._compiled_call_impl is not None or model._forward_hooks or model._forward_pre_hooks:  # noqa: SLF001
            called: dict[str, Any] = model(features)
            return called
        for module in model._modules.values():  # noqa: SLF001
            features = module(features)
        return features

    @property
    def _pads_left(self) -> bool:
        return not self.padding_free and self._first.tokenizer.padding_side == "left"

    def _features(self, ids: NDArray[np.int64], mask: NDArray[np.int64], prompt_tokens: int) -> dict[str, Any]:
        """Return what the first module reads."""
        first = self._first
        device = self._model.device
        if self.padding_free:
            starts = np.zeros(len(ids), dtype=np.int64)
            np.cumsum(mask.sum(axis=1)[:-1], out=starts[1:])
            flat = torch.from_numpy(ids[mask.astype(bool)])
            return {"input_ids": flat.to(device), "offsets": torch.from_numpy(starts).to(device)}
        if self._pads_left:
            ids, mask = _to_the_left(ids, mask, first.tokenizer.pad_token_id)
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
            "modality": "text",
        }
        if "token_type_ids" in first.tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        if prompt_tokens:
            features["prompt_length"] = prompt_tokens
        return features


def _to_the_left(
    ids: NDArray[np.int64], mask: NDArray[np.int64], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move the padding of each row in front of it: decoders that were trained so read positions from there."""
    turned = np.ascontiguousarray(mask[:, ::-1])
    moved = np.full_like(ids, pad_id)
    moved[turned.astype(bool)] = ids[mask.astype(bool)]
    return moved, turned


def _to_the_right(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Move the padding of each row behind it again."""
    moved = np.zeros_like(hidden)
    moved[mask.astype(bool)] = hidden[mask[:, ::-1].astype(bool)]
    return moved
