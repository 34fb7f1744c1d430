"""What preferences become on one machine, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.facts.model_facts import ModelFacts
from embedprefs.preferences import Layer, Origin, Preferences, find_field

if TYPE_CHECKING:
    from embedprefs.hardware import Hardware
    from embedprefs.known_models import KnownModelMatch

__all__ = ["Choice", "Resolved"]


@dataclass(frozen=True)
class Choice:
    """One effective value, where it came from, and why it is this one."""

    value: Any
    origin: Origin
    """Where the value, or the "auto" that led to it, was written."""
    reason: str
    """A sentence for `show --resolved`."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """Preferences with every open question answered: no "auto" left, each choice with its reason.

    `resolved["compute.dtype"]` is a value, `resolved.choice("compute.dtype").reason` says why.
    """

    preferences: Preferences
    facts: ModelFacts
    hardware: Hardware
    known_model: KnownModelMatch | None
    """The entry of the known-model table that matches; None where none does."""
    choices: Mapping[str, Choice]
    """Dotted key -> choice, for every identity, access, compute and report preference of the model itself."""

    def __getitem__(self, key: str) -> Any:
        """Return the effective value of a dotted key.

        Raises:
            KeyError: the key is not one that is resolved; `effective` also answers for the others.
        """
        return self.choices[key].value

    def __contains__(self, key: object) -> bool:
        return key in self.choices

    def choice(self, key: str) -> Choice:
        """Return the effective value of a dotted key with its origin and reason.

        Raises:
            KeyError: the key is not one that is resolved.
        """
        return self.choices[key]

    def effective(self, key: str) -> Any:
        """Return the value that holds for any declared key: the resolved one, or what the preferences say.

        Raises:
            KeyError: no such preference exists.
        """
        if key in self.choices:
            return self.choices[key].value
        if find_field(key) is None:
            raise KeyError(key)
        return self.preferences.get(key)

    @property
    def prompts(self) -> dict[str, str]:
        """Every prompt by name; "query" and "document" are always there, "" where there is none."""
        return {
            key.removeprefix("prompts."): choice.value
            for key, choice in self.choices.items()
            if key.startswith("prompts.") and key != "prompts.task"
        }

    @property
    def embedding_dimension(self) -> int | None:
        """Length of the vectors after truncation; None where the model's files do not say."""
        full = self.facts.embedding_dimension
        truncated: int | None = self["vectors.truncate_dim"]
        if full is None or truncated is None:
            return truncated if full is None else full
        return min(full, truncated)

    @property
    def calibration_file(self) -> Path | None:
        """The file with the ranges for int8 and uint8 vectors; None where none is named.

        A path in a preferences file is relative to that file, one saved with a model to the model's folder.
        """
        choice = self.choices["vectors.calibration"]
        if choice.value is None:
            return None
        saved = choice.origin.layer is Layer.MODEL_FILES
        base = self.facts.folder if saved and self.facts.folder is not None else self.preferences.folder
        return base / Path(choice.value).expanduser()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices the model runs on; one, unless `compute.device` is a list."""
        device = self["compute.device"]
        return tuple(device) if isinstance(device, (list, tuple)) else (device,)

    def rows(self) -> list[tuple[str, Any, str, str]]:
        """Return (key, value, origin, reason) for every choice, in the order of the preferences file."""
        return [(key, choice.value, str(choice.origin), choice.reason) for key, choice in self.choices.items()]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return key -> {value, origin, reason} as JSON values."""
        return {
            key: {"value": _json_value(value), "origin": origin, "reason": reason}
            for key, value, origin, reason in self.rows()
        }


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
