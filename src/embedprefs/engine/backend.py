"""What a backend is: rows of token ids in, vectors out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend"]


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
