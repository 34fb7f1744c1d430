"""Preferences, a model's facts and a machine become effective values, each with its reason.

Identity is taken from the strongest layer that states it: the preferences, what was saved with the model, the model's
own files, the known-model table, the default. "auto" in `[compute]` is answered by the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.facts.model_facts import ModelFacts
from embedprefs.preferences import Preferences, every_field
from embedprefs.resolve.compute import compute_choices
from embedprefs.resolve.identity import identity_choices
from embedprefs.resolve.resolved import Choice, Resolved
from embedprefs.resolve.sources import Sources

if TYPE_CHECKING:
    from embedprefs.hardware import Hardware

__all__ = ["Choice", "Resolved", "resolve"]


def resolve(preferences: Preferences, facts: ModelFacts | None = None, hardware: Hardware | None = None) -> Resolved:
    """Say what every preference becomes for this model on this machine, and why.

    Args:
        preferences: What the layers state.
        facts: What the model's files say; read from where `model.name` points if not given.
        hardware: The machine; this one if not given.

    Returns:
        The effective values. A stated value is kept even where it cannot work: `check` reports that.

    Raises:
        ModelFilesError: the model's files cannot be read.
        UnavailableError: they are on the hub, and it does not answer.
    """
    from embedprefs.known_models import find_known_model

    if facts is None:
        from embedprefs.facts import facts_for

        facts = facts_for(preferences)
    if hardware is None:
        from embedprefs.hardware import detect_hardware

        hardware = detect_hardware()
    known_model = find_known_model(facts)
    sources = Sources.of(preferences, facts, known_model)
    choices = identity_choices(sources)
    choices |= compute_choices(sources, hardware, choices)
    order = [declared.key for declared in every_field()]
    named = [key for key in choices if key not in order]
    ordered = {key: choices[key] for key in order if key in choices}
    prompts = {key: choices[key] for key in named}
    return Resolved(preferences, facts, hardware, known_model, ordered | prompts)
