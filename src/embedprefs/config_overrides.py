"""Which overrides of a model's configuration keep its checkpoint's meaning.

A checkpoint's weights mean something only together with the configuration they were trained with. The host applies
whatever it is given: a wrong shape loads random weights with one log line, a wrong activation gives vectors that look
well and mean nothing, and a misspelt or renamed field changes nothing at all. Hence a table of what may be changed.

The behaviour described here is that of transformers 5.23 (`configuration_modernbert.py` and its kin).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["Verdict", "effective_configuration", "judge_override", "meaningful_configuration"]


@dataclass(frozen=True)
class Verdict:
    """Whether one override of the configuration may be applied to a checkpoint."""

    allowed: bool
    reason: str
    """Why, as a sentence."""
    use_instead: str | None = None
    """The preference or the field of today that does what is wanted."""


#: Fields a trained checkpoint keeps its meaning under.
_KEEPS_MEANING: Mapping[str, str] = {
    "*dropout*": "Dropout is off while vectors are computed; it matters in training alone.",
    "*drop_prob": "Dropout is off while vectors are computed; it matters in training alone.",
    "rope_parameters": "Rotary positions are computed, not learned; scaling them is how longer texts are read.",
    "deterministic_flash_attn": "It chooses between two ways of rounding the same sums.",
    "chunk_size_feed_forward": "The same sums in smaller steps, for less memory.",
}

#: Fields whose value fixes the shape of a weight.
_SHAPE = "It sets the shape of the weights: the checkpoint's would not fit, and random ones would take their place."
#: Fields that leave every shape as it is and change what the weights compute.
_COMPUTATION = "The weights were trained with another value; they would load without a word and compute nonsense."
#: Fields that say how weights begin.
_START = "It says how untrained weights begin; those of a checkpoint are read from its file."
#: Fields of heads that an embedding model does not have.
_HEAD = "It belongs to a classification or language-modelling head, which an embedding model does not run."
_WITHOUT_EFFECT = "It changes nothing about the vectors."

_CHANGES_MEANING: Mapping[str, tuple[str, str | None]] = {
    "hidden_size": (_SHAPE, None),
    "dim": (_SHAPE, None),
    "hidden_dim": (_SHAPE, None),
    "intermediate_size": (_SHAPE, None),
    "embedding_size": (_SHAPE, None),
    "head_dim": (_SHAPE, None),
    "vocab_size": (_SHAPE, None),
    "type_vocab_size": (_SHAPE, None),
    "num_key_value_heads": (_SHAPE, None),
    "norm_bias": (_SHAPE, None),
    "attention_bias": (_SHAPE, None),
    "mlp_bias": (_SHAPE, None),
    "num_hidden_layers": (
        "With fewer layers the rest of the checkpoint is left out, with more the new ones are random.",
        None,
    ),
    "n_layers": ("With fewer layers the rest of the checkpoint is left out, with more the new ones are random.", None),
    "num_attention_heads": (_COMPUTATION, None),
    "n_heads": (_COMPUTATION, None),
    "hidden_act": (_COMPUTATION, None),
    "hidden_activation": (_COMPUTATION, None),
    "activation": (_COMPUTATION, None),
    "layer_norm_eps": (_COMPUTATION, None),
    "norm_eps": (_COMPUTATION, None),
    "rms_norm_eps": (_COMPUTATION, None),
    "is_decoder": (_COMPUTATION, None),
    "add_cross_attention": (_SHAPE, None),
    "use_bidirectional_attention": (_COMPUTATION, None),
    "is_causal": (_COMPUTATION, None),
    "local_attention": (_COMPUTATION, None),
    "sliding_window": (_COMPUTATION, None),
    "layer_types": (_COMPUTATION, None),
    "model_type": ("It names the architecture; another one has other weights.", "model.name"),
    "initializer_range": (_START, "model.from_scratch"),
    "initializer_cutoff_factor": (_START, "model.from_scratch"),
}

#: Fields that a preference of ours stands for.
_HAS_A_PREFERENCE: Mapping[str, tuple[str, str]] = {
    "torch_dtype": ("The number format is a preference of its own.", "compute.dtype"),
    "dtype": ("The number format is a preference of its own.", "compute.dtype"),
    "attn_implementation": ("The attention implementation is a preference of its own.", "compute.attention"),
    "_attn_implementation": ("The attention implementation is a preference of its own.", "compute.attention"),
    "gradient_checkpointing": (
        "It is no field of the configuration any more; it only ever mattered in training.",
        "training.activation_checkpointing",
    ),
    "model_max_length": ("It belongs to the tokenizer.", "tokenizer.max_seq_length"),
    "max_seq_length": ("It belongs to the tokenizer.", "tokenizer.max_seq_length"),
    "max_length": ("It is the length of generated text; this model generates none.", "tokenizer.max_seq_length"),
    "padding_side": ("It belongs to the tokenizer.", "tokenizer.padding_side"),
    "truncation_side": ("It belongs to the tokenizer.", "tokenizer.truncation_side"),
    "pad_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "cls_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "sep_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "bos_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "eos_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "mask_token_id": ("It has to be the tokenizer's.", "tokenizer.special_tokens"),
    "quantization_config": ("Weights of lower precision are a preference of their own.", "compute.weights"),
    "device_map": ("The device is a preference of its own.", "compute.device"),
    "trust_remote_code": ("It is a preference of its own.", "model.trust_remote_code"),
}

_HAS_NO_EFFECT: Mapping[str, str] = {
    "use_cache": "The host switches it off itself: an embedding model generates nothing.",
    "output_attentions": _WITHOUT_EFFECT,
    "output_hidden_states": _WITHOUT_EFFECT,
    "return_dict": _WITHOUT_EFFECT,
    "use_return_dict": _WITHOUT_EFFECT,
    "torchscript": _WITHOUT_EFFECT,
    "architectures": _WITHOUT_EFFECT,
    "transformers_version": _WITHOUT_EFFECT,
    "_name_or_path": _WITHOUT_EFFECT,
    "name_or_path": _WITHOUT_EFFECT,
    "tie_word_embeddings": _HEAD,
    "num_labels": _HEAD,
    "id2label": _HEAD,
    "label2id": _HEAD,
    "problem_type": _HEAD,
    "classifier_pooling": f"{_HEAD} The pooling of vectors is a module of its own.",
    "classifier_bias": _HEAD,
    "classifier_activation": _HEAD,
    "decoder_bias": _HEAD,
    "sparse_prediction": _HEAD,
    "sparse_pred_ignore_index": _HEAD,
}

#: Model type -> names that guides still give for it -> (what happens today, what to use).
_STALE: Mapping[str, Mapping[str, tuple[str, str | None]]] = {
    "modernbert": {
        "layer_norm_eps": ("ModernBERT has no such field; the name it was given stays without effect.", "norm_eps"),
        "hidden_act": ("ModernBERT has no such field.", "hidden_activation"),
        "type_vocab_size": ("ModernBERT has no segment embeddings; the host drops the name silently.", None),
        "position_embedding_type": (
            "ModernBERT always has rotary positions; this name is without effect.",
            "rope_parameters",
        ),
        "global_rope_theta": (
            "It is read only where a model is built from nothing; given as an override it vanishes.",
            "rope_parameters",
        ),
        "local_rope_theta": (
            "It is read only where a model is built from nothing; given as an override it vanishes.",
            "rope_parameters",
        ),
        "rope_theta": ("ModernBERT keeps one theta for each type of layer.", "rope_parameters"),
        "rope_scaling": ("It has become part of rope_parameters.", "rope_parameters"),
        "global_attn_every_n_layers": (
            "It is read only where a model is built from nothing; given as an override layer_types stays as it is.",
            "layer_types",
        ),
        "reference_compile": ("It does nothing any more and is dropped on saving.", "compute.compile"),
        "repad_logits_with_grad": ("It does nothing any more.", None),
        "unpad_inputs": ("Padding-free computation is a matter of the attention implementation.", "compute.attention"),
        "hidden_dropout_prob": ("ModernBERT has no such field.", "mlp_dropout"),
        "attention_probs_dropout_prob": ("ModernBERT has no such field.", "attention_dropout"),
        "head_dim": ("ModernBERT has no such field: it is hidden_size divided by num_attention_heads.", None),
        "num_key_value_heads": ("ModernBERT has no grouped attention.", None),
    },
    "*": {
        "position_embedding_type": ("transformers 5 has no other kind of position in this model.", None),
        "rope_theta": ("It has become part of rope_parameters.", "rope_parameters"),
        "rope_scaling": ("It has become part of rope_parameters.", "rope_parameters"),
    },
}

#: Fields of ModernBERT's configuration, for suggestions where a file leaves its defaults out.
_MODERNBERT_FIELDS = (
    "attention_bias",
    "attention_dropout",
    "embedding_dropout",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "local_attention",
    "max_position_embeddings",
    "mlp_bias",
    "mlp_dropout",
    "norm_bias",
    "norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
    "rope_parameters",
    "vocab_size",
)


def judge_override(
    model_type: str | None, name: str, value: Any, facts: ModelFacts, *, from_scratch: bool = False
) -> Verdict:
    """Say whether `[model.config] name = value` may be applied.

    Args:
        model_type: The model's type, `"modernbert"`; None where its configuration does not say.
        name: Field of the configuration.
        value: What it is to become.
        facts: What the model's files say.
        from_scratch: Whether an untrained model is to be built; then the architecture may be changed, while names
            without effect are refused all the same.
    """
    config = facts.config
    stale = {**_STALE["*"], **_STALE.get(model_type or "", {})}
    if name in stale and not (name == "head_dim" and "head_dim" in config):
        reason, use_instead = stale[name]
        return Verdict(False, reason, use_instead)
    if name in _HAS_A_PREFERENCE:
        reason, use_instead = _HAS_A_PREFERENCE[name]
        return Verdict(False, reason, use_instead)
    if name in _HAS_NO_EFFECT:
        return Verdict(False, _HAS_NO_EFFECT[name])
    if name in config and config[name] == value:
        return Verdict(True, "It is what the model's own configuration says.")
    for pattern, reason in _KEEPS_MEANING.items():
        if fnmatchcase(name, pattern):
            return _judge_harmless(name, reason, facts)
    if from_scratch and (name in config or name in _known_names(model_type, config)):
        return Verdict(True, "from_scratch builds an untrained model of this shape.")
    if name == "max_position_embeddings":
        return _judge_positions(facts)
    if name in _CHANGES_MEANING:
        reason, use_instead = _CHANGES_MEANING[name]
        return Verdict(False, reason, use_instead or "model.from_scratch")
    if name in config:
        return Verdict(False, "It is not known that the checkpoint keeps its meaning under it.", "model.from_scratch")
    near = difflib.get_close_matches(name, _known_names(model_type, config), n=1)
    subject = f"The configuration of {model_type} has" if model_type else "This model's configuration has"
    return Verdict(False, f"{subject} no such field; the host would drop it silently.", near[0] if near else None)


def _judge_harmless(name: str, reason: str, facts: ModelFacts) -> Verdict:
    known = set(_known_names(facts.model_type, facts.config))
    if "dropout" in name and name not in known:
        near = difflib.get_close_matches(name, sorted(item for item in known if "dropout" in item), n=1, cutoff=0.3)
        return Verdict(False, "This model's configuration has no such field.", near[0] if near else None)
    if name == "rope_parameters" and facts.absolute_positions:
        return Verdict(False, "This model's positions are learned, not rotary; there is nothing to scale.")
    return Verdict(True, reason)


def _judge_positions(facts: ModelFacts) -> Verdict:
    if facts.absolute_positions:
        return Verdict(False, f"Its positions are learned: {_SHAPE[0].lower()}{_SHAPE[1:]}", "model.from_scratch")
    reason = "Rotary positions go on beyond it without a word, untrained: the field bounds nothing."
    return Verdict(False, reason, "tokenizer.max_seq_length")


def _known_names(model_type: str | None, config: Mapping[str, Any]) -> list[str]:
    own = set(config)
    if model_type == "modernbert":
        own |= set(_MODERNBERT_FIELDS)
        own -= set(_STALE["modernbert"])
    else:
        own |= {"hidden_dropout_prob", "attention_probs_dropout_prob"} if "hidden_dropout_prob" in own else set()
    return sorted(own)


# ---------------------------------------------------------------------------------- what a configuration means

#: Fields that fix no vector once the weights are given: their shapes are the weights', or they are about training,
#: heads, files and versions.
_MEANS_NOTHING = (
    *_HAS_NO_EFFECT,
    "*dropout*",
    "*drop_prob",
    "initializer_*",
    "classifier_*",
    "vocab_size",
    "type_vocab_size",
    "hidden_size",
    "intermediate_size",
    "embedding_size",
    "max_position_embeddings",
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "_*",
    "*_token_id",
    "auto_map",
    "gradient_checkpointing",
    "reference_compile",
    "repad_logits_with_grad",
    "deterministic_flash_attn",
    "chunk_size_feed_forward",
    "tokenizer_class",
    "finetuning_task",
    "task_specific_params",
    "pruned_heads",
    "prefix",
)

#: Model types built like BERT, whose constructors share these defaults.
_LIKE_BERT = (
    "bert",
    "camembert",
    "electra",
    "ernie",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
_BERT_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12, "num_hidden_layers": 12}
#: Values that the host takes where a file states none: older files leave such fields out, newer ones write them.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "modernbert": {"hidden_activation": "gelu", "norm_eps": 1e-5, "local_attention": 128},
    **dict.fromkeys(_LIKE_BERT, _BERT_DEFAULTS),
}

_STALE_IN_FILES: Mapping[str, tuple[str, ...]] = {
    "modernbert": ("layer_norm_eps", "position_embedding_type", "unpad_inputs"),
}

#: Model types that count positions from the padding token's id, and the id they use where nothing states it.
_POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}
)
_PADDING_ID = 1

#: ModernBERT's defaults, from `ModernBertConfig.default_theta` and its constructor.
_MODERNBERT_THETA = {
    "full_attention": ("global_rope_theta", 160_000),
    "sliding_attention": ("local_rope_theta", 10_000),
}
_MODERNBERT_GLOBAL_EVERY = 3


def effective_configuration(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the overrides laid over it, as the host applies them."""
    return {**config, **overrides}


