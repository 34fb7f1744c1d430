"""`build_trainer`: the host's trainer, set up from preferences and data."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from transformers import TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from embedprefs.errors import CheckFailedError, InvalidPreferenceError, Problem, ResourceError
from embedprefs.layers import with_overrides
from embedprefs.model import load_model
from embedprefs.preferences import Preferences
from embedprefs.training.arguments import ArgumentChoices, choose_arguments, prompts_by_column
from embedprefs.training.callbacks import CheckpointMarker, DevelopmentEvaluator, ResumableEarlyStopping
from embedprefs.training.data import TrainingData, read_training_data
from embedprefs.training.distillation import load_teacher, teacher_scores, teacher_vectors
from embedprefs.training.evaluation_sets import EvaluationSet, set_from_rows
from embedprefs.training.host_loss import build_loss
from embedprefs.training.host_trainer import PreferredTrainer
from embedprefs.training.losses import LossChoice, choose_loss
from embedprefs.training.parameters import add_lora, freeze, has_adapter, merge_adapter
from embedprefs.training.requirements import require_packages
from embedprefs.training.split import split_by_document

if TYPE_CHECKING:
    from datasets import Dataset

    from embedprefs.model import PreferredSentenceTransformer

__all__ = [
    "TRAINING_COMPUTE",
    "build_trainer",
    "load_for_training",
    "processes",
    "quiet_host",
    "refuse_errors",
    "without_quantisation",
]

logger = logging.getLogger("embedprefs.training")

#: How a model is run while it is trained, whatever serves it: float32 weights, torch, nothing looked up.
TRAINING_COMPUTE: Mapping[str, Any] = {
    "compute.dtype": "float32",
    "compute.autocast": False,
    "compute.weights": "full",
    "compute.backend": "torch",
    "compute.compile": False,
    "compute.workers": 1,
    "compute.cache": False,
}
#: Attention that is trained with; None where the model has none. What only serves is left to serving.
_TRAINABLE_ATTENTION = ("eager", "sdpa", None)


def processes() -> int:
    """Return how many processes train together, as `torchrun` or `accelerate launch` say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def load_for_training(preferences: Preferences) -> PreferredSentenceTransformer:
    """Load a model with float32 weights on one device, ready to be trained; adapters are merged into it.

    The identity is that of serving: prompts, lengths and dimensions stay what they are.

    Raises:
        ResourceError: `compute.device` names a GPU that the trainer does not use.
        EmbedPrefsError: as `load_model`.
    """
    from embedprefs.resolve import resolve

    overrides = dict(TRAINING_COMPUTE)
    changed = with_overrides(without_quantisation(preferences), overrides)
    resolved = resolve(changed)
    if resolved["compute.attention"] not in _TRAINABLE_ATTENTION:
        changed = with_overrides(changed, {"compute.attention": "sdpa"})
    device = resolved.devices[0]
    if processes() == 1 and device.startswith("cuda:") and device != "cuda:0":
        raise ResourceError(
            f"compute.device is {device}, and the host's trainer uses the first GPU that it sees.\n"
            f'  Set CUDA_VISIBLE_DEVICES={device.partition(":")[2]} and compute.device = "cuda".'
        )
    if len(resolved.devices) > 1:
        changed = with_overrides(changed, {"compute.device": device})
    model = load_model(changed)
    threads = model.resolved["compute.threads"]
    if threads is not None and device == "cpu":
        torch.set_num_threads(threads)
    if has_adapter(model):
        merge_adapter(model)
    return model


def without_quantisation(preferences: Preferences) -> Preferences:
    """Return preferences with float32 vectors where they ask for int8: the ranges belong to the base alone."""
    if preferences.vectors.precision not in ("int8", "uint8"):
        return preferences
    return with_overrides(preferences, {"vectors.precision": "float32", "vectors.calibration": None})


@dataclass(frozen=True)
class _Columns:
    """A data set as the trainer takes it."""

    dataset: Dataset
    classes: int = 0
    teacher_dimension: int | None = None


