"""Kept vectors beside a loaded model: when one of them may stand for what the model would compute."""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedprefs.cache import CacheSpace, EmbeddingCache, Role, is_suspended, open_cache
from embedprefs.errors import EmbedPrefsError, EmbedPrefsWarning, PreferenceMismatchError
from embedprefs.model.changes import chain_of, signs_of_change

if TYPE_CHECKING:
    from embedprefs.model.encoding import CallArguments
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["CallCache", "cache_of_call", "is_cached"]

logger = logging.getLogger("embedprefs.model")

#: Texts of a call from which on every weight is compared, bit by bit: then it takes a small part of the time.
_MANY_TEXTS = 64


@dataclass(frozen=True)
class CallCache:
    """The cache as one call uses it."""

    cache: EmbeddingCache
    space: CacheSpace
    dimension: int | None
    model: PreferredSentenceTransformer
    signs: tuple[Any, ...]

    def get(self, texts: Sequence[str]) -> dict[int, NDArray[np.float32]]:
        """Return position -> vector for the texts that are kept."""
        return self.cache.get(self.space, texts, dimension=self.dimension)

    def put(self, texts: Sequence[str], rows: Any) -> None:
        """Keep what was computed: an array or a tensor of shape (texts, dimensions).

        Vectors in another format than float32 are not kept, nor are those of a model that was changed meanwhile.
        """
        vectors = rows.detach().cpu().numpy() if rows.dtype == torch.float32 else rows
        if vectors.dtype == np.float32 and signs_of_change(self.model) == self.signs:
            self.cache.put(self.space, texts, vectors)


def cache_of_call(
    model: PreferredSentenceTransformer,
    arguments: CallArguments,
    preferred: CallArguments,
    *,
    prompt: str,
    texts: int,
) -> CallCache | None:
    """Return the cache for one call; None where it would not hold what the call asks for.

    Args:
        model: The model, with `compute.cache`.
        arguments: The arguments of the call, with the preferences filled in.
        preferred: What the preferences alone would fill in.
        prompt: The prompt that is put before each text.
        texts: How many distinct texts there are.
    """
    kept = _kept_vectors(model)
    task = arguments.kwargs.get("task")
    same = (
        arguments.output_value == preferred.output_value
        and arguments.truncate_dim == preferred.truncate_dim
        and arguments.normalize_embeddings == preferred.normalize_embeddings
        and arguments.device is None
        and not set(arguments.kwargs) - {"task"}
    )
    state = kept.state(model, thorough=texts >= _MANY_TEXTS) if same else None
    if state is None:
        return None
    roles: dict[Any, Role] = {"query": "query", "document": "document"}
    role = roles.get(task) or roles.get(arguments.prompt_name) or "plain"
    numerics = {**state.numerics, **_numerics_of_process(model)}
    space = CacheSpace(state.fingerprint, numerics, role, prompt, task)
    dimension = arguments.truncate_dim if isinstance(arguments.truncate_dim, int) else model.full_dimension
    return CallCache(kept.cache, space, dimension, model, state.signs)


def _numerics_of_process(model: PreferredSentenceTransformer) -> dict[str, Any]:
    """Return what moves a vector by rounding and is set outside of the preferences."""
    kind = model.device.type
    around = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
    return {"device": kind, "matmul_precision": torch.get_float32_matmul_precision(), "autocast_around": around}


@dataclass(frozen=True)
class _State:
    """A model that was compared with what was loaded, and found the same."""

    signs: tuple[Any, ...]
    fingerprint: str
    numerics: Mapping[str, Any]


class _KeptVectors:
    """The cache of one model, and whether the model is still the one whose vectors are kept there."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self.cache = cache
        self._lock = threading.Lock()
        self._signs: tuple[Any, ...] | None = None
        self._state: _State | None = None
        self._said: set[str] = set()

    def state(self, model: PreferredSentenceTransformer, *, thorough: bool) -> _State | None:
        """Return the model's identity; None while it is not what was loaded.

        Every weight is compared at the first call, where something shows a sign of change, and where it is asked for.
        """
        with self._lock:
            signs = signs_of_change(model)
            if signs != self._signs or (thorough and self._state is not None):
                self._signs, self._state = signs, self._compared(model, signs)
            elif self._state is not None and model.settings_that_changed():
                return None
            return self._state

    def _compared(self, model: PreferredSentenceTransformer, signs: tuple[Any, ...]) -> _State | None:
        if model.untrained:
            return None  # random weights, which are others each time
        if chain_of(model) != model.loaded_chain:
            self._say("A module or setting of the model was changed after loading, so that no kept vector is used.")
            return None
        try:
            record = model.record
        except PreferenceMismatchError as error:
            self._say(f"No kept vector is used: {error}")
            return None
        except EmbedPrefsError as error:
            if str(error) not in self._said:
                warnings.warn(f"No vectors are kept: {error}", EmbedPrefsWarning, stacklevel=_CALLER)
            self._say(str(error))
            return None
        return _State(signs, record.fingerprint, record.numerics)

    def _say(self, message: str) -> None:
        """Log once; the report counts every text."""
        if message not in self._said:
            self._said.add(message)
            logger.info("%s", message)


#: Frames between the code that called `encode` and the place that warns.
_CALLER = 10

_by_model: weakref.WeakKeyDictionary[PreferredSentenceTransformer, _KeptVectors] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _kept_vectors(model: PreferredSentenceTransformer) -> _KeptVectors:
    resolved = model.resolved
    with _lock:
        if model not in _by_model:
            cache = open_cache(resolved["compute.cache"], size_limit=resolved["compute.cache_size"])
            _by_model[model] = _KeptVectors(cache)
        return _by_model[model]


def is_cached(model: PreferredSentenceTransformer) -> bool:
    """Tell whether the preferences keep vectors, and this is not within `without_cache`."""
    return model.resolved["compute.cache"] is not False and not is_suspended()
