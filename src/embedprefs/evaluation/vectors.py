"""Comparing vectors as their form asks for: float vectors by the model's similarity, bits by the Hamming distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InputError

__all__ = ["EmbeddingModel", "VectorForm", "chunks", "encode_all"]

Floats = npt.NDArray[np.float64]
Item = TypeVar("Item")

_BITS = ("binary", "ubinary")
_CODES = ("int8", "uint8")
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
_TEXTS_AT_A_TIME = 1024


class EmbeddingModel(Protocol):
    """Whatever embeds queries and documents: a model of `load_model`, an `Encoder`, a plain SentenceTransformer."""

    def encode_query(self, inputs: Any, /) -> Any:
        """Return vectors of queries, shape (texts, dimensions)."""
        ...

    def encode_document(self, inputs: Any, /) -> Any:
        """Return vectors of documents, shape (texts, dimensions)."""
        ...


class VectorForm:
    """What a model's vectors are made of, and how two of them are compared.

    - float32, int8, uint8: by the model's similarity, int8 and uint8 as the codes they are, as a store that keeps
      codes does. Computed in float64 and rounded to float32, so that the order does not depend on how it was divided.
    - binary, ubinary: by the share of bits that agree, 1 - Hamming distance / bits.
    """

    def __init__(self, precision: str, similarity: str) -> None:
        if similarity not in _SIMILARITIES:
            raise InputError(f'"{similarity}" is no similarity.\n  Allowed: {", ".join(_SIMILARITIES)}.')
        self.precision = precision
        self.similarity = "hamming" if precision in _BITS else similarity

    @classmethod
    def of(cls, model: EmbeddingModel) -> VectorForm:
        """Return the form of a model's vectors, from its preferences; float32 and cosine where it has none."""
        resolved = getattr(model, "resolved", None) if getattr(model, "_resolved", True) is not None else None
        precision = resolved["vectors.precision"] if resolved is not None else "float32"
        return cls(precision, getattr(model, "similarity_fn_name", None) or "cosine")

    def prepared(self, vectors: Any, *, dimensions: int | None = None) -> Floats:
        """Return vectors as rows that `scores` compares.

        Args:
            vectors: What the model returned.
            dimensions: Length that the rows must have; any if not given.

        Raises:
            InputError: the vectors are no numbers of this form, are not finite, or have another length.
        """
        rows = np.asarray(vectors)
        if rows.ndim != 2:
            raise InputError(f"The model returned an array of shape {rows.shape}; (texts, dimensions) is needed.")
        if self.precision in _BITS:
            rows = self._bits(rows)
        elif rows.dtype.kind in "iu" and self.precision not in _CODES:
            raise InputError(
                f"The model returned vectors of {rows.dtype}, and nothing says whether these are codes or bits.\n"
                "  Load the model with embedprefs.load_model and vectors.precision."
            )
        else:
            rows = rows.astype(np.float64)
        if dimensions is not None and rows.shape[1] != dimensions:
            raise InputError(
                f"The model's queries have {dimensions} dimensions and its documents {rows.shape[1]}; "
                "they cannot be compared."
            )
        broken = ~np.isfinite(rows).all(axis=1)
        if broken.any():
            raise InputError(
                f"{int(broken.sum())} of {len(rows)} vectors hold NaN or infinity, the first at position "
                f"{int(broken.argmax())}.\n  Compute in float32: compute.dtype=float32."
            )
        if self.similarity == "cosine":
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.where(lengths == 0, 1.0, lengths)
        return rows

    def _bits(self, packed: npt.NDArray[Any]) -> Floats:
        """Return packed bits as numbers of -1 and 1, whose product counts agreements."""
        unsigned = packed.astype(np.int16) + 128 if self.precision == "binary" else packed
        return np.unpackbits(unsigned.astype(np.uint8), axis=1).astype(np.float64) * 2 - 1

    def scores(self, queries: Floats, documents: Floats) -> npt.NDArray[np.float32]:
        """Return how similar each query is to each document; larger is nearer.

        Args:
            queries: Prepared rows.
            documents: Prepared rows.

        Returns:
            Shape (queries, documents); distances are negative, as the host has them.
        """
        if self.similarity == "manhattan":
            found = np.stack([-np.abs(documents - query).sum(axis=1) for query in queries])
        elif self.similarity == "euclidean":
            squares = (queries**2).sum(axis=1)[:, None] + (documents**2).sum(axis=1)[None, :]
            found = -np.sqrt(np.maximum(squares - 2 * (queries @ documents.T), 0.0))
        else:
            found = queries @ documents.T
            if self.similarity == "hamming":
                found = (1 + found / queries.shape[1]) / 2
        # Adding 0 turns -0 into 0, which would otherwise be ranked behind it.
        return found.astype(np.float32) + np.float32(0)


def chunks(items: Iterator[Item], model: EmbeddingModel, *, length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield items in lists that a model embeds at a time: bounded in number and in characters.

    Args:
        items: What is divided.
        model: Its device decides how many.
        length: Characters of an item.
    """
    most, characters = _chunk_sizes(model)
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += length(item)
        if len(chunk) >= most or size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _chunk_sizes(model: EmbeddingModel) -> tuple[int, int]:
    if getattr(model, "_resolved", None) is None:
        return _TEXTS_AT_A_TIME, 1_048_576
    from embedprefs.embedding import chunk_sizes

    return chunk_sizes(model.resolved)  # type: ignore[attr-defined]  # only a loaded model has _resolved


def encode_all(
    encode: Callable[[list[str]], Any],
    texts: Sequence[str],
    form: VectorForm,
    *,
    done: Callable[[int], None] = lambda _count: None,
) -> Floats:
    """Return the prepared vectors of texts that fit into memory, embedded some at a time.

    Args:
        encode: `model.encode_query` or `model.encode_document`.
        texts: The texts.
        form: What the vectors are made of.
        done: Told how many texts were embedded.
    """
    rows = []
    remaining = iter(texts)
    while part := list(islice(remaining, _TEXTS_AT_A_TIME)):
        rows.append(form.prepared(encode(part)))
        done(len(part))
    return np.concatenate(rows)
