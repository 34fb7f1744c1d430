"""The module chain of a loaded model as one traceable torch module: token ids in, vectors out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

from embedprefs.engine.openvino.architectures import objection, objection_to_config

__all__ = ["TracedChain", "objection_to_model", "traceable"]

#: Families whose attention takes a mask of shape (texts, 1, 1, length), which is smaller than one row for each query.
_TAKES_BROADCAST_MASK = frozenset({"albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
_TAKES_TOKEN_TYPES = frozenset({"albert", "bert", "camembert", "electra", "roberta", "xlm-roberta"})
_HOST_CLASSES = (Transformer, Pooling, Dense, Dropout, LayerNorm, Normalize)


def objection_to_model(model: SentenceTransformer) -> str | None:
    """Return why a loaded model stays on torch, as a clause; None where its conversion is proved.

    Args:
        model: The model; nothing is computed.
    """
    modules = list(model.children())
    foreign = [module for module in modules if type(module) not in _HOST_CLASSES]
    if foreign:
        return f"the module {type(foreign[0]).__qualname__} is not converted"
    transformer = modules[0]
    if not isinstance(transformer, Transformer):
        return "its first module is no Transformer"
    inner = transformer.auto_model
    if not type(inner).__module__.startswith("transformers.models."):
        return (
            f"its transformer is a {type(inner).__module__}.{type(inner).__qualname__}, which is not transformers' own"
        )
    if any("_disable_adapters" in module.__dict__ for module in inner.modules()):
        return "an adapter is laid over the model"
    wrong = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()} - {"float32"}
    if wrong:
        return f"its weights are loaded in {', '.join(sorted(wrong))}, and a conversion starts from float32"
    if reason := objection_to_config(inner.config.to_dict()):
        return reason
    if getattr(transformer.tokenizer, "padding_side", "right") == "left":
        return "it is padded on the left"
    text = transformer.modality_config.get("text", {})
    if text.get("method") != "forward" or text.get("method_output_name") not in ("last_hidden_state", None):
        return "its token vectors are not the last hidden state"
    for module in modules[1:]:
        if isinstance(module, (Dense, Normalize)) and (
            module.module_input_name != "sentence_embedding" or module.module_output_name != "sentence_embedding"
        ):
            return f"the module {type(module).__qualname__} works on {module.module_input_name}"
        if isinstance(module, Dense) and not type(module.activation_function).__module__.startswith("torch.nn."):
            return f"the activation {type(module.activation_function).__qualname__} of Dense is not torch's own"
    names = [type(module).__name__ for module in modules]
    return objection(getattr(inner.config, "model_type", None), names, _poolings(modules[1]))


def _poolings(module: Any) -> tuple[str, ...]:
    mode = getattr(module, "pooling_mode", ())
    return (mode,) if isinstance(mode, str) else tuple(mode)


class TracedChain(torch.nn.Module):
    """Transformer, pooling and what follows, for right-padded rows of token ids.

    The host's chain passes dictionaries and looks into the data to save work, which a trace would freeze. This one has
    tensors alone, and shapes are its only decisions. The modules and their weights are the model's own.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        modules = list(model.children())
        self.transformer = modules[0].auto_model
        self.pooling_modes = _poolings(modules[1])
        self.excludes_prompt = not modules[1].include_prompt
        self.rest = torch.nn.ModuleList(modules[2:])
        config = self.transformer.config
        self.model_type = str(config.model_type)
        self.padding_id = getattr(config, "pad_token_id", None)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors, shape (texts, dimension), and the last hidden state, shape (texts, length, hidden size).

        Args:
            input_ids: Token ids, int64, shape (texts, length).
            attention_mask: 1 for tokens, 0 for the padding on the right; int64, same shape.
            pooling_mask: The same without the tokens that pooling leaves out; None where it leaves out none.
        """
        if self.padding_id is not None:
            # Positions are counted by this id in some families, whatever the caller padded with.
            input_ids = torch.where(attention_mask > 0, input_ids, self.padding_id)
        arguments: dict[str, Any] = {"attention_mask": attention_mask}
        if self.model_type in _TAKES_BROADCAST_MASK:
            arguments["attention_mask"] = (attention_mask > 0)[:, None, None, :]
        if self.model_type in _TAKES_TOKEN_TYPES:
            # One segment for all: its vector becomes a constant that is added, and is not looked up token by token.
            arguments["token_type_ids"] = torch.zeros((1, 1), dtype=torch.long, device=input_ids.device)
        tokens = self.transformer(input_ids=input_ids, return_dict=True, **arguments).last_hidden_state
        mask = attention_mask if pooling_mask is None else pooling_mask
        vectors = torch.cat([self._pooled(mode, tokens, mask) for mode in self.pooling_modes], dim=-1)
        for module in self.rest:
            vectors = module({"sentence_embedding": vectors})["sentence_embedding"]
        return vectors, tokens

    def _pooled(self, mode: str, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool as the host does, for rows that are padded on the right."""
        kept = mask.unsqueeze(-1)
        if mode == "max":
            return tokens.masked_fill(kept == 0, float("-inf")).max(dim=1).values
        # Counts and places stay whole numbers: bfloat16 holds them exactly only up to 256.
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).unsqueeze(0)
        if mode == "weightedmean":
            kept = (mask * places).unsqueeze(-1)
        if mode in ("mean", "mean_sqrt_len_tokens", "weightedmean"):
            count = kept.sum(dim=1).to(tokens.dtype).clamp(min=1e-9)
            total = (tokens * kept.to(tokens.dtype)).sum(dim=1)
            return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)
        if mode == "lasttoken":
            counted = mask * places
            chosen = (counted == counted.max(dim=1, keepdim=True).values) & (mask > 0)
        elif self.excludes_prompt:
            counted = mask * (tokens.shape[1] + 1 - places)
            first = counted.max(dim=1, keepdim=True).values
            # Where the prompt is all there is, the host takes the first token.
            chosen = torch.where(first > 0, counted == first, places == 1)
        else:
            return tokens[:, 0]
        # A sum with a single one among zeros is exact.
        return (tokens * chosen.unsqueeze(-1).to(tokens.dtype)).sum(dim=1)


@contextlib.contextmanager
def traceable(model: SentenceTransformer) -> Iterator[TracedChain]:
    """Give a loaded model's chain in a form that can be traced, and leave the model as it was.

    Args:
        model: A model that `objection_to_model` finds nothing against. Nobody else may use it meanwhile.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _traceable_attention(model):
            yield TracedChain(model)
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _traceable_attention(model: SentenceTransformer) -> Iterator[None]:
    """Let attention be traced: local layers in their own way, others as torch's one operation where they have it."""
    from embedprefs.engine.attention import SUPPORTED, traceable_attention

    config = model[0].auto_model.config
    if config.model_type in SUPPORTED:
        with traceable_attention(model):
            yield
        return
    before = config._attn_implementation  # noqa: SLF001 - transformers has no public word for reading it
    # MPNet has an attention of its own, and adds its mask to the scores.
    config._attn_implementation = "sdpa" if config.model_type in _TAKES_BROADCAST_MASK else "eager"  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001
