"""Spans of one text, embedded by an encoder: what the model's `embed_spans` gives, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.spans import checked_call, no_spans, pool_spans, require_mean
from embedprefs.errors import ModelFilesError
from embedprefs.model.report import EncodeReport, is_unreported
from embedprefs.serving.artefact import CHAIN_FILE
from embedprefs.serving.call import in_precision, prompt_of, require_calibration

if TYPE_CHECKING:
    from embedprefs.engine.numpy_chain import NumpyChain
    from embedprefs.facts.model_facts import ModuleFacts
    from embedprefs.serving.encoder import Encoder

__all__ = ["embed_spans", "modules_behind_pooling"]

Floats = NDArray[np.float32]


def embed_spans(
    encoder: Encoder,
    text: str,
    spans: Iterable[Sequence[int]],
    role: str,
    prompt: str | None,
    prompt_name: str | None,
) -> Any:
    """Embed spans of a text; arguments, result and errors are those of `Encoder.embed_spans`."""
    began = time.perf_counter()
    found = checked_call(text, spans, role)
    encoding, backend = encoder.encoding, encoder.backend
    if backend.name == "numpy":
        raise no_spans("its first module is not followed by a pooling of token vectors")
    chain = encoder.modules_behind_pooling
    require_mean(chain.poolings)
    require_calibration(encoder, encoding.precision)
    if prompt is None and prompt_name is None:
        prompt_name = role
    report = EncodeReport(calls=1, texts=1, backend=backend.name, numerics=backend.numerics)
    pooled = pool_spans(
        text,
        found,
        tokenizer=encoder.text_tokenizer(role),
        backend=backend,
        prompt=prompt_of(encoding, prompt, prompt_name),
        includes_prompt=encoding.include_prompt,
        overlap=encoder.resolved["tokenizer.window_overlap"],
    )
    rows = in_precision(encoder, _finished(encoder, chain, pooled.vectors), encoding.precision, report)
    report.tokens, report.batches = pooled.tokens, pooled.windows
    if pooled.windows > 1:
        report.windowed, report.windows = 1, pooled.windows
    report.seconds = time.perf_counter() - began
    if not is_unreported():
        encoder.report_book.add(report)
    return rows


def _finished(encoder: Encoder, chain: NumpyChain, pooled: Floats) -> Floats:
    """Run what follows the pooling, and cut and scale as the preferences say."""
    encoding = encoder.encoding
    if not len(pooled):
        return np.empty((0, encoder.get_embedding_dimension()), dtype=np.float32)
    rows = pooled
    for step in chain.steps:
        rows = step(rows)
    cut = encoding.truncate_dim
    rows = rows[:, :cut]
    if encoding.normalize and (cut is not None or not encoding.chain_normalizes):
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return np.ascontiguousarray(rows, dtype=np.float32)


def modules_behind_pooling(encoder: Encoder) -> NumpyChain:
    """Return the poolings of an encoder's model, and what follows them, from its artefact.

    Raises:
        ModelFilesError: modules behind the pooling have weights, and the artefact was written before these were kept.
    """
    from dataclasses import replace

    from embedprefs.engine.numpy_chain import NumpyChain

    resolved = encoder.resolved
    stated = resolved["model.pooling"]
    chain = NumpyChain.from_facts(resolved.facts, _weights_of(encoder))
    return replace(chain, poolings=(stated,)) if stated is not None else chain


def _weights_of(encoder: Encoder) -> Any:
    """Return what gives the weights of a module behind the pooling."""
    file = encoder.folder / CHAIN_FILE

    def weights(module: ModuleFacts) -> Mapping[str, Floats]:
        if not file.is_file():
            raise ModelFilesError(
                f"{encoder.folder}: the artefact was written before it kept the weights of {module.kind}, which "
                "embed_spans needs.\n  Write the artefact again: embedprefs compile --force.",
                file=file,
            )
        with np.load(file, allow_pickle=False) as kept:
            prefix = f"{module.path}/"
            return {name.removeprefix(prefix): kept[name] for name in kept.files if name.startswith(prefix)}

    return weights
