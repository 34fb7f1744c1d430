"""What is written beside a saved model, and the identity of a loaded one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.record import saved_preferences
from embedprefs.record.saved import SAVED_CALIBRATION, SAVED_FILE

if TYPE_CHECKING:
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["add_normalize_module", "save_beside"]

_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"


def save_beside(model: PreferredSentenceTransformer, path: str | os.PathLike[str]) -> None:
    """Complete a folder that the host has just written.

    A model that is as it was loaded keeps its fingerprint, though saving rewrites its files; a trained one gets the
    fingerprint of its new weights when it is loaded.
    """
    from embedprefs.facts import read_facts

    folder = Path(path)
    resolved = model.resolved
    if resolved["vectors.normalize"] and not model.chain_normalizes:
        add_normalize_module(folder)
    if resolved.calibration_file is not None and model.calibration is not None:
        shutil.copyfile(resolved.calibration_file, folder / SAVED_CALIBRATION)
    unchanged = model.is_as_loaded() and resolved["compute.dtype"] == (resolved.facts.weights_dtype or "float32")
    written = read_facts(str(folder.absolute()))
    write_json(folder / SAVED_FILE, saved_preferences(resolved, written, unchanged=unchanged))


def add_normalize_module(folder: Path) -> None:
    """Add a Normalize module to the end of a saved chain."""
    from sentence_transformers.base.modules import Normalize

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    index = len(modules)
    own = folder / f"{index}_Normalize"
    own.mkdir(exist_ok=True)
    Normalize().save(str(own))
    modules.append({"idx": index, "name": str(index), "path": own.name, "type": _NORMALIZE})
    write_json(folder / "modules.json", modules)


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
