"""Which tensors an architecture needs, from its configuration alone, and what a checkpoint has of them.

For a model type that is not known here nothing is claimed, and the tensors are verified at load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from embedprefs.facts.model_facts import TensorFacts
from embedprefs.facts.tensor_shapes import ARCHITECTURES

__all__ = [
    "Architecture",
    "Comparison",
    "absolute_positions",
    "architecture_of",
    "hidden_size",
    "max_position_embeddings",
    "position_limit",
    "with_defaults",
]

#: The same value under the name that some architectures give it.
_OTHER_NAMES = {
    "hidden_size": ("dim", "d_model", "n_embd", "emb_dim"),
    "num_hidden_layers": ("n_layers", "num_layers", "n_layer"),
    "num_attention_heads": ("n_heads", "num_heads", "n_head"),
    "intermediate_size": ("hidden_dim", "d_ff", "n_inner"),
    "max_position_embeddings": ("n_positions",),
}

#: Roots of tensors that belong to a task's head: the host leaves them out of an embedding model, without harm.
_HEADS = (
    "classifier.",
    "cls.",
    "decoder.",
    "discriminator_predictions.",
    "generator_lm_head.",
    "generator_predictions.",
    "head.",
    "lm_head.",
    "pooler.",
    "pre_classifier.",
    "predictions.",
    "qa_outputs.",
    "score.",
    "sop_classifier.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
)
#: A configuration that counts more layers is damaged; listing their tensors would take all memory.
_MOST_LAYERS = 1000
#: Buffers that older checkpoints still carry and the host computes anew.
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$|rotary_emb\.(\w+_)?(original_)?inv_freq$")


#: Further types whose positions are learned, or are not, though their tensors are not known here.
_POSITIONS_ELSEWHERE = {
    "big_bird": True,
    "bloom": False,
    "clip": True,
    "clip_text_model": True,
    "ernie": True,
    "gemma2": False,
    "gpt2": True,
    "mt5": False,
    "opt": True,
    "qwen3_moe": False,
    "t5": False,
    "umt5": False,
}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration by today's names, with what it does not state filled in as the host does.

    Args:
        config: config.json. Values that it states as null count as not stated.
    """
    kind = ARCHITECTURES.get(str(config.get("model_type")))
    values = {name: value for name, value in config.items() if value is not None}
    for name, others in _OTHER_NAMES.items():
        for other in others:
            if name not in values and other in values:
                values[name] = values[other]
    return {**(kind.defaults if kind is not None else {}), **values}


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def hidden_size(config: Mapping[str, Any]) -> int | None:
    """Return the width of the token vectors; that of the text part where a model has several."""
    size = _whole_number(with_defaults(config).get("hidden_size"))
    text = config.get("text_config")
    return hidden_size(text) if size is None and isinstance(text, Mapping) else size


def max_position_embeddings(config: Mapping[str, Any]) -> int | None:
    """Return the number of positions the configuration states, or its type's default."""
    return _whole_number(with_defaults(config).get("max_position_embeddings"))


def absolute_positions(config: Mapping[str, Any]) -> bool | None:
    """Say whether positions are learned, so that longer texts cannot be read; None for an unknown type."""
    kind = ARCHITECTURES.get(str(config.get("model_type")))
    return kind.absolute if kind is not None else _POSITIONS_ELSEWHERE.get(str(config.get("model_type")))


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens of one text that have a learned position; None where positions are not learned.

    RoBERTa and its kin number the tokens from padding_idx + 1 on, so that 514 positions serve 512 tokens.
    """
    limit = max_position_embeddings(config)
    if limit is None or not absolute_positions(config):
        return None
    kind = ARCHITECTURES.get(str(config.get("model_type")))
    if kind is None or not kind.keeps_free:
        return limit
    # MPNet's padding index is fixed; the others take the configuration's.
    padding = 1 if config.get("model_type") == "mpnet" else _whole_number(with_defaults(config).get("pad_token_id"))
    return limit - (padding if padding is not None else 1) - 1


@dataclass(frozen=True)
class Comparison:
    """A checkpoint beside what its architecture needs."""

    missing: tuple[str, ...]
    """Needed and absent; the host fills them with random numbers."""
    unexpected: tuple[str, ...]
    """Present and unknown, layers that the configuration does not count among them."""
    mismatched: tuple[str, ...]
    """`name: shape in the file, shape the configuration needs`."""
    harmless: frozenset[str]
    """Names in the file that an embedding model does without: buffers, and heads of other tasks."""


@dataclass(frozen=True)
class Architecture:
    """The tensors that one configuration needs."""

    model_type: str
    prefix: str
    """What a model with a task's head puts before every name of the encoder."""
    shapes: Mapping[str, tuple[int, ...]]

    def own_name(self, name: str) -> str:
        """Return a checkpoint's name as the encoder calls it, by transformers' own two rules.

        The oldest checkpoints say gamma and beta; a task model's names start with the prefix.
        """
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        bare = name.removeprefix(f"{self.prefix}.")
        return bare if bare in self.shapes else name

    def _belongs_to_encoder(self, name: str) -> bool:
        """Say whether an unknown name lies where the encoder's own tensors lie: `encoder.layer.12...`."""
        roots = {known.split(".", 1)[0] for known in self.shapes} - {"pooler"}
        return name.removeprefix(f"{self.prefix}.").split(".", 1)[0] in roots

    def compare(self, tensors: Mapping[str, TensorFacts]) -> Comparison:
        """Compare a checkpoint with what is needed.

        A missing pooler is no fault: the host's embedding models do not use it.
        """
        found = {self.own_name(name): tensor for name, tensor in tensors.items()}
        missing = [name for name in self.shapes if name not in found and not name.startswith("pooler.")]
        mismatched = [
            f"{name}: {list(tensor.shape)} in {tensor.file}, {list(self.shapes[name])} needed"
            for name, tensor in found.items()
            if name in self.shapes and tensor.shape != self.shapes[name]
        ]
        harmless = {tensor.name for name, tensor in found.items() if name not in self.shapes and self._harmless(name)}
        unexpected = [
            tensor.name for name, tensor in found.items() if name not in self.shapes and tensor.name not in harmless
        ]
        return Comparison(tuple(missing), tuple(unexpected), tuple(mismatched), frozenset(harmless))

    def _harmless(self, name: str) -> bool:
        if _BUFFERS.search(name):
            return True
        return name.removeprefix(f"{self.prefix}.").startswith(_HEADS) and not self._belongs_to_encoder(name)


def _numbers(values: Mapping[str, Any], names: Iterable[str]) -> bool:
    return all(_whole_number(values.get(name)) is not None or isinstance(values.get(name), bool) for name in names)


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """Return what a configuration needs; None where its type is not known here or its values are no numbers.

    Checkpoints that the host converts while loading (nomic's own layout) count as not known.
    """
    model_type = str(config.get("model_type"))
    kind = ARCHITECTURES.get(model_type)
    if kind is None or (model_type == "nomic_bert" and "n_embd" in config):
        return None
    values = with_defaults(config)
    if not _numbers(values, kind.defaults):
        return None
    if values["hidden_size"] <= 0 or values["num_attention_heads"] <= 0:
        return None
    counts = [values.get(name, 1) for name in ("num_hidden_layers", "num_hidden_groups", "inner_group_num")]
    if max(counts) > _MOST_LAYERS:
        return None
    return Architecture(model_type, kind.prefix, dict(kind.tensors(values)))
