"""How close a backend's vectors are to float32 on torch: measured once on probe texts, and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.batching import padded
from embedprefs.files.folders import cache_folder

if TYPE_CHECKING:
    from embedprefs.engine.backend import Backend
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.resolve import Resolved

__all__ = [
    "CLOSE_COSINE",
    "EXACT_DIFFERENCE",
    "MEASUREMENTS",
    "PROBE_TEXTS",
    "Measurement",
    "is_exact_enough",
    "kept_measurement",
    "measure",
    "measured",
]

logger = logging.getLogger("embedprefs.engine")

#: The bounds of `compute.exactness`: the smallest cosine of "close", the largest difference of "exact".
CLOSE_COSINE = 0.9995
EXACT_DIFFERENCE = 1e-5
#: Folder within the user's cache folder that keeps what was measured.
MEASUREMENTS = "exactness"

#: What is embedded to measure: several scripts and lengths, so that a conversion shows that is wrong for padding, for
#: short or for long texts.
PROBE_TEXTS: tuple[str, ...] = (
    "a",
    "what is the capital of France",
    "How do I reset my password if I no longer have access to the e-mail address?",
    "The ferry leaves the island at seven, and the next one not before Thursday.",
    "Über die Brücke führt seit 1843 kein Weg mehr; façade, naïve, coöperate.",
    "Вода закипает быстрее на вершине горы, потому что давление там ниже.",
    "水在高山上沸腾得更快,因为气压更低。",
    "for index, value in enumerate(values):\n    total += value * weights[index]  # weighted sum",
    "SELECT name, price FROM products WHERE price > 19.99 ORDER BY price DESC LIMIT 10;",
    "A short note. Then another one. And a third, which is a little longer than the two before it.",
    " ".join(f"Paragraph {number} mentions {number * 13 % 41} birds and a lighthouse." for number in range(1, 12)),
    " ".join(f"Step {number}: turn the valve {number * 7 % 360} degrees and wait." for number in range(1, 40)),
)
#: Tokens of a probe text that are embedded: a few seconds on the largest models, and longer than any window.
_PROBE_TOKENS = 384
#: Raised when the probe texts or the way of measuring change, so that nothing older is believed.
_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """How far a backend's vectors are from those of float32 on torch."""

    cosine: float
    """The smallest cosine among the probe texts."""
    difference: float
    """The largest difference of one number, the vectors scaled to length 1 where they are longer."""
    texts: int
    """How many texts were compared."""

    def against(self, exactness: str) -> str:
        """Say how it misses the bound of `compute.exactness`."""
        if exactness == "exact":
            return (
                f'its vectors differ from float32 by up to {self.difference:.1e}, and exactness = "exact" asks for '
                f"{EXACT_DIFFERENCE:.0e}"
            )
        return f'its cosine to float32 is {self.cosine:.5f}, and exactness = "close" asks for {CLOSE_COSINE}'

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read one back.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(value, Mapping):
            raise ValueError("not a table")  # noqa: TRY004 - what is read, not what is called with
        try:
            return cls(float(value["cosine"]), float(value["difference"]), int(value["texts"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not a measurement") from error


def is_exact_enough(found: Measurement, exactness: str, numerics: str) -> bool:
    """Tell whether a backend may run under `compute.exactness`.

    int8 is judged by the ranking of the user's own texts, which no cosine of probe texts says: "fast" lets it run.
    Anything else has to be close even then: a conversion that went wrong is no saving of time.
    """
    if exactness == "exact":
        return found.difference <= EXACT_DIFFERENCE
    if exactness == "fast":
        return found.cosine >= (_INT8_COSINE if numerics == "int8" else _FAST_COSINE)
    return found.cosine >= CLOSE_COSINE


#: Below these something is broken, not rounded: the smallest cosines seen are 0.987 for int8 (all-MiniLM-L6-v2) and
#: 0.997 for bfloat16 (random weights).
_INT8_COSINE = 0.95
_FAST_COSINE = 0.99


def measure(backend: Backend, reference: Backend, tokenizer: TextTokenizer) -> Measurement:
    """Embed the probe texts on both sides, alone and in padded batches, and compare them.

    Args:
        backend: What is measured.
        reference: float32 on torch.
        tokenizer: The model's.
    """
    limit = min(tokenizer.limit or _PROBE_TOKENS, _PROBE_TOKENS)
    rows = tokenizer.with_limit(limit).tokenise(PROBE_TEXTS).ids
    groups = [[rows[0]], [rows[2]], [rows[1], *rows[3:7]], rows[7:]]
    cosine, difference = 1.0, 0.0
    for group in groups:
        ids, mask = padded(group, tokenizer.pad_id)
        cosines, largest = _compared(backend.vectors(ids, mask), reference.vectors(ids, mask))
        cosine, difference = min(cosine, cosines), max(difference, largest)
    return Measurement(cosine, difference, sum(len(group) for group in groups))


def _compared(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[float, float]:
    """Return the smallest cosine and the largest difference; anything that is no number counts as unlike."""
    if not np.isfinite(left).all():
        return -1.0, float("inf")
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    both = lengths[0] * lengths[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.where(both > 0, (one * other).sum(axis=1) / both, lengths[0] == lengths[1])
        differences = np.abs(one - other) / np.maximum(1.0, lengths[1])[:, None]
    return float(cosines.min()), float(differences.max())


# What was measured is kept -------------------------------------------------------------------------------------------


def measured(resolved: Resolved, backend: Backend, *, reference: Backend, tokenizer: TextTokenizer) -> Measurement:
    """Return what was measured before for the same weights, versions and processor; measure it otherwise.

    Args:
        resolved: The effective preferences.
        backend: What is measured.
        reference: float32 on torch.
        tokenizer: The model's.
    """
    known = kept_measurement(resolved, backend.name, backend.numerics)
    if known is not None:
        return known
    found = measure(backend, reference, tokenizer)
    _keep(_file_of(resolved, backend.name, backend.numerics), found)
    return found


def kept_measurement(resolved: Resolved, backend: str, numerics: str) -> Measurement | None:
    """Return what was measured before; None where nothing was. Neither weights nor torch are loaded.

    Args:
        resolved: The effective preferences.
        backend: As in `compute.backend`.
        numerics: float32, bfloat16 or int8.
    """
    path = _file_of(resolved, backend, numerics)
    try:
        return Measurement.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.info("%s is measured again: %s", path.name, error)
        return None


def _file_of(resolved: Resolved, backend: str, numerics: str) -> Path:
    """Return where a measurement is kept: named after everything that can change it."""
    from embedprefs.record import content_hashes, identity_fields

    identity = identity_fields(resolved, None, content_hashes(resolved))
    hardware = resolved.hardware
    described = {
        "version": _VERSION,
        "backend": backend,
        "numerics": numerics,
        "identity": identity,
        "packages": {name: hardware.packages.get(name) for name in _PACKAGES},
        "instruction_sets": sorted(hardware.instruction_sets),
        "attention": resolved["compute.attention"],
    }
    if resolved.devices[0] != "cpu":
        # Another GPU has other kernels; a processor is told apart by its instruction sets.
        described["accelerators"] = [
            (item.device, item.name, item.compute_capability)
            for item in hardware.accelerators
            if item.device in resolved.devices
        ]
    text = json.dumps(described, sort_keys=True, default=str)
    return cache_folder() / MEASUREMENTS / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


#: Packages whose version can change how a vector is rounded.
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "openvino", "onnxruntime", "nncf")


def _keep(path: Path, found: Measurement) -> None:
    """Write a measurement whole or not at all; a folder that cannot be written costs measuring again."""
    text = json.dumps(asdict(found))
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError as error:
        logger.info("What was measured is not kept: %s", error)
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
