"""Converting a loaded model for OpenVINO, in process: trace, convert, write. Nothing is exported in between."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.products import divide_products
from embedprefs.engine.openvino.telemetry import import_openvino, without_telemetry
from embedprefs.errors import InvalidPreferenceError, Problem

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["conversion_versions", "convert"]

logger = logging.getLogger("embedprefs.engine")

#: Texts and tokens of the example that is traced: no length that any family treats apart.
_EXAMPLE_TEXTS, _EXAMPLE_TOKENS = 3, 23


def convert(model: SentenceTransformer, folder: Path) -> Description:
    """Write a loaded model as `model.xml` and `model.bin`, float32, with what the backend has to know beside them.

    The model is traced on the CPU from its modules as they are in memory. It keeps its weights, device and mode; nobody
    else may use it meanwhile. Converting all-MiniLM-L6-v2 takes about two seconds, a model of ModernBERT-base's size
    about fifteen.

    Args:
        model: A `SentenceTransformer` in float32 whose architecture is proved (see `architectures`).
        folder: An existing folder to write into.

    Returns:
        What was written as `embedprefs.json`.

    Raises:
        InvalidPreferenceError: no test proves the conversion of this model; the message says why.
        MissingExtraError: openvino is not installed.
        OSError: the folder cannot be written.
    """
    from embedprefs.engine.openvino.traced import objection_to_model, traceable

    openvino = import_openvino()
    if reason := objection_to_model(model):
        raise InvalidPreferenceError(
            Problem(
                f"The model cannot be converted for OpenVINO: {reason}.",
                key="compute.backend",
                value="openvino",
                allowed="auto, torch",
                fix='Write backend = "auto", which keeps such a model on torch.',
            )
        )
    with traceable(model) as chain:
        example = _example(chain)
        with warnings.catch_warnings(), without_telemetry(), _quiet_transformers():
            # The trace warns of every shape it meets; those are all dynamic, which the tests of architectures prove.
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(
                chain, example_input=example, input=[openvino.PartialShape([-1, -1])] * len(example)
            )
        rows, tokens = chain(*example)
        description = Description(
            model_type=chain.model_type,
            poolings=chain.pooling_modes,
            dimension=int(rows.shape[-1]),
            hidden_size=int(tokens.shape[-1]),
            excludes_prompt=chain.excludes_prompt,
            weights="full",
            versions=conversion_versions(),
        )
    divide_products(converted)
    _name(converted, description)
    with without_telemetry():
        # openvino halves the weights unless told not to.
        openvino.save_model(converted, folder / Description.MODEL_FILE, compress_to_fp16=False)
    description.write(folder)
    logger.info("Converted %s for OpenVINO.", description.model_type)
    return description


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep off the screen what transformers says of a loss: the trace looks at every property of the model."""
    notes = logging.getLogger("transformers.modeling_utils")
    level = notes.level
    notes.setLevel(logging.ERROR)
    try:
        yield
    finally:
        notes.setLevel(level)


def _example(chain: Any) -> tuple[Any, ...]:
    """Return one padded batch, on the model's device."""
    import torch

    device = next(chain.parameters()).device
    ids = torch.arange(_EXAMPLE_TEXTS * _EXAMPLE_TOKENS, device=device).reshape(_EXAMPLE_TEXTS, _EXAMPLE_TOKENS) % 7 + 5
    mask = torch.ones_like(ids)
    for row in range(1, _EXAMPLE_TEXTS):
        mask[row, -4 * row :] = 0
    return (ids, mask, mask.clone()) if chain.excludes_prompt else (ids, mask)


def _name(converted: Any, description: Description) -> None:
    """Give inputs and outputs the names by which the backend finds them."""
    for place, name in zip(converted.inputs, description.input_names, strict=True):
        place.get_tensor().set_names({name})
        place.get_node().set_friendly_name(name)
    for place, name in zip(converted.outputs, description.output_names, strict=True):
        place.get_tensor().set_names({name})


def conversion_versions(*, int8: bool = False) -> dict[str, str]:
    """Return distribution -> version of what decides how a model is converted.

    Args:
        int8: Whether it is quantised as well.
    """
    from embedprefs.hardware.installed import installed_versions

    names = ("embedprefs", "openvino", "torch", "transformers", "sentence-transformers", *(("nncf",) if int8 else ()))
    return installed_versions(names)
