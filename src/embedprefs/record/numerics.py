"""What actually ran: recorded beside the identity, compared with a warning, never refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedprefs.resolve import Resolved

__all__ = ["CANARY_TEXTS", "canary_bound", "numerics_of"]

#: Packages whose version can change how a vector is rounded.
_ROUNDING_PACKAGES = ("sentence-transformers", "transformers", "tokenizers", "torch")
_BACKEND_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime"}

#: Texts whose vectors are kept with a collection and computed again when a model meets it. They are of several
#: scripts and lengths, so that a changed tokenizer, pooling, prompt or truncation shows in at least one of them.
#: They never change: their vectors are stored.
CANARY_TEXTS: tuple[str, ...] = (
    "ok",
    "The harbour froze over twice in living memory, and both winters are still argued about.",
    "Größe, façade, naïve: ligatures and diacritics survive — or they do not.",
    "Вода кипит при ста градусах; 水在一百度沸腾。",
    "def area(radius: float) -> float:\n    return 3.14159 * radius ** 2  # not a sentence",
    " ".join(f"Item {number} is stored on shelf {number * 7 % 31}." for number in range(1, 121)),
)


def numerics_of(resolved: Resolved) -> dict[str, Any]:
    """Return how the vectors are computed by these effective preferences, for a `Record`."""
    device = resolved.devices[0].partition(":")[0]
    backend = resolved["compute.backend"]
    packages = dict(resolved.hardware.packages)
    names = [*_ROUNDING_PACKAGES, *([_BACKEND_PACKAGES[backend]] if backend in _BACKEND_PACKAGES else [])]
    numerics: dict[str, Any] = {
        "backend": backend,
        "device": device,
        "dtype": resolved["compute.dtype"],
        "autocast": resolved["compute.autocast"],
        "weights": resolved["compute.weights"],
        "attention": resolved["compute.attention"],
        "compile": resolved["compute.compile"],
        "versions": {name: packages[name] for name in names if name in packages},
    }
    if resolved["model.onnx_file"] is not None and backend == "onnx":
        numerics["onnx_file"] = resolved["model.onnx_file"]
    if resolved["model.kwargs"]:
        numerics["arguments"] = {name: str(value) for name, value in sorted(resolved["model.kwargs"].items())}
    return numerics


#: Largest distance (1 - cosine) from float32 that a way of computing is expected to keep on one text. float32 itself
#: moves by rounding in the order of 1e-7; bfloat16 has 8 bits of mantissa and float16 has 11. bfloat16 was measured at
#: 0.00005 on a trained model (all-MiniLM-L6-v2) and at 0.003 on random weights, the worst seen.
_DISTANCES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 5e-3}
#: int8 weights were measured at up to 0.011 with all-MiniLM-L6-v2.
_INT8_DISTANCE = 2e-2


def _distance(numerics: Mapping[str, Any]) -> float:
    measured = numerics.get("cosine_to_float32")
    if isinstance(measured, (int, float)):
        # The measured texts are not the canaries, so the same distance once more is left as a margin.
        return max(_DISTANCES["float32"], 2 * (1 - float(measured)))
    distance = _DISTANCES.get(str(numerics.get("dtype", "float32")), _DISTANCES["bfloat16"])
    if numerics.get("autocast"):
        distance = max(distance, _DISTANCES["bfloat16"])
    if numerics.get("weights") == "int8":
        distance += _INT8_DISTANCE
    return distance


def canary_bound(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Return the least cosine that two computations of one canary text must have.

    Both sides are bounded against float32, by their measured cosine where one is recorded. Angles add up (the triangle
    inequality on the sphere): with distances a and b that is at worst (sqrt(a) + sqrt(b)) squared.

    Args:
        left: Numerics of one record.
        right: Numerics of the other.
    """
    return 1 - (math.sqrt(_distance(left)) + math.sqrt(_distance(right))) ** 2
