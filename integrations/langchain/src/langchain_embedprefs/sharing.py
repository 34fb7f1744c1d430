"""One loaded model for everything in this process that asks for the same one.

Models are the same when their identity and what "auto" became for them are the same; names and paths do not matter. A
model is let go when its last user closes or is collected.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs import (
    EmbedPrefsWarning,
    InvalidPreferenceError,
    PreferenceMismatchError,
    Preferences,
    Problem,
    ResourceError,
    fingerprint,
)
from embedprefs.resolve import Resolved, resolve
from embedprefs.serving import Encoder, automatic_encoder
from langchain_embedprefs.asynchronous import DocumentLane, QueryLane

if TYPE_CHECKING:
    from embedprefs import PreferredSentenceTransformer

__all__ = ["ModelHandle", "SharedModel"]

logger = logging.getLogger("embedprefs.langchain")

Vectors = NDArray[np.float32]

#: Settings that auto takes from the memory that happens to be free: for these, what was stated is compared.
_FROM_FREE_MEMORY = ("compute.batch_tokens", "compute.max_batch_size", "compute.memory_limit")


class SharedModel:
    """What embeds (a model, or its compiled artefact), how many hold it, and the threads that serve event loops."""

    def __init__(self, model: PreferredSentenceTransformer | Encoder, *, loaded_here: bool) -> None:
        self.model = model
        self.loaded_here = loaded_here
        self.users = 0

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents, with the document prompt; shape (texts, dimensions), float32."""
        return _float32(self.model.encode_document(list(texts), convert_to_numpy=True))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, with the query prompt; shape (texts, dimensions), float32."""
        return _embed_queries(self.model, texts)

    # The lanes hold the model and not this object: nothing has to be collected for their threads to end.

    @cached_property
    def queries(self) -> QueryLane:
        """Serves queries from event loops."""
        return QueryLane(partial(_embed_queries, self.model), "embedprefs-queries")

    @cached_property
    def documents(self) -> DocumentLane:
        """Serves documents from event loops."""
        return DocumentLane(partial(_embed_groups, self.model), "embedprefs-documents")


def _embed_queries(model: PreferredSentenceTransformer | Encoder, texts: Sequence[str]) -> Vectors:
    return _float32(model.encode_query(list(texts), convert_to_numpy=True))


def _embed_groups(
    model: PreferredSentenceTransformer | Encoder, texts: Sequence[str], group_size: int
) -> Iterator[Vectors]:
    for _, vectors in model.embed_stream(texts, role="document", chunk_size=group_size):
        yield _float32(vectors)


def _float32(vectors: Any) -> Vectors:
    return np.asarray(vectors, dtype=np.float32)


class _Process:
    """What belongs to this process; a forked child starts with an empty one."""

    def __init__(self, *, forked_from_torch: bool = False) -> None:
        #: Guards the tables.
        self.lock = threading.Lock()
        #: Held while a model is loaded: two at once would take the memory of both at its peak.
        self.loading = threading.RLock()
        self.loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedprefs-load")
        self.by_key: dict[str, SharedModel] = {}
        self.forked_from_torch = forked_from_torch


_process = _Process()
_handles: weakref.WeakSet[ModelHandle] = weakref.WeakSet()


def _start_anew_in_child() -> None:
    """Forget the parent's threads, locks and models: a lock may be held by a thread that the child does not have."""
    global _process  # noqa: PLW0603 - the one value that says whose process this is
    _process = _Process(forked_from_torch="torch" in sys.modules)
    for handle in list(_handles):
        handle.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)


