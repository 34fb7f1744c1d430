"""How much memory a model takes, before it is loaded.

Counted are the weights, and the tensors alive in the largest step of one layer for one batch: without gradients a
layer reuses the memory of the one before. Not counted are the libraries, what an allocator keeps beyond the living
tensors (on a GPU some tenths, on a processor up to as much again: glibc keeps blocks below 32 MiB in its heap), and
files that are mapped and only read once, whose pages the system takes back.

torch holds the weights in the dtype they run in. A converted backend has a copy of its own, in its number format, and
torch's weights stay beside it in float32: it is made from them and compared with them, and takes over where the backend
cannot compute a call. A BertModel of 109.5 million parameters (418 MiB in float32) made a process grow by 477 MiB on
torch, and with OpenVINO 2026.4 by 1096 MiB in bfloat16 and 1270 MiB in float32, 418 MiB of these the mapped file of
the conversion; estimated are 418, 627 and 835 MiB.

With B texts of L tokens (T = B x L), width h, inner width i, a heads, and q = a x head size, alive are

- in attention: T x (3 h + 3 q) in BERT and its kin, T x (6 h + 3 q) in gated models, which hold residual and norm
  apart; with `eager` also the scores twice, 2 x B x a x L x L. In half precision gated models compute rotation and
  softmax in float32: T x 2 q more of 4 bytes, and two copies of the scores in 4 bytes beside the one in half precision;
- in the feed-forward part: T x (3 h + 2 i), in gated models (ModernBERT, and language models) T x (5 h + 4 i);
- `eager`: a mask of B x L x L in the running dtype; `sdpa`: the mask as booleans and once in the running dtype.
  ModernBERT has a second mask for its sliding window. `local`, `varlen` and `flash_attention_2` make none.

These counts were taken from the living tensors of BertModel and ModernBertModel in transformers 5.23; a test counts
them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.facts.architectures import with_defaults
from embedprefs.facts.model_facts import ModelFacts
from embedprefs.hardware.description import Accelerator, Hardware

__all__ = ["GATED", "Fit", "MemoryEstimate", "estimate_memory", "fits", "weights_held"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1}
#: Model types whose feed-forward part multiplies two projections, and so holds twice the inner width.
GATED = frozenset(
    {"modernbert", "nomic_bert", "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "eurobert", "gemma2", "phi3"}
)
_WITHOUT_MASK = ("local", "varlen", "flash_attention_2")
#: What the libraries take once imported, on a processor: measured as the resident memory of a process with torch 2.13,
#: transformers 5.23 and sentence-transformers 6.2.
LIBRARIES_BYTES = 600 * 1024**2


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model takes while it embeds."""

    weights_bytes: int
    activation_bytes: int
    """The most that one batch takes beside the weights."""
    total_bytes: int
    explanation: str
    """The sum in words, for a message."""


@dataclass(frozen=True)
class Fit:
    """Whether a model fits into a machine."""

    fits: bool
    available_bytes: int | None
    """What there is for it; None where the machine does not say, and then it counts as fitting."""
    estimate: MemoryEstimate
    message: str
    """Both sides in words."""


def _readable(count: int) -> str:
    return f"{count / 1024**3:.2f} GiB" if count >= 1024**3 // 4 else f"{count / 1024**2:.1f} MiB"


