"""What a worker process does: it computes its chunk of texts with the engine of its device, and ends when asked."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedprefs.engine.pipeline import Settings, embed

if TYPE_CHECKING:
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["end_on_sigterm", "vectors_in_worker", "why_not_in_workers"]

#: Seconds between two reminders of a process that was asked to end.
_REMINDED_AFTER = 0.05


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit` does; to be called once, by its main thread.

    The host ends its workers by SIGTERM and waits for them without a limit. Left alone, the signal would leave the
    semaphores that a worker made for the system to find. A handler in Python by itself can miss it: when it comes
    just before the main thread waits for the next texts, the handler runs after that wait, which never ends. So a
    thread, which the system wakes whatever the main thread does, repeats the signal until the process has gone.
    """

    def end(*_arguments: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    if not hasattr(signal, "pthread_kill"):  # Windows, where a process is ended from outside
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    main = threading.main_thread().ident

    def remind() -> None:
        while signal.SIGTERM not in os.read(reading, 64):
            pass
        while main is not None:
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(_REMINDED_AFTER)

    threading.Thread(target=remind, name="embedprefs-end", daemon=True).start()


def why_not_in_workers(model: PreferredSentenceTransformer, further: Mapping[str, Any]) -> str | None:
    """Say, as a clause, why worker processes run the host's own loop; None where each runs the engine.

    Both sides ask: the caller before it divides the texts, and each worker before it computes.

    Args:
        model: The model, or the worker's copy of it.
        further: The call's arguments that the host does not name.
    """
    if model.resolved["compute.backend"] != "torch":
        return "a converted model serves one process"
    if names := set(further) - {"task"}:
        return f"the call passes {', '.join(sorted(names))}"
    if model.token_limit(dict(further)) <= model.special_tokens:
        return "no text fits beside the special tokens"
    return model.why_not_here()


def vectors_in_worker(
    model: PreferredSentenceTransformer, inputs: Sequence[Any], arguments: Mapping[str, Any]
) -> torch.Tensor | None:
    """Return the vectors of a chunk of texts; None where the host's own loop has to compute it.

    Args:
        model: The worker's copy of the model.
        inputs: The chunk.
        arguments: Those of the host's `_inference`.
    """
    named = dict(arguments)
    prompt: str = named.pop("prompt") or ""
    size, device = named.pop("batch_size"), named.pop("device", None)
    normalize, truncate_dim = named.pop("normalize_embeddings"), named.pop("truncate_dim")
    whole = named.pop("output_value") == "sentence_embedding"
    for name in ("show_progress_bar", "save_to_cpu"):
        named.pop(name)
    if not whole or not all(isinstance(item, str) for item in inputs):
        return None
    if device is not None and torch.device(device) != model.device:
        model.to(device)
    if why_not_in_workers(model, named) is not None:
        return None
    full = model.full_dimension
    settings = Settings(
        model.batch_tokens,
        int(size),
        truncate_dim=None if truncate_dim in (None, full) else int(truncate_dim),
        normalize=bool(normalize),
        leaves_prompt_out=bool(prompt) and model.pooling_leaves_prompt_out,
    )
    limit = model.token_limit(named)
    rows = embed(
        inputs,
        tokenizer=model.text_tokenizer(None if limit == float("inf") else int(limit)),
        backend=model.backend_of_call(len(inputs)),
        settings=settings,
        prompt=prompt,
    )
    if settings.batch_tokens is not None:
        model.batch_tokens = min(model.batch_tokens, settings.batch_tokens)
    return torch.from_numpy(np.ascontiguousarray(rows))
