"""A training plan as a reader sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from embedprefs.training.columns import KINDS
from embedprefs.training.progress import duration
from embedprefs.wording import many

if TYPE_CHECKING:
    from embedprefs.training.plan import TrainingPlan

__all__ = ["plan_text"]

#: Arguments that are shown; `to_json` has all of them.
_SHOWN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "bf16",
    "fp16",
    "activation_checkpointing",
    "eval_strategy",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "seed",
    "report_to",
)


def plan_text(plan: TrainingPlan) -> str:
    """Return a plan as lines of text: a word, and what is known about it."""
    lines = [f"{name:<12}{text}" if name else f"{'':<12}{text}" for name, text in _lines(plan)]
    if plan.findings:
        lines.append("")
        lines.extend(str(finding) for finding in plan.findings)
    else:
        lines.append(f"{'findings':<12}none")
    return "\n".join(lines)


def _lines(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    yield "model", f"{plan.model} on {plan.device}"
    yield from _data(plan)
    yield from _training(plan)
    yield from _evaluation(plan)
    yield from _cost(plan)


def _data(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    data, splits = plan.prepared.data, plan.prepared.splits
    yield "data", f"{data.name}: {len(data):,} rows, {KINDS[data.kind]} each"
    yield (
        "columns",
        data.columns.to_text() + (f"; not trained on: {', '.join(data.columns.unused)}" if data.columns.unused else ""),
    )
    for item in data.rejected:
        yield "", f"left out: {item.to_text()}"
    for note in plan.prepared.notes:
        yield "", note
    parts = {"train": splits.train, "development": splits.dev, "test": splits.test}
    shown = [
        f"{name} {many(len(part), 'row')} of {many(splits.units.get(name, 0), splits.unit)}"
        for name, part in parts.items()
        if part is not None
    ]
    yield "parts", ", ".join(shown)
    for role, known in plan.lengths.items():
        prompt = f', prompt "{plan.prompts[role]}"' if role in plan.prompts else ", no prompt"
        cut = f", {known.truncated:.1%} cut at {plan.length}" if plan.length is not None else ""
        distinct = plan.train.distinct(role)
        yield (
            "texts",
            (f"{role}: {distinct:,} different, {known.median} tokens (99 % have at most {known.p99}){cut}{prompt}"),
        )


def _training(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    if plan.loss is not None:
        yield "loss", f"{plan.loss.to_text()}: {plan.loss.reason}"
    if plan.mined_negatives:
        yield "negatives", f"{plan.mined_negatives} will be mined for each pair, when the model is loaded"
        yield "", "a negative may be the answer of another row, so that batches may be smaller, and steps more"
    batches = plan.batches
    if batches is not None:
        sizes = batches.epoch.sizes
        yield (
            "batches",
            (
                f"{len(sizes):,} an epoch, of {max(sizes, default=0)} rows (the last {sizes[-1] if sizes else 0}); "
                f"sampler {batches.sampler}"
            ),
        )
        yield (
            "",
            (
                f"{batches.epoch.coverage:.1%} of the rows are seen, {batches.epoch.lost:,} lost, "
                f"{batches.false_negatives:,} with a right answer as a negative"
            ),
        )
    if plan.steps:
        yield "steps", f"{plan.steps:,}"
    if plan.arguments is not None:
        for name in _SHOWN:
            if name in plan.arguments.choices:
                choice = plan.arguments.choices[name]
                yield "argument", f"{name} = {_written(choice.value)} ({choice.reason})"


def _written(value: Any) -> str:
    """Return a value as a preferences file has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _evaluation(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    yield (
        "best model",
        (
            f"metric_for_best_model = {plan.metric}"
            if plan.metric is not None
            else "the last: there is no development set"
        ),
    )
    for name, found in plan.leakage.items():
        yield "leakage", f"{name}: {found.to_text()}"
    for name, power in plan.power.items():
        low, high = power.detectable
        yield (
            "power",
            (
                f"{name}: {many(power.queries, 'query', 'queries')} of {many(power.groups, 'group')} show true "
                f"differences of nDCG@10 from {low:.3f} on (queries independent) or {high:.3f} on (groups alone)"
            ),
        )


def _cost(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    if plan.time is not None:
        seconds = plan.time.seconds
        yield (
            "time",
            (
                (f"about {duration(seconds)} for the steps" if seconds is not None else "not known")
                + f": {plan.time.tokens:,} tokens with padding, {plan.time.operations:.1e} operations"
            ),
        )
        yield "", plan.time.assumption
    memory = plan.memory
    if memory is not None:
        gib = 1024**3
        available = f" of {memory.available / gib:.1f} GiB free" if memory.available is not None else ""
        yield (
            "memory",
            (
                f"{memory.total / gib:.2f} GiB{available}: weights {memory.weights / gib:.2f}, "
                f"gradients {memory.gradients / gib:.2f}, optimizer {memory.optimizer / gib:.2f}, activations "
                f"{memory.activations / gib:.2f} ({memory.how})"
            ),
        )
        yield "disk", f"{memory.checkpoint / gib:.2f} GiB a checkpoint"
    yield "trained", f"{plan.trained_parameters:,} values"
