"""Whether a loaded model is computed without padding, and what speaks against it where it is not."""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers.sentence_transformer.modules import Pooling

from embedprefs.engine.attention import SUPPORTED as LOCAL_MODEL_TYPES
from embedprefs.engine.exactness import (
    CLOSE_COSINE,
    EXACT_DIFFERENCE,
    Measurement,
    is_exact_enough,
    kept_measurement,
    measure,
    measured,
)
from embedprefs.engine.gpu import ATTENTION
from embedprefs.engine.gpu.architectures import first_position, objection_to_config
from embedprefs.engine.gpu.attention import kernel_problem
from embedprefs.engine.gpu.backend import PackedBackend
from embedprefs.engine.gpu.compiled import CompiledTransformer
from embedprefs.engine.gpu.pooling import POOLINGS
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.selection import Engine
from embedprefs.engine.torch_backend import TorchBackend, why_unfamiliar
from embedprefs.errors import EmbedPrefsWarning, ResourceError
from embedprefs.model.callers import warn_caller

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from embedprefs.engine.backend import Backend
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.resolve import Resolved

__all__ = ["packed_engine", "why_not_packed"]

logger = logging.getLogger("embedprefs.engine")


def why_not_packed(model: Any) -> str | None:
    """Say, as a clause, why a loaded model is computed with padding; None where it need not be.

    The check takes microseconds, so that every call may make it.

    Args:
        model: A `SentenceTransformer`.
    """
    if why := why_unfamiliar(model):
        return why
    modules = list(model._modules.values())  # noqa: SLF001 - torch's own dictionary; iterating the model costs more
    first: Any = modules[0]
    pooling: Any = modules[1] if len(modules) > 1 else None
    if getattr(first.config, "_attn_implementation", None) != ATTENTION:
        return f"its attention was changed to {first.config._attn_implementation}"  # noqa: SLF001 - no public reader
    if type(pooling) is not Pooling or any(type(module) is Pooling for module in modules[2:]):
        return "its modules are not a Transformer, one Pooling and what follows"
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        return f"the pooling {unknown[0]} is not one that is known"
    hooked = model._forward_hooks or model._forward_pre_hooks or pooling._forward_hooks or pooling._forward_pre_hooks  # noqa: SLF001
    if hooked or model._compiled_call_impl is not None:  # noqa: SLF001 - torch has no public readers of these
        return "it is called as a whole: it has hooks, or was compiled"
    if first.model_forward_params is not None:
        return "its transformer takes no further arguments"
    if first.tokenizer.padding_side == "left":
        return "it is padded on the left"
    return None


