"""The backends that can run a model, and which of them this machine and this version offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedprefs.hardware import Hardware

__all__ = ["BACKENDS", "Backend", "choose_backend"]


@dataclass(frozen=True)
class Backend:
    """One way to run a model."""

    name: str
    """As in `compute.backend`."""
    packages: tuple[str, ...]
    """Distributions it needs."""
    supported: bool
    """True where this version of embedprefs runs models on it."""

    def missing(self, hardware: Hardware) -> tuple[str, ...]:
        """Return the packages that are not installed here."""
        installed: Mapping[str, str] = hardware.packages
        return tuple(name for name in self.packages if name not in installed)

    def available(self, hardware: Hardware) -> bool:
        """Return whether a model can be run on it here."""
        return self.supported and not self.missing(hardware)


#: In the order "auto" asks them.
BACKENDS: tuple[Backend, ...] = (
    Backend("openvino", ("openvino",), supported=False),
    Backend("torch", ("torch", "sentence-transformers", "transformers"), supported=True),
    Backend("onnx", ("onnxruntime",), supported=False),
)


def choose_backend(hardware: Hardware) -> tuple[str, str]:
    """Return the backend that "auto" becomes, and the reason."""
    for backend in BACKENDS:
        if backend.available(hardware):
            return backend.name, f"{backend.name} is the first backend that is installed and supported."
    packages = ", ".join(backend.missing(hardware)[0] for backend in BACKENDS if backend.supported)
    return "torch", f"torch, though {packages} is not installed here: loading a model needs it."
