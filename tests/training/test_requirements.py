"""Packages that optimizers, trackers and adapters need are asked for before anything is loaded."""

from __future__ import annotations

import pytest

from embedprefs import InvalidPreferenceError, Preferences
from embedprefs.checks.training_arguments import CHOICES
from embedprefs.training.requirements import missing_packages, require_packages


def preferences(**training):
    return Preferences.model_validate({"model": {"name": "m"}, "training": training})


def test_what_comes_with_torch_needs_nothing():
    """The default, and optimizers of torch and of the host itself."""
    for name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"):
        assert list(missing_packages(preferences(arguments={"optim": name}))) == []
    assert list(missing_packages(preferences(lora={"r": 4}, arguments={"report_to": "none"}))) == []


def test_every_optimizer_that_the_host_cannot_make_here_is_found():
    """The host itself is asked for each of its optimizers: what it refuses for want of a package is known here."""
    import torch
    from transformers import Trainer, TrainingArguments

    model = torch.nn.Linear(2, 2)
    for name in CHOICES["optim"]:
        arguments = TrainingArguments(optim=name, optim_target_modules="all-linear", use_cpu=True)
        try:
            Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        except (ImportError, ValueError):
            made = False
        else:
            made = True
        known = list(missing_packages(preferences(arguments={"optim": name})))
        assert bool(known) != made, name


def test_all_that_is_missing_is_said_at_once_with_the_command():
    """Optimizer and trackers, each under its key."""
    stated = {"optim": "galore_adamw", "report_to": ["dvclive", "swanlab"]}
    with pytest.raises(InvalidPreferenceError) as raised:
        require_packages(preferences(arguments=stated))
    found = [(problem.key, problem.fix) for problem in raised.value.problems]
    assert found == [
        ("training.arguments.optim", "Run: pip install galore-torch. Or remove it."),
        ("training.arguments.report_to", "Run: pip install dvclive. Or remove it."),
        ("training.arguments.report_to", "Run: pip install swanlab. Or remove it."),
    ]
