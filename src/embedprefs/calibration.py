"""Ranges for int8 and uint8 vectors, measured once and kept, so that codes of different calls can be compared.

The host takes the ranges from the texts of each call; the same text then gets other codes in the next call. Here they
come from a file that `embedprefs calibrate TEXTS` writes and `vectors.calibration` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InputError, ModelFilesError, PreferenceMismatchError

if TYPE_CHECKING:
    from embedprefs.engine.backend import Codes
    from embedprefs.model import PreferredSentenceTransformer

__all__ = ["CALIBRATION_VERSION", "Calibration", "calibrate"]

CALIBRATION_VERSION = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Calibration:
    """The smallest and the largest value of each dimension, over the texts of one calibration."""

    minimum: Floats
    """Shape (dimensions,), float32."""
    maximum: Floats
    """Shape (dimensions,), float32."""
    count: int
    """Texts it was measured on."""
    fingerprint: str
    """Identity of the float32 vectors that were measured."""

    def __post_init__(self) -> None:
        if self.minimum.shape != self.maximum.shape or self.minimum.ndim != 1:
            raise ValueError(f"Ranges of shapes {self.minimum.shape} and {self.maximum.shape} do not fit together.")
        if not (np.isfinite(self.minimum).all() and np.isfinite(self.maximum).all()):
            raise ValueError("Ranges must be finite numbers.")
        if (self.minimum > self.maximum).any():
            raise ValueError(f"In dimension {int((self.minimum > self.maximum).argmax())} the minimum is the larger.")

    @property
    def dimensions(self) -> int:
        """Length of the vectors it fits."""
        return int(self.minimum.shape[0])

    @property
    def ranges(self) -> Floats:
        """Minimum and maximum as the host's `quantize_embeddings(ranges=...)` takes them, shape (2, dimensions)."""
        return np.stack([self.minimum, self.maximum])

    @property
    def _steps(self) -> Floats:
        steps = (self.maximum - self.minimum) / np.float32(255)
        return np.where(steps == 0, np.float32(1), steps).astype(np.float32)

    def quantize(self, vectors: npt.NDArray[Any], precision: Literal["int8", "uint8"]) -> tuple[npt.NDArray[Any], int]:
        """Return the codes of float vectors, and how many values lay outside the ranges.

        Each range is divided into 255 steps, as the host does; a value outside becomes the nearest end. A value that
        is off by float32 rounding alone (a 256th of a step) is not counted.

        Args:
            vectors: Shape (texts, dimensions), float32.
            precision: "int8" gives codes from -128 to 127, "uint8" from 0 to 255.

        Raises:
            PreferenceMismatchError: the vectors have another length than those that were measured.
        """
        if vectors.shape[-1] != self.dimensions:
            raise PreferenceMismatchError(
                f"The calibration was measured on vectors of {self.dimensions} dimensions; these have "
                f"{vectors.shape[-1]}.\n  Calibrate again with this truncation: embedprefs calibrate TEXTS.",
                left={"dimensions": self.dimensions},
                right={"dimensions": vectors.shape[-1]},
                differences=["dimensions"],
            )
        steps = self._steps
        positions = (vectors.astype(np.float32) - self.minimum) / steps
        rounding = 1 / 256
        clipped = int(np.count_nonzero((positions < -rounding) | (positions > 255 + rounding)))
        codes = np.clip(np.floor(positions), 0, 255)
        if precision == "uint8":
            return codes.astype(np.uint8), clipped
        return (codes - 128).astype(np.int8), clipped

    def codes(self, precision: Literal["int8", "uint8"]) -> Codes:
        """Return what a device needs to compute the codes that `quantize` gives."""
        from embedprefs.engine.backend import Codes

        return Codes(precision, self.minimum, self._steps)

    def dequantize(self, codes: npt.NDArray[Any]) -> Floats:
        """Return the middle of each code's step, float32; the error is at most half a step."""
        positions = codes.astype(np.float32) + np.float32(128 if codes.dtype == np.int8 else 0) + np.float32(0.5)
        return (positions * self._steps + self.minimum).astype(np.float32)

    def save(self, path: Path | str) -> None:
        """Write the ranges as JSON; numbers keep all digits of a float32."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return {
            "version": CALIBRATION_VERSION,
            "fingerprint": self.fingerprint,
            "count": self.count,
            "minimum": [float(value) for value in self.minimum],
            "maximum": [float(value) for value in self.maximum],
        }

    @classmethod
    def load(cls, path: Path | str) -> Calibration:
        """Read ranges that `save` wrote.

        Raises:
            ModelFilesError: the file is absent, damaged, or of a newer version.
        """
        path = Path(path)
        remedy = "Make it with: embedprefs calibrate TEXTS"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelFilesError(f"{path}: there is no such calibration file.\n  {remedy}", file=path) from error
        except (OSError, ValueError) as error:
            raise ModelFilesError(f"{path}: the calibration cannot be read: {error}.\n  {remedy}", file=path) from error
        version = values.get("version") if isinstance(values, dict) else None
        if version != CALIBRATION_VERSION:
            raise ModelFilesError(
                f"{path}: a calibration of version {version!r}; {CALIBRATION_VERSION} can be read here.\n  {remedy}",
                file=path,
            )
        try:
            return cls(
                minimum=np.asarray(values["minimum"], dtype=np.float32),
                maximum=np.asarray(values["maximum"], dtype=np.float32),
                count=int(values["count"]),
                fingerprint=str(values["fingerprint"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFilesError(f"{path}: the calibration is damaged: {error!r}.\n  {remedy}", file=path) from error


def calibrate(
    model: PreferredSentenceTransformer,
    texts: Iterable[str],
    *,
    role: Literal["query", "document"] = "document",
    chunk_size: int = 1024,
) -> Calibration:
    """Measure the ranges of a model's vectors over texts like those it will embed.

    Args:
        model: A loaded model; its float32 vectors are measured, whatever `vectors.precision` says.
        texts: A few thousand typical texts; read once, in bounded memory.
        role: Which prompt the texts get.
        chunk_size: Texts embedded at a time.

    Returns:
        The ranges, with the identity of the vectors they were measured on.

    Raises:
        InputError: there are fewer than two texts.
    """
    encode = model.encode_query if role == "query" else model.encode_document
    minimum: Floats | None = None
    maximum: Floats | None = None
    count = 0
    for chunk in _chunks(texts, chunk_size):
        vectors = encode(chunk, precision="float32")
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        minimum = low if minimum is None else np.minimum(minimum, low)
        maximum = high if maximum is None else np.maximum(maximum, high)
        count += len(chunk)
    if minimum is None or maximum is None or count < 2:
        raise InputError(
            f"{count} texts are too few to measure ranges on: two are the least, a few thousand are good.\n"
            "  Give a file with texts like those that will be embedded."
        )
    return Calibration(minimum.astype(np.float32), maximum.astype(np.float32), count, model.float32_fingerprint)


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, size)):
        yield chunk
