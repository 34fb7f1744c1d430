"""What a plan and a run begin with: the data, its parts, and the sets to judge on. Torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import InputError
from embedprefs.training.data import TrainingData, read_training_data
from embedprefs.training.evaluation_sets import EvaluationSet, set_from_files, set_from_rows
from embedprefs.training.split import Leakage, Splits, find_leakage, leakage_of_task, split_by_document

if TYPE_CHECKING:
    from embedprefs.preferences import Preferences

__all__ = ["Prepared", "prepare", "read_stated_data"]


@dataclass(frozen=True)
class Prepared:
    """Data, parts and evaluation sets of one training."""

    data: TrainingData
    """All rows."""
    splits: Splits
    sets: Mapping[str, EvaluationSet | None]
    """`development`, `test` and `guard`; None where there is none."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, in sentences."""
        sets = (note for item in self.sets.values() if item is not None for note in item.notes)
        return (*self.data.notes, *self.splits.notes, *sets)

    def leakage(self) -> Mapping[str, Leakage]:
        """Return what each part that is evaluated on shares with what is trained on."""
        found = dict(self.splits.leakage())
        for name, item in self.sets.items():
            if name not in found and item is not None:
                found[name] = _with_set(self.splits.train, item)
        return found


def _with_set(train: TrainingData, item: EvaluationSet) -> Leakage:
    if item.task is not None:
        return leakage_of_task(train, item.task)
    rows = [{"text_a": first, "text_b": second, "score": score} for first, second, score in item.pairs]
    other = read_training_data(rows)
    return find_leakage(train, other)


def read_stated_data(preferences: Preferences, data: Any = None) -> TrainingData:
    """Return the data that was given, or that `training.data` names.

    Raises:
        InputError: nothing is named, or it cannot be read.
        InvalidPreferenceError: columns are named that do not exist, or their roles are not known.
    """
    training = preferences.training
    if data is None:
        if training.data is None:
            raise InputError("There is nothing to train on.\n  Name a file or folder, or write training.data.")
        data = preferences.folder / Path(training.data).expanduser()
    return read_training_data(data, columns=training.columns or None, document_column=training.split.document_column)


def prepare(preferences: Preferences, data: Any = None) -> Prepared:
    """Read the data, divide it, and make the sets that models are judged on.

    Args:
        preferences: `[training]`.
        data: What `read_training_data` reads or returned; `training.data` if not given.

    Raises:
        InputError: data cannot be read.
        InvalidPreferenceError: preferences do not fit the data.
    """
    training, folder = preferences.training, preferences.folder
    rows = read_stated_data(preferences, data)
    splits = split_by_document(rows, preferences)
    development = test = guard = None
    if splits.dev is not None:
        development = set_from_rows(
            rows, splits.dev, name="development", metric=training.metric, seed=training.split.seed
        )
    if training.evaluation_data is not None:
        path = folder / Path(training.evaluation_data).expanduser()
        test = set_from_files(path, name="test", metric=training.metric, split=training.evaluation_split)
    elif splits.test is not None:
        test = set_from_rows(rows, splits.test, name="test", metric=training.metric)
    if training.guard_data is not None:
        guard = set_from_files(folder / Path(training.guard_data).expanduser(), name="guard", metric=training.metric)
    return Prepared(rows, splits, {"development": development, "test": test, "guard": guard})