def packed_engine(
    model: Any,
    resolved: Resolved,
    *,
    torch_backend: Backend,
    tokenizer: TextTokenizer,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Engine:
    """Return an engine without padding, measured at first use; the modules with padding, where it cannot be had.

    Args:
        model: The loaded model.
        resolved: The effective preferences; `compute.attention` is varlen.
        torch_backend: The modules with padding.
        tokenizer: Tokenises the probe texts.
        autocast: Returns the context in which the modules run.

    Warns:
        EmbedPrefsWarning: texts are padded after all, with what was measured or what went wrong; or the number format
            that "auto" took is further from float32 than `compute.exactness` allows.
    """
    on_cpu = model.device.type == "cpu"
    why = why_not_packed(model) or objection_to_config(model[0].config.to_dict())
    why = why or (None if on_cpu else kernel_problem())
    if why is None:
        compiled = CompiledTransformer(model.batch_tokens) if resolved["compute.compile"] and not on_cpu else None
        try:
            backend = PackedBackend(
                model, first_position=first_position(model[0].config), autocast=autocast, compiled=compiled
            )
            _first_batch(backend)
            found = _measured(model, resolved, backend, padded=torch_backend, tokenizer=tokenizer)
        except _UnlikePaddedError as error:
            why = str(error)
        except Exception as error:  # a kernel may raise anything, and padded texts give the same vectors
            logger.info("texts cannot be computed without padding", exc_info=True)
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            return Engine(backend, resolved.choice("compute.attention").reason, found)
    warn_caller(
        f"Texts are padded, and not computed without padding as it was meant to be: {why}.\n"
        '  Write attention = "sdpa" under [compute] to keep to padding without this warning.'
    )
    instead = "local" if model[0].config.model_type in LOCAL_MODEL_TYPES else "sdpa"
    return Engine(torch_backend, f"Padded: {why}.", attention=instead)


class _UnlikePaddedError(Exception):
    """Texts have other vectors without padding than with it."""


def _measured(
    model: Any, resolved: Resolved, backend: PackedBackend, *, padded: Backend, tokenizer: TextTokenizer
) -> Measurement | None:
    """Return how close vectors are to float32; None where no float32 of the same weights can be had.

    In float32 the modules with padding are what is compared with. In half precision the files are loaded once more in
    float32, and the result is kept, so that this happens once. Where that is not possible, or the vectors are not close
    enough, they are compared with padded texts in the same format: does the way differ, or only the format?

    Raises:
        _UnlikePaddedError: the way differs.
    """
    if backend.numerics == "float32":
        found = (
            measure(backend, padded, tokenizer)  # no two models without training have the same weights
            if model.untrained
            else measured(resolved, backend, reference=padded, tokenizer=tokenizer)
        )
        _require_agreement(found, resolved, backend)
        return found
    against_float32 = _against_float32(model, resolved, backend, tokenizer)
    exactness = "fast" if resolved["compute.exactness"] == "fast" else "close"
    if against_float32 is not None and is_exact_enough(against_float32, exactness, backend.numerics):
        return against_float32
    _require_agreement(measure(backend, padded, tokenizer), resolved, backend)
    if against_float32 is not None and resolved.preferences.compute.dtype == "auto":
        warn_caller(
            f"{backend.numerics}: {against_float32.against(exactness)}.\n"
            f'  Write dtype = "float32" under [compute] for exact vectors, or dtype = "{backend.numerics}" to keep to '
            "this without the warning."
        )
    return against_float32


def _against_float32(
    model: Any, resolved: Resolved, backend: PackedBackend, tokenizer: TextTokenizer
) -> Measurement | None:
    """Compare with the same files in float32; None where they are not what is loaded, or do not fit beside it."""
    if model.untrained or not model.is_as_loaded():
        return None
    kept = kept_measurement(resolved, backend.name, backend.numerics)
    if kept is not None:
        return kept
    from embedprefs.model.loading import load_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)  # they were said of this model already
            exact = load_model(
                resolved.preferences,
                overrides={
                    "compute.device": str(model.device),
                    "compute.backend": "torch",
                    "compute.dtype": "float32",
                    "compute.attention": "auto",
                    "compute.compile": False,
                    "compute.workers": 1,
                },
                facts=resolved.facts,
                hardware=resolved.hardware,
            )
        reference = TorchBackend(exact, autocast=nullcontext)
        return measured(resolved, backend, reference=reference, tokenizer=tokenizer)
    except Exception as error:
        if not (isinstance(error, ResourceError) or is_out_of_memory(error)):
            raise
        logger.info("there is no room for float32 beside %s: %s", backend.numerics, error)
        return None


def _require_agreement(found: Measurement, resolved: Resolved, backend: PackedBackend) -> None:
    """Raise where vectors are not those of padded texts, but for rounding.

    In float32 that is the bound of "exact", whatever is asked for. In half precision both sides round: where each has
    the cosine of "close" to float32, the angle between them is at most twice as large, and 1 - cosine four times.
    """
    if backend.numerics == "float32":
        agrees = found.difference <= EXACT_DIFFERENCE
    elif resolved["compute.exactness"] == "fast":
        agrees = is_exact_enough(found, "fast", backend.numerics)
    else:
        agrees = found.cosine >= 1 - 4 * (1 - CLOSE_COSINE)
    if not agrees:
        raise _UnlikePaddedError(
            f"to padded texts in {backend.numerics} the smallest cosine is {found.cosine:.5f} and the largest "
            f"difference {found.difference:.1e}, which is more than rounding"
        )


def _first_batch(backend: PackedBackend) -> None:
    """Compute something, so that a kernel that does not run here says so now: a measurement may have been kept."""
    backend.submit([np.zeros(8, dtype=np.int32)]).result()
