"""Which loss the data is trained with, and why; nothing is imported from the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from embedprefs.checks.training_losses import HOST_LOSSES, HostLoss, LabelKind, LossParameter, unfit
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.training.activations import batch_fits

if TYPE_CHECKING:
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved
    from embedprefs.training.data import TrainingData

__all__ = ["LOSSES", "HostLoss", "LossChoice", "LossParameter", "LossWrapper", "choose_loss", "label_kind"]

#: The host's losses by class name: what data each takes, and its parameters.
LOSSES = HOST_LOSSES

_MATRYOSHKA = "MatryoshkaLoss"
_PLAIN = "MultipleNegativesRankingLoss"
_CACHED = "CachedMultipleNegativesRankingLoss"


@dataclass(frozen=True)
class LossWrapper:
    """A loss that is laid around another one."""

    name: str
    """`MatryoshkaLoss`, `Matryoshka2dLoss` or `AdaptiveLayerLoss`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters by the host's names, without `loss`."""


@dataclass(frozen=True)
class LossChoice:
    """The loss, as data: the trainer builds it."""

    name: str
    """Class of the loss that compares the texts."""
    parameters: Mapping[str, Any]
    """Its parameters by the host's names, as stated; names of functions stand for them (`LossParameter.found_in`)."""
    reason: str
    wrapper: LossWrapper | None = None
    """What is laid around it."""
    columns: tuple[str, ...] = ()
    """Roles of the data in the order the loss takes them, the label last: `data.dataset(choice.columns)`."""
    needs_teacher: bool = False
    """Whether the label column is computed by `training.distill_from`."""

    @property
    def host(self) -> HostLoss:
        """What the host's loss takes."""
        return LOSSES[self.name]

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Lengths that are trained; empty for the full one alone."""
        return tuple(self.wrapper.parameters.get("matryoshka_dims", ())) if self.wrapper is not None else ()

    def to_text(self) -> str:
        """Return it in a line: `MatryoshkaLoss [384, 128] around CachedMultipleNegativesRankingLoss (scale = 50)`."""
        stated = ", ".join(f"{name} = {value}" for name, value in self.parameters.items())
        text = f"{self.name} ({stated})" if stated else self.name
        if self.wrapper is None:
            return text
        dims = f" {list(self.matryoshka_dims)}" if self.matryoshka_dims else ""
        return f"{self.wrapper.name}{dims} around {text}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "parameters": dict(self.parameters),
            "reason": self.reason,
            "wrapper": {"name": self.wrapper.name, "parameters": dict(self.wrapper.parameters)}
            if self.wrapper is not None
            else None,
            "columns": list(self.columns),
            "needs_teacher": self.needs_teacher,
        }


def label_kind(data: TrainingData) -> LabelKind:
    """Return what the label column of the data holds."""
    if data.kind == "labelled":
        return "class"
    if not data.rows or "score" not in data.rows[0]:
        return "none"
    values = [row["score"] for row in data.rows]
    if any(isinstance(value, list) for value in values):
        return "scores"
    if all(value in (0.0, 1.0) for value in values):
        return "binary"
    return "class" if all(float(value).is_integer() for value in values) else "score"


def choose_loss(data: TrainingData, preferences: Preferences, *, resolved: Resolved | None = None) -> LossChoice:
    """Choose the loss for some data, or take the one that `training.loss` states.

    Args:
        data: What is trained on.
        preferences: `training.loss`, `loss_parameters`, `matryoshka_dims` and `distill_from` decide where they are
            stated.
        resolved: The effective preferences of the model. With them, a batch that fits into memory as a whole is not
            computed in parts: the gradient is the same, and a third of the work is saved.

    Raises:
        InvalidPreferenceError: the loss does not exist, does not take such data, or has no such parameters; all
            problems are listed.
    """
    training = preferences.training
    stated = dict(training.loss_parameters)
    name, wrapper_name = training.loss, None
    problems: list[Problem] = []
    if name is not None and name in LOSSES and LOSSES[name].wraps:
        wrapper_name, name = name, stated.pop("loss", None)
    if name is not None and name not in LOSSES:
        raise InvalidPreferenceError(_unknown_loss(preferences, name))
    reason = f"stated in {_origin(preferences, 'training.loss')}"
    if name is None:
        name, reason = _chosen(data, preferences, resolved, over_layers=wrapper_name in _OVER_LAYERS)
    if training.matryoshka_dims and wrapper_name is None:
        wrapper_name = _MATRYOSHKA
    wrapper = None
    if wrapper_name is not None:
        own = {key: stated.pop(key) for key in list(stated) if key in LOSSES[wrapper_name].parameters}
        if training.matryoshka_dims and "matryoshka_dims" in LOSSES[wrapper_name].parameters:
            own["matryoshka_dims"] = list(training.matryoshka_dims)
        problems.extend(_parameter_problems(preferences, LOSSES[wrapper_name], own))
        if "matryoshka_dims" in LOSSES[wrapper_name].parameters and not own.get("matryoshka_dims"):
            problems.append(
                Problem(
                    f"{wrapper_name} needs the lengths to train.",
                    key="training.matryoshka_dims",
                    fix="Write matryoshka_dims = [384, 128], the full dimension first.",
                )
            )
        wrapper = LossWrapper(wrapper_name, own)
    loss = LOSSES[name]
    teacher = training.distill_from is not None
    labels = label_kind(data)
    if (why := unfit(loss, data.kind, labels, teacher=teacher)) is not None:
        problems.append(_problem(preferences, "training.loss", why, value=name, fix=_advice(data)))
    if name in ("GISTEmbedLoss", "CachedGISTEmbedLoss") and "guide" not in stated:
        problems.append(
            _problem(
                preferences,
                "training.loss_parameters.guide",
                f"{name} needs a second model that recognises false negatives.",
                fix='Name it: [training.loss_parameters] guide = "owner/name".',
            )
        )
    problems.extend(_parameter_problems(preferences, loss, stated))
    if problems:
        raise InvalidPreferenceError(problems)
    needs_teacher = loss.label == "vector" or (loss.label == "scores" and labels not in ("score", "scores"))
    label = {"none": (), "vector": ("label",), "scores": ("score",)}.get(loss.label, data.label_roles)
    return LossChoice(
        name=name,
        parameters=MappingProxyType(stated),
        reason=reason,
        wrapper=wrapper,
        columns=(*data.text_roles, *(label or data.label_roles if loss.label != "none" else ())),
        needs_teacher=needs_teacher,
    )


#: Parameters that cached losses alone have.
_PARTS = ("mini_batch_size", "mini_batch_num_tokens")
_OVER_LAYERS = frozenset({"AdaptiveLayerLoss", "Matryoshka2dLoss"})


def _chosen(
    data: TrainingData, preferences: Preferences, resolved: Resolved | None, *, over_layers: bool
) -> tuple[str, str]:
    if preferences.training.distill_from is not None and data.kind not in ("scored_pairs", "labelled"):
        return "EmbedDistillLoss", "training.distill_from: the larger model's vectors are what is learnt"
    if data.kind == "scored_pairs":
        if label_kind(data) == "binary":
            return "OnlineContrastiveLoss", "pairs with 0 and 1: it learns from the pairs that are still wrong"
        return "CoSENTLoss", "pairs with scores: it learns their order, whatever their range"
    if data.kind == "labelled":
        return "BatchHardSoftMarginTripletLoss", "texts with classes: it needs no margin to be set"
    if data.kind == "texts":
        raise InvalidPreferenceError(
            Problem(
                f"{data.name} holds texts alone, which say nothing about what belongs together.",
                key="training.data",
                fix="Name a larger model to learn from (training.distill_from), or make questions for the texts "
                "(embedprefs.training.synthetic_queries).",
            )
        )
    what = "pairs" if data.kind == "pairs" else "positives with negatives"
    if resolved is not None and resolved.facts.is_static:
        return _PLAIN, f"{what}; a static model has no activations worth computing in parts"
    if over_layers:
        return _PLAIN, f"{what}; a loss over layers cannot be laid around a cached one"
    parts = [name for name in _PARTS if name in preferences.training.loss_parameters]
    if parts:
        return _CACHED, f"{what}; training.loss_parameters.{parts[0]} asks for computing a batch in parts"
    if resolved is not None:
        fits, why = batch_fits(data, preferences, resolved)
        if fits:
            return _PLAIN, f"{what}; {why}, so that computing it in parts would only cost time"
        return _CACHED, f"{what}; {why}, so that it is computed in parts, with the gradient of the whole"
    return _CACHED, f"{what}; each batch is computed in parts, with the gradient of the whole"


def _origin(preferences: Preferences, key: str) -> str:
    return str(preferences.origin(key))


def _problem(preferences: Preferences, key: str, message: str, *, value: Any = None, fix: str | None = None) -> Problem:
    origins = preferences.origins
    origin = origins.get(key) or origins.get(key.rpartition(".")[0])
    return Problem(
        message,
        key=key,
        value=value,
        fix=fix,
        source=(origin.source or None) if origin is not None else None,
        line=origin.line if origin is not None else None,
    )


def _unknown_loss(preferences: Preferences, name: str) -> Problem:
    close = get_close_matches(name, LOSSES, n=1)
    return _problem(
        preferences,
        "training.loss",
        f'sentence-transformers has no loss "{name}".',
        value=name,
        fix=f"Did you mean {close[0]}?" if close else f"Losses: {', '.join(LOSSES)}.",
    )


def _advice(data: TrainingData) -> str:
    fitting = [name for name, loss in LOSSES.items() if data.kind in loss.data and loss.unsupported is None]
    return f"Leave training.loss out, or write one of: {', '.join(fitting)}."


def _parameter_problems(preferences: Preferences, loss: HostLoss, stated: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in stated.items():
        key = f"training.loss_parameters.{name}"
        if name not in loss.parameters:
            close = get_close_matches(name, loss.parameters, n=1)
            allowed = ", ".join(item for item in loss.parameters if item != "loss") or "none"
            yield _problem(
                preferences,
                key,
                f'{loss.name} has no parameter "{name}".',
                value=value,
                fix=f"Did you mean {close[0]}?" if close else f"Its parameters: {allowed}.",
            )
        elif not loss.parameters[name].accepts(value):
            parameter = loss.parameters[name]
            allowed = ", ".join(parameter.choices) or parameter.kinds
            yield _problem(preferences, key, f"{name} is {value!r}.", value=value, fix=f"Allowed: {allowed}.")
