"""Calls that run side by side on one model, and leave it as they found it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["CallGuard"]


class CallGuard:
    """Lets calls of `encode` share a model, and puts back what encoding changes.

    The host's loop puts the model into evaluation mode and leaves it there. The first call in notes which modules were
    in training mode, and the last one out restores them, so that no call switches dropout on under another. A call that
    moves the model to another device has the model to itself. The number of torch's threads belongs to the process:
    it is what the preferences say while calls run, and what it was before afterwards.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._alone = False
        self._training: list[Any] = []
        self._threads: int | None = None

    @property
    def found_training(self) -> bool:
        """Whether a module was in training mode when the first of the calls that run now came in."""
        return bool(self._training)

    @contextmanager
    def call(self, model: Any, *, alone: bool, threads: int | None) -> Iterator[None]:
        """Run one call on the model.

        Args:
            model: The `PreferredSentenceTransformer`.
            alone: True for a call that moves the model; it waits for the others, and they for it.
            threads: CPU threads to use; None leaves the number alone.
        """
        with self._condition:
            self._condition.wait_for(lambda: not self._alone and (self._running == 0 or not alone))
            self._alone = alone
            self._running += 1
            if self._running == 1:
                self._enter(model, threads)
        if threads is not None:
            _set_threads(threads)  # the number is also kept for each thread, so every call sets it
        device = model.device if alone else None
        try:
            yield
        finally:
            if device is not None and model.device != device:
                model.to(device)
            with self._condition:
                self._running -= 1
                self._alone = False
                if self._running == 0:
                    self._leave()
                self._condition.notify_all()

    def _enter(self, model: Any, threads: int | None) -> None:
        self._training = model.modules_in_training()
        if threads is not None:
            import torch

            self._threads = torch.get_num_threads()

    def _leave(self) -> None:
        for module in self._training:
            module.training = True
        self._training = []
        if self._threads is not None:
            _set_threads(self._threads)
            self._threads = None


def _set_threads(count: int) -> None:
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
