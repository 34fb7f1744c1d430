"""Keeping what OpenVINO compiled, so that the next start need not compile."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedprefs.engine.openvino.telemetry import import_openvino

__all__ = ["compiled_in"]

logger = logging.getLogger("embedprefs.engine")


def compiled_in(folder: Path | None, core: Any, model: Any, settings: Mapping[str, Any], output: str) -> Any:
    """Compile a model for the processor, or take what was compiled before.

    OpenVINO writes its cache file by file in place. Here it writes into a folder of its own, which is moved to its
    name when it is whole, so that no process ever reads half of it and none waits for another.

    Args:
        folder: Where compiled forms are kept; None keeps nothing.
        core: OpenVINO's `Core`.
        model: What `core.read_model` returned, reduced to one output.
        settings: OpenVINO's properties.
        output: Name of the output that is left.

    Returns:
        OpenVINO's compiled model.
    """
    if folder is None:
        return core.compile_model(model, "CPU", dict(settings))
    kept = folder / _name(core, settings, output)
    if kept.is_dir():
        return core.compile_model(model, "CPU", {**settings, "CACHE_DIR": str(kept)})
    aside = folder / f"new-{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        logger.info("Compiled models cannot be kept in %s: %s.", folder, error.strerror or error)
        return core.compile_model(model, "CPU", dict(settings))
    try:
        compiled = core.compile_model(model, "CPU", {**settings, "CACHE_DIR": str(aside)})
        try:
            aside.rename(kept)
        except OSError as error:  # another process was first, which is as good
            logger.debug("%s was not moved to %s: %s.", aside, kept, error)
        return compiled
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _name(core: Any, settings: Mapping[str, Any], output: str) -> str:
    """Return a name that differs wherever a compiled form would."""
    parts = {
        "openvino": import_openvino().get_version(),
        "processor": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
        "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "settings": {name: str(value) for name, value in settings.items()},
        "output": output,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
