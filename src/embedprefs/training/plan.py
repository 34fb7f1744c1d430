"""`plan_training`: everything that can be known about a training before any weights are read."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.checks import check
from embedprefs.checks.finding import Finding
from embedprefs.checks.subject import TrainingSubject
from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.training.arguments import ArgumentChoice, ArgumentChoices, choose_arguments, prompts_by_column
from embedprefs.training.batches import (
    Batches,
    EpochPlan,
    no_duplicates_epoch,
    random_epoch,
    shared_texts,
    split_texts,
)
from embedprefs.training.data import TrainingData
from embedprefs.training.estimates import (
    MemoryNeed,
    TimeEstimate,
    estimate_memory_need,
    estimate_time,
    padded_tokens,
)
from embedprefs.training.lengths import RoleLengths, token_lengths
from embedprefs.training.losses import LossChoice, choose_loss
from embedprefs.training.plan_text import plan_text
from embedprefs.training.power import EvaluationPower, evaluation_power
from embedprefs.training.preparing import Prepared, prepare
from embedprefs.training.requirements import missing_packages
from embedprefs.training.split import Leakage

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved

__all__ = ["BatchPlan", "EvaluationPower", "TrainingPlan", "plan_training"]

COVERING = "covering"
_MINI_BATCH = 32
#: Of the free memory that a training may need before activations are no longer kept.
SHARE_OF_MEMORY = 0.9
#: Subjects of findings that have nothing to do with training.
_OTHER_FIELDS = ("index", "sparse", "rerank")


@dataclass(frozen=True)
class BatchPlan:
    """The batches of the first epoch, as the sampler makes them."""

    sampler: str
    """`covering` for the sampler of embedprefs, else the host's name."""
    asked: int
    """Rows of a batch, as asked for."""
    epoch: EpochPlan = field(repr=False)
    false_negatives: int
    """Rows that share a text with another row of their batch, where the other rows are the negatives."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        sizes = self.epoch.sizes
        return {
            "sampler": self.sampler,
            "asked": self.asked,
            "batches_per_epoch": len(sizes),
            "largest": max(sizes, default=0),
            "smallest": min(sizes, default=0),
            "coverage": self.epoch.coverage,
            "rows_lost": self.epoch.lost,
            "false_negatives": self.false_negatives,
        }


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do, and what is wrong with it."""

    model: str
    device: str
    prepared: Prepared = field(repr=False)
    lengths: Mapping[str, RoleLengths] = field(repr=False)
    length: int | None
    """Tokens that are read of one text."""
    prompts: Mapping[str, str]
    """Role of the data -> the prompt before its texts."""
    loss: LossChoice | None
    """None where the preferences ask for one that cannot take the data; see the findings."""
    arguments: ArgumentChoices | None
    batches: BatchPlan | None
    steps: int
    """Optimizer steps of the whole run."""
    metric: str | None
    """The exact name under which the trainer reports what chooses the best checkpoint."""
    leakage: Mapping[str, Leakage]
    power: Mapping[str, EvaluationPower]
    time: TimeEstimate | None
    memory: MemoryNeed | None
    trained_parameters: int
    mined_negatives: int
    """Hard negatives that the run mines for each pair; time and memory count them, as long as positives."""
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a run would be refused, or would not be what was meant."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def train(self) -> TrainingData:
        """The rows that are trained on."""
        return self.prepared.splits.train

    def to_text(self) -> str:
        """Return the plan for a reader."""
        return plan_text(self)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        data, splits = self.prepared.data, self.prepared.splits
        parts = {"train": splits.train, "development": splits.dev, "test": splits.test}
        return {
            "model": self.model,
            "device": self.device,
            "data": {
                "name": data.name,
                "kind": data.kind,
                "columns": {role: list(names) for role, names in data.columns.by_role.items()},
                "left_out": list(data.columns.unused),
                "rows": len(data),
                "rejected": {item.reason: item.count for item in data.rejected},
                "notes": list(self.prepared.notes),
            },
            "split": {
                "unit": splits.unit,
                "rows": {name: len(part) for name, part in parts.items() if part is not None},
                "units": dict(splits.units),
            },
            "lengths": {role: known.to_json() for role, known in self.lengths.items()},
            "max_seq_length": self.length,
            "prompts": dict(self.prompts),
            "loss": self.loss.to_json() if self.loss is not None else None,
            "batches": self.batches.to_json() if self.batches is not None else None,
            "steps": self.steps,
            "arguments": _without_secrets(self.arguments) if self.arguments is not None else None,
            "metric_for_best_model": self.metric,
            "leakage": {name: found.to_json() for name, found in self.leakage.items()},
            "power": {name: known.to_json() for name, known in self.power.items()},
            "time": self.time.to_json() if self.time is not None else None,
            "memory": self.memory.to_json() if self.memory is not None else None,
            "trained_parameters": self.trained_parameters,
            "mined_negatives": self.mined_negatives,
            "findings": [dict(finding.to_json()) for finding in self.findings],
        }


