"""Loading an artefact: verified, compared with what it came from, and proved by its canaries."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import InputError, MissingExtraError, ModelFilesError, PreferenceMismatchError
from embedprefs.hardware.processor import bfloat16_pays_here
from embedprefs.serving.artefact import COMPILED_FOLDER, Artefact, RuntimeSettings, is_artefact
from embedprefs.serving.canaries import embed_canaries, furthest
from embedprefs.serving.encoder import Encoder
from embedprefs.serving.register import entry_for

if TYPE_CHECKING:
    from embedprefs.engine.backend import Backend
    from embedprefs.preferences import Preferences

__all__ = ["load_artefact", "load_backend", "load_encoder"]

logger = logging.getLogger("embedprefs.serving")


def load_encoder(
    source: Preferences | str | os.PathLike[str], *, overrides: Mapping[str, Any] | None = None
) -> Encoder:
    """Load what embeds as the model does, without torch, transformers or sentence-transformers.

    A folder is an artefact that `embedprefs compile -o FOLDER` wrote. Preferences, or a preferences file, find the
    artefact that was compiled from them on this machine: the one with their fingerprint and their exactness.

    Before it is returned, an artefact is proved: its files are what was written, the model it was compiled from is
    unchanged where it is on this machine, and canary texts give the vectors that the model gave.

    Args:
        source: The folder of an artefact, preferences, or the path of a preferences file.
        overrides: With a preferences file, values that win over every layer, by dotted key.

    Returns:
        An encoder with the model's fingerprint.

    Raises:
        InputError: `source` is none of these, or overrides are given for what is finished.
        ModelFilesError: the artefact is absent or damaged.
        PreferenceMismatchError: the artefact gives other vectors than the preferences, the model's files, or the
            model it was compiled from; fields that differ are shown with both sides.
        MissingExtraError: openvino or tokenizers is not installed.
        PreferencesFileError: the preferences file cannot be read.
        InvalidPreferenceError: the preferences file holds what is not allowed.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_dir():
            return _load_folder(path, overrides)
        if path.suffix != ".toml":
            raise InputError(
                f"{path}: no folder of a compiled artefact, and no preferences file.\n"
                "  Write an artefact with embedprefs compile -o FOLDER, and name its folder.",
                file=path,
            )
        from embedprefs.layers import load_preferences

        source = load_preferences(path, overrides=overrides)
    elif overrides:
        raise InputError("Preferences are a finished value.\n  Pass the overrides to load_preferences.")
    from embedprefs.preferences import Preferences
    from embedprefs.serving.finding import require_artefact, runtime_of

    if not isinstance(source, Preferences):
        raise InputError(
            f"load_encoder was given a {type(source).__name__}.\n"
            "  Give the folder of an artefact, preferences, or the path of a preferences file."
        )
    artefact, resolved = require_artefact(source)
    return load_artefact(artefact, runtime_of(resolved), compare_source=False)


def _load_folder(folder: Path, overrides: Mapping[str, Any] | None) -> Encoder:
    if overrides:
        raise InputError(
            f"{folder}: an artefact holds finished preferences, which overrides cannot change.\n"
            "  Compile it with them: embedprefs compile --set KEY=VALUE -o FOLDER."
        )
    if not is_artefact(folder):
        raise ModelFilesError(
            f"{folder}: no compiled artefact.\n"
            "  Write one with embedprefs compile -o FOLDER; a model's own folder is loaded by load_model.",
            file=folder,
        )
    return load_artefact(Artefact.read(folder))


def load_artefact(
    artefact: Artefact, runtime: RuntimeSettings | None = None, *, compare_source: bool = True
) -> Encoder:
    """Load an artefact's model and prove it.

    Args:
        artefact: The artefact.
        runtime: How to compute; as the artefact says if not given.
        compare_source: Whether to compare it with the model's files where they are on this machine; False where they
            were just read.

    Raises:
        ModelFilesError: the model is damaged.
        PreferenceMismatchError: as `load_encoder`.
        MissingExtraError: openvino or tokenizers is not installed.
    """
    if compare_source:
        _compare_with_source(artefact)
    runtime = runtime if runtime is not None else artefact.runtime
    encoder = Encoder(artefact, load_backend(artefact, runtime), runtime)
    _check_canaries(encoder)
    return encoder


