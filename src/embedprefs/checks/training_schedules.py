"""Rules about optimizer, schedule and ranges: arguments that do not belong together, or that no training can have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject
from embedprefs.checks.training_arguments import argument_key

__all__ = ["SCHEDULE_ARGUMENTS"]

#: Schedule -> the arguments that `lr_scheduler_kwargs` may hold for it, as in transformers 5.23; a test compares them
#: with the installed ones. The two schedules that follow a metric take those of their classes.
SCHEDULE_ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": (),
        "cosine": ("num_cycles",),
        "cosine_with_restarts": ("num_cycles",),
        "polynomial": ("lr_end", "power"),
        "constant": (),
        "constant_with_warmup": (),
        "inverse_sqrt": ("timescale",),
        "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
        "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
        "warmup_stable_decay": (
            "num_decay_steps",
            "num_stable_steps",
            "warmup_type",
            "decay_type",
            "min_lr_ratio",
            "num_cycles",
        ),
    }
)
#: Schedule -> arguments of which one has to be stated.
_REQUIRED = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")
#: What the host's greedy schedule never goes below, unless told.
_GREEDY_LEAST = 1e-3
#: Optimizers of AdamW's kind that read nothing from `optim_args`, and others, by the beginnings of their names.
_WITHOUT_OWN_ARGUMENTS = re.compile(
    r"adamw_torch(_fused|_xla|_npu_fused)?$|adamw_bnb|adamw_8bit|adafactor|lion|paged_(adamw|lion)"
)
#: Optimizers that do not read `adam_beta1`, `adam_beta2` and `adam_epsilon`.
_WITHOUT_MOMENTS = re.compile(r"sgd$|adagrad|rmsprop|adafactor|galore_adafactor|schedule_free_sgd|lomo|adalomo")
#: Optimizers that work on some layers alone, which have to be named.
_OF_LAYERS = re.compile(r"galore|apollo")
_DEFAULT_OPTIMIZER = "adamw_torch_fused"

#: Argument -> its least value, and whether that value itself is allowed.
_LEAST: Mapping[str, tuple[float, bool]] = MappingProxyType(
    {
        "per_device_train_batch_size": (1, True),
        "num_train_epochs": (0, False),
        "learning_rate": (0, False),
        "gradient_accumulation_steps": (1, True),
        "warmup_steps": (0, True),
        "warmup_ratio": (0, True),
        "weight_decay": (0, True),
        "max_grad_norm": (0, True),
        "adam_epsilon": (0, True),
        "eval_steps": (0, False),
        "save_steps": (0, False),
        "logging_steps": (0, False),
        "eval_delay": (0, True),
        "save_total_limit": (1, True),
        "dataloader_num_workers": (0, True),
        "seed": (0, True),
        "data_seed": (0, True),
    }
)


@rule(
    "training-argument-range",
    "error",
    host_today="A division by zero for an empty batch, an error of the optimizer for a negative rate, and a run "
    "without a single step for no epochs.",
    example="[training.arguments]\nnum_train_epochs = 0",
    fix="Write a value within the range.",
)
def training_argument_range(subject: Subject) -> Iterator[Found]:
    """A number is outside of what a training can have.

    The host accepts any number at first.
    """
    for name, (least, itself) in _LEAST.items():
        value = subject.training_arguments.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if value < least or (value == least and not itself):
            allowed = f"{least:g} or more" if itself else f"more than {least:g}"
            yield Found(argument_key(name), f"{name} is {value:g}.", f"Write {allowed}.")
    steps = subject.training_arguments.get("max_steps")
    if isinstance(steps, int) and (steps == 0 or steps < -1):
        yield Found(argument_key("max_steps"), f"max_steps is {steps}.", "Write 1 or more, or remove it.")


@rule(
    "training-optimizer-arguments",
    "error",
    host_today="Accepted. An optimizer takes the arguments that it has, and the others are not looked at; for layers "
    "that have to be named and are not, a ValueError at the first step.",
    example='[training.arguments]\noptim = "sgd"\nadam_beta1 = 0.8',
    fix="Remove the argument, or write the optimizer that it belongs to.",
)
def training_optimizer_arguments(subject: Subject) -> Iterator[Found]:
    """An argument belongs to another optimizer than the one that trains.

    Momentum of SGD is written in optim_args, that of AdamW is adam_beta1.
    """
    arguments = subject.training_arguments
    optimizer = arguments.get("optim", _DEFAULT_OPTIMIZER)
    if not isinstance(optimizer, str):
        return
    if arguments.get("optim_args") and _WITHOUT_OWN_ARGUMENTS.match(optimizer):
        yield Found(
            argument_key("optim_args"),
            f'"{optimizer}" reads nothing from optim_args.',
            "Remove it; see adam_beta1, adam_beta2, adam_epsilon and weight_decay.",
        )
    if _WITHOUT_MOMENTS.match(optimizer):
        for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
            if name in arguments:
                yield Found(
                    argument_key(name), f'"{optimizer}" does not read {name}.', f"Remove {name}; see optim_args."
                )
    layers = _OF_LAYERS.match(optimizer)
    if layers and arguments.get("optim_target_modules") is None:
        yield Found(
            argument_key("optim_target_modules"),
            f'"{optimizer}" works on layers that have to be named.',
            'Write optim_target_modules = "all-linear", or names of layers.',
        )
    elif arguments.get("optim_target_modules") is not None and not layers:
        yield Found(argument_key("optim_target_modules"), f'"{optimizer}" does not read it.', "Remove it.")


@rule(
    "training-schedule-arguments",
    "error",
    host_today="A TypeError or ValueError at the first step, after model, data and baseline. A schedule that follows a "
    'metric takes less for better (mode "min") whatever the metric is, and lowers the rate while nDCG rises.',
    example='[training.arguments]\nlr_scheduler_type = "cosine_with_min_lr"',
    fix="Write the arguments of the schedule under lr_scheduler_kwargs.",
)
def training_schedule_arguments(subject: Subject) -> Iterator[Found]:
    """The schedule has other arguments, or lacks one that it needs.

    Each schedule has arguments of its own.
    """
    arguments = subject.training_arguments
    schedule = arguments.get("lr_scheduler_type", "cosine")
    stated = arguments.get("lr_scheduler_kwargs") or {}
    key = argument_key("lr_scheduler_kwargs")
    if not isinstance(stated, Mapping):
        return
    if schedule in SCHEDULE_ARGUMENTS:
        known = SCHEDULE_ARGUMENTS[schedule]
        for name in stated:
            if name not in known:
                close = nearest(name, known)
                own = f"Its arguments: {', '.join(known)}." if known else "It has none: remove it."
                yield Found(
                    key, f'The schedule "{schedule}" has no "{name}".', f"Did you mean {close}?" if close else own
                )
        needed = _REQUIRED.get(schedule, ())
        if needed and not any(name in stated for name in needed):
            yield Found(
                key,
                f'The schedule "{schedule}" needs {" or ".join(needed)}.',
                f"Write lr_scheduler_kwargs = {{ {needed[-1]} = {100 if needed[-1].endswith('steps') else 0.1} }}.",
            )
    elif schedule in _BY_METRIC:
        if stated and stated.get("mode") != "max":
            yield Found(
                key,
                f'The schedule "{schedule}" would take less for better, and the metric is better the larger it is.',
                'Add mode = "max".',
            )
        rate, least = arguments.get("learning_rate"), stated.get("min_lr", _GREEDY_LEAST)
        if schedule == "greedy" and isinstance(rate, float) and isinstance(least, (int, float)) and least > rate:
            yield Found(
                key,
                f'The schedule "greedy" never goes below {least:g}, and learning_rate is {rate:g}.',
                f'Write lr_scheduler_kwargs = {{ mode = "max", min_lr = {rate / 10:g}, max_lr = {rate * 2:g} }}.',
            )
