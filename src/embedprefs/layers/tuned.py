"""`tuned.lock`: what was measured to be fastest, on the machine and with the versions it was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedprefs.errors import EmbedPrefsWarning, InvalidPreferenceError, Problem
from embedprefs.files.reading import ReadFile, read_toml_file
from embedprefs.layers.stated import StatedLayer, of_file
from embedprefs.preferences import Layer
from embedprefs.validation import problems_in, shown

__all__ = ["TUNED_LOCK", "machine_description", "tuned_layer", "version_description", "write_tuned_lock"]

TUNED_LOCK = "tuned.lock"
#: Distributions whose version decides how fast something is.
_DISTRIBUTIONS = ("torch", "transformers", "sentence-transformers", "openvino")


def machine_description() -> dict[str, Any]:
    """Return what a measurement depends on: the processor, how many of them, and the accelerators."""
    from embedprefs.hardware import detect_hardware

    hardware = detect_hardware()
    return {
        "cpu": _cpu_model(),
        "cpu_count": hardware.cpu_count,
        "accelerators": [accelerator.name for accelerator in hardware.accelerators],
    }


def _cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    return platform.processor() or platform.machine()


def version_description() -> dict[str, str]:
    """Return the installed versions that a measurement depends on; packages that are absent are left out."""
    versions: dict[str, str] = {}
    for distribution in _DISTRIBUTIONS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def tuned_layer(folder: Path) -> StatedLayer | None:
    """Return what `tuned.lock` in a folder states; None where there is none, or where it is for another machine.

    Raises:
        PreferencesFileError: the file cannot be read.
        InvalidPreferenceError: it was written for a newer embedprefs.
    """
    path = folder / TUNED_LOCK
    if not path.exists():
        return None
    read = read_toml_file(path)
    reason = _mismatch(read)
    if reason is not None:
        warnings.warn(
            EmbedPrefsWarning(f"{path} is ignored: {reason}. `embedprefs tune` measures again."), stacklevel=3
        )
        return None
    problems = tuple(
        Problem(
            f"{name} may not stand in {TUNED_LOCK}, which holds [compute] alone.",
            key=name,
            allowed="[compute], [machine], [versions]",
            fix="Move it to the preferences file beside it.",
            source=str(path),
            line=read.line(name),
        )
        for name in read.values
        if name not in ("compute", "machine", "versions", "schema_version")
    )
    layer = of_file(Layer.TUNED_LOCK, read, problems=problems)
    held = {name: value for name, value in read.values.items() if name == "compute"}
    return StatedLayer(layer.layer, held, layer.place, problems)


def _mismatch(read: ReadFile) -> str | None:
    """Return why a lock does not hold here; None where it does."""
    for table, found in (("versions", version_description), ("machine", machine_description)):
        stated = read.values.get(table)
        if not isinstance(stated, Mapping) or not stated:
            return f"it has no table [{table}]"
        here: Mapping[str, Any] = found()
        for name, value in stated.items():
            if here.get(name) != value:
                there = shown(here[name]) if name in here else "absent"
                return f"it was measured with {name} {shown(value)}, and here {name} is {there}"
    return None


def write_tuned_lock(folder: Path | str, compute: Mapping[str, Any], *, comment: str = "") -> Path:
    """Write `tuned.lock` for this machine and these versions.

    Args:
        folder: The folder of the preferences file it belongs to.
        compute: Names within `[compute]` -> values.
        comment: Lines to write on top: what was measured, and when.

    Raises:
        InvalidPreferenceError: a value is no compute preference.
        PreferencesFileError: the file cannot be written.
    """
    from embedprefs.files.editing import rendered
    from embedprefs.files.writing import write_text

    path = Path(folder) / TUNED_LOCK
    problems = problems_in({"compute": dict(compute)}, lambda _key: (str(path), None))
    if problems:
        raise InvalidPreferenceError(problems)
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    tables = {"machine": machine_description(), "versions": version_description(), "compute": dict(compute)}
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{name} = {rendered(value)}" for name, value in values.items())]
    write_text(path, os.linesep.join(lines).lstrip() + os.linesep)
    return path
