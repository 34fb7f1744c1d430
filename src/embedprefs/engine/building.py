"""Making a backend from a loaded model: converted once, kept on the disk, opened from there afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.errors import ResourceError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.engine.backend import Backend
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.resolve import Resolved

__all__ = ["build_backend"]


def build_backend(
    model: SentenceTransformer, resolved: Resolved, name: str, numerics: str, *, tokenizer: TextTokenizer
) -> Backend:
    """Return a backend that computes what a loaded model does.

    Args:
        model: The model in float32, as it was loaded, in evaluation mode.
        resolved: The effective preferences.
        name: openvino or onnx.
        numerics: float32, bfloat16 or int8.
        tokenizer: The model's, for measuring the ranges of int8.

    Raises:
        InvalidPreferenceError: no test proves the conversion of this model.
        MissingExtraError: a package is not installed.
        ResourceError: the conversion cannot be kept, or the processor lacks the number format.
    """
    from embedprefs.record import content_hashes

    weights = content_hashes(resolved).weights
    if name == "openvino":
        from embedprefs.engine.openvino.backend import OpenVINOBackend
        from embedprefs.engine.openvino.kept import COMPILED, converted_folder, quantised_folder

        if numerics == "int8":
            folder = quantised_folder(model, tokenizer=tokenizer, weights=weights)
        else:
            folder = converted_folder(model, weights=weights)
        return OpenVINOBackend(
            folder,
            numerics=numerics,  # type: ignore[arg-type]  # the preferences allow these alone
            threads=resolved["compute.threads"],
            compiled_cache=folder / COMPILED,
        )
    if name == "onnx":
        from embedprefs.engine.onnx_backend import OnnxBackend

        return OnnxBackend(
            resolved.facts,
            file=resolved["model.onnx_file"],
            threads=resolved["compute.threads"],
            device=resolved.devices[0],
        )
    raise ResourceError(f"There is no backend {name} for {numerics}.")