def plan_training(
    preferences: Preferences,
    data: Any = None,
    *,
    facts: ModelFacts | None = None,
    hardware: Hardware | None = None,
    measure: bool = True,
) -> TrainingPlan:
    """Say what a training would do: data, loss, batches, steps, time, memory, and everything that is wrong with it.

    No weights are read. The batches of the first epoch are made as the sampler makes them; a sample of the texts is
    tokenised; activations are measured on torch's meta device, where tensors have shapes and no content.

    Args:
        preferences: The model and `[training]`.
        data: What `read_training_data` reads or returned; `training.data` if not given.
        facts: What the model's files say; read where `model.name` points if not given.
        hardware: The machine; this one if not given.
        measure: Whether to import torch for the memory, and to measure the processor's rate for the time. Without,
            memory is a bound from the configuration, and there is no time on a processor.

    Raises:
        InputError: the data cannot be read, or none are named.
        InvalidPreferenceError: columns do not exist, or the data cannot be divided as asked.
        ModelFilesError: the model's files are absent or damaged.
        UnavailableError: the model is not here, and the hub cannot be reached.
    """
    from embedprefs.facts import facts_for
    from embedprefs.hardware import detect_hardware
    from embedprefs.resolve import resolve

    facts = facts if facts is not None else facts_for(preferences)
    hardware = hardware if hardware is not None else detect_hardware()
    resolved = resolve(preferences, facts, hardware)
    prepared = prepare(preferences, data)
    return _Planning(preferences, resolved, prepared, measure=measure).plan()


