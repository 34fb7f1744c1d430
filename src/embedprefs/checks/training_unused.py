"""Rules about training preferences that nothing looks at, because what they belong to is off or not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []


@rule(
    "training-setting-unused",
    "warning",
    host_today="The host has none of these settings; a script that reads them is usually silent too.",
    example="[training]\nnegatives = { relative_margin = 0.1 }  # and no count",
    fix="Write what the setting belongs to, or remove it.",
)
def training_setting_unused(subject: Subject) -> Iterator[Found]:
    """A training setting is stated that nothing looks at.

    It belongs to something that is off: mining without a count, a threshold without patience, a split without data.
    """
    training = subject.preferences.training
    if training.negatives.count == 0:
        for name in ("relative_margin", "range_min", "range_max"):
            yield from _unused(subject, f"training.negatives.{name}", "training.negatives.count is 0", "Write a count")
    if training.early_stopping.patience is None:
        yield from _unused(
            subject,
            "training.early_stopping.threshold",
            "training.early_stopping.patience is not stated, so that nothing ends early",
            "Write patience",
        )
    if training.evaluation_data is None:
        yield from _unused(
            subject,
            "training.evaluation_split",
            "training.evaluation_data names no data that it could be a part of",
            "Write evaluation_data",
        )
    elif training.split.test > 0:
        yield from _unused(
            subject, "training.split.test", "training.evaluation_data is the test", "Remove evaluation_data"
        )
    if training.arguments.get("eval_strategy") == "no" and training.split.development > 0:
        yield Found(
            "training.split.development",
            f"{training.split.development:g} of the documents are kept from training for a development part, and "
            'training.arguments.eval_strategy is "no".',
            "Write training.split.development = 0.0, or remove eval_strategy.",
        )


def _unused(subject: Subject, key: str, because: str, otherwise: str) -> Iterator[Found]:
    if subject.is_stated(key):
        name = key.rpartition(".")[2]
        yield Found(key, f"{name} is stated, and {because}.", f"{otherwise}, or remove {name}.")


@rule(
    "training-needs-transformer",
    "error",
    needs=("facts",),
    host_today="An AttributeError for low-rank adaptation, after the model was loaded; the others do nothing.",
    example="[training]\nlora = { r = 16 }  # of a static model",
    fix="Remove it: a static model has one table of vectors and nothing above it.",
)
def training_needs_transformer(subject: Subject) -> Iterator[Found]:
    """A setting for transformers is stated for a static model.

    Static embeddings have no layers to adapt, keep no activations, and read every token of a text.
    """
    if not subject.model.is_static:
        return
    training = subject.preferences.training
    if training.lora is not None:
        yield Found("training.lora.r", "The model is static, and has no layers that could be adapted.", "Remove it.")
    if training.activation_checkpointing == "on":
        yield Found(
            "training.activation_checkpointing",
            "The model is static, and keeps no activations.",
            "Remove it.",
            "warning",
        )
    if training.max_seq_length is not None:
        yield Found(
            "training.max_seq_length", "The model is static, and its texts are not cut.", "Remove it.", "warning"
        )


@rule(
    "training-parameter-unknown",
    "error",
    needs=("facts",),
    host_today="A ValueError at the first step for a rate of its own; scripts that freeze by name freeze nothing where "
    "the name is wrong, without a message.",
    example='[training]\nfreeze = ["encoder.layer.0.*"]  # whose name is 0.model.encoder.layer.0...',
    fix="Write names as the finding shows them.",
)
def training_parameter_unknown(subject: Subject) -> Iterator[Found]:
    """Parameters are to be frozen, or to have a rate of their own, that the model does not have.

    Names begin with the number of the module, `0.model.` for the transformer.
    """
    facts = subject.model
    names = [f"0.model.{name}" for name in facts.tensors]
    if not names or facts.other_tensors or facts.is_static:
        # Modules behind the transformer have names of their own, which only the loaded model shows.
        return
    training = subject.preferences.training
    for pattern in training.freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern.strip("*"), names) or names[0]
            yield Found(
                "training.freeze",
                f'No parameter is called "{pattern}".',
                f"Names are such as {close}; * stands for any characters.",
            )
    rates = training.arguments.get("learning_rate_mapping")
    for expression in rates if isinstance(rates, dict) and training.lora is None else ():
        field = "training.arguments.learning_rate_mapping"
        try:
            found = any(re.search(expression, f"model.{name}") for name in names)
        except re.error as error:
            yield Found(field, f'"{expression}" is no regular expression: {error}.', "Correct it.")
            continue
        if not found:
            close = nearest(expression, names) or names[0]
            yield Found(
                field,
                f'No parameter has "{expression}" in its name.',
                f"Names are such as {close}; it is a regular expression.",
            )


@rule(
    "training-resume-inexact",
    "warning",
    host_today="Accepted. With ignore_data_skip a run that continues sees the beginning of the epoch again; without "
    "optimizer state, or without checkpoints, there is nothing to continue from.",
    example="[training.arguments]\nsave_only_model = true",
    fix='Remove it, or write training.resume = "never".',
)
def training_resume_inexact(subject: Subject) -> Iterator[Found]:
    """A run that is interrupted could not continue, or not as if nothing had happened.

    Continuing exactly needs the state of the optimizer, and the rows that were not seen yet.
    """
    training = subject.preferences.training
    if training.resume == "never":
        return
    for name, value, what in (
        ("ignore_data_skip", True, "A run that continues would see rows of its epoch a second time, and others never."),
        ("save_only_model", True, "Checkpoints lack the optimizer's state: an interrupted run begins anew."),
        ("save_strategy", "no", "No checkpoints are made: an interrupted run begins anew."),
    ):
        if training.arguments.get(name) == value:
            yield Found(
                f"training.arguments.{name}",
                what,
                f'Remove {name}, or write training.resume = "never" where it is meant.',
            )