def _number(values: dict[str, Any], name: str, otherwise: int) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def _layer_bytes(facts: ModelFacts, size: int, texts: int, length: int, attention: str) -> int:
    """Return the bytes of the largest step of one layer."""
    values = with_defaults(facts.config)
    text_part = values.get("text_config")
    if "hidden_size" not in values and isinstance(text_part, dict):
        values = with_defaults(text_part)
    width = facts.hidden_size or facts.embedding_dimension or 0
    heads = _number(values, "num_attention_heads", max(1, width // 64))
    queries = heads * _number(values, "head_dim", max(1, width // heads))
    inner = _number(values, "intermediate_size", 4 * width)
    tokens = texts * length
    gated = facts.model_type in GATED
    square = texts * length * length
    masks = 0
    kinds = 2 if facts.model_type == "modernbert" else 1
    attending = tokens * ((6 if gated else 3) * width + 3 * queries) * size
    if gated and size < 4:
        attending += tokens * 2 * queries * 4
    if attention == "eager":
        masks = kinds * square * size
        attending += square * heads * (size + 8 if gated and size < 4 else 2 * size)
    elif attention not in _WITHOUT_MASK:
        masks = kinds * square
        attending += square * size
    feeding = tokens * ((5 * width + 4 * inner) if gated else (3 * width + 2 * inner)) * size
    return masks + max(attending, feeding)


def weights_held(facts: ModelFacts, *, dtype: str, backend: str = "torch", weights: str = "full") -> tuple[int, str]:
    """Return the bytes of a model's weights in memory, and in words what they are.

    Args:
        facts: The model.
        dtype: What it runs in: float32, bfloat16 or float16.
        backend: What runs it, as in `compute.backend`. A converted one runs a copy beside torch's float32 weights.
        weights: "full", or "int8" for a copy in int8.

    Raises:
        InvalidPreferenceError: The dtype is none that is known.
    """
    if dtype not in _BYTES:
        raise InvalidPreferenceError(
            Problem(f"The dtype {dtype!r} is not known.", key="compute.dtype", value=dtype, allowed=", ".join(_BYTES))
        )
    count = facts.parameter_count
    number = f"{count / 1e6:,.1f} million parameters"
    if backend == "torch":
        held = count * _BYTES[dtype]
        return held, f"{number} in {dtype} are {_readable(held)}"
    running = "int8" if weights == "int8" else dtype
    original, copy = count * _BYTES["float32"], count * _BYTES[running]
    return original + copy, (
        f"{number} are {_readable(original)} in float32 for torch and {_readable(copy)} in {running} in the copy "
        f"that {backend} runs"
    )


def estimate_memory(
    facts: ModelFacts,
    *,
    dtype: str,
    batch_tokens: int,
    max_length: int,
    attention: str,
    backend: str = "torch",
    weights: str = "full",
) -> MemoryEstimate:
    """Return what a model takes while it embeds one batch.

    Args:
        facts: The model.
        dtype: What it runs in: float32, bfloat16 or float16.
        batch_tokens: Tokens in one batch, padding included.
        max_length: Tokens of the longest text of a batch; a batch of fewer tokens holds one text of that length.
        attention: eager, sdpa, local, varlen or flash_attention_2; "auto" counts as sdpa.
        backend: What runs it, as in `compute.backend`.
        weights: "full" or "int8", as in `compute.weights`.

    Raises:
        InvalidPreferenceError: The dtype is none that is known.
    """
    held, explanation = weights_held(facts, dtype=dtype, backend=backend, weights=weights)
    size = _BYTES[dtype]
    dimension = facts.embedding_dimension or facts.hidden_size or 0
    length = max(1, min(max_length, batch_tokens))
    texts = max(1, math.ceil(batch_tokens / length))
    if facts.is_static:
        activations = texts * dimension * size
        shape = f"{texts} texts"
    else:
        activations = _layer_bytes(facts, size, texts, length, attention) + texts * dimension * 4
        shape = f"{texts} texts of {length} tokens with {attention} attention"
    total = held + activations
    return MemoryEstimate(
        held,
        activations,
        total,
        f"{explanation}; a batch of {shape} takes {_readable(activations)} more: {_readable(total)} together",
    )


def _room(hardware: Hardware, device: str, memory_limit: int | None) -> tuple[int | None, str]:
    """Return the bytes there are on a device for a model, and where they are."""
    if device.startswith(("cuda", "xpu", "npu", "hpu")):
        accelerator = _accelerator(hardware, device)
        room = None
        if accelerator is not None:
            room = accelerator.memory_free if accelerator.memory_free is not None else accelerator.memory_total
        place = f"free on {device}"
    else:
        room = hardware.memory_available
        room = None if room is None else max(0, room - LIBRARIES_BYTES)
        place = f"available in memory, {_readable(LIBRARIES_BYTES)} for the libraries set aside"
    if memory_limit is not None and (room is None or memory_limit < room):
        return memory_limit, "allowed by compute.memory_limit"
    return room, place


def _accelerator(hardware: Hardware, device: str) -> Accelerator | None:
    kind, _, number = device.partition(":")
    index = int(number) if number.isdigit() else 0
    return next(
        (found for found in hardware.accelerators if found.kind == kind and found.index == index),
        None,
    )


def fits(
    facts: ModelFacts,
    hardware: Hardware,
    *,
    device: str,
    dtype: str,
    batch_tokens: int,
    max_length: int,
    attention: str,
    memory_limit: int | None = None,
) -> Fit:
    """Say whether a model and one batch fit into a device's memory, before anything is loaded.

    Args:
        facts: The model.
        hardware: The machine.
        device: cpu, cuda:0, mps ...
        dtype: What the weights run in.
        batch_tokens: Tokens in one batch, padding included.
        max_length: Tokens of the longest text.
        attention: The attention implementation.
        memory_limit: Bytes that `compute.memory_limit` allows; None for no limit of the user's.

    Raises:
        InvalidPreferenceError: The dtype is none that is known.
    """
    estimate = estimate_memory(
        facts, dtype=dtype, batch_tokens=batch_tokens, max_length=max_length, attention=attention
    )
    room, place = _room(hardware, device, memory_limit)
    if room is None:
        return Fit(True, None, estimate, f"{estimate.explanation}; how much there is on {device} is not known")
    enough = estimate.total_bytes <= room
    verb = "fits" if enough else "does not fit"
    return Fit(enough, room, estimate, f"{estimate.explanation}, which {verb} into the {_readable(room)} {place}")
