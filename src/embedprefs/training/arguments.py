"""From preferences to the host's training arguments: pure, each value with its reason, nothing loaded or imported.

What the user wrote under `[training.arguments]` goes to the host as it is. What is left out gets a value that suits
the data, the loss and the machine, where the host has one default for everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedprefs.checks.training_arguments import IN_BATCH_NEGATIVES_LOSSES, TRAINING_ARGUMENTS, strategies
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.preferences import Preferences

if TYPE_CHECKING:
    from embedprefs.resolve import Resolved

__all__ = ["ArgumentChoice", "ArgumentChoices", "best_metric_name", "choose_arguments", "prompts_by_column"]

Role = Literal["query", "document"]

#: Set by the run itself.
_OWN = {
    "output_dir": "The folder is an argument of the run: --output, or train(..., output=...).",
    "resume_from_checkpoint": "A run that was interrupted continues by itself when it is started again.",
    "prompts": "[prompts] is used in training too, by role.",
    "eval_on_start": "The base is evaluated on the development set before the first step anyway.",
    "push_to_hub": "The host would upload pieces of checkpoints. The run's folder holds the whole model: upload that, "
    "when you have seen the verdict.",
}
#: Losses that need several rows of each label in a batch.
_GROUPED_BY_LABEL = frozenset(
    {"BatchAllTripletLoss", "BatchHardTripletLoss", "BatchHardSoftMarginTripletLoss", "BatchSemiHardTripletLoss"}
)
#: How often a run evaluates and saves, if nothing else is stated.
_EVALUATIONS = 5
_LOGS = 100


@dataclass(frozen=True)
class ArgumentChoice:
    """One training argument."""

    value: Any
    reason: str
    stated: bool = False
    """True where the preferences state it."""


@dataclass(frozen=True)
class ArgumentChoices:
    """Every training argument that differs from the host's default, with its reason."""

    choices: Mapping[str, ArgumentChoice]
    rows: int

    def __getitem__(self, name: str) -> Any:
        """Return the value of an argument; the host's default where nothing else was chosen."""
        if name in self.choices:
            return self.choices[name].value
        return TRAINING_ARGUMENTS[name].default

    @property
    def values(self) -> dict[str, Any]:
        """The arguments for `SentenceTransformerTrainingArguments`."""
        return {name: choice.value for name, choice in self.choices.items()}

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, if every batch is full; the sampler may need a few more."""
        if self["max_steps"] > 0:
            return int(self["max_steps"])
        batches = math.ceil(self.rows / int(self["per_device_train_batch_size"]))
        updates = math.ceil(batches / int(self["gradient_accumulation_steps"]))
        return max(1, math.ceil(updates * float(self["num_train_epochs"])))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return name -> {value, reason, stated} as JSON values."""
        return {
            name: {"value": _json_value(choice.value), "reason": choice.reason, "stated": choice.stated}
            for name, choice in self.choices.items()
        }


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def best_metric_name(metric: str, similarity: str, *, scored_pairs: bool = False) -> str:
    """Return the exact name under which the trainer reports the metric on the development set.

    Args:
        metric: `ndcg@10`, `mrr@10` ...; not used for scored pairs.
        similarity: `vectors.similarity_fn_name` of the model.
        scored_pairs: True where the development set is pairs with scores.
    """
    return f"eval_dev_spearman_{similarity}" if scored_pairs else f"eval_dev_{similarity}_{metric}"


def prompts_by_column(roles: Mapping[str, str], prompts: Mapping[str, str]) -> dict[str, str]:
    """Return the prompt of each column, by the column's role: what the host's argument `prompts` takes.

    Columns without a role, such as labels, and roles without a prompt are left out.

    Args:
        roles: Column -> "query", "document", or anything else for none.
        prompts: `resolved.prompts`.
    """
    return {column: prompts[role] for column, role in roles.items() if prompts.get(role)}


