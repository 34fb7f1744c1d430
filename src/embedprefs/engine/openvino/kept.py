"""The conversion of a loaded model: taken from the disk where it was made before, made now where it was not."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.engine.openvino.conversion import conversion_versions, convert
from embedprefs.engine.openvino.quantisation import built_in_texts, quantisation_hash, quantise
from embedprefs.engine.openvino.store import ConversionStore, conversion_key

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.engine.tokenising import TextTokenizer

__all__ = ["COMPILED", "chain_of_conversion", "converted_folder", "quantised_folder", "weights_in_memory"]

logger = logging.getLogger("embedprefs.engine")

#: Folder within a conversion that keeps its compiled forms: `compiled_cache` of `OpenVINOBackend`.
COMPILED = "compiled"

#: Values of a configuration that change no number of the graph.
_SILENT = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})


def converted_folder(
    model: SentenceTransformer, *, weights: str | None = None, store: ConversionStore | None = None
) -> Path:
    """Return the folder of a model's conversion with full weights.

    Args:
        model: As for `convert`.
        weights: Hash of the weights as they are in memory, `weights_hash(facts)` of a model that is as it was loaded;
            None computes one.
        store: Where conversions are kept; the user's cache folder if not given.

    Returns:
        A folder for `OpenVINOBackend(folder, compiled_cache=folder / COMPILED)`.

    Raises:
        InvalidPreferenceError: no test proves the conversion of this model.
        MissingExtraError: openvino is not installed.
        ResourceError: the folder cannot be written.
    """
    store = store or ConversionStore()
    return store.get(_key(model, weights or weights_in_memory(model)), lambda folder: convert(model, folder))


def quantised_folder(
    model: SentenceTransformer,
    *,
    tokenizer: TextTokenizer,
    texts: Sequence[str] | None = None,
    weights: str | None = None,
    store: ConversionStore | None = None,
) -> Path:
    """Return the folder of a model's conversion with weights and activations in int8.

    Args:
        model: As for `convert`.
        tokenizer: The model's tokenizer.
        texts: What ranges are measured on, best some hundred texts such as will be embedded; None for built-in ones.
        weights: As for `converted_folder`.
        store: As for `converted_folder`.

    Returns:
        A folder for `OpenVINOBackend(folder, numerics="int8", compiled_cache=folder / COMPILED)`.

    Raises:
        InvalidPreferenceError: no test proves the conversion of this model.
        MissingExtraError: openvino or nncf is not installed.
        ResourceError: the folder cannot be written.
    """
    store = store or ConversionStore()
    weights = weights or weights_in_memory(model)
    measured = built_in_texts() if texts is None else texts

    def make(folder: Path) -> None:
        full = converted_folder(model, weights=weights, store=store)
        quantise(full, folder, measured, tokenizer=tokenizer)

    return store.get(_key(model, weights, quantisation_hash(measured)), make)


def weights_in_memory(model: SentenceTransformer) -> str:
    """Return the sha256 of a model's weights and buffers as they are now; about a second for a gigabyte.

    Args:
        model: The model; nothing is changed.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def chain_of_conversion(model: SentenceTransformer) -> tuple[str, ...]:
    """Describe everything beside the weights that decides about the numbers of a converted model.

    Args:
        model: A model that `objection_to_model` finds nothing against.
    """
    transformer, *rest = model.children()
    config: dict[str, Any] = transformer.auto_model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _SILENT}
    inner = type(transformer.auto_model)
    described = [f"{inner.__module__}.{inner.__qualname__} {json.dumps(kept, sort_keys=True, default=str)}"]
    for module in rest:
        settings = json.dumps(module.get_config_dict(), sort_keys=True, default=str)
        described.append(f"{type(module).__module__}.{type(module).__qualname__} {settings}")
    return tuple(described)


def _key(model: SentenceTransformer, weights: str, quantisation: str | None = None) -> str:
    return conversion_key(
        weights=weights,
        chain=chain_of_conversion(model),
        versions=conversion_versions(int8=quantisation is not None),
        quantisation=quantisation,
    )
