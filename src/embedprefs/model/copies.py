"""Pickles that carry preferences instead of weights, while these say the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedprefs.errors import PreferenceMismatchError

if TYPE_CHECKING:
    from embedprefs.model.preferred import PreferredSentenceTransformer
    from embedprefs.preferences import Preferences

__all__ = ["reduced", "weights_travel"]

_local = threading.local()


@contextmanager
def weights_travel() -> Iterator[None]:
    """Within this block, models are pickled with their weights: worker processes get them through shared memory."""
    before = getattr(_local, "weights_travel", False)
    _local.weights_travel = True
    try:
        yield
    finally:
        _local.weights_travel = before


def reduced(model: PreferredSentenceTransformer) -> tuple[Any, ...] | None:
    """Return how to pickle a model by its preferences; None where its weights have to travel.

    They travel where they are not what was loaded (trained, replaced, converted), where they are random, and where
    something else was set on the model since.
    """
    if getattr(_local, "weights_travel", False) or not model.is_as_loaded():
        return None
    return _loaded_again, (model.preferences, model.fingerprint, model.training)


def _loaded_again(preferences: Preferences, fingerprint: str, training: bool) -> PreferredSentenceTransformer:
    from embedprefs.model.loading import load_model

    model = load_model(preferences)
    if model.fingerprint != fingerprint:
        raise PreferenceMismatchError(
            f"{preferences.model.name} is another model here than where it was pickled: its fingerprint is "
            f"{model.fingerprint}, and was {fingerprint}.\n"
            "  Pin model.revision, or carry the weights: save_pretrained there, load_model here.",
            left={"fingerprint": fingerprint},
            right={"fingerprint": model.fingerprint},
            differences=["fingerprint"],
        )
    model.train(training)
    return model
