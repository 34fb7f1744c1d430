"""What is saved beside a model: the part of its identity that the host's own files cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedprefs.facts.model_facts import ModelFacts
from embedprefs.preferences import ModelPreferences, Preferences
from embedprefs.record.comparison import Comparison, compare_identities
from embedprefs.record.identity import (
    REWRITTEN_BY_SAVING,
    ContentHashes,
    fingerprint_of,
    identity_fields,
)
from embedprefs.resolve import Resolved, resolve
from embedprefs.resolve.sources import SAVED_FILE

__all__ = ["SAVED_CALIBRATION", "SAVED_FILE", "SAVED_VERSION", "compare_with_saved", "saved_preferences"]

SAVED_VERSION = 1
#: Name under which the calibration file is copied into a saved model's folder.
SAVED_CALIBRATION = "calibration_embedprefs.json"


def saved_preferences(
    resolved: Resolved, written: ModelFacts | None = None, *, unchanged: bool = False
) -> dict[str, Any]:
    """Return what belongs into `config_embedprefs.json` of a saved model: identity, and nothing of this machine.

    Args:
        resolved: The effective preferences of the model that is saved.
        written: What the saved folder's files say, read after the host has written them and the calibration file has
            been copied to `SAVED_CALIBRATION`. With it the identity and its fingerprint are saved too.
        unchanged: True where the weights are as they were loaded, in the number format they are stored in. The saved
            model then keeps its fingerprint, though saving rewrote its files.

    Raises:
        ModelFilesError: a file that has to be hashed is not there.
    """
    from embedprefs import __version__

    saved: dict[str, Any] = {
        "version": SAVED_VERSION,
        "written_by": f"embedprefs {__version__}",
        "preferences": _sections(resolved),
    }
    if written is None:
        return saved
    bare = Preferences(model=ModelPreferences(name=written.name))
    after = identity_fields(resolve(bare, replace(written, saved_preferences=saved), resolved.hardware))
    identity = identity_fields(resolved) if unchanged else after
    return {
        **saved,
        "fingerprint": fingerprint_of(identity),
        "identity": identity,
        "rewritten": {
            name: {"before": identity[name], "after": after[name]}
            for name in sorted(REWRITTEN_BY_SAVING)
            if identity[name] != after[name]
        },
    }


def _sections(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """Return the effective identity as tables of a preferences file, what does not apply left out."""
    # No file is hashed for it: the hashes do not stand in a preferences file.
    identity = identity_fields(resolved, hashes=ContentHashes())
    windows = resolved["tokenizer.overflow"] == "window"
    quantised = resolved["vectors.precision"] in ("int8", "uint8")
    sections: dict[str, dict[str, Any]] = {
        "tokenizer": {
            "max_seq_length": resolved["tokenizer.max_seq_length"],
            "padding_side": resolved["tokenizer.padding_side"],
            "truncation_side": resolved["tokenizer.truncation_side"],
            "special_tokens": identity["special_tokens"] or None,
            "overflow": "window" if windows else None,
            "window_overlap": identity["window_overlap"],
            "window_pooling": identity["window_pooling"],
            "kwargs": identity["tokenizer_arguments"] or None,
        },
        "prompts": {**resolved.prompts, "task": resolved["prompts.task"]},
        "vectors": {
            "normalize": resolved["vectors.normalize"],
            "truncate_dim": resolved["vectors.truncate_dim"],
            "similarity_fn_name": resolved["vectors.similarity_fn_name"],
            "precision": resolved["vectors.precision"],
            "calibration": SAVED_CALIBRATION if quantised and resolved["vectors.calibration"] is not None else None,
        },
    }
    return {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }


def compare_with_saved(resolved: Resolved) -> Comparison | None:
    """Compare the identity that was saved with a model with the effective one.

    Returns:
        The comparison, the saved side first; None where no identity was saved with the model.
    """
    saved = resolved.facts.saved_preferences.get("identity")
    if not isinstance(saved, Mapping):
        return None
    return compare_identities(saved, identity_fields(resolved))
