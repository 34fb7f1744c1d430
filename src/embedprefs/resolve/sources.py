"""The layers a resolved value can come from, asked in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from embedprefs.errors import ModelFilesError
from embedprefs.facts.model_facts import ModelFacts
from embedprefs.preferences import DEFAULT_ORIGIN, Kind, Layer, Origin, Preferences, find_field
from embedprefs.resolve.resolved import Choice

if TYPE_CHECKING:
    from embedprefs.known_models import KnownModelMatch

__all__ = ["SAVED_FILE", "SAVED_SECTIONS", "Sources"]

#: Where a saved model keeps the part of its identity that the host's own files cannot hold.
SAVED_FILE = "config_embedprefs.json"
#: The tables that may stand in it. `[model]` may not: a file that came with a model never says which code is trusted.
SAVED_SECTIONS = ("tokenizer", "prompts", "vectors")


def _saved_values(facts: ModelFacts) -> dict[str, Any]:
    """Return dotted key -> value of what was saved with the model, identity only.

    Raises:
        ModelFilesError: the file says something that no preference allows.
    """
    saved = facts.saved_preferences.get("preferences", {})
    if not isinstance(saved, Mapping):
        raise ModelFilesError(f'"preferences" in {SAVED_FILE} is no table.', model=facts.name, file=SAVED_FILE)
    sections = {name: saved[name] for name in SAVED_SECTIONS if name in saved}
    try:
        values = Preferences.model_validate({"model": {"name": facts.name}, **sections}).stated()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        message = f"{SAVED_FILE} of {facts.name} holds values that are not allowed: {problems}. Save the model again."
        raise ModelFilesError(message, model=facts.name, file=SAVED_FILE) from error
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("model.") and value is not None and _is_identity(key)
    }


def _is_identity(key: str) -> bool:
    declared = find_field(key)
    return declared is None or declared.kind is Kind.IDENTITY  # a prompt whose name the user chose is not declared


@dataclass(frozen=True)
class Sources:
    """Preferences, what was saved with the model, the model's own files and the known-model table."""

    preferences: Preferences
    facts: ModelFacts
    known_model: KnownModelMatch | None
    stated_values: Mapping[str, Any]
    saved_values: Mapping[str, Any]

    @classmethod
    def of(cls, preferences: Preferences, facts: ModelFacts, known_model: KnownModelMatch | None) -> Sources:
        """Gather the sources of one model."""
        return cls(
            preferences,
            facts,
            known_model,
            stated_values={key: value for key, value in preferences.stated().items() if value is not None},
            saved_values=_saved_values(facts),
        )

    def stated_origin(self, key: str) -> Origin:
        """Return where a stated value was written; "explicit" for preferences built in Python."""
        origins = self.preferences.origins
        if key in origins:
            return origins[key]
        inner = [origin for name, origin in origins.items() if name.startswith(f"{key}.")]
        return inner[0] if inner else Origin(Layer.EXPLICIT)

    def stated(self, key: str) -> Choice | None:
        """Return the choice if a preference states it, else if it was saved with the model, else None."""
        if key in self.stated_values:
            return Choice(self.stated_values[key], self.stated_origin(key), "Stated.")
        if key in self.saved_values:
            reason = f"Saved with the model in {SAVED_FILE}."
            return Choice(self.saved_values[key], Origin(Layer.MODEL_FILES, SAVED_FILE), reason)
        return None

    def pick(
        self, key: str, own: Any = None, *, own_file: str = "", known: Any = None, default: Any = None, reason: str
    ) -> Choice:
        """Return the value of the strongest layer that has one.

        Args:
            key: Dotted key of the preference.
            own: What the model's own files say; None where they say nothing.
            own_file: The file that says it.
            known: What the known-model table says; None where it says nothing.
            default: What holds when nothing says anything.
            reason: Why the default holds.
        """
        choice = self.stated(key)
        if choice is not None:
            return choice
        if own is not None:
            return Choice(own, Origin(Layer.MODEL_FILES, own_file), "The model's own files say so.")
        if known is not None and self.known_model is not None:
            return Choice(known, self.known_origin, self.known_reason)
        return Choice(default, DEFAULT_ORIGIN, reason)

    @property
    def known_origin(self) -> Origin:
        """The origin of a value from the known-model table."""
        name = self.known_model.model.name if self.known_model is not None else ""
        return Origin(Layer.KNOWN_MODEL, f"known-model table ({name})")

    @property
    def known_reason(self) -> str:
        """The reason of a value from the known-model table."""
        match = self.known_model
        return f"{match.reason} Its own files do not state it." if match is not None else ""

    @property
    def known_by_base(self) -> bool:
        """True where the table may know not this model but one it was made from."""
        return self.known_model is not None and self.known_model.by != "name"

    @property
    def known_prompts(self) -> Mapping[str, str]:
        """Prompts of the known-model table that hold for this model where its own files state none.

        A model itself needs what the table says. One made from it needs that only where the vectors are wrong without:
        prompts that are a mere recommendation are mostly left out in fine-tuning, as the host's trainer does unless
        told otherwise. Models further away get none.
        """
        match = self.known_model
        if match is None:
            return {}
        if match.by == "name" or (match.confidence == "likely" and match.model.prompts_required):
            return match.model.prompts
        return {}
