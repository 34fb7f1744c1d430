"""What runs the texts of a loaded model: its engine, its tokenizer, and when neither may be used."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

from embedprefs.engine.selection import Engine, select_engine
from embedprefs.engine.tokenising import TextTokenizer
from embedprefs.engine.torch_backend import TorchBackend, why_unfamiliar
from embedprefs.model.callers import warn_caller
from embedprefs.model.changes import chain_of, signs_of_change
from embedprefs.model.structure import Structure
from embedprefs.model.weights import weights_digest

if TYPE_CHECKING:
    from embedprefs.engine.backend import Backend
    from embedprefs.model.guard import CallGuard
    from embedprefs.resolve import Resolved

__all__ = ["RunsTexts", "is_forked_from_torch"]

#: Texts of a call from which on the weights are looked at more closely before a converted backend stands for them: it
#: takes a millisecond, and then a small part of the time.
_MANY_TEXTS = 16
#: Seconds since the last closer look after which a call of few texts takes one, too: a hundredth of the time of queries
#: that follow each other, and what was changed unseen is found by the next one that follows a pause.
_LOOK_AGAIN = 0.1

#: The models of this process, to be set up anew in a forked child.
_models: weakref.WeakSet[RunsTexts] = weakref.WeakSet()
_forked_from_torch = False
#: What a forked child was born with: to free a backend there would wait for threads that only the parent has.
_inherited: list[_Running] = []


def is_forked_from_torch() -> bool:
    """Tell whether this process was forked from one that had torch loaded: torch's threads are not in the copy."""
    return _forked_from_torch


def _start_anew_in_child() -> None:
    """Give every model new locks and no engine: a lock may be held by a thread that the child does not have."""
    global _forked_from_torch  # noqa: PLW0603 - it says whose process this is
    _forked_from_torch = True
    for model in list(_models):
        model.start_anew_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_start_anew_in_child)