def build_trainer(
    preferences: Preferences,
    data: TrainingData | Any,
    *,
    output: Path | str,
    development: EvaluationSet | None = None,
    model: PreferredSentenceTransformer | None = None,
    loss: LossChoice | None = None,
    overrides: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PreferredTrainer:
    """Set up the host's trainer: model, data, loss, arguments, evaluation, all from the preferences.

    Nothing is trained yet: call `train()` of what is returned. `embedprefs.training.train` does that, with a baseline
    before and a verdict behind it.

    Args:
        preferences: `[training]` and the identity of the model.
        data: What `read_training_data` returned, or what it reads. Rows for development are taken from it unless
            `development` is given; those of the test are never trained on.
        output: Folder for the checkpoints.
        development: What chooses the best checkpoint; None takes the development part of the data.
        model: A model to train, from `load_for_training`; loaded if not given.
        loss: What `choose_loss` returned; chosen if not given.
        overrides: Preferences that win over every layer, by dotted key.
        callbacks: Further callbacks of the host.

    Returns:
        A `SentenceTransformerTrainer`.

    Raises:
        CheckFailedError: the checks found errors in what is asked for.
        InvalidPreferenceError: preferences do not fit the data, the loss or the model; all of them are listed.
        InputError: the data cannot be read.
        MissingExtraError: a package for training is not installed.
    """
    preferences = with_overrides(preferences, overrides) if overrides else preferences
    refuse_errors(preferences)
    require_packages(preferences)
    training = preferences.training
    if not isinstance(data, TrainingData):
        data = read_training_data(
            data, columns=training.columns or None, document_column=training.split.document_column
        )
        splits = split_by_document(data, preferences)
        if development is None and splits.dev is not None:
            development = set_from_rows(
                data, splits.dev, name="development", metric=training.metric, seed=training.split.seed
            )
        data = splits.train
    model = model if model is not None else load_for_training(preferences)
    loss = loss if loss is not None else choose_loss(data, preferences, resolved=model.resolved)
    columns = _columns(preferences, data, loss)
    metric = development.metric_name(model.similarity_fn_name) if development is not None else None
    arguments = choose_arguments(
        preferences,
        model.resolved,
        rows=len(data),
        loss=loss.name,
        output=Path(output),
        prompts=prompts_by_column(data.sides, model.resolved.prompts),
        metric=metric,
        world_size=processes(),
    )
    set_seed(arguments["seed"])  # added matrices are drawn at random
    if training.lora is not None:
        layers = add_lora(model, training.lora)
        logger.info("Low-rank matrices on %d layers.", len(layers))
    if training.freeze:
        freeze(model, training.freeze)
    host_loss = build_loss(model, loss, classes=columns.classes, teacher_dimension=columns.teacher_dimension)
    host_arguments = host_training_arguments(arguments, loss)
    length = training.max_seq_length
    if length is not None and model.max_seq_length is not None:
        length = min(length, int(model.max_seq_length))
    with quiet_host():
        return PreferredTrainer(
            model=model,
            args=host_arguments,
            train_dataset=columns.dataset,
            loss=host_loss,
            evaluator=DevelopmentEvaluator(development, model.similarity_fn_name) if development is not None else None,
            callbacks=[*_callbacks(preferences, arguments), *callbacks, CheckpointMarker()],
            training_length=length if not model.resolved.facts.is_static else None,
            choices=arguments,
            loss_choice=loss,
        )


def refuse_errors(preferences: Preferences) -> None:
    """Raise where the checks find errors that concern training.

    Raises:
        CheckFailedError: every error is listed.
    """
    from embedprefs.checks import check

    errors = [
        finding
        for finding in check(preferences)
        if finding.severity == "error" and not (finding.field or "").startswith("index")
    ]
    if errors:
        raise CheckFailedError(errors)


def _columns(preferences: Preferences, data: TrainingData, loss: LossChoice) -> _Columns:
    """Return the data as the loss takes it; a teacher is asked once, and forgotten."""
    if not loss.needs_teacher:
        if "label" not in loss.columns:
            return _Columns(data.dataset(loss.columns))
        # Classes may be words, and the host makes tensors of them.
        classes = {label: number for number, label in enumerate(dict.fromkeys(row["label"] for row in data.rows))}
        rows = [{**row, "label": classes[row["label"]]} for row in data.rows]
        return _Columns(data.with_rows(rows, data.kind).dataset(loss.columns), classes=len(classes))
    teacher = load_teacher(preferences)
    texts = data.dataset(data.text_roles)
    if loss.host.label == "vector":
        vectors = teacher_vectors(teacher, data)
        # Arrow takes rows of one dimension: of several texts of a row, a list of them.
        labels = list(vectors) if vectors.ndim == 2 else [list(row) for row in vectors]
        return _Columns(texts.add_column("label", labels), teacher_dimension=int(vectors.shape[-1]))
    scores = teacher_scores(teacher, data)
    if loss.name == "MarginMSELoss":
        # How much nearer the positive is than each negative.
        margins = scores[:, :1] - scores[:, 1:]
        return _Columns(texts.add_column("label", list(margins if margins.shape[1] > 1 else margins[:, 0])))
    return _Columns(texts.add_column("label", list(scores)))


def host_training_arguments(choices: ArgumentChoices, loss: LossChoice) -> SentenceTransformerTrainingArguments:
    """Return the host's arguments.

    Raises:
        InvalidPreferenceError: the host refuses a value.
    """
    values = choices.values
    if loss.host.in_batch_negatives and "batch_sampler" not in values:
        from embedprefs.training.sampler import CoveringBatchSampler

        values["batch_sampler"] = CoveringBatchSampler
    try:
        arguments = SentenceTransformerTrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise InvalidPreferenceError(
            Problem(
                f"The host refuses the training arguments: {error}",
                key="training.arguments",
                fix="Correct [training.arguments].",
            )
        ) from error
    if processes() == 1 and arguments.n_gpu > 1:
        # One process with several GPUs would copy the model to each in every step, and compare within a part of the
        # batch only; several are used by torchrun or accelerate launch, one process each.
        arguments._n_gpu = 1  # noqa: SLF001 - the host has no other way to say it
    return arguments


def _callbacks(preferences: Preferences, arguments: ArgumentChoices) -> list[TrainerCallback]:
    stopping = preferences.training.early_stopping
    if stopping.patience is None:
        return []
    if arguments["eval_strategy"] == "no" or arguments["metric_for_best_model"] is None:
        raise InvalidPreferenceError(
            Problem(
                "training.early_stopping.patience is stated, and nothing is evaluated while training.",
                key="training.early_stopping.patience",
                value=stopping.patience,
                fix="Leave it out, or raise training.split.development above 0.",
            )
        )
    return [ResumableEarlyStopping(stopping.patience, stopping.threshold)]


@contextlib.contextmanager
def quiet_host() -> Iterator[None]:
    """Keep the host's progress bars and remarks off the screen within a block: the run reports its own."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # What accelerate says to the host about the host's own arguments.
            warnings.filterwarnings("ignore", category=FutureWarning, module="accelerate")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
