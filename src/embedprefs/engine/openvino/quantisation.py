"""Weights and activations in int8: post-training quantisation of a converted model with nncf."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.telemetry import import_nncf, import_openvino, without_telemetry
from embedprefs.errors import InputError, InvalidPreferenceError, Problem

if TYPE_CHECKING:
    from embedprefs.engine.tokenising import TextTokenizer

__all__ = ["MOST_TEXTS", "built_in_texts", "quantisation_hash", "quantise"]

logger = logging.getLogger("embedprefs.engine")

#: Texts that are measured; more of them move the ranges little and take proportionally longer.
MOST_TEXTS = 300
#: Tokens of a measured text, at most: ranges hardly depend on the length, and the time does.
_LONGEST = 512
#: Another way of quantising takes another number, so that what is kept is made anew.
_METHOD = 1


def built_in_texts() -> tuple[str, ...]:
    """Return the texts that ranges are measured on where the user gives none: short and long, of many kinds.

    They are questions, statements, instructions, tables, code and lists in several languages and scripts.
    """
    file = resources.files("embedprefs.engine.openvino") / "calibration_texts.txt"
    return tuple(text.strip() for text in file.read_text(encoding="utf-8").split("\n\n") if text.strip())


def quantisation_hash(texts: Sequence[str]) -> str:
    """Return the hash of what a quantisation depends on beside the model, for `conversion_key`.

    Args:
        texts: The texts that ranges are measured on.
    """
    parts = [_METHOD, _LONGEST, MOST_TEXTS, *texts[:MOST_TEXTS]]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", errors="surrogatepass")).hexdigest()


def quantise(converted: Path, folder: Path, texts: Sequence[str], *, tokenizer: TextTokenizer) -> Description:
    """Write a converted model anew with weights and activations in int8.

    Each text is run through the model in float32 and the ranges of the activations are recorded; weights are symmetric,
    activations are not (nncf's preset for transformers). What int8 costs in quality depends on the model and shows in
    retrieval measures rather than in cosines, so compare both with `embedprefs compare`.

    Args:
        converted: Folder of a converted model with full weights.
        folder: An existing folder to write into.
        texts: What ranges are measured on: texts such as will be embedded. The first 300 count.
        tokenizer: The model's tokenizer.

    Returns:
        What was written as `embedprefs.json`.

    Raises:
        InputError: there are no texts.
        InvalidPreferenceError: the model is quantised already, or nncf cannot quantise it.
        MissingExtraError: openvino or nncf is not installed.
        OSError: the folder cannot be written.
    """
    if not texts:
        raise InputError("Quantisation measures ranges on texts, and was given none.\n  Give some hundred texts.")
    openvino, nncf = import_openvino(), import_nncf()
    description = Description.read(converted)
    if description.weights != "full":
        raise InvalidPreferenceError(
            Problem(
                f"The model in {converted} is quantised already.",
                key="compute.weights",
                value="int8",
                fix="Quantise the conversion with full weights.",
            )
        )
    items = _inputs(texts[:MOST_TEXTS], tokenizer, description)
    model = openvino.Core().read_model(converted / Description.MODEL_FILE)
    logger.info("Measuring ranges for int8 on %d texts.", len(items))
    try:
        with without_telemetry(), _quiet(nncf):
            quantised = nncf.quantize(
                model,
                nncf.Dataset(items),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(items),
            )
            openvino.save_model(quantised, folder / Description.MODEL_FILE, compress_to_fp16=False)
    except nncf.errors.ValidationError as error:
        raise InvalidPreferenceError(
            Problem(
                f"nncf cannot quantise this model: {error}",
                key="compute.weights",
                value="int8",
                allowed="full",
                fix='Write weights = "full".',
            )
        ) from error
    written = replace(description, weights="int8", versions={**description.versions, "nncf": str(nncf.__version__)})
    written.write(folder)
    return written


def _inputs(texts: Sequence[str], tokenizer: TextTokenizer, description: Description) -> list[dict[str, Any]]:
    limit = min(_LONGEST, tokenizer.limit or _LONGEST)
    rows = tokenizer.with_limit(limit).tokenise(texts).ids
    ids = [np.asarray(row, dtype=np.int64)[None, :] for row in rows if len(row)]
    return [
        {name: row if name == "input_ids" else np.ones_like(row) for name in description.input_names} for row in ids
    ]


@contextlib.contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """Keep nncf's notes and progress bars off the screen: a library prints nothing."""
    from nncf.common.logging.track_progress import track

    notes = logging.getLogger("nncf")
    level = notes.level
    shown = track.__init__

    def hidden(self: Any, *arguments: Any, **named: Any) -> None:
        shown(self, *arguments, **{**named, "disable": True})

    nncf.set_log_level(logging.ERROR)
    track.__init__ = hidden
    try:
        yield
    finally:
        track.__init__ = shown
        nncf.set_log_level(level or logging.INFO)