class ModelHandle:
    """What one embeddings object holds of a model: loads it at the first use, shares it, lets go of it."""

    def __init__(
        self,
        source: Preferences | PreferredSentenceTransformer,
        *,
        expected_fingerprint: str | None = None,
    ) -> None:
        """Take preferences, or a model that is loaded already.

        Args:
            source: Either of them.
            expected_fingerprint: Refuse a model of another identity; None accepts any.
        """
        self._source = source
        self._expected = expected_fingerprint
        self._resolved: Resolved | None = None
        self._lock = threading.RLock()
        self._shared: SharedModel | None = None
        self._beside: PreferredSentenceTransformer | None = None
        self._end: Any = None
        _handles.add(self)

    @property
    def handed_in(self) -> PreferredSentenceTransformer | None:
        """The model that came from outside; None where preferences name one."""
        source: Any = self._source
        return None if isinstance(source, Preferences) else source

    @property
    def preferences(self) -> Preferences:
        """The preferences of the model."""
        return self._source if isinstance(self._source, Preferences) else self._source.preferences

    @property
    def resolved(self) -> Resolved:
        """The effective preferences on this machine; no weights are read for them."""
        if self._resolved is None:
            model = self.handed_in
            self._resolved = model.resolved if model is not None else resolve(self.preferences)
        return self._resolved

    @property
    def loaded(self) -> bool:
        """Whether this handle holds a model in memory."""
        return self._shared is not None

    def get(self) -> SharedModel:
        """The model; loaded at the first use, or taken from what this process has loaded already."""
        shared = self._shared
        if shared is not None:
            return shared
        with self._lock:
            if self._shared is None:
                shared = self._acquired()
                self._shared = shared
                self._end = weakref.finalize(self, _let_go, shared)
                # At the end of the process memory is freed anyway.
                self._end.atexit = False
            return self._shared

    def sentence_transformer(self) -> PreferredSentenceTransformer:
        """The model itself, loaded beside the compiled artefact where that is what embeds."""
        model = self.get().model
        if not isinstance(model, Encoder):
            return model
        with self._lock:
            if self._beside is None:
                from embedprefs import load_model

                self._beside = load_model(self.preferences)
            return self._beside

    async def aget(self) -> SharedModel:
        """The model, without holding up the event loop while it is loaded."""
        if self._shared is not None:
            return self._shared
        return await asyncio.wrap_future(_process.loader.submit(self.get))

    def release(self) -> None:
        """Let go of the model; the next use takes it up again."""
        with self._lock:
            free_cache = self._end is not None and self._end()
            self._end = self._shared = self._beside = None
        if free_cache:
            import torch

            # What torch's allocator keeps for reuse would stay taken from other processes.
            torch.cuda.empty_cache()

    def start_anew(self) -> None:
        """Forget what another process held."""
        self._lock = threading.RLock()
        if self._end is not None:
            self._end.detach()
        self._end = self._shared = self._beside = None

    def _acquired(self) -> SharedModel:
        with _process.loading:
            model = self.handed_in
            shared = self._around(model) if model is not None else self._by_key()
            self._require_expected(shared.model)
            with _process.lock:
                shared.users += 1
            return shared

    def _around(self, model: PreferredSentenceTransformer) -> SharedModel:
        if _process.forked_from_torch and not isinstance(model, Encoder) and model.device.type == "cpu":
            return self._single_threaded(model.preferences, model)
        with _process.lock:
            return _process.by_key.setdefault(f"handed in {id(model)}", SharedModel(model, loaded_here=False))

    def _by_key(self) -> SharedModel:
        resolved = self.resolved
        _refuse_packed(resolved)
        if _process.forked_from_torch and resolved.devices == ("cpu",):
            return self._single_threaded(self.preferences, None)
        return _loaded_once(self.preferences, resolved)

    @staticmethod
    def _single_threaded(preferences: Preferences, model: PreferredSentenceTransformer | None) -> SharedModel:
        """In a child forked from a process that uses torch: its threads on the CPU never answer there."""
        import torch

        if model is not None and not model.is_as_loaded():
            raise ResourceError(
                "This process was forked from one that uses torch, and the model was changed since it was loaded, so "
                "that it can neither run here (torch's threads do not survive a fork) nor be loaded again.\n"
                '  Start the process with the method "spawn", or save the model and load it here.'
            )
        torch.set_num_threads(1)
        warnings.warn(
            "This process was forked from one that uses torch, whose threads do not survive a fork: it computes with "
            'one thread. Start processes with the method "spawn" to use all of them.',
            EmbedPrefsWarning,
            stacklevel=2,
        )
        preferences = _with_one_thread(preferences)
        return _loaded_once(preferences, resolve(preferences))

    def _require_expected(self, model: PreferredSentenceTransformer | Encoder) -> None:
        if self._expected is not None and model.fingerprint != self._expected:
            raise PreferenceMismatchError(
                f"The model {model.preferences.model.name} has the fingerprint {model.fingerprint}, and these "
                f"embeddings expect {self._expected}: other vectors would come out than before.\n"
                "  Use the model and preferences they were made with (pin model.revision), or leave out "
                "expected_fingerprint.",
                left={"fingerprint": self._expected},
                right={"fingerprint": model.fingerprint},
                differences=["fingerprint"],
            )


def _with_one_thread(preferences: Preferences) -> Preferences:
    compute = preferences.compute.model_copy(update={"threads": 1})
    changed = preferences.model_copy(update={"compute": compute})
    return changed.with_origins(preferences.origins, preferences.file)


def _loaded_once(preferences: Preferences, resolved: Resolved) -> SharedModel:
    from embedprefs import load_model

    key = _key(resolved)
    with _process.lock:
        shared = _process.by_key.get(key)
    if shared is None:
        shared = SharedModel(automatic_encoder(resolved) or load_model(preferences), loaded_here=True)
        logger.info("loaded %s", preferences.model.name)
        with _process.lock:
            _process.by_key[key] = shared
    return shared


def _key(resolved: Resolved) -> str:
    """What two models must have in common to be one."""
    values = {key: choice.value for key, choice in resolved.choices.items() if key.startswith("compute.")}
    values |= {key: resolved.preferences.get(key) for key in _FROM_FREE_MEMORY}
    values |= {"on_overflow": resolved["tokenizer.on_overflow"], "prompts": resolved.prompts}
    return f"{fingerprint(resolved)} {json.dumps(values, sort_keys=True, default=str)}"


def _refuse_packed(resolved: Resolved) -> None:
    precision = resolved["vectors.precision"]
    if precision in ("binary", "ubinary"):
        raise InvalidPreferenceError(
            Problem(
                f'vectors.precision is "{precision}", which packs eight dimensions into a number; what takes vectors '
                "from LangChain would compare these numbers as if they were dimensions.",
                key="vectors.precision",
                value=precision,
                allowed="float32, int8 or uint8",
                fix="Leave the precision at float32, and let the vector store quantise "
                '(quantization = "binary" in [index]).',
            )
        )


def _let_go(shared: SharedModel) -> bool:
    """Count one user less; whether that freed memory of a GPU."""
    with _process.lock:
        shared.users -= 1
        if shared.users:
            return False
        for key, held in list(_process.by_key.items()):
            if held is shared:
                del _process.by_key[key]
        return shared.loaded_here and _is_on_cuda(shared.model)


def _is_on_cuda(model: PreferredSentenceTransformer | Encoder) -> bool:
    device = getattr(model, "device", None)  # a compiled artefact computes on the processor
    return device is not None and device.type == "cuda"
