"""The layers that preferences come from, put one over the other, each value with its origin."""

from __future__ import annotations

from embedprefs.layers.environment import RESERVED_VARIABLES, parse_set_option
from embedprefs.layers.loading import load_preferences, preferences_for_model, with_overrides
from embedprefs.layers.tuned import TUNED_LOCK, machine_description, version_description, write_tuned_lock
from embedprefs.layers.user import user_file

__all__ = [
    "RESERVED_VARIABLES",
    "TUNED_LOCK",
    "load_preferences",
    "machine_description",
    "parse_set_option",
    "preferences_for_model",
    "user_file",
    "version_description",
    "with_overrides",
    "write_tuned_lock",
]
