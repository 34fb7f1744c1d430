"""OpenVINO without its telemetry.

The package openvino-telemetry, which openvino and nncf bring along, writes an identifier into the home folder, looks up
a host and starts a process that reports every import and conversion. embedprefs sends nothing anywhere, so openvino
is imported through this module alone.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from embedprefs.errors import MissingExtraError

__all__ = ["import_nncf", "import_openvino", "without_telemetry"]

_TELEMETRY = "openvino_telemetry"
#: What reports something, of `openvino_telemetry.Telemetry`; starting it is what looks for the identifier.
_REPORTING = (
    "init",
    "start_session",
    "end_session",
    "send_event",
    "send_error",
    "send_stack_trace",
    "force_shutdown",
    "send_opt_in_event",
)
_lock = threading.RLock()


def _does_nothing(*_arguments: Any, **_named: Any) -> None:
    """Stand in for what would report."""


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Keep openvino and nncf from reporting while the block runs.

    Where openvino-telemetry is not loaded yet, it cannot be loaded meanwhile, and both packages carry on with the empty
    stand-ins they have for its absence. Where the program has loaded it before, it is held still.
    """
    with _lock:
        loaded = sys.modules.get(_TELEMETRY)
        if loaded is None:
            missing = _TELEMETRY not in sys.modules
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # the import system's word for "cannot be imported"
            try:
                yield
            finally:
                if missing:
                    sys.modules.pop(_TELEMETRY, None)
            return
        kind = loaded.Telemetry
        kept = {name: kind.__dict__[name] for name in _REPORTING if name in kind.__dict__}
        for name in kept:
            setattr(kind, name, _does_nothing)
        try:
            yield
        finally:
            for name, function in kept.items():
                setattr(kind, name, function)


def import_openvino() -> ModuleType:
    """Return the package openvino, imported without its telemetry.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    return _imported("openvino", extra="openvino", needed_for='compute.backend = "openvino"')


def import_nncf() -> ModuleType:
    """Return the package nncf, imported without its telemetry.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    return _imported("nncf", extra="int8", needed_for='compute.weights = "int8"')


def _imported(name: str, *, extra: str, needed_for: str) -> ModuleType:
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise MissingExtraError(name, extra=extra, needed_for=needed_for)
    with without_telemetry():
        return importlib.import_module(name)