def choose_arguments(
    preferences: Preferences,
    resolved: Resolved,
    *,
    rows: int,
    loss: str,
    output: Path,
    prompts: Mapping[str, str] | None = None,
    metric: str | None = None,
    world_size: int = 1,
) -> ArgumentChoices:
    """Choose the training arguments.

    Args:
        preferences: `[training.arguments]` wins over every choice made here.
        resolved: The effective preferences of the model that is trained.
        rows: Training examples.
        loss: Class name of the loss.
        output: Folder for the checkpoints.
        prompts: Column -> prompt.
        metric: Name of the metric that chooses the best checkpoint; None where nothing is evaluated meanwhile.
        world_size: Processes that train together.

    Raises:
        InvalidPreferenceError: an argument is the run's own, or does not mean with this loss what one would think; all
            of them are listed.
    """
    stated = dict(preferences.training.arguments)
    _refuse(preferences, stated, loss, metric)
    found: dict[str, ArgumentChoice] = {
        name: ArgumentChoice(value, str(_origin(preferences, name)), stated=True) for name, value in stated.items()
    }

    def choose(name: str, value: Any, reason: str) -> None:
        found.setdefault(name, ArgumentChoice(value, reason))

    choose("output_dir", str(output), "the run's folder")
    _choose_sizes(choose, found, loss, rows, world_size, accelerated=_is_accelerated(resolved))
    _choose_optimizer(choose, preferences, resolved, rows)
    _choose_device(choose, resolved, stated)
    _choose_evaluation(choose, stated, metric)
    if preferences.training.activation_checkpointing == "on":
        choose("activation_checkpointing", True, "training.activation_checkpointing")
    if prompts:
        choose("prompts", dict(prompts), "[prompts], by the role of each column")
    if loss in _GROUPED_BY_LABEL:
        choose("batch_sampler", "group_by_label", f"{loss} compares rows of one label")
    choose("report_to", "none", "nothing is sent anywhere unless asked for")
    choose("disable_tqdm", True, "progress is reported by the run")
    choose("logging_nan_inf_filter", False, "a loss that is no number ends the run")
    steps = ArgumentChoices(found, rows).steps
    choose("logging_steps", max(1, steps // _LOGS), f"about {_LOGS} points of the curve")
    return ArgumentChoices(found, rows)


def _origin(preferences: Preferences, name: str) -> Any:
    origins = preferences.origins
    return origins.get(f"training.arguments.{name}") or origins.get("training.arguments") or "training.arguments"


def _refuse(preferences: Preferences, stated: Mapping[str, Any], loss: str, metric: str | None) -> None:
    """Refuse what the run sets itself, and what does not mean what it seems to."""
    problems = []

    def refuse(name: str, message: str, fix: str) -> None:
        origin = _origin(preferences, name)
        problems.append(
            Problem(
                message,
                key=f"training.arguments.{name}",
                value=stated[name],
                fix=fix,
                source=getattr(origin, "source", None) or None,
                line=getattr(origin, "line", None),
            )
        )

    for name, fix in _OWN.items():
        if stated.get(name) not in (None, False):
            refuse(name, f"training.arguments.{name} is set by the run itself.", f"Leave it out. {fix}")
    accumulated = stated.get("gradient_accumulation_steps", 1)
    if loss in IN_BATCH_NEGATIVES_LOSSES and isinstance(accumulated, int) and accumulated > 1:
        size = stated.get("per_device_train_batch_size", 64)
        cached = loss if loss.startswith("Cached") else f"Cached{loss}"
        named = cached if cached in IN_BATCH_NEGATIVES_LOSSES else "CachedMultipleNegativesRankingLoss"
        refuse(
            "gradient_accumulation_steps",
            f"training.arguments.gradient_accumulation_steps is {accumulated}, and {loss} takes its negatives from the "
            f"batch: each text would be compared with the {size} of its own batch, not with {accumulated * size}.",
            f'Leave it out and write loss = "{named}" under [training], '
            f"per_device_train_batch_size = {accumulated * size} under [training.arguments], "
            f"and mini_batch_size = {size} under [training.loss_parameters]: "
            "the gradient of the large batch in the memory of the small one.",
        )
    if metric is None:
        for name in ("load_best_model_at_end", "metric_for_best_model"):
            if stated.get(name):
                refuse(
                    name,
                    f"training.arguments.{name} is {stated[name]!r}, and there is no development set to choose by.",
                    "Leave it out, or raise training.split.development above 0.",
                )
    elif stated.get("metric_for_best_model") not in (None, metric, metric.removeprefix("eval_")):
        refuse(
            "metric_for_best_model",
            f'training.arguments.metric_for_best_model is "{stated["metric_for_best_model"]}", which is not what the '
            f'run reports: "{metric}".',
            "Leave it out; training.metric says which metric is computed.",
        )
    if problems:
        raise InvalidPreferenceError(problems)


def _is_accelerated(resolved: Resolved) -> bool:
    return not resolved.devices[0].startswith("cpu")


def _choose_sizes(
    choose: Any, found: Mapping[str, ArgumentChoice], loss: str, rows: int, world_size: int, *, accelerated: bool
) -> None:
    contrastive = loss in IN_BATCH_NEGATIVES_LOSSES
    full = (128 if accelerated else 64) if contrastive else 32
    # NVIDIA's recipe for embedding models: an eighth of small data sets, so that an epoch has enough steps.
    size = max(2, min(full, max(16, rows // 8), rows))
    reason = f"{rows:,} rows"
    if contrastive:
        reason += "; the other rows of a batch are the negatives"
    choose("per_device_train_batch_size", size, reason)
    if found.get("max_steps") is None or found["max_steps"].value <= 0:
        epochs = 3 if rows < 1_000 else 2 if rows < 10_000 else 1
        choose("num_train_epochs", epochs, f"{rows:,} rows: fewer passes the more there are")
    if world_size > 1:
        choose("dataloader_drop_last", True, "every process needs as many batches as the others")


def _choose_optimizer(choose: Any, preferences: Preferences, resolved: Resolved, rows: int) -> None:
    rate, reason = _learning_rate(preferences, resolved)
    if rows < 500:
        rate, reason = rate / 2, f"{reason}; half of it for fewer than 500 rows"
    choose("learning_rate", rate, reason)
    choose("lr_scheduler_type", "cosine", "as most published recipes for embedding models")
    if preferences.training.arguments.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        choose("lr_scheduler_kwargs", {"mode": "max"}, "the metric is better the larger it is")
    choose("warmup_steps", 0.1, "a tenth of all steps")
    choose("weight_decay", 0.01, "as most published recipes for embedding models")


def _learning_rate(preferences: Preferences, resolved: Resolved) -> tuple[float, str]:
    if resolved.facts.is_static:
        return 5e-2, "static vectors have no layers above them, and take far larger steps"
    if preferences.training.lora is not None:
        return 2e-4, "LoRA takes about ten times the rate of full training"
    parameters = resolved.facts.parameter_count
    if 0 < parameters < 60_000_000:
        return 5e-5, f"{parameters / 1e6:.1f} million parameters: small models take larger steps"
    return 2e-5, "as most published recipes for models of this size"


def _choose_device(choose: Any, resolved: Resolved, stated: Mapping[str, Any]) -> None:
    if not _is_accelerated(resolved):
        choose("use_cpu", True, f"compute.device is {resolved['compute.device']}")
        choose("dataloader_pin_memory", False, "pinned memory is for GPUs")
    if stated.get("fp16"):
        return
    native, reason = _pays_bfloat16(resolved)
    if native:
        choose("bf16", True, f"{reason}; weights stay float32")


def _pays_bfloat16(resolved: Resolved) -> tuple[bool, str]:
    """Say whether lower precision of single operations saves time here."""
    if resolved.facts.is_static:
        return False, ""
    if not _is_accelerated(resolved):
        # all-MiniLM-L6-v2 on two Zen 4 cores took 0.77 of the time of float32 for a step.
        return resolved.hardware.bfloat16_pays, "the processor multiplies bfloat16"
    device = resolved.devices[0]
    native = any(item.native_bfloat16 for item in resolved.hardware.accelerators if item.device == device)
    return native and not device.startswith("mps"), "the GPU computes bfloat16 natively"


def _choose_evaluation(choose: Any, stated: Mapping[str, Any], metric: str | None) -> None:
    share = 1 / _EVALUATIONS
    evaluation, saving = strategies(stated, has_development=metric is not None)
    reason = "the best checkpoint is chosen on the development set"
    choose("eval_strategy", evaluation, reason if metric is not None else "there is no development set")
    choose("save_strategy", saving, "evaluations and checkpoints go together")
    together = stated.get("save_steps", stated.get("eval_steps", share))
    reason = (
        f"{_EVALUATIONS} times in the whole run" if together == share else "evaluations and checkpoints go together"
    )
    if saving == "steps":
        choose("save_steps", together, reason)
    choose("save_total_limit", 2, "the best and the last")
    if evaluation == "no":
        return
    if evaluation == "steps":
        choose("eval_steps", stated.get("eval_steps", together), reason)
    if saving != "no":
        choose("load_best_model_at_end", True, "the best checkpoint on the development set is the result")
    choose("metric_for_best_model", metric, "training.metric, as the evaluation reports it")
    choose("greater_is_better", True, "more is better")
