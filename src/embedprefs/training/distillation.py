"""What a larger model says of the training texts, for a smaller one to learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.evaluation.vectors import VectorForm
from embedprefs.preferences import Preferences

if TYPE_CHECKING:
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.training.data import TrainingData

__all__ = ["load_teacher", "teacher_scores", "teacher_vectors"]

Floats = npt.NDArray[np.float32]


def load_teacher(preferences: Preferences) -> PreferredSentenceTransformer:
    """Load the model that `training.distill_from` names, with the prompts that it needs itself.

    Raises:
        InvalidPreferenceError: it is the model that is trained.
    """
    from embedprefs.model import load_model

    stated = preferences.training.distill_from
    folder = preferences.folder / Path(stated or "").expanduser()
    name = str(folder) if folder.is_dir() else str(stated)
    if name in (preferences.model.name, str((preferences.folder / preferences.model.name).absolute())):
        raise InvalidPreferenceError(
            Problem(
                "training.distill_from names the model that is trained.",
                key="training.distill_from",
                value=stated,
                fix="Name a larger model.",
            )
        )
    # Only the device is shared with the smaller model: everything else is the teacher's own.
    overrides = {
        "compute.device": preferences.compute.device,
        "model.local_files_only": preferences.model.local_files_only,
    }
    return load_model(name, overrides=overrides)


def teacher_vectors(teacher: PreferredSentenceTransformer, data: TrainingData) -> Floats:
    """Return the teacher's vectors of every text: shape (rows, texts of a row, dimensions), float32."""
    columns = [_embedded(teacher, data, role) for role in data.text_roles]
    stacked = np.stack(columns, axis=1)
    return stacked[:, 0] if len(columns) == 1 else stacked


def teacher_scores(teacher: PreferredSentenceTransformer, data: TrainingData) -> Floats:
    """Return the teacher's similarity of each anchor to its positive and its negatives: shape (rows, passages)."""
    form = VectorForm("float32", teacher.similarity_fn_name)
    anchors = form.prepared(_embedded(teacher, data, data.text_roles[0]))
    columns = []
    for role in data.text_roles[1:]:
        passages = form.prepared(_embedded(teacher, data, role))
        columns.append(
            [float(form.scores(anchors[at : at + 1], passages[at : at + 1])[0, 0]) for at in range(len(data))]
        )
    return np.asarray(columns, dtype=np.float32).T


def _embedded(teacher: Any, data: TrainingData, role: str) -> Floats:
    encode = teacher.encode_query if data.sides[role] == "query" else teacher.encode_document
    texts: Sequence[str] = [row[role] for row in data.rows]
    # The teacher's own vectors, before anything is done to make them smaller.
    vectors: Floats = np.asarray(encode(list(texts), precision="float32"), dtype=np.float32)
    return vectors
