"""How long training takes and how much memory it needs, before it begins.

Arithmetic: a forward pass costs 2 operations a parameter and token, a backward pass 4 (Kaplan et al., "Scaling Laws
for Neural Language Models", 2020, section 2.1), the token embeddings left out; attention adds 4 L h a layer and token
forward. Computing a batch in parts, or activations again, adds one forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.facts.architectures import with_defaults
from embedprefs.training.activations import activation_bound, keeps_scores, memory_of

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.resolve import Resolved
    from embedprefs.training.lengths import RoleLengths

__all__ = ["MemoryNeed", "TimeEstimate", "estimate_memory_need", "estimate_time", "padded_tokens"]

#: Published peak rates in dense bfloat16 (float16 for T4 and V100), operations a second: NVIDIA's data sheets.
_GPU_RATES: Mapping[str, float] = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
#: Share of the rate of large matrix products that training reaches. On a processor 0.33 to 0.49, measured with MiniLM
#: on paragraphs of Wikipedia, batches of 16 and 32, in processor time of one thread; on a GPU it is assumed.
_PROCESSOR_SHARE = 0.45
_GPU_SHARE = 0.25
#: Bytes of AdamW for each trained value: two moments.
_MOMENTS = 8


@dataclass(frozen=True)
class TimeEstimate:
    """How long the steps take; loading, evaluations and saving come on top."""

    operations: float
    """Floating-point operations of all steps."""
    tokens: int
    """Tokens of all steps, padding included."""
    rate: float | None
    """Operations a second; None where it is not known for the device."""
    assumption: str
    """What the rate rests on, in words."""

    @property
    def seconds(self) -> float | None:
        """Seconds of all steps; None where the rate is not known."""
        return self.operations / self.rate if self.rate else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "operations": self.operations,
            "tokens": self.tokens,
            "operations_per_second": self.rate,
            "seconds": self.seconds,
            "assumption": self.assumption,
        }


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that training takes at its peak, beside the libraries."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of the largest part of a batch that is computed at once."""
    available: int | None
    """Free bytes of the device; None where the machine does not say."""
    how: str
    """How the activations were found, in words."""
    checkpoint: int
    """Bytes of one checkpoint on the disk."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "weights_bytes": self.weights,
            "gradients_bytes": self.gradients,
            "optimizer_bytes": self.optimizer,
            "activations_bytes": self.activations,
            "total_bytes": self.total,
            "available_bytes": self.available,
            "checkpoint_bytes": self.checkpoint,
            "how": self.how,
        }


def padded_tokens(batches: Sequence[Sequence[int]], lengths: Mapping[str, RoleLengths], part: int | None) -> int:
    """Return the tokens of an epoch with padding: each batch is as long as its longest text.

    Args:
        batches: Row numbers of each batch.
        lengths: Lengths of each role.
        part: Rows that a cached loss computes at once; None for the whole batch.
    """
    total = 0
    for batch in batches:
        for known in lengths.values():
            tokens = known.tokens[np.asarray(batch, dtype=np.int64)]
            size = part or len(batch)
            for at in range(0, len(batch), size):
                chunk = tokens[at : at + size]
                total += int(chunk.max()) * len(chunk)
    return total


def estimate_time(
    resolved: Resolved,
    *,
    tokens: int,
    mean_length: float,
    passes: float,
    repeated: bool,
    frozen: bool,
    half: bool,
    measure: bool,
) -> TimeEstimate:
    """Return how long the steps take.

    Args:
        resolved: Model and machine.
        tokens: Padded tokens of one epoch.
        mean_length: Tokens of a text, padding included.
        passes: Epochs.
        repeated: Whether activations are computed twice (a cached loss, activation checkpointing).
        frozen: Whether the weights are frozen (LoRA), so that their gradients are not computed.
        half: Whether operations run in two bytes where that is native.
        measure: Whether to measure this processor's rate of matrix products, in some tenths of a second.
    """
    facts = resolved.facts
    all_tokens = int(tokens * passes)
    forward = 2.0 * _computed_parameters(facts) + _attention_operations(facts, mean_length)
    factor = 1.0 + (1.0 if frozen else 2.0) + (1.0 if repeated else 0.0)
    rate, assumption = _rate(resolved, measure=measure, half=half)
    return TimeEstimate(forward * factor * all_tokens, all_tokens, rate, assumption)


def _computed_parameters(facts: ModelFacts) -> int:
    """Return the parameters that every token is multiplied with: all but the tables of embeddings."""
    tables = sum(
        tensor.elements
        for name, tensor in facts.tensors.items()
        if "embedding" in name.casefold() and len(tensor.shape) == 2
    )
    return max(0, facts.parameter_count - tables)


def _attention_operations(facts: ModelFacts, length: float) -> float:
    values = with_defaults(facts.config)
    layers = values.get("num_hidden_layers")
    width = facts.hidden_size
    if not isinstance(layers, int) or width is None:
        return 0.0
    return 4.0 * length * width * layers


def _rate(resolved: Resolved, *, measure: bool, half: bool) -> tuple[float | None, str]:
    device = resolved.devices[0]
    if device.startswith("cpu"):
        if not measure:
            return None, "the processor's rate was not measured"
        rate = _processor_rate(resolved.hardware)
        return rate * _PROCESSOR_SHARE, (
            f"matrix products run at {rate / 1e9:,.0f} GFLOP/s here just now; training is taken to reach "
            f"{_PROCESSOR_SHARE:.0%} of it" + (" in float32; bfloat16 is faster where it is native" if half else "")
        )
    index = int(device.partition(":")[2] or 0)
    for accelerator in resolved.hardware.accelerators:
        if accelerator.kind == "cuda" and accelerator.index == index:
            for name, peak in _GPU_RATES.items():
                if name.casefold() in (accelerator.name or "").casefold():
                    return peak * _GPU_SHARE, (
                        f"{accelerator.name} has a published peak of {peak / 1e12:,.0f} TFLOP/s; training is taken to "
                        f"reach {_GPU_SHARE:.0%} of it"
                    )
    return None, f"the rate of {device} is not known here; the first steps show it"


def _processor_rate(hardware: Hardware) -> float:
    """Return the operations a second of matrix products in float32, the best of some."""
    del hardware  # whatever it is, it is measured
    size = 768
    generator = np.random.default_rng(0)
    first, second = (generator.random((size, size), dtype=np.float32) for _ in range(2))
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        first @ second
        best = max(best, 2.0 * size**3 / (time.perf_counter() - began))
    return best


def estimate_memory_need(
    resolved: Resolved,
    *,
    rows: int,
    lengths: Mapping[str, int],
    cached: bool,
    trained: int,
    half: bool,
    checkpointing: bool,
    measure: bool,
) -> MemoryNeed:
    """Return what training takes at its peak.

    Args:
        resolved: Model and machine.
        rows: Rows that are computed at once.
        lengths: Role -> tokens of the longest text of a batch.
        cached: Whether the loss computes one role after the other.
        trained: Values that are trained; all parameters, or those of an adapter.
        half: Whether activations are kept in two bytes.
        checkpointing: Whether activations are computed again in the backward pass, a layer at a time.
        measure: Whether to measure on torch's meta device; else a bound is taken.
    """
    facts, device = resolved.facts, resolved.devices[0]
    scores = keeps_scores(facts, device=device, attention=resolved["compute.attention"])
    found: list[int] = []
    how = "a static model keeps its vectors alone"
    for length in lengths.values():
        if facts.is_static:
            found.append(4 * rows * (facts.embedding_dimension or 0))
            continue
        measured = _measured(facts, rows, length, scores=scores) if measure else None
        how = "measured on torch's meta device" if measured is not None else "a bound from the configuration"
        found.append(
            measured if measured is not None else activation_bound(facts, rows * length, length, scores=scores)
        )
    activations = max(found, default=0) if cached else sum(found)
    if checkpointing and not facts.is_static:
        layers = max(1, int(with_defaults(facts.config).get("num_hidden_layers", 12)))
        # What is kept of each layer is its input; one layer at a time is computed again.
        inputs = sum(4 * rows * length * (facts.hidden_size or 0) * layers for length in lengths.values())
        activations = activations // layers + inputs
        how += ", one layer at a time"
    if half:
        activations //= 2
    parameters = facts.parameter_count
    return MemoryNeed(
        weights=4 * parameters,
        gradients=4 * trained,
        optimizer=_MOMENTS * trained,
        activations=activations,
        available=memory_of(resolved.hardware, device),
        how=how,
        checkpoint=4 * parameters + _MOMENTS * trained,
    )


def _measured(facts: ModelFacts, rows: int, length: int, *, scores: bool) -> int | None:
    """Return what is measured on the meta device; None where torch is not installed or cannot build the model."""
    try:
        from embedprefs.training.memory import measure_activations

        return measure_activations(facts, rows=rows, length=length, scores=scores)
    except ImportError:
        return None
