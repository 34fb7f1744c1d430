"""Which artefact belongs to preferences, and whether it is current."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import EmbedPrefsError, EmbedPrefsWarning, InputError, PreferenceMismatchError
from embedprefs.preferences import Preferences
from embedprefs.record import ContentHashes, Record, identity_fields
from embedprefs.record.identity import fingerprint_of
from embedprefs.resolve import Resolved, resolve
from embedprefs.serving.artefact import Artefact, RuntimeSettings
from embedprefs.serving.register import Entry, entries, entry_for

if TYPE_CHECKING:
    from embedprefs.serving.encoder import Encoder

__all__ = [
    "automatic_encoder",
    "demand_of",
    "find_artefact",
    "identity_now",
    "objection",
    "require_artefact",
    "runtime_of",
]

logger = logging.getLogger("embedprefs.serving")

#: Stated values that decide about the number format of an artefact.
_DEMAND = ("exactness", "weights", "dtype")
#: Fields of an identity that are hashes of files in the model's folder.
_HASHED = ("weights", "tokenizer", "adapter", "custom_code")


def demand_of(preferences: Preferences) -> dict[str, Any]:
    """Return the compute preferences that an artefact's number format follows from."""
    return {name: getattr(preferences.compute, name) for name in _DEMAND}


def runtime_of(resolved: Resolved) -> RuntimeSettings:
    """Return how an encoder is to compute, and what it is to say, by these preferences."""
    return RuntimeSettings(
        on_overflow=resolved["tokenizer.on_overflow"],
        batch_tokens=resolved["compute.batch_tokens"],
        max_batch_size=resolved["compute.max_batch_size"],
        threads=resolved["compute.threads"],
        cache=resolved["compute.cache"],
        cache_size=resolved["compute.cache_size"],
    )


def objection(resolved: Resolved) -> str | None:
    """Return why preferences are not served by an artefact here, as a clause; None where they may be."""
    stated = resolved.preferences.compute.backend
    if stated not in ("auto", "openvino"):
        return f'compute.backend is "{stated}"'
    if resolved.devices != ("cpu",):
        return f"compute.device is {', '.join(resolved.devices)}, and an artefact computes on the processor"
    if resolved["compute.autocast"]:
        return "compute.autocast is torch's"
    if resolved["compute.workers"] > 1:
        return f"compute.workers is {resolved['compute.workers']}, and an artefact computes in one process"
    if resolved["model.from_scratch"]:
        return "model.from_scratch builds a model with random weights"
    return None


def find_artefact(resolved: Resolved) -> Artefact | None:
    """Return the artefact that was compiled from these preferences on this machine, where it is there and current.

    Current is an artefact whose fingerprint is that of the preferences and of the model's files as they are now, and
    whose number format was chosen for the same `compute.exactness`, `weights` and `dtype`.

    Args:
        resolved: The effective preferences.

    Returns:
        The artefact, verified; None where there is none, and the model itself is to be loaded. What is there and is
        not used is logged with the reason.
    """
    if objection(resolved) is not None:
        return None
    registered = list(entries())
    if not registered:
        return None
    demand = demand_of(resolved.preferences)
    entry = _entry_of(resolved, registered, demand)
    if entry is None:
        former = _former(resolved, registered)
        if former is not None:
            logger.info(
                "The compiled artefact in %s is of other preferences or weights; the model itself is loaded. "
                "Compile it again: embedprefs compile.",
                former.folder,
            )
        return None
    try:
        return Artefact.read(entry.folder)
    except EmbedPrefsError as error:
        _warn_of(error)
        return None


def automatic_encoder(resolved: Resolved) -> Encoder | None:
    """Return the encoder for preferences where an artefact is there and current, and say so in the log.

    Args:
        resolved: The effective preferences.

    Returns:
        The encoder; None where the model itself is to be loaded.
    """
    artefact = find_artefact(resolved)
    return load_found(artefact, resolved) if artefact is not None else None


def load_found(artefact: Artefact, resolved: Resolved) -> Encoder | None:
    """Load the artefact that was found for preferences; None where it cannot be used, with the reason in the log."""
    from embedprefs.serving.loading import load_artefact

    try:
        encoder = load_artefact(artefact, runtime_of(resolved), compare_source=False)
    except EmbedPrefsError as error:
        _warn_of(error)
        return None
    logger.info("Using the compiled artefact in %s (%s, %s).", artefact.folder, artefact.backend, encoder.numerics)
    return encoder