class RunsTexts:
    """The engine of a loaded model; a part of `PreferredSentenceTransformer`."""

    _resolved: Resolved | None
    _running: _Running
    _guard: CallGuard
    _loaded_weights: dict[str, tuple[Any, ...]] | None

    if TYPE_CHECKING:
        training: bool
        device: torch.device

        @property
        def resolved(self) -> Resolved:
            """The effective preferences."""

        def _autocast(self) -> AbstractContextManager[Any]: ...

        def _start_transient_state(self) -> None: ...

        def __getitem__(self, place: int) -> Any: ...

    def start_anew_in_child(self) -> None:
        """Leave locks and threads of the process that this one was forked from alone, and begin without them."""
        _inherited.append(self._running)
        self._start_transient_state()

    def one_thread(self) -> int:
        """Return the number of threads in a process that was forked from one that uses torch, and say why.

        The libraries that spread torch's work over threads wait for ever there for threads that only the parent has.
        """
        if not self._running.said_forked:
            self._running.said_forked = True
            warn_caller(
                "This process was forked from one that uses torch, whose threads do not survive a fork: it computes "
                'with one thread. Start processes with the method "spawn" to use all of them.'
            )
        return 1

    def start_engine(self) -> None:
        """Begin without an engine; it is chosen when it is first asked for."""
        self._running = _Running()
        _models.add(self)

    @property
    def engine(self) -> Engine:
        """What runs the model's texts: backend, numerics, and how close its vectors are to float32.

        It is chosen when it is first asked for, which the first text does. A model that is trained or changed after
        loading runs on torch: where that comes later, whatever this says. The report of a call says what ran.

        Warns:
            EmbedPrefsWarning: a faster backend was refused; the message says why.
        """
        running = self._running
        if running.engine is None:
            with running.lock:
                if running.engine is None:
                    running.engine = self._chosen()
        return running.engine

    def _chosen(self) -> Engine:
        model: Any = self
        resolved = self.resolved
        running = self._running
        if running.torch is None:
            running.torch = TorchBackend(model, autocast=self._autocast)
        if why := why_unfamiliar(model):
            return Engine(running.torch, f"The host's own loop, because {why}.")
        backend = resolved["compute.backend"]
        if backend == "torch" and resolved["compute.attention"] != "varlen":
            return Engine(running.torch, resolved.choice("compute.backend").reason)
        if not self._computes_what_was_loaded():
            # What would be converted and measured is kept under the name of what was loaded.
            other = "without padding" if backend == "torch" else f"on {backend}"
            reason = f"The model was changed after loading, so that it runs on torch and not {other}."
            running.said_changed = True
            warn_caller(f"{reason} Save it and load it again to run it there.")
            return Engine(running.torch, reason)
        if backend == "torch":
            return self._without_padding(running.torch)
        if model.untrained:
            return Engine(running.torch, "Random weights are not worth a conversion.")
        if _forked_from_torch:
            reason = f"The model runs on torch: the threads of {backend} do not survive a fork."
            warn_caller(f'{reason} Start processes with the method "spawn".')
            return Engine(running.torch, reason)
        from embedprefs.engine.building import build_backend

        running.structure = Structure(model)
        running.signs = signs_of_change(model)
        tokenizer = self.text_tokenizer(resolved["tokenizer.max_seq_length"])
        training = running.structure.in_training()
        for module in training:
            module.training = False
        try:
            return select_engine(
                resolved,
                torch_backend=running.torch,
                tokenizer=tokenizer,
                build=lambda name, numerics: build_backend(model, resolved, name, numerics, tokenizer=tokenizer),
            )
        finally:
            for module in training:
                module.training = True

    def _without_padding(self, padded: TorchBackend) -> Engine:
        """Return the engine that computes without padding, or the one that pads, with a warning."""
        from embedprefs.engine.gpu.selection import packed_engine

        model: Any = self
        resolved = self.resolved
        training = self.modules_in_training()
        for module in training:
            module.training = False
        try:
            engine = packed_engine(
                model,
                resolved,
                torch_backend=padded,
                tokenizer=self.text_tokenizer(resolved["tokenizer.max_seq_length"]),
                autocast=self._autocast,
            )
        finally:
            for module in training:
                module.training = True
        if engine.backend is padded and resolved["compute.compile"]:
            model.compile()
        return engine

    def backend_of_call(self, texts: int) -> Backend:
        """Return what computes the vectors of one call: the engine's, or torch where the model was changed.

        Args:
            texts: How many texts the call has.

        Warns:
            EmbedPrefsWarning: the model was changed after loading; said once.
        """
        engine = self.engine
        running = self._running
        if running.torch is not None and getattr(engine.backend, "follows_model", False):
            return self._packed_or_padded(engine.backend, running.torch)
        if running.torch is None or engine.backend is running.torch or self._is_as_converted(texts):
            return engine.backend
        if not running.said_changed:
            running.said_changed = True
            warn_caller(
                f"The model was changed after loading, so that it runs on torch instead of {engine.name}, which was "
                "made from what was loaded. Save it and load it again to run it there."
            )
        return running.torch

    def _packed_or_padded(self, packed: Backend, padded: TorchBackend) -> Backend:
        """Return what computes without padding while nothing in the model speaks against it."""
        from embedprefs.engine.gpu.selection import why_not_packed

        why = why_not_packed(self)
        if why is None:
            return packed
        if not self._running.said_changed:
            self._running.said_changed = True
            warn_caller(f"Texts are padded from now on, because the model was changed after loading: {why}.")
        return padded

    def _is_as_converted(self, texts: int) -> bool:
        """Tell whether the model still computes what its converted backend does.

        A sign of change need not mean one: an optimizer of the same process may train another model. Every weight is
        compared then, once for each sign.
        """
        model: Any = self
        running = self._running
        structure = running.structure
        if structure is None or not structure.has_same_modules():
            return False
        stamps = structure.stamps()
        if stamps == structure.first_stamps:
            now = time.monotonic()
            if texts < _MANY_TEXTS and now - running.looked < _LOOK_AGAIN:
                return True
            running.looked = now
            if signs_of_change(model) == running.signs:
                return True
        if stamps == running.changed_stamps and texts < _MANY_TEXTS:
            return False
        same = self._computes_what_was_loaded()
        if same:
            running.structure, running.signs, running.changed_stamps = Structure(model), signs_of_change(model), None
        else:
            running.changed_stamps = stamps
        return same

    def _computes_what_was_loaded(self) -> bool:
        """Compare every weight and setting with what was loaded; it takes a third of a second for a gigabyte."""
        model: Any = self
        same: bool = chain_of(model) == model.loaded_chain and self._loaded_weights == weights_digest(model)
        return same

    def why_not_here(self) -> str | None:
        """Say why the texts of this model go to the host's own loop; None where the engine runs them."""
        model: Any = self
        # A part of a model may be in training mode while the whole is not; the guard has looked at every one.
        if self.training or self._guard.found_training:
            return "the model is in training mode"
        return why_unfamiliar(model)

    def text_tokenizer(self, limit: int | None) -> TextTokenizer:
        """Return what tokenises this model's texts, as the model's tokenizer is now.

        Args:
            limit: Tokens that are read of a text; None reads all.
        """
        first: Any = self[0]
        static = isinstance(first, StaticEmbedding)
        outer = first.tokenizer
        inner = outer if static else outer.backend_tokenizer
        side = "right" if static else outer.truncation_side
        pad_id = 0 if static else (outer.pad_token_id or 0)
        as_text = getattr(outer, "split_special_tokens", False)
        key = (id(inner), inner.get_vocab_size(), inner.num_special_tokens_to_add(False), side, pad_id, as_text)
        running = self._running
        if running.tokenizer is None or running.tokenizer[0] != key:
            with running.lock:
                made = TextTokenizer(
                    inner,
                    limit=limit,
                    truncation_side=side,
                    add_special_tokens=not static,
                    pad_id=pad_id,
                    special_ids=None if static else frozenset(outer.all_special_ids),
                    encode_special_tokens=as_text,
                )
                running.tokenizer = (key, made)
        return running.tokenizer[1].with_limit(limit)

    @property
    def special_tokens(self) -> int:
        """Special tokens that every text gets; 0 where the tokenizer is not one the engine knows."""
        first: Any = self[0]
        inner = getattr(getattr(first, "tokenizer", None), "backend_tokenizer", None)
        return 0 if inner is None else int(inner.num_special_tokens_to_add(False))

    @property
    def torch_numerics(self) -> str:
        """Number format of torch's weights."""
        model: Any = self
        return TorchBackend(model, autocast=self._autocast).numerics

    @property
    def pooling_leaves_prompt_out(self) -> bool:
        """Whether a pooling module leaves the prompt's tokens out."""
        modules: Any = self
        return any(isinstance(module, Pooling) and not module.include_prompt for module in modules)

    def modules_in_training(self) -> list[torch.nn.Module]:
        """Return the modules that are in training mode."""
        running = self._running
        known = running.parts
        if known is None or not known.has_same_modules():
            running.parts = known = Structure(self)  # type: ignore[arg-type]  # the whole class is a module
        return known.in_training()


class _Running:
    """What a model keeps of its engine; never copied, pickled or saved."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.engine: Engine | None = None
        self.torch: TorchBackend | None = None
        self.structure: Structure | None = None
        self.signs: tuple[Any, ...] = ()
        self.changed_stamps: tuple[Any, ...] | None = None
        #: When the weights were last looked at more closely, on the monotonic clock.
        self.looked = 0.0
        self.parts: Structure | None = None
        self.tokenizer: tuple[Any, TextTokenizer] | None = None
        self.said_changed = False
        self.said_forked = False
