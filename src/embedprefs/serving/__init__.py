"""Serving without torch: a compiled artefact, and the encoder that gives the model's vectors from it.

`embedprefs compile` writes an artefact; `load_encoder` loads it with OpenVINO (or numpy), tokenizers and numpy alone.
What is imported here loads neither torch nor pydantic, so that a first vector comes within a second of the process's
start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

if TYPE_CHECKING:
    from embedprefs.serving.artefact import Artefact
    from embedprefs.serving.compiling import compile_model
    from embedprefs.serving.encoder import Encoder
    from embedprefs.serving.finding import automatic_encoder, find_artefact, load_found
    from embedprefs.serving.loading import load_encoder

__all__ = ["Artefact", "Encoder", "automatic_encoder", "compile_model", "find_artefact", "load_encoder", "load_found"]

_HOMES = {
    "Artefact": "artefact",
    "Encoder": "encoder",
    "automatic_encoder": "finding",
    "compile_model": "compiling",
    "find_artefact": "finding",
    "load_found": "finding",
    "load_encoder": "loading",
}


__getattr__ = lazy_names(__name__, _HOMES)
