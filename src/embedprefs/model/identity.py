"""What the vectors of a loaded model are, and whether the model still computes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from embedprefs.errors import PreferenceMismatchError
from embedprefs.model.weights import weights_digest
from embedprefs.record import Record, fingerprint

if TYPE_CHECKING:
    from embedprefs.calibration import Calibration
    from embedprefs.engine.selection import Engine
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved

__all__ = ["LoadedIdentity", "file_stamps"]


class LoadedIdentity:
    """Preferences, record and fingerprint of a loaded model; a part of `PreferredSentenceTransformer`."""

    _resolved: Resolved | None
    _calibration: Calibration | None
    _loaded_weights: dict[str, tuple[Any, ...]] | None
    _loaded_files: dict[str, tuple[int, int]]
    _untrained: bool
    _identity_cache: dict[str, Any]
    # The host's, and those of the whole class.
    max_seq_length: Any
    truncate_dim: int | None
    similarity_fn_name: str

    if TYPE_CHECKING:

        @property
        def counts_tokens(self) -> bool:
            """True where lengths are known."""

        @property
        def engine(self) -> Engine:
            """What runs the model's texts."""

    @property
    def resolved(self) -> Resolved:
        """The effective preferences: no "auto" left, each choice with its reason.

        Raises:
            PreferenceMismatchError: the model was constructed without preferences.
        """
        if self._resolved is None:
            raise PreferenceMismatchError(
                "This model was constructed without preferences.\n  Load it with embedprefs.load_model(...)."
            )
        return self._resolved

    @property
    def preferences(self) -> Preferences:
        """The preferences it was loaded with."""
        return self.resolved.preferences

    @property
    def calibration(self) -> Calibration | None:
        """The ranges for int8 and uint8 vectors; None where `vectors.calibration` names none."""
        return self._calibration

    @property
    def untrained(self) -> bool:
        """True where the weights are random, because `model.from_scratch` built it."""
        return self._untrained

    @property
    def record(self) -> Record:
        """Identity and numerics of the vectors, to be kept beside them.

        Raises:
            PreferenceMismatchError: the model is no longer what was loaded: it was trained, or its length, dimension or
                similarity was set to something else.
        """
        identity = self._identity_record()
        if "record" not in self._identity_cache:
            # What runs is chosen when it is first asked for, which may convert the model.
            numerics = {**identity.numerics, **self.engine.to_numerics()}
            self._identity_cache["record"] = replace(identity, numerics=numerics)
        record: Record = self._identity_cache["record"]
        return record

    def _identity_record(self) -> Record:
        """Return the record without what is measured: identity, and the numerics that the preferences chose."""
        if "identity" not in self._identity_cache:
            # Files are hashed when the record is first asked for: those that were loaded, or it says nothing.
            self._require_the_same_files()
        self._require_unchanged()
        if "identity" not in self._identity_cache:
            self._identity_cache["identity"] = Record.of(self.resolved)
        record: Record = self._identity_cache["identity"]
        return record

    @property
    def fingerprint(self) -> str:
        """Hash of what the vectors are; raises as `record` does."""
        return self._identity_record().fingerprint

    @property
    def float32_fingerprint(self) -> str:
        """Fingerprint of the same vectors before they are quantised, to which a calibration belongs."""
        self._require_the_same_files()
        self._require_unchanged()
        resolved = self.resolved
        choices = dict(resolved.choices)
        choices["vectors.precision"] = replace(choices["vectors.precision"], value="float32")
        choices["vectors.calibration"] = replace(choices["vectors.calibration"], value=None)
        return fingerprint(replace(resolved, choices=choices))

    def is_as_loaded(self) -> bool:
        """Tell whether every weight is, bit for bit, what was loaded, and no setting was changed since."""
        if self._resolved is None or self._untrained or self.settings_that_changed():
            return False
        return self._loaded_weights == weights_digest(cast(torch.nn.Module, self))

    def settings_that_changed(self) -> dict[str, tuple[Any, Any]]:
        """Return dotted key -> (preference, value now) for what was set on the model after loading."""
        resolved = self.resolved
        now: dict[str, Any] = {"tokenizer.max_seq_length": self.max_seq_length} if self.counts_tokens else {}
        now |= {"vectors.truncate_dim": self.truncate_dim, "vectors.similarity_fn_name": self.similarity_fn_name}
        if now.get("tokenizer.max_seq_length") == float("inf"):
            now["tokenizer.max_seq_length"] = resolved["tokenizer.max_seq_length"]
        return {key: (resolved[key], value) for key, value in now.items() if resolved[key] != value}

    def _require_unchanged(self) -> None:
        changed = self.settings_that_changed()
        if changed:
            listed = "; ".join(f"{key} was {was!r} and is {value!r}" for key, (was, value) in changed.items())
            raise PreferenceMismatchError(
                f"The model is no longer what its preferences say: {listed}.\n"
                "  Load it with these values instead of setting them: load_model(preferences, overrides={...}).",
                left={key: was for key, (was, _) in changed.items()},
                right={key: value for key, (_, value) in changed.items()},
                differences=changed,
            )
        if not self._untrained and self._loaded_weights != weights_digest(cast(torch.nn.Module, self)):
            raise PreferenceMismatchError(
                "The weights are no longer those that were loaded, so that their fingerprint says nothing.\n"
                "  Save the model and load it again: model.save_pretrained(folder); load_model(folder).",
                differences=["weights"],
            )

    def _require_the_same_files(self) -> None:
        if file_stamps(self.resolved) != self._loaded_files:
            raise PreferenceMismatchError(
                f"The files of {self.resolved.facts.name} were changed after the model was loaded, so that their hash "
                "says nothing about it.\n  Load the model again.",
                differences=["weights"],
            )


def file_stamps(resolved: Resolved) -> dict[str, tuple[int, int]]:
    """Return size and time of every file of a model that is here, to notice that one was replaced."""
    folder = resolved.facts.folder
    if folder is None:
        return {}
    stamps = {}
    for name in resolved.facts.files:
        path = folder / name
        if path.is_file():
            status = path.stat()
            stamps[name] = (status.st_size, status.st_mtime_ns)
    return stamps