def meaningful_configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a transformer's configuration that decides what its weights compute.

    Old and new spellings of the same setting come out alike, so that a file written by another library version
    counts as the same; values that stand for "not there" are left out.
    """
    values = dict(config)
    model_type = values.get("model_type")
    for name in _STALE_IN_FILES.get(str(model_type), ()):
        values.pop(name, None)
    if model_type == "modernbert":
        _modernise_layers(values)
    rope = _rope(values, model_type)
    if rope:
        values["rope_parameters"] = rope
    defaults = {"position_embedding_type": "absolute", **_DEFAULTS.get(str(model_type), {})}
    meaningful = {
        name: value
        for name, value in sorted(values.items())
        if value not in (None, False, {}, [])
        and value != defaults.get(name)
        and not any(fnmatchcase(name, pattern) for pattern in _MEANS_NOTHING)
    }
    if model_type in _POSITIONS_AFTER_PADDING and values.get("pad_token_id", _PADDING_ID) != _PADDING_ID:
        meaningful["pad_token_id"] = values["pad_token_id"]
    return meaningful


def _modernise_layers(values: dict[str, Any]) -> None:
    """Turn `global_attn_every_n_layers` into `layer_types`, as the host does."""
    every = values.pop("global_attn_every_n_layers", _MODERNBERT_GLOBAL_EVERY)
    layers = values.get("num_hidden_layers", 22)
    if values.get("layer_types") is None:
        values["layer_types"] = ["sliding_attention" if index % every else "full_attention" for index in range(layers)]


def _rope(values: dict[str, Any], model_type: Any) -> dict[str, Any]:
    """Return rotary parameters in one spelling, and take every spelling of them out of `values`."""
    stated = values.pop("rope_parameters", None) or {}
    scaling = values.pop("rope_scaling", None) or {}
    theta = values.pop("rope_theta", None)
    if model_type == "modernbert":
        parts = {}
        for layer_type, (legacy, default) in _MODERNBERT_THETA.items():
            legacy_theta = values.pop(legacy, None)
            own = dict(stated.get(layer_type) or ({} if set(stated) & set(_MODERNBERT_THETA) else stated))
            parts[layer_type] = _one_rope(own, scaling, own.get("rope_theta") or legacy_theta or default)
        return parts
    if any(isinstance(part, Mapping) for part in stated.values()):
        return {name: _one_rope(part, {}, None) if isinstance(part, Mapping) else part for name, part in stated.items()}
    return _one_rope(stated, scaling, theta)


def _one_rope(stated: Mapping[str, Any], scaling: Mapping[str, Any], theta: Any) -> dict[str, Any]:
    values = {**scaling, **stated}
    if "type" in values:
        values.setdefault("rope_type", values.pop("type"))
    if values.get("rope_type") == "default":
        del values["rope_type"]
    if theta is not None:
        values.setdefault("rope_theta", theta)
    return {name: value for name, value in sorted(values.items()) if value is not None}