def load_backend(artefact: Artefact, runtime: RuntimeSettings) -> Backend:
    """Load what computes an artefact's vectors.

    Raises:
        MissingExtraError: openvino or tokenizers is not installed.
        ModelFilesError: the model is damaged.
    """
    import importlib.util

    for package in ("tokenizers", *(["openvino"] if artefact.backend == "openvino" else [])):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra="serve", needed_for="A compiled artefact")
    if artefact.backend == "numpy":
        from embedprefs.serving.static_backend import StaticBackend

        return StaticBackend(artefact.model_folder, normalize=artefact.encoding.chain_normalizes)
    if artefact.backend != "openvino":
        raise ModelFilesError(
            f"{artefact.folder}: an artefact for {artefact.backend}, which this version does not run.\n"
            "  Write the artefact again: embedprefs compile.",
            file=artefact.folder,
        )
    from embedprefs.engine.openvino.backend import OpenVINOBackend, native_bfloat16

    numerics: Any = artefact.numerics
    if numerics == "bfloat16":
        if not native_bfloat16():
            logger.info("%s: this processor has no bfloat16; the artefact computes in float32.", artefact.folder)
            numerics = "float32"
        elif artefact.demand.get("dtype") != "bfloat16" and not bfloat16_pays_here():
            logger.info(
                "%s: float32 is faster on this processor, and is what the artefact computes in.", artefact.folder
            )
            numerics = "float32"
    backend: Any = OpenVINOBackend(
        artefact.model_folder,
        numerics=numerics,
        threads=runtime.threads,
        compiled_cache=artefact.folder / COMPILED_FOLDER,
    )
    return backend  # type: ignore[no-any-return]  # its numerics are of fewer values than a backend's


# Proof ---------------------------------------------------------------------------------------------------------------


def _compare_with_source(artefact: Artefact) -> None:
    """Refuse an artefact whose model was changed since; where the model is not here there is nothing to compare."""
    entry = entry_for(artefact.fingerprint, artefact.demand)
    if entry is None or not entry.source_is_here() or entry.source_is_unchanged():
        return
    from embedprefs.record import Record
    from embedprefs.serving.finding import identity_now

    recorded, now = artefact.record.identity, identity_now(entry)
    comparison = Record(recorded).compare(Record(now))
    if not comparison:
        raise PreferenceMismatchError(
            f"{artefact.folder}: the model it was compiled from was changed since, in {entry.source_folder}.\n"
            f"{comparison.to_text('artefact', 'model now')}\n"
            "  Compile it again: embedprefs compile --force.",
            left=recorded,
            right=now,
            differences=[difference.field for difference in comparison.differences],
        )
    # Touched, copied, or an unused file changed: it is the same model, and the next load need not hash it.
    entry.with_stamps_of_now().write()


def _check_canaries(encoder: Encoder) -> None:
    artefact = encoder.artefact
    stored = artefact.canaries()
    now = embed_canaries(encoder, artefact.canary_texts)
    advice = (
        "The artefact was changed, or openvino computes otherwise here. Compile it again: embedprefs compile --force."
    )
    if stored.shape != now.shape:
        raise PreferenceMismatchError(
            f"{artefact.folder}: the canary vectors have the shape {stored.shape}, and the model gives {now.shape}.\n"
            f"  {advice}",
            left={"canaries": list(stored.shape)},
            right={"canaries": list(now.shape)},
            differences=["canaries"],
        )
    moved = furthest(stored, now)
    if not moved.is_within(artefact.canary_bound):
        text = artefact.canary_texts[moved.position % len(artefact.canary_texts)]
        raise PreferenceMismatchError(
            f"{artefact.folder}: the artefact gives other vectors than the model it was compiled from.\n"
            f"  The canary text {text[:40]!r} has a cosine of {moved.cosine:.5f} to its stored vector, and "
            f"{moved.length:.3f} times its length; a cosine of {artefact.canary_bound:.5f} is the least that "
            f"{encoder.numerics} allows.\n"
            f"  {advice}",
            left={"canary": "stored", "cosine": 1.0, "length": 1.0},
            right={"canary": "now", "cosine": moved.cosine, "length": moved.length},
            differences=["canary"],
        )
