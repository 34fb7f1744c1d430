"""The backends that can run a model, and which of them "auto" becomes for a model on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedprefs.resolve.memory import readable_size

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware

__all__ = ["BACKENDS", "SMALL_MODEL", "Backend", "choose_backend", "why_not_converted", "why_too_large"]

#: Parameters up to which "auto" stays on torch: so small a model is converted and opened for longer than it saves.
SMALL_MODEL = 5_000_000


@dataclass(frozen=True)
class Backend:
    """One way to run a model."""

    name: str
    """As in `compute.backend`."""
    packages: tuple[str, ...]
    """Distributions it needs."""
    extra: str
    """The extra of embedprefs that installs them."""

    @property
    def command(self) -> str:
        """The command that installs what it needs."""
        return f'pip install "embedprefs[{self.extra}]"'

    def missing(self, hardware: Hardware) -> tuple[str, ...]:
        """Return the packages that are not installed here."""
        installed: Mapping[str, str] = hardware.packages
        # A package of one name serves as the other: both are the module onnxruntime.
        return tuple(name for name in self.packages if name not in installed and f"{name}-gpu" not in installed)

    def available(self, hardware: Hardware) -> bool:
        """Return whether a model can be run on it here."""
        return not self.missing(hardware)


BACKENDS: tuple[Backend, ...] = (
    Backend("openvino", ("openvino",), "openvino"),
    Backend("torch", ("torch", "sentence-transformers", "transformers"), "sentence-transformers"),
    Backend("onnx", ("onnxruntime",), "onnx"),
)


def choose_backend(hardware: Hardware, facts: ModelFacts, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the backend that "auto" becomes, and the reason.

    Args:
        hardware: The machine.
        facts: What the model's files say.
        values: The other preferences by dotted key: `compute.device` is resolved, the others are as stated.
    """
    by_name = {backend.name: backend for backend in BACKENDS}
    if missing := by_name["torch"].missing(hardware):
        return "torch", f"torch, though {missing[0]} is not installed here: loading a model needs it."
    openvino = by_name["openvino"]
    if openvino.missing(hardware):
        return "torch", f"OpenVINO, which is faster on a processor, is not installed ({openvino.command})."
    if why := why_not_converted(facts, values):
        return "torch", f"torch: {why}."
    if facts.parameter_count <= SMALL_MODEL and values.get("compute.weights") != "int8":
        return "torch", "torch: so small a model is converted for longer than it saves."
    if why := why_too_large(facts, hardware, values):
        return "torch", f"torch: {why}."
    return "openvino", "OpenVINO runs this architecture faster on a processor; it is compared with torch at first use."


def why_too_large(facts: ModelFacts, hardware: Hardware, values: Mapping[str, Any]) -> str | None:
    """Say, as a clause, why the memory that may be used does not hold a converted copy; None where it does.

    Args:
        facts: What the model's files say.
        hardware: The machine.
        values: As for `choose_backend`; `compute.memory_limit` in bytes.
    """
    from embedprefs.facts.memory import weights_held

    limit = values.get("compute.memory_limit")
    if not isinstance(limit, int) or values.get("compute.weights") == "int8":
        return None  # int8 is asked for, and runs nowhere else
    exact = values.get("compute.exactness") == "exact"
    auto = "bfloat16" if hardware.bfloat16_pays and not exact else "float32"
    stated = values.get("compute.dtype", "auto")
    held, what = weights_held(facts, dtype=auto if stated == "auto" else stated, backend="openvino")
    return f"{what}, and {readable_size(limit)} may be used" if held > limit else None


def why_not_converted(facts: ModelFacts, values: Mapping[str, Any]) -> str | None:
    """Say, as a clause, why a model stays on torch by what is known before it is loaded; None where it need not.

    Args:
        facts: What the model's files say.
        values: As for `choose_backend`.
    """
    from embedprefs.engine.openvino.architectures import objection_to_facts

    device = values["compute.device"]
    if device != "cpu":
        return f"the device is {device}"
    clauses = {
        "compute.autocast": "autocast is torch's own",
        "compute.compile": "torch.compile is asked for",
        "model.from_scratch": "random weights are not worth a conversion",
        "model.adapter.name": "an adapter is laid over the model",
    }
    for key, clause in clauses.items():
        if values.get(key) not in (None, False, "auto"):
            return clause
    if values.get("compute.dtype") == "float16":
        return "float16 on a processor is torch's own"
    if values.get("tokenizer.padding_side") == "left":
        return "the model is padded on the left"
    if values.get("compute.attention") not in ("auto", "sdpa", "eager", "local", None):
        return f"the attention {values['compute.attention']} is torch's own"
    return objection_to_facts(facts)
