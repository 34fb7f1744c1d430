"""Which models may leave torch: those whose conversion a test compares with torch, and no others.

Every line of `PROVED` has a test that converts a small random model of that kind, and compares the vectors of padded
batches of several lengths with torch's within 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["CHAIN_MODULES", "PROVED", "objection", "objection_to_config", "objection_to_facts"]

_POOLINGS = frozenset({"mean", "mean_sqrt_len_tokens", "cls", "max", "lasttoken", "weightedmean"})

#: `model_type` of the configuration -> the host's names of the poolings that are proved behind it.
PROVED: Mapping[str, frozenset[str]] = {
    "albert": _POOLINGS,
    "bert": _POOLINGS,
    "camembert": _POOLINGS,
    "distilbert": _POOLINGS,
    "electra": _POOLINGS,
    "modernbert": _POOLINGS,
    "mpnet": _POOLINGS,
    "roberta": _POOLINGS,
    "xlm-roberta": _POOLINGS,
}

#: Kinds of rotary positions whose frequencies are the same for every length.
_PROVED_ROPE = frozenset({"default", "linear", "yarn", "llama3"})

#: The host's modules that may follow the transformer, in any order behind one Pooling.
CHAIN_MODULES = ("Dense", "Dropout", "LayerNorm", "Normalize")


def objection(model_type: str | None, modules: Sequence[str], poolings: Sequence[str]) -> str | None:
    """Return why a model stays on torch, as a clause; None where its conversion is proved.

    Args:
        model_type: As in config.json.
        modules: The chain's classes by their last names: Transformer, Pooling, Dense ...
        poolings: The host's names of the poolings that are on.
    """
    proved = PROVED.get(model_type or "")
    if proved is None:
        known = ", ".join(PROVED)
        return f"no test proves the conversion of model type {model_type or 'unknown'} (proved: {known})"
    unproved = [name for name in poolings if name not in proved]
    if unproved or not poolings:
        return f"no test proves the pooling {', '.join(unproved) or 'none'} (proved: {', '.join(sorted(proved))})"
    if tuple(modules[:2]) != ("Transformer", "Pooling"):
        return f"the module chain is {', '.join(modules)}, and a converted one begins with Transformer, Pooling"
    others = [name for name in modules[2:] if name not in CHAIN_MODULES]
    if others:
        return f"the module {others[0]} is not converted (converted behind Pooling: {', '.join(CHAIN_MODULES)})"
    return None


def objection_to_config(config: Mapping[str, Any]) -> str | None:
    """Return why a configuration of a proved type is not proved; None where nothing speaks against it.

    What decides by the length of a text would be frozen at the length that was traced.

    Args:
        config: config.json, or what the loaded configuration says.
    """
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is set up as a decoder"
    if config.get("chunk_size_feed_forward"):
        return "chunk_size_feed_forward cuts texts into a number of pieces that depends on their length"
    for kind in _rope_types(config):
        if kind not in _PROVED_ROPE:
            return f"its rotary positions are of type {kind}, which depends on the length of a text"
    return None


def _rope_types(config: Mapping[str, Any]) -> list[str]:
    found = []
    for name in ("rope_parameters", "rope_scaling"):
        stated = config.get(name)
        if isinstance(stated, Mapping):
            for part in (stated, *(value for value in stated.values() if isinstance(value, Mapping))):
                kind = part.get("rope_type", part.get("type"))
                if kind is not None:
                    found.append(str(kind))
    return found


def objection_to_facts(facts: ModelFacts) -> str | None:
    """Return why a model stays on torch by what its files say; None where its conversion is proved.

    The loaded model is asked once more before it is converted: its modules may have been changed since.

    Args:
        facts: What the model's files say.
    """
    if facts.is_static:
        return "a static model is a look-up, which no conversion makes faster"
    if facts.custom_code:
        return f"it runs code that came with the model ({facts.custom_code[0]})"
    if facts.routes:
        return "a Router chooses between chains by the input"
    if facts.adapter is not None or facts.adapter_config:
        return "an adapter is laid over the model"
    if facts.tokenizer is not None and facts.tokenizer.padding_side == "left":
        return "it is padded on the left"
    if reason := objection_to_config(facts.config):
        return reason
    modules = [module.kind for module in facts.modules] or ["Transformer", "Pooling"]
    poolings = (facts.pooling_mode or "").split("+") if facts.pooling_mode else []
    return objection(facts.model_type, modules, poolings)
