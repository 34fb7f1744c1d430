"""Packages that a training needs beside embedprefs' own: asked for before anything is loaded, and not imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.preferences import Preferences

__all__ = ["missing_packages", "require_packages"]

#: Beginning of an optimizer's name -> the module it is in, and the distribution that brings it, in transformers 5.23.
#: A longer beginning wins; names that fit none are torch's own or the host's.
_OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    "adamw_bnb": ("bitsandbytes", "bitsandbytes"),
    "adamw_8bit": ("bitsandbytes", "bitsandbytes"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_torch_npu": ("torch_npu", "torch-npu"),
    "adamw_torch_xla": ("torch_xla", "torch-xla"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "galore": ("galore_torch", "galore-torch"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "rmsprop_bnb": ("bitsandbytes", "bitsandbytes"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
#: Tracker -> the modules of which one suffices, and the distribution that brings it.
_TRACKERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "azure_ml": (("azureml",), "azureml-sdk"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub",), "dagshub"),
    "dvclive": (("dvclive",), "dvclive"),
    "flyte": (("flytekit",), "flytekit"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}


def missing_packages(preferences: Preferences) -> Iterator[Problem]:
    """Yield a problem for each package that the preferences need and that is not installed.

    The host asks for them when the trainer is built, or at its first step: after the model, the data and the baseline.

    Args:
        preferences: `[training]`; its optimizer, its trackers and its adapter.
    """
    training = preferences.training
    if training.lora is not None and not _is_installed("peft"):
        yield _problem("training.lora", None, "training.lora", "peft", 'pip install "embedprefs[train]"')
    optimizer = training.arguments.get("optim")
    if isinstance(optimizer, str):
        known = [beginning for beginning in _OPTIMIZERS if optimizer.startswith(beginning)]
        if known:
            module, distribution = _OPTIMIZERS[max(known, key=len)]
            if not _is_installed(module):
                key = "training.arguments.optim"
                yield _problem(key, optimizer, f'optim = "{optimizer}"', distribution, f"pip install {distribution}")
    stated = training.arguments.get("report_to")
    for tracker in [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []:
        modules, distribution = _TRACKERS.get(tracker, ((), ""))
        if modules and not any(_is_installed(module) for module in modules):
            key = "training.arguments.report_to"
            yield _problem(key, tracker, f'report_to = "{tracker}"', distribution, f"pip install {distribution}")


def require_packages(preferences: Preferences) -> None:
    """Raise where packages are missing.

    Raises:
        InvalidPreferenceError: every preference that needs one is listed.
    """
    problems = list(missing_packages(preferences))
    if problems:
        raise InvalidPreferenceError(problems)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _problem(key: str, value: Any, what: str, distribution: str, command: str) -> Problem:
    return Problem(
        f"{what} needs the package {distribution}, which is not installed.",
        key=key,
        value=value,
        fix=f"Run: {command}. Or remove it.",
    )
