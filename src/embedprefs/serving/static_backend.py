"""Static models in numpy: a text's vector is the mean of its tokens' vectors, which needs no graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import InputError, ModelFilesError

__all__ = ["STATIC_TABLE", "StaticBackend"]

STATIC_TABLE = "embeddings.npy"
#: Bytes of token vectors that are gathered at a time.
_GATHERED_BYTES = 32 * 1024**2


class StaticBackend:
    """Looks up the vectors of tokens and takes their mean; safe to be called from several threads.

    Attributes:
        name: "numpy".
        numerics: "float32".
        dimension: Length of the vectors.
    """

    name = "numpy"
    numerics = "float32"

    def __init__(self, folder: Path, *, normalize: bool) -> None:
        """Open the table of token vectors; it is read as it is needed, and shared between processes.

        Args:
            folder: Holds the table, float32, shape (tokens, dimension).
            normalize: Whether the chain ends in scaling to length 1.

        Raises:
            ModelFilesError: the table is absent or damaged.
        """
        file = folder / STATIC_TABLE
        try:
            self._table: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ModelFilesError(f"{file}: cannot be read: {error}. Compile the model again.", file=file) from error
        self._normalize = normalize
        self.dimension = int(self._table.shape[1])

    def vectors(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> NDArray[np.float32]:
        """Return the mean of each row's token vectors; zeros where a row has no token.

        Args:
            ids: Token ids, shape (texts, length), padded on the right.
            mask: 1 for tokens and 0 for padding, same shape.
            prompt_tokens: Always 0: a static model has no pooling that could leave them out.

        Returns:
            Shape (texts, dimension), float32.
        """
        if prompt_tokens:
            raise InputError("A static model counts the tokens of a prompt like any others.")
        rows = np.zeros((len(ids), self.dimension), dtype=np.float32)
        at_a_time = max(1, _GATHERED_BYTES // max(1, ids.shape[1] * self.dimension * 4))
        for start in range(0, len(ids), at_a_time):
            part = slice(start, start + at_a_time)
            weights = mask[part].astype(np.float32)
            sums = np.einsum("tld,tl->td", self._table[ids[part]], weights)
            rows[part] = sums / np.maximum(weights.sum(axis=1, keepdims=True), 1)
        if self._normalize:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        return rows

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each token's vector, shape (texts, length, dimension), float32; zeros at padding."""
        vectors: NDArray[np.float32] = self._table[ids] * mask[:, :, None].astype(np.float32)
        return vectors

    def close(self) -> None:
        """Nothing is held: the table's pages are the system's."""
