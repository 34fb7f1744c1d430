"""The trained model on disk: saved whole, loaded again as it is served, compared with what was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import PreferenceMismatchError, ResourceError
from embedprefs.files import write_preferences
from embedprefs.layers import with_overrides
from embedprefs.model import load_model
from embedprefs.record import ContentHashes, identity_fields
from embedprefs.record.identity import REWRITTEN_BY_SAVING
from embedprefs.training.checkpoints import MODEL
from embedprefs.training.parameters import has_adapter, merge_adapter
from embedprefs.training.trainer import quiet_host, without_quantisation

if TYPE_CHECKING:
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.preferences import Preferences

__all__ = ["load_served", "load_trained", "save_trained", "write_preferences_beside"]

_ADAPTER = "adapter"
_PREFERENCES = "embedprefs.toml"


def load_served(preferences: Preferences) -> PreferredSentenceTransformer:
    """Load the base as it is served; with float32 vectors in place of int8, whose ranges belong to the base alone."""
    return load_model(without_quantisation(preferences))


def save_trained(
    model: PreferredSentenceTransformer, preferences: Preferences, output: Path
) -> tuple[Path, float | None]:
    """Save a trained model into the run's folder, where it appears whole or not at all.

    Args:
        model: What was trained; an adapter is merged into it, unless `training.lora.merge` is false.
        preferences: The run's.
        output: The run's folder.

    Returns:
        The folder, and how far the merged model's probe vectors are from the adapter's (None where nothing was merged).

    Raises:
        ModelFilesError: the merged model computes something else.
        ResourceError: it cannot be written.
    """
    lora = preferences.training.lora
    difference = None
    if has_adapter(model):
        # An adapter that lies over another one which was merged says nothing without it.
        if lora is not None and not lora.merge and preferences.model.adapter is None:
            return _whole(output / _ADAPTER, model.transformers_model.save_pretrained), None
        difference = merge_adapter(model)
    return _whole(output / MODEL, lambda path: model.save_pretrained(path, create_model_card=False)), difference


def _whole(folder: Path, write: Callable[[str], Any]) -> Path:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet_host():
            write(str(partial))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ResourceError(
            f"{folder}: the trained model could not be written: {error}\n"
            "  Nothing is lost: free some space and run the same command again."
        ) from error
    if folder.exists():
        shutil.rmtree(folder)
    return partial.rename(folder)


def load_trained(
    model: PreferredSentenceTransformer, preferences: Preferences, folder: Path
) -> PreferredSentenceTransformer:
    """Load what was saved, by the folder's name alone, and make sure that it is served as it was trained.

    Args:
        model: What was trained.
        preferences: The run's; they say how it is run, the folder says what it is.
        folder: What `save_trained` returned.

    Raises:
        PreferenceMismatchError: prompts, lengths, dimensions or anything else of the identity are not what they were.
    """
    if folder.name == _ADAPTER:
        served = load_served(with_overrides(preferences, {"model.adapter": {"name": str(folder)}}))
    else:
        compute = preferences.compute.model_dump(exclude_unset=True)
        overrides = {f"compute.{name}": value for name, value in compute.items()}
        if preferences.model.trust_remote_code:
            overrides["model.trust_remote_code"] = True
        served = load_model(str(folder), overrides=overrides)
    trained, saved = (identity_fields(item.resolved, hashes=ContentHashes()) for item in (model, served))
    differences = [name for name in trained if name not in REWRITTEN_BY_SAVING and trained[name] != saved.get(name)]
    if differences:
        lines = [f"  {name}: trained with {trained[name]!r}, saved {saved.get(name)!r}" for name in differences]
        raise PreferenceMismatchError(
            f"{folder}: what was saved is not served as it was trained.\n" + "\n".join(lines),
            left={name: trained[name] for name in differences},
            right={name: saved.get(name) for name in differences},
            differences=differences,
        )
    return served


def write_preferences_beside(preferences: Preferences, output: Path, folder: Path) -> Path:
    """Write preferences for the trained model into the run's folder, so that every command there works with it.

    A saved model holds its identity itself; an adapter needs its base, and what the preferences say of it.
    """
    values: dict[str, Any] = {"model": {"name": folder.name}}
    if folder.name == _ADAPTER:
        base = preferences.folder / preferences.model.name
        name = str(base.absolute()) if base.is_dir() else preferences.model.name
        values = {"model": {"name": name, "adapter": {"name": folder.name}}}
        if preferences.model.revision is not None and not base.is_dir():
            values["model"]["revision"] = preferences.model.revision
        for section in ("tokenizer", "prompts", "vectors"):
            values[section] = getattr(preferences, section).model_dump(mode="json", exclude_unset=True)
    values["compute"] = preferences.compute.model_dump(mode="json", exclude_unset=True)
    stated = {section: items for section, items in values.items() if items}
    return write_preferences(stated, output / _PREFERENCES, force=True)