def require_artefact(preferences: Preferences) -> tuple[Artefact, Resolved]:
    """Return the artefact of preferences with their effective values, or say why there is none.

    Raises:
        InputError: no artefact was compiled from them, or they are not served by one.
        PreferenceMismatchError: the artefact that was compiled is of another identity; both sides are shown.
        ModelFilesError: the artefact is damaged, or the model's files cannot be read.
    """
    resolved = resolve(preferences)
    reason = objection(resolved)
    if reason is not None:
        raise InputError(f"No artefact serves these preferences: {reason}.\n  Use load_model, or change this value.")
    registered = list(entries())
    demand = demand_of(preferences)
    entry = _entry_of(resolved, registered, demand)
    if entry is not None:
        return Artefact.read(entry.folder), resolved
    former = _former(resolved, registered)
    if former is None:
        named = f"--preferences {preferences.file} " if preferences.file is not None else ""
        raise InputError(
            f"No artefact was compiled from these preferences of {preferences.model.name} on this machine.\n"
            f"  Run: embedprefs compile {named}".rstrip()
        )
    recorded, now = Artefact.read(former.folder).record.identity, identity_fields(resolved)
    comparison = Record(recorded).compare(Record(now))
    if comparison:
        raise InputError(
            f"The artefact in {former.folder} was compiled for {_in_words(former.demand)}, and the preferences say "
            f"{_in_words(demand)}.\n  Run: embedprefs compile"
        )
    raise PreferenceMismatchError(
        f"The artefact in {former.folder} is of other vectors than these preferences.\n"
        f"{comparison.to_text('artefact', 'preferences')}\n"
        "  Compile it again: embedprefs compile",
        left=recorded,
        right=now,
        differences=[difference.field for difference in comparison.differences],
    )


def identity_now(entry: Entry) -> dict[str, Any]:
    """Return the identity of the preferences an artefact was compiled from, with the model's files as they are now.

    Raises:
        ModelFilesError: the files cannot be read.
    """
    from embedprefs.facts import read_facts

    file = Path(entry.preferences_file) if entry.preferences_file is not None else None
    preferences = Preferences.model_validate(entry.stated).with_origins({}, file)
    return identity_fields(resolve(preferences, read_facts(str(entry.source_folder))))


def _warn_of(error: EmbedPrefsError) -> None:
    warnings.warn(
        f"The compiled artefact is not used, and the model itself is loaded: {error}", EmbedPrefsWarning, stacklevel=4
    )


def _entry_of(resolved: Resolved, registered: list[Entry], demand: Mapping[str, Any]) -> Entry | None:
    """Return the entry of these preferences; the model's files are hashed only where they may have changed."""
    folder = str(resolved.facts.folder) if resolved.facts.folder is not None else None
    for entry in registered:
        same_source = folder is not None and entry.source_folder == folder
        if same_source and dict(entry.demand) == demand and entry.source_is_unchanged():
            known = _fingerprint_of_unchanged(resolved, entry)
            if known == entry.fingerprint:
                return entry
    return entry_for(fingerprint_of(identity_fields(resolved)), demand)


def _fingerprint_of_unchanged(resolved: Resolved, entry: Entry) -> str | None:
    """Return the fingerprint of preferences on the same, unchanged files: their hashes are those of the artefact."""
    if resolved.preferences.model.adapter is not None:
        return None  # lies in a folder of its own, which is not watched
    try:
        known = Artefact.read(entry.folder).record.identity
    except EmbedPrefsError:
        return None  # said where it is loaded
    hashes = ContentHashes(**{name: known[name] for name in _HASHED}, calibration=_calibration_hash(resolved))
    return fingerprint_of(identity_fields(resolved, hashes=hashes))


def _calibration_hash(resolved: Resolved) -> str | None:
    if resolved.calibration_file is None or resolved["vectors.precision"] not in ("int8", "uint8"):
        return None
    from embedprefs.facts.content_hash import file_hash

    return file_hash(resolved.calibration_file)


def _former(resolved: Resolved, registered: list[Entry]) -> Entry | None:
    """Return the latest artefact that was compiled from the same file, or of the same model without a file."""
    preferences = resolved.preferences
    file = str(preferences.file) if preferences.file is not None else None
    for entry in registered:
        same = entry.preferences_file == file if file is not None else entry.model == preferences.model.name
        if same and Path(entry.folder).is_dir():
            return entry
    return None


def _in_words(demand: Mapping[str, Any]) -> str:
    return ", ".join(f"compute.{name} = {value}" for name, value in demand.items())
