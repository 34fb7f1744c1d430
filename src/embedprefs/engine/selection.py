"""Which backend runs a loaded model: the fastest that is allowed and was measured to be as exact as is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedprefs.engine.exactness import Measurement, is_exact_enough, measured
from embedprefs.model.callers import warn_caller

if TYPE_CHECKING:
    from embedprefs.engine.backend import Backend
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.resolve import Resolved

__all__ = ["Engine", "candidates", "select_engine"]

logger = logging.getLogger("embedprefs.engine")


@dataclass(frozen=True)
class Engine:
    """What runs a model."""

    backend: Backend
    reason: str
    """Why this one."""
    measurement: Measurement | None = None
    """How close its vectors are to float32 on torch; None where it is that."""
    attention: str | None = None
    """What runs instead of `compute.attention`; None where that runs."""

    @property
    def name(self) -> str:
        """torch, openvino or onnx."""
        return self.backend.name

    @property
    def numerics(self) -> str:
        """float32, bfloat16, float16 or int8."""
        return self.backend.numerics

    @property
    def cosine(self) -> float | None:
        """The smallest cosine to float32 on torch among the probe texts; None where nothing was measured."""
        return self.measurement.cosine if self.measurement is not None else None

    def to_numerics(self) -> dict[str, Any]:
        """Return what a record keeps of it, laid over what the preferences chose."""
        if self.name == "torch":
            # Half-precision weights are what the preferences chose; a converted backend that was refused is not.
            ran: dict[str, Any] = {"backend": "torch", "dtype": self.numerics, "weights": "full"}
            if self.attention is not None:
                ran["attention"] = self.attention
            if self.cosine is not None and self.numerics != "float32":
                ran["cosine_to_float32"] = self.cosine
            return ran
        kept: dict[str, Any] = {
            "backend": self.name,
            "dtype": self.numerics,
            "weights": "int8" if self.numerics == "int8" else "full",
        }
        if self.cosine is not None:
            kept["cosine_to_float32"] = self.cosine
        return kept


def candidates(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """Yield backend and numerics in the order they are tried; torch, which always runs, is not among them.

    Args:
        resolved: The effective preferences.
    """
    backend: str = resolved["compute.backend"]
    if backend == "torch":
        return
    if backend == "onnx":
        yield backend, "float32"  # the published file decides
        return
    if resolved["compute.weights"] == "int8":
        yield backend, "int8"
    yield backend, resolved["compute.dtype"]
    if resolved["compute.dtype"] != "float32":
        yield backend, "float32"


def select_engine(
    resolved: Resolved,
    *,
    torch_backend: Backend,
    tokenizer: TextTokenizer,
    build: Callable[[str, str], Backend],
) -> Engine:
    """Return the first candidate that can be built and is exact enough; torch where there is none.

    Args:
        resolved: The effective preferences.
        torch_backend: The loaded modules, in float32 where another backend is a candidate.
        tokenizer: Tokenises the probe texts.
        build: Makes a backend from its name and numerics.

    Warns:
        EmbedPrefsWarning: a candidate was refused, with what was measured or what went wrong.
    """
    refused: list[str] = []
    for name, numerics in candidates(resolved):
        said = f"{name} in {numerics}"
        try:
            backend = build(name, numerics)
            said = f"{name} in {backend.numerics}"
            found = measured(resolved, backend, reference=torch_backend, tokenizer=tokenizer)
        except Exception as error:  # a converter may raise anything, and torch gives the same vectors
            logger.info("%s cannot be used", said, exc_info=True)
            refused.append(f"{said}: {_first_line(error)}")
            continue
        if is_exact_enough(found, resolved["compute.exactness"], backend.numerics):
            if refused:
                _warn(refused, said)
            return Engine(backend, resolved.choice("compute.backend").reason, found)
        backend.close()
        refused.append(f"{said}: {found.against(resolved['compute.exactness'])}")
    if refused:
        _warn(refused, "torch in float32")
        return Engine(torch_backend, "; ".join(refused))
    return Engine(torch_backend, resolved.choice("compute.backend").reason)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _warn(refused: list[str], taken: str) -> None:
    listed = "".join(f"\n  {line}" for line in refused)
    warn_caller(
        f"The model runs on {taken}, and not as it was meant to:{listed}\n"
        '  Write backend = "torch" under [compute] to keep to torch without this warning.'
    )
