"""The model's own modules on packed batches: no padding, and several batches under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedprefs.engine.backend import Finish
from embedprefs.engine.gpu.compiled import CompiledTransformer, token_vectors
from embedprefs.engine.gpu.copies import Arriving, Copies, copies_for
from embedprefs.engine.gpu.finishing import finish_on_device
from embedprefs.engine.gpu.packing import Packed, pack, plan_packed
from embedprefs.engine.gpu.pooling import pool_packed
from embedprefs.engine.torch_backend import TorchBackend

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["PackedBackend"]


class PackedBackend:
    """Runs the modules of a loaded model as they are at each call, on texts laid end to end.

    Attributes:
        padding_free: No padding is computed.
        follows_model: Changed weights and a changed device are the next call's.
        attention: As in `compute.attention`.
    """

    name = "torch"
    padding_free = True
    follows_model = True
    attention = "varlen"
    #: Groups of texts that are tokenised while one is computed.
    groups_ahead = 2
    finishes = True

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        first_position: int = 0,
        autocast: Callable[[], AbstractContextManager[Any]],
        compiled: CompiledTransformer | None = None,
    ) -> None:
        """Take a model; it is neither copied nor changed.

        Args:
            model: The model, of a kind that `why_not_packed` finds nothing against.
            first_position: Position of a text's first token; `Positions` says it for each architecture.
            autocast: Returns the context in which the modules run.
            compiled: Runs the transformer; None runs it as it is.
        """
        self._model = model
        self._first_position = first_position
        self._autocast = autocast
        self._plain = TorchBackend(model, autocast=autocast)
        self.compiled = compiled
        self._copies: dict[torch.device, Copies] = {}

    @property
    def _modules(self) -> list[Any]:
        # torch's own dictionary: indexing or iterating the model costs tens of microseconds.
        return list(self._model._modules.values())  # noqa: SLF001

    @property
    def numerics(self) -> str:
        """The number format of the weights."""
        return self._plain.numerics

    @property
    def dimension(self) -> int:
        """Length of the vectors, before any truncation."""
        return self._plain.dimension

    @property
    def in_flight(self) -> int:
        """Batches that may be under way at a time."""
        return self._way().in_flight

    def _way(self) -> Copies:
        device = self._model.device
        found = self._copies.get(device)
        if found is None:
            found = self._copies[device] = copies_for(device)
        return found

    def plan(
        self, lengths: NDArray[np.int64], *, batch_tokens: int | None, max_batch_size: int
    ) -> list[NDArray[np.intp]]:
        """Divide texts into batches, as `plan_packed` says."""
        return plan_packed(lengths, batch_tokens=batch_tokens, max_batch_size=max_batch_size)

    def submit(
        self, rows: Sequence[NDArray[np.int32]], *, prompt_tokens: int = 0, finish: Finish | None = None
    ) -> _Submitted:
        """Begin to compute a batch, as `Overlapping.submit` says."""
        finish = finish or Finish()
        way = self._way()
        packed, room = self._packed(rows, way)
        if not packed.size:  # no row has a token, not even a special one
            zeros = torch.zeros(len(rows), self.dimension, device="cpu")
            return _Submitted(copies_for(zeros.device).fetch(list(finish_on_device(zeros, finish))))
        with torch.inference_mode(), self._autocast():
            tokens, starts = self._token_vectors(packed, way.send(room))
            _, pooling, *rest = self._modules
            vectors = pool_packed(pooling, tokens, starts, packed.texts, prompt_tokens=prompt_tokens)
            features: dict[str, Any] = {"sentence_embedding": vectors}
            for module in rest:
                features = module(features)
            found = finish_on_device(features["sentence_embedding"].float(), finish)
            return _Submitted(way.fetch(list(found)))

    def vectors(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> NDArray[np.float32]:
        """Compute one vector for each row, as `Backend.vectors` says."""
        return self.submit(_rows(ids, mask), prompt_tokens=prompt_tokens).result()

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the transformer's last hidden state, as `Backend.token_vectors` says."""
        way = self._way()
        packed, room = self._packed(_rows(ids, mask), way)
        if not packed.size:
            return self._plain.token_vectors(ids, mask)
        with torch.inference_mode(), self._autocast():
            tokens, _ = self._token_vectors(packed, way.send(room))
            (flat,) = way.fetch([tokens[: packed.tokens].float()]).wait()
        hidden = np.zeros((*ids.shape, flat.shape[1]), dtype=np.float32)
        hidden[mask.astype(bool)] = flat
        return hidden

    def close(self) -> None:
        """Let go of streams; the model is its owner's."""
        self._copies.clear()

    def _packed(self, rows: Sequence[NDArray[np.int32]], way: Copies) -> tuple[Packed, torch.Tensor]:
        """Return a batch, and the memory of the machine that it lies in."""
        made: list[torch.Tensor] = []

        def room(count: int) -> NDArray[np.int32]:
            made.append(way.room(count))
            array: NDArray[np.int32] = made[0].numpy()
            return array

        size = None
        if self.compiled is not None and self._model.device.type != "cpu":
            size = self.compiled.size_of(sum(len(row) for row in rows))
        pad_id = self._modules[0].tokenizer.pad_token_id or 0
        packed = pack(rows, first_position=self._first_position, size=size, pad_id=pad_id, room=room)
        return packed, made[0]

    def _token_vectors(self, packed: Packed, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token vectors, filling included, and where each sequence begins."""
        size = packed.size
        ids, positions = numbers[: 2 * size].long().view(2, 1, size)
        # A copy, so that it begins where kernels like their tensors to.
        starts = numbers[2 * size :].clone()
        # At least 2: a compiler takes lengths of 1 for constant. The kernel reads it as a bound.
        longest = starts.new_empty(1).expand(max(2, packed.longest))
        run = token_vectors
        if self.compiled is not None and numbers.device.type != "cpu":
            run = self.compiled
        return run(self._modules[0], ids, positions, starts, longest), starts


def _rows(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """Return rows without their padding."""
    flat = ids[mask.astype(bool)].astype(np.int32)
    return np.split(flat, np.cumsum(mask.sum(axis=1))[:-1])


class _Submitted:
    """A batch under way."""

    def __init__(self, arriving: Arriving) -> None:
        self._arriving = arriving
        self.clipped = self.padding = 0

    def result(self) -> NDArray[Any]:
        """Wait for the vectors, and return them."""
        vectors, *clipped = self._arriving.wait()
        self.clipped = int(clipped[0]) if clipped else 0
        return vectors