@dataclass
class _Planning:
    preferences: Preferences
    resolved: Resolved
    prepared: Prepared
    measure: bool
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    loss_problem: tuple[str, str] | None = None

    def plan(self) -> TrainingPlan:
        train = self.prepared.splits.train
        training = self.preferences.training
        serving = self.resolved["tokenizer.max_seq_length"]
        stated = training.max_seq_length
        length = min(serving, stated) if serving is not None and stated is not None else stated or serving
        prompts = prompts_by_column(dict(train.sides), self.resolved.prompts)
        lengths = token_lengths(train, self.resolved.facts, prompts, length)
        loss = self._loss(train)
        metric = self._metric()
        arguments = self._arguments(train, loss, prompts, metric) if loss is not None else None
        self.refused.extend(_words(problem) for problem in missing_packages(self.preferences))
        batches = self._batches(train, loss, arguments) if loss is not None and arguments is not None else None
        steps = _steps(arguments, batches) if arguments is not None and batches is not None else 0
        trained = _trained_parameters(self.preferences, self.resolved)
        leakage = dict(self.prepared.leakage())
        mined = training.negatives.count if train.kind == "pairs" else 0
        computed = lengths | {f"negative_{number}": lengths["positive"] for number in range(1, mined + 1)}
        memory = self._memory(computed, loss, arguments, batches, trained)
        if arguments is not None and memory is not None and self._saves_memory(arguments, memory):
            arguments = _recomputing(arguments, memory)
            memory = self._memory(computed, loss, arguments, batches, trained)
        plan = TrainingPlan(
            model=self.resolved.facts.name,
            device=self.resolved.devices[0],
            prepared=self.prepared,
            lengths=lengths,
            length=length,
            prompts=prompts,
            loss=loss,
            arguments=arguments,
            batches=batches,
            steps=steps,
            metric=metric,
            leakage=leakage,
            power={
                name: power
                for name, item in self.prepared.sets.items()
                if (power := evaluation_power(item)) is not None
            },
            time=self._time(computed, loss, arguments, batches, steps),
            memory=memory,
            trained_parameters=trained,
            mined_negatives=mined,
            findings=(),
        )
        return replace(plan, findings=tuple(self._findings(plan)))

    def _loss(self, train: TrainingData) -> LossChoice | None:
        try:
            return choose_loss(train, self.preferences, resolved=self.resolved)
        except InvalidPreferenceError as error:
            for problem in error.problems:
                if problem.key in ("training.loss", "training.data") and self.loss_problem is None:
                    self.loss_problem = (problem.message, problem.fix or "Remove training.loss.")
                else:
                    self.refused.append(_words(problem))
            return None

    def _metric(self) -> str | None:
        development = self.prepared.sets["development"]
        return development.metric_name(str(self.resolved["vectors.similarity_fn_name"])) if development else None

    def _arguments(
        self, train: TrainingData, loss: LossChoice, prompts: Mapping[str, str], metric: str | None
    ) -> ArgumentChoices | None:
        preferences = self.preferences
        while True:
            try:
                return choose_arguments(
                    preferences,
                    self.resolved,
                    rows=len(train),
                    loss=loss.name,
                    output=Path(tempfile.gettempdir()),
                    prompts=prompts,
                    metric=metric,
                )
            except InvalidPreferenceError as error:
                self.refused.extend(_words(problem) for problem in error.problems)
                names = {str(problem.key).removeprefix("training.arguments.") for problem in error.problems}
                kept = {name: value for name, value in preferences.training.arguments.items() if name not in names}
                if len(kept) == len(preferences.training.arguments):
                    return None
                # The rest of the plan is for what is left when these are corrected.
                preferences = preferences.model_copy(
                    update={"training": preferences.training.model_copy(update={"arguments": kept})}
                )

    def _batches(self, train: TrainingData, loss: LossChoice, arguments: ArgumentChoices) -> BatchPlan:
        size = max(1, int(arguments["per_device_train_batch_size"]))
        columns = {role: [row[role] for row in train.rows] for role in train.text_roles}
        own, negatives = split_texts(columns)
        chosen = arguments.choices.get("batch_sampler")
        in_batch = loss.host.in_batch_negatives
        sampler = str(chosen.value) if chosen is not None else COVERING if in_batch else "batch_sampler"
        seed = int(arguments["seed"] if arguments["data_seed"] is None else arguments["data_seed"])
        if sampler == COVERING:
            epoch = Batches(own, size, seed=seed, negatives=negatives).epoch(0)
        elif sampler.startswith("no_duplicates"):
            epoch = no_duplicates_epoch(shared_texts(columns), size, seed=seed)
        else:
            epoch = random_epoch(len(train), size, seed=seed)
        if arguments["dataloader_drop_last"]:
            epoch = epoch.in_equal_parts(size)
        return BatchPlan(sampler, size, epoch, epoch.false_negatives(own, negatives) if in_batch else 0)

    def _time(
        self,
        lengths: Mapping[str, RoleLengths],
        loss: LossChoice | None,
        arguments: ArgumentChoices | None,
        batches: BatchPlan | None,
        steps: int,
    ) -> TimeEstimate | None:
        if loss is None or arguments is None or batches is None or self.resolved.facts.is_static:
            return None
        part = int(loss.parameters.get("mini_batch_size", _MINI_BATCH)) if loss.host.cached else None
        tokens = padded_tokens(batches.epoch.batches, lengths, part)
        texts = sum(batches.epoch.sizes) * len(lengths)
        per_epoch = max(1, len(batches.epoch.batches) / int(arguments["gradient_accumulation_steps"]))
        return estimate_time(
            self.resolved,
            tokens=tokens,
            mean_length=tokens / max(1, texts),
            passes=steps / per_epoch,
            repeated=loss.host.cached or self._checkpointing(arguments),
            frozen=self.preferences.training.lora is not None,
            half=bool(arguments["bf16"] or arguments["fp16"]),
            measure=self.measure,
        )

    def _checkpointing(self, arguments: ArgumentChoices) -> bool:
        return bool(arguments["activation_checkpointing"])

    def _saves_memory(self, arguments: ArgumentChoices, memory: MemoryNeed) -> bool:
        """Say whether activations are computed again, where that is left to the run."""
        if self.preferences.training.activation_checkpointing != "auto" or self.resolved.facts.is_static:
            return False
        stated = "activation_checkpointing" in arguments.choices
        return not stated and memory.available is not None and memory.total > SHARE_OF_MEMORY * memory.available

    def _memory(
        self,
        lengths: Mapping[str, RoleLengths],
        loss: LossChoice | None,
        arguments: ArgumentChoices | None,
        batches: BatchPlan | None,
        trained: int,
    ) -> MemoryNeed | None:
        if loss is None or arguments is None or batches is None:
            return None
        rows = max(batches.epoch.sizes, default=0)
        if loss.host.cached:
            rows = min(rows, int(loss.parameters.get("mini_batch_size", _MINI_BATCH)))
        longest = {role: int(np.max(known.tokens, initial=1)) for role, known in lengths.items()}
        return estimate_memory_need(
            self.resolved,
            rows=rows,
            lengths=longest,
            cached=loss.host.cached,
            trained=trained,
            half=bool(arguments["bf16"] or arguments["fp16"]),
            checkpointing=self._checkpointing(arguments),
            measure=self.measure,
        )

    def _findings(self, plan: TrainingPlan) -> Iterator[Finding]:
        from embedprefs.checks.table import TRAINING_RULES

        general = [
            finding
            for finding in check(self.preferences, resolved=self.resolved)
            if not (finding.field or "").startswith(_OTHER_FIELDS)
        ]
        known = {finding.field for finding in general if finding.severity == "error"}
        subject = self._subject(plan, known)
        ignored = set(self.preferences.checks.ignore)
        own = [finding for rule in TRAINING_RULES for finding in rule.findings(subject)]
        found = [*general, *(item for item in own if item.severity == "error" or item.code not in ignored)]
        yield from sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))

    def _subject(self, plan: TrainingPlan, known: set[str | None]) -> TrainingSubject:
        data, train, batches = self.prepared.data, plan.train, plan.batches
        return TrainingSubject(
            preferences=self.preferences,
            name=data.name,
            kind=data.kind,
            rows=train.rows,
            text_roles=train.text_roles,
            label_roles=train.label_roles,
            left_out=data.columns.unused,
            rejected=sum(item.count for item in data.rejected),
            loss=plan.loss.name if plan.loss is not None else None,
            loss_problem=None if "training.loss" in known else self.loss_problem,
            refused=tuple(item for item in self.refused if item[0] not in known),
            batch_size=batches.asked if batches is not None else 0,
            sampler=batches.sampler if batches is not None else "",
            batch_sizes=batches.epoch.sizes if batches is not None else (),
            rows_lost=batches.epoch.lost if batches is not None else 0,
            false_negatives=batches.false_negatives if batches is not None else 0,
            steps=plan.steps,
            truncated={role: known.truncated for role, known in plan.lengths.items()},
            length=plan.length,
            leakage={name: item.to_text() for name, item in plan.leakage.items()},
            queries={
                name: item.size for name, item in self.prepared.sets.items() if item is not None and name != "guard"
            },
            memory_needed=plan.memory.total if plan.memory is not None else None,
            memory_free=plan.memory.available if plan.memory is not None else None,
            device=plan.device,
            needs_teacher=plan.loss is not None and plan.loss.needs_teacher,
            uses_metric=any(item is not None and item.task is not None for item in self.prepared.sets.values()),
        )


