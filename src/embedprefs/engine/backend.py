"""What a backend is: rows of token ids in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Codes", "Finish", "Overlapping", "Submitted"]


@runtime_checkable
class Backend(Protocol):
    """Turns rows of token ids into vectors: the whole module chain (transformer, pooling, dense, normalize)."""

    @property
    def name(self) -> str:
        """torch, openvino or onnx, as in `compute.backend`."""
        ...

    @property
    def numerics(self) -> str:
        """float32, bfloat16, float16 or int8."""
        ...

    @property
    def dimension(self) -> int:
        """Length of the vectors, before any truncation."""
        ...

    def vectors(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> NDArray[np.float32]:
        """Compute one vector for each row; safe to call from several threads.

        Args:
            ids: Token ids, shape (texts, length), padded on the right.
            mask: Shape (texts, length): 1 where there is a token, 0 where there is padding.
            prompt_tokens: Tokens at the beginning of each row that pooling leaves out, for models whose pooling says
                so (`include_prompt=False`); 0 for all others.

        Returns:
            Shape (texts, dimension), float32.
        """
        ...

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the transformer's last hidden state.

        Args:
            ids: As for `vectors`.
            mask: As for `vectors`.

        Returns:
            Shape (texts, length, hidden), float32; what stands at padding is of no meaning.
        """
        ...

    def close(self) -> None:
        """Let go of what the backend holds; it is not used afterwards."""
        ...


@dataclass(frozen=True, eq=False)
class Codes:
    """How float vectors become codes of a byte or a bit a dimension."""

    precision: Literal["int8", "uint8", "binary", "ubinary"]
    """As in `vectors.precision`."""
    minimum: NDArray[np.float32]
    """Smallest value of each dimension, for int8 and uint8: shape (dimensions,)."""
    steps: NDArray[np.float32]
    """Width of one step of each dimension: shape (dimensions,)."""

    @property
    def dtype(self) -> type[np.generic]:
        """What the codes are made of."""
        return np.int8 if self.precision in ("int8", "binary") else np.uint8

    def width(self, dimensions: int) -> int:
        """Return the bytes of the codes of a vector."""
        return -(-dimensions // 8) if self.precision in ("binary", "ubinary") else dimensions


@dataclass(frozen=True)
class Finish:
    """What becomes of vectors before they are copied from a device."""

    truncate_dim: int | None = None
    """Keep the first dimensions only."""
    normalize: bool = False
    """Scale vectors to length 1, after cutting."""
    codes: Codes | None = None
    """Turn them into codes, after scaling."""


class Submitted(Protocol):
    """A batch under way."""

    clipped: int
    """Values that lay outside the ranges of the codes; known with the result."""
    padding: int
    """Tokens of padding that are computed."""

    def result(self) -> NDArray[Any]:
        """Wait for the vectors, and return them: shape (texts, ...), float32 or codes."""
        ...


@runtime_checkable
class Overlapping(Backend, Protocol):
    """A backend that takes the next batches while it computes."""

    groups_ahead: int
    """Groups of texts to tokenise while one is computed."""
    finishes: bool
    """Whether it cuts and scales vectors and turns them into codes itself, before they are copied."""

    @property
    def in_flight(self) -> int:
        """Batches that may be under way at a time, at least 1."""
        ...

    def plan(
        self, lengths: NDArray[np.int64], *, batch_tokens: int | None, max_batch_size: int
    ) -> list[NDArray[np.intp]]:
        """Divide texts into batches by their lengths, the longest first; arguments and result are `plan_batches`'s."""
        ...

    def submit(
        self, rows: Sequence[NDArray[np.int32]], *, prompt_tokens: int = 0, finish: Finish | None = None
    ) -> Submitted:
        """Begin to compute a batch; safe to call from several threads.

        Args:
            rows: Token ids of each text.
            prompt_tokens: As for `vectors`.
            finish: What becomes of the vectors; None leaves them whole, and is all that a backend takes which does not
                finish them.
        """
        ...
