"""Which models are computed without padding: those for which a test compares it with the host, and no others.

Every line of `PROVED` has a test that builds a small random model of that kind, lays texts of several lengths end to
end, and compares token vectors and embeddings with the host's within 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware

__all__ = ["PROVED", "Positions", "first_position", "kernel_objection", "objection_to_config", "objection_to_facts"]

#: How a model counts the positions of a text's tokens: from 0, or from its padding id + 1 on.
Positions = Literal["from 0", "from padding id + 1"]

#: `model_type` of the configuration -> how it counts positions.
PROVED: Final[Mapping[str, Positions]] = {
    "albert": "from 0",
    "bert": "from 0",
    "camembert": "from padding id + 1",
    "data2vec-text": "from padding id + 1",
    "distilbert": "from 0",
    "electra": "from 0",
    "ernie": "from 0",
    "eurobert": "from 0",
    "jina_embeddings_v3": "from 0",
    "modernbert": "from 0",
    "nomic_bert": "from 0",
    "roberta": "from padding id + 1",
    "roberta-prelayernorm": "from padding id + 1",
    "xlm-roberta": "from padding id + 1",
    "xlm-roberta-xl": "from padding id + 1",
}

#: The host's modules that may follow the transformer and its pooling.
_CHAIN = frozenset({"Dense", "Dropout", "LayerNorm", "Normalize"})
#: What torch's kernel computes in.
_HALF = ("bfloat16", "float16")
#: The largest head of torch's kernel; it has to be a multiple of 8 as well. Source: FlashAttention-2, which it is.
_LARGEST_HEAD = 256


def first_position(config: Any) -> int:
    """Return the position that a model gives to the first token of a text.

    Args:
        config: The loaded configuration, of a model type that is proved.
    """
    if PROVED[config.model_type] == "from 0":
        return 0
    return int(config.pad_token_id) + 1


def objection_to_config(config: Mapping[str, Any]) -> str | None:
    """Say, as a clause, why a configuration is computed with padding; None where nothing speaks against packing.

    Args:
        config: config.json, or what the loaded configuration says.
    """
    kind = config.get("model_type")
    if kind not in PROVED:
        return f"no test proves model type {kind or 'unknown'} (proved: {', '.join(PROVED)})"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is set up as a decoder"
    if config.get("position_embedding_type", "absolute") not in ("absolute", "rope", None):
        return f"its positions are {config['position_embedding_type']}"
    shared = config.get("num_key_value_heads")
    if shared is not None and shared != config.get("num_attention_heads"):
        return "several of its heads share keys and values"
    if config.get("chunk_size_feed_forward"):
        return "chunk_size_feed_forward cuts texts into pieces by their length"
    for name in ("rope_parameters", "rope_scaling"):
        stated = config.get(name)
        if isinstance(stated, Mapping):
            parts = [stated, *(value for value in stated.values() if isinstance(value, Mapping))]
            for rope in (str(part.get("rope_type", part.get("type"))) for part in parts):
                if rope in ("dynamic", "longrope"):
                    return f"its rotary positions are of type {rope}, which depends on the length of a text"
    return None


def objection_to_facts(facts: ModelFacts) -> str | None:
    """Say, as a clause, why a model is computed with padding by what its files say; None where it need not be.

    The loaded model is asked once more: its modules may have been changed since.

    Args:
        facts: What the model's files say.
    """
    if facts.is_static:
        return "a static model has no attention"
    if facts.custom_code:
        return f"it runs code that came with the model ({facts.custom_code[0]})"
    if facts.routes:
        return "a Router chooses between chains by the input"
    if facts.tokenizer is not None and facts.tokenizer.padding_side == "left":
        return "it is padded on the left"
    if reason := objection_to_config({**facts.config, "model_type": facts.model_type}):
        return reason
    kinds = [module.kind for module in facts.modules] or ["Transformer", "Pooling"]
    if kinds[:2] != ["Transformer", "Pooling"]:
        return f"its modules are {', '.join(kinds)}, and not a Transformer and a Pooling"
    others = [kind for kind in kinds[2:] if kind not in _CHAIN]
    return f"the module {others[0]} is not one that is known" if others else None


def kernel_objection(
    facts: ModelFacts, hardware: Hardware, *, device: str, dtype: str, autocast: bool = False
) -> str | None:
    """Say, as a clause, why torch's kernel for packed sequences cannot run a model on a device; None where it can.

    On a processor no kernel is needed: texts are computed one after another.

    Args:
        facts: What the model's files say.
        hardware: The machine.
        device: cpu, cuda:0 ...
        dtype: What the model computes in.
        autocast: Whether torch chooses the format operation by operation.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return None
    if kind != "cuda":
        return f"the kernel runs on NVIDIA GPUs, and the device is {device}"
    if hardware.torch_hip_version is not None:
        return "the kernel runs on NVIDIA GPUs, and torch was built for AMD's"
    if not hardware.torch_varlen_attention:
        return f"torch {hardware.torch_version} has no torch.nn.attention.varlen"
    index = int(number) if number.isdecimal() else 0
    gpu = next((item for item in hardware.accelerators if item.kind == "cuda" and item.index == index), None)
    if gpu is not None and (gpu.compute_capability or (0, 0)) < (8, 0):
        major, minor = gpu.compute_capability or (0, 0)
        return f"the kernel needs compute capability 8.0, and {gpu.name} has {major}.{minor}"
    if autocast:
        return "under autocast some tensors stay in float32, which the kernel does not take"
    if dtype not in _HALF:
        return f"the kernel computes in bfloat16 or float16, and the model runs in {dtype}"
    head = _head_size(facts)
    if head is None:
        return "the size of its attention heads is not stated"
    if head % 8 or head > _LARGEST_HEAD:
        return f"its attention heads have {head} numbers, and the kernel takes multiples of 8 up to {_LARGEST_HEAD}"
    return None


def _head_size(facts: ModelFacts) -> int | None:
    from embedprefs.facts.architectures import with_defaults

    values = with_defaults(facts.config)
    stated = values.get("head_dim")
    if isinstance(stated, int):
        return stated
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None