def _recomputing(arguments: ArgumentChoices, memory: MemoryNeed) -> ArgumentChoices:
    gib = 1024**3
    choice = ArgumentChoice(
        value=True,
        reason=f"kept, activations would make it {memory.total / gib:.2f} GiB of {(memory.available or 0) / gib:.2f} "
        "GiB free",
    )
    return replace(arguments, choices={**arguments.choices, "activation_checkpointing": choice})


def _without_secrets(arguments: ArgumentChoices) -> dict[str, Any]:
    """Return the arguments as JSON values; a token that stands in a file is an error, and is not shown."""
    return {
        name: {**choice, "value": "hidden"} if name == "hub_token" else choice
        for name, choice in arguments.to_json().items()
    }


def _words(problem: Problem) -> tuple[str, str, str]:
    allowed = f"Allowed: {problem.allowed}." if problem.allowed else "Remove it."
    return (str(problem.key), problem.message, problem.fix or allowed)


def _steps(arguments: ArgumentChoices, batches: BatchPlan) -> int:
    stated = arguments["max_steps"]
    if isinstance(stated, int) and stated > 0:
        return stated
    per_epoch = max(1, len(batches.epoch.batches) // int(arguments["gradient_accumulation_steps"]))
    return math.ceil(per_epoch * float(arguments["num_train_epochs"]))


def _trained_parameters(preferences: Preferences, resolved: Resolved) -> int:
    """Return how many values are trained, from names and shapes in the headers of the weights."""
    training, facts = preferences.training, resolved.facts
    matrices = {name: tensor for name, tensor in facts.tensors.items() if len(tensor.shape) == 2}
    if training.lora is not None:
        wanted = training.lora.target_modules
        total = 0
        for name, tensor in matrices.items():
            layer = name.removesuffix(".weight")
            if wanted is not None:
                chosen = any(layer == target or layer.endswith(f".{target}") for target in wanted)
            else:
                # As in the run: tables of embeddings, and a pooler that no embedding model uses, get none.
                chosen = not any(part in name for part in ("embeddings", "pooler"))
            total += training.lora.r * sum(tensor.shape) if chosen else 0
        return total
    frozen = sum(
        tensor.elements
        for name, tensor in facts.tensors.items()
        if any(fnmatchcase(f"0.model.{name}", pattern) for pattern in training.freeze)
    )
    return max(0, facts.parameter_count - frozen)
