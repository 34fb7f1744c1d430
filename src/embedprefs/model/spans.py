"""Spans of one text, embedded by a loaded model: prompt, modules behind the pooling, truncation, precision."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from embedprefs.engine.spans import checked_call, no_spans, pool_spans, require_mean
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.model.report import EncodeReport, is_unreported

if TYPE_CHECKING:
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["embed_spans"]


def embed_spans(
    model: PreferredSentenceTransformer,
    text: str,
    spans: Iterable[Sequence[int]],
    role: str,
    prompt: str | None,
    prompt_name: str | None,
) -> Any:
    """Embed spans of a text; arguments, result and errors are those of `PreferredSentenceTransformer.embed_spans`."""
    began = time.perf_counter()
    found = checked_call(text, spans, role)
    pooling = _pooling(model)
    _require_calibration(model)
    if prompt is None and prompt_name is None:
        prompt_name = role
    put = model.prompt_of_call(prompt, prompt_name) or ""
    limit = model.token_limit({"task": model.resolved["prompts.task"] or role})
    tokenizer = model.text_tokenizer(None if limit == float("inf") else int(limit))
    report = EncodeReport(calls=1, texts=1, untrained=model.untrained)
    with model.guarded(None, None), _evaluating(model):
        backend = model.backend_of_call(1)
        pooled = pool_spans(
            text,
            found,
            tokenizer=tokenizer,
            backend=backend,
            prompt=put,
            includes_prompt=pooling.include_prompt,
            overlap=model.resolved["tokenizer.window_overlap"],
        )
        rows = _finished(model, pooled.vectors, report)
    report.backend, report.numerics = backend.name, backend.numerics
    report.tokens, report.batches = pooled.tokens, pooled.windows
    if pooled.windows > 1:
        report.windowed, report.windows = 1, pooled.windows
    report.seconds = time.perf_counter() - began
    if not is_unreported():
        model.report_book.add(report)
    return rows


def _pooling(model: PreferredSentenceTransformer) -> Pooling:
    """Return the model's pooling, which has to be the mean: of other poolings a part of a text has none."""
    reason = model.why_not_here() if not model.training else None
    second = list(model)[1] if len(model) > 1 else None
    if reason is None and not isinstance(second, Pooling):
        reason = "its first module is not followed by a pooling of token vectors"
    if reason is not None:
        raise no_spans(reason)
    assert isinstance(second, Pooling)  # noqa: S101 - said above
    mode = second.pooling_mode
    require_mean((mode,) if isinstance(mode, str) else mode)
    return second


def _require_calibration(model: PreferredSentenceTransformer) -> None:
    precision = model.resolved["vectors.precision"]
    if precision in ("int8", "uint8") and model.calibration is None:
        raise InvalidPreferenceError(
            Problem(
                f'precision "{precision}" needs ranges, and vectors.calibration names none.',
                key="vectors.calibration",
                fix="Run embedprefs calibrate TEXTS, and name its file in vectors.calibration.",
            )
        )


class _evaluating:  # noqa: N801 - used like a function
    """Take a model's modules out of training, and put those back that were in it."""

    def __init__(self, model: PreferredSentenceTransformer) -> None:
        self._modules = model.modules_in_training()

    def __enter__(self) -> None:
        for module in self._modules:
            module.training = False

    def __exit__(self, *_error: object) -> None:
        for module in self._modules:
            module.training = True


def _finished(model: PreferredSentenceTransformer, pooled: Any, report: EncodeReport) -> Any:
    """Run what follows the pooling, and cut, scale and quantise as the preferences say."""
    resolved = model.resolved
    if not len(pooled):
        pooled = np.empty((0, model[1].embedding_dimension), dtype=np.float32)
    with torch.inference_mode():
        features = {"sentence_embedding": torch.from_numpy(pooled).to(model.device)}
        for module in list(model)[2:]:
            features = module(features)
        rows = features["sentence_embedding"].float()
        cut = model.truncate_dim
        is_cut = cut is not None and cut < rows.shape[1]
        rows = rows[:, :cut]
        if resolved["vectors.normalize"] and (is_cut or not model.chain_normalizes):
            rows = torch.nn.functional.normalize(rows, p=2, dim=1)
        vectors = rows.cpu().numpy()
    precision = resolved["vectors.precision"]
    if precision in ("int8", "uint8") and model.calibration is not None:
        vectors, clipped = model.calibration.quantize(vectors, precision)
        report.clipped += clipped
    elif precision in ("binary", "ubinary"):
        from sentence_transformers.util.quantization import quantize_embeddings

        vectors = quantize_embeddings(vectors, precision=precision)
    return vectors
