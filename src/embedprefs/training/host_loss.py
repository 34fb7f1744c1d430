"""The host's loss, built from the choice that was made without importing the host."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.util import pairwise_cos_sim

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.training.losses import LOSSES, LossChoice

__all__ = ["build_loss", "halve_mini_batch"]


def build_loss(model: Any, choice: LossChoice, *, classes: int = 0, teacher_dimension: int | None = None) -> Any:
    """Return the host's loss.

    Args:
        model: The model that is trained.
        choice: Which loss, with which parameters, and what is laid around it.
        classes: How many classes the labels have; SoftmaxLoss has an output for each.
        teacher_dimension: Length of the teacher's vectors; where the model's are shorter or longer, a projection is
            trained beside it and thrown away at the end.

    Returns:
        The loss, a torch module that holds the model.

    Raises:
        InvalidPreferenceError: the loss does not take the value of a parameter.
    """
    parameters = _parameters(choice.name, choice.parameters)
    if choice.name in ("GISTEmbedLoss", "CachedGISTEmbedLoss"):
        from embedprefs.model import load_model

        parameters["guide"] = load_model(parameters["guide"])
    if choice.name == "SoftmaxLoss":
        parameters |= {
            "sentence_embedding_dimension": model.get_embedding_dimension(),
            "num_labels": max(2, classes),
        }
    if choice.name == "MarginMSELoss" and model.similarity_fn_name == "cosine":
        # Its default is the dot product, in which a model that is compared by cosines has no scale.
        parameters.setdefault("similarity_fct", pairwise_cos_sim)
    if choice.name == "EmbedDistillLoss" and teacher_dimension not in (None, model.get_embedding_dimension()):
        parameters.setdefault("projection_dim", teacher_dimension)
    loss = _made(choice.name, {"model": model, **parameters})
    if choice.wrapper is not None:
        around = _parameters(choice.wrapper.name, choice.wrapper.parameters)
        loss = _made(choice.wrapper.name, {"model": model, "loss": loss, **around})
    return loss


def _parameters(name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the objects that their values name."""
    found = {}
    for key, value in stated.items():
        declared = LOSSES[name].parameters[key]
        found[key] = _named(declared.found_in, value) if declared.found_in is not None else value
    return found


def _named(place: str, name: str) -> Any:
    """Return what a module, or a class of a module, has under a name."""
    try:
        home = importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, owner = place.rpartition(".")
        home = getattr(importlib.import_module(module), owner)
    return getattr(home, name)


def _made(name: str, parameters: dict[str, Any]) -> Any:
    try:
        return getattr(losses, name)(**parameters)
    except (TypeError, ValueError) as error:
        raise InvalidPreferenceError(
            Problem(
                f"{name} does not take its parameters: {error}",
                key="training.loss_parameters",
                fix="Correct [training.loss_parameters].",
            )
        ) from error


def halve_mini_batch(loss: torch.nn.Module) -> int | None:
    """Halve the mini-batches in which a cached loss computes, which changes its memory and not its value.

    Returns:
        The new size; None where nothing can be halved.
    """
    sizes = []
    for module in loss.modules():
        size = getattr(module, "mini_batch_size", None)
        if isinstance(size, int) and size > 1:
            vars(module)["mini_batch_size"] = size // 2
            sizes.append(size // 2)
    return min(sizes) if sizes else None
