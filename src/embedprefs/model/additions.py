"""What the host's constructor has no argument for, laid over a model that it has loaded: pooling, and an adapter."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from embedprefs.errors import MissingExtraError, ModelFilesError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.resolve import Resolved

__all__ = ["lay_adapter", "set_pooling", "without_weights_bar"]


@contextlib.contextmanager
def without_weights_bar() -> Iterator[None]:
    """Keep the host's bar for reading weights off the screen: a library says nothing of a second's work."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def set_pooling(model: SentenceTransformer, resolved: Resolved) -> None:
    """Replace the host's default pooling by `model.pooling`, for a checkpoint that has no module chain of its own.

    Raises:
        ModelFilesError: the model has no pooling that could be replaced.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    if resolved.facts.modules or resolved.preferences.model.pooling is None:
        return
    for index, module in enumerate(model):
        if isinstance(module, Pooling):
            model[index] = Pooling(module.embedding_dimension, resolved["model.pooling"])
            return
    raise ModelFilesError(
        f"model.pooling is {resolved['model.pooling']}, and {resolved.facts.name} loads without a pooling module.\n"
        "  Leave model.pooling out.",
        model=resolved.facts.name,
    )


def lay_adapter(model: SentenceTransformer, resolved: Resolved) -> bool:
    """Lay the adapter that `model.adapter` names over a model.

    Returns:
        Whether one is named.

    Raises:
        MissingExtraError: peft is not installed.
        ModelFilesError: the adapter is not there, or fits another model.
    """
    adapter = resolved.preferences.model.adapter
    if adapter is None:
        return False
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", extra="peft", needed_for="model.adapter")
    folder = (resolved.preferences.folder / Path(adapter.name).expanduser()).resolve()
    try:
        model.load_adapter(
            str(folder) if folder.is_dir() else adapter.name,
            adapter_kwargs={
                "revision": adapter.revision,
                "local_files_only": resolved["model.local_files_only"],
                "cache_dir": resolved["model.cache_folder"],
            },
        )
    except (OSError, ValueError) as error:
        raise ModelFilesError(
            f"model.adapter.name is {adapter.name}, and it cannot be laid over {resolved.facts.name}: {error}",
            model=adapter.name,
        ) from error
    return True
