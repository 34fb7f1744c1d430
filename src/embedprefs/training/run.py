"""`train`: a baseline, the training, and a verdict on the same test."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from embedprefs.errors import CheckFailedError, PreferenceMismatchError
from embedprefs.evaluation import compare, load_evaluation
from embedprefs.files import write_text
from embedprefs.layers import with_overrides
from embedprefs.preferences import Preferences
from embedprefs.record import fingerprint
from embedprefs.training.callbacks import Interruption, ProgressReporter
from embedprefs.training.card import write_card
from embedprefs.training.checkpoints import (
    CHECKPOINTS,
    MODEL,
    finished_training,
    last_checkpoint,
    open_run,
    remove_incomplete,
    require_own_folder,
    require_room,
)
from embedprefs.training.data import TrainingData
from embedprefs.training.evaluation_sets import EvaluationSet
from embedprefs.training.mining import mine_negatives
from embedprefs.training.parameters import trained_share
from embedprefs.training.plan import TrainingPlan, plan_training
from embedprefs.training.progress import Progress, TrainingProgress
from embedprefs.training.report import require_plotting, write_report
from embedprefs.training.result import TrainingResult
from embedprefs.training.saving import load_served, load_trained, save_trained, write_preferences_beside
from embedprefs.training.split import Splits
from embedprefs.training.trainer import (
    build_trainer,
    load_for_training,
    processes,
    quiet_host,
    without_quantisation,
)

if TYPE_CHECKING:
    from embedprefs.evaluation.retrieval import Progress as TextProgress
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.training.host_trainer import PreferredTrainer

__all__ = ["train"]

logger = logging.getLogger("embedprefs.training")

_DEVELOPMENT = "development.json"
_ARGUMENTS = "arguments.json"
_SHOWN_EXAMPLES = 3


@dataclass
class _Run:
    """One run, from the data to the report."""

    preferences: Preferences
    output: Path
    resume: bool
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Keep the time of a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began

    def shown(self, stage: str) -> TextProgress:
        """Return what an evaluation reports to."""
        began = time.monotonic()

        def show(done: int, total: int) -> None:
            left = (time.monotonic() - began) / done * (total - done) if done else None
            self.progress(TrainingProgress(stage, done, total, left))

        return show


def train(
    preferences: Preferences,
    data: TrainingData | Any = None,
    *,
    output: Path | str,
    overrides: Mapping[str, Any] | None = None,
    resume: bool | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Fine-tune the model of some preferences, and say whether it got better.

    The base is evaluated on the test first. Then the host's trainer trains, chooses the best checkpoint on the
    development set, and the result is evaluated on the same test, which is used for nothing else. Started again with
    the same output, a run that was interrupted continues from its last checkpoint as if nothing had happened.

    The run's folder holds `model` (with its preferences and a model card), `embedprefs.toml` (preferences for it),
    `report.html` with the curves as PNG beside it, `result.json`, the evaluations, and the checkpoints.

    Args:
        preferences: The model, `[training]`, and how the model is served.
        data: What `read_training_data` reads or returned; `training.data` if not given.
        output: The run's folder; made where it does not exist.
        overrides: Preferences that win over every layer, by dotted key.
        resume: Whether an interrupted run in `output` is continued; as `training.resume` says if not given.
        progress: Called with how far the run is.

    Returns:
        The result; `is_acceptable` is False where the test or the guard set got worse.

    Raises:
        CheckFailedError: the checks found errors.
        InvalidPreferenceError: preferences do not fit the data, the loss or the model, or the loss is no number.
        InputError: data cannot be read, or the folder holds something else.
        PreferenceMismatchError: the run in the folder was started with something else, or what was saved is not what
            was trained.
        ResourceError: memory or the disk does not suffice; what was saved is kept.
        KeyboardInterrupt: it was interrupted; the message says what is safe.
    """
    preferences = with_overrides(preferences, overrides) if overrides else preferences
    run = _Run(
        preferences,
        Path(output).absolute(),
        preferences.training.resume == "auto" if resume is None else resume,
        progress or (lambda _progress: None),
    )
    require_plotting()
    require_own_folder(run.output, resume=run.resume)
    try:
        return _judged(run, data)
    except KeyboardInterrupt as error:
        if str(error):
            raise
        raise KeyboardInterrupt(_interrupted_words(run)) from error


def _judged(run: _Run, data: TrainingData | Any) -> TrainingResult:
    """Do everything, from the data to the report."""
    preferences = run.preferences
    with run.timed("preparing"):
        plan = plan_training(preferences, data, measure=False)
        errors = [finding for finding in plan.findings if finding.severity == "error"]
        if errors:
            raise CheckFailedError(errors)
        run.notes += [*plan.prepared.notes, *(item.to_text() for item in plan.prepared.data.rejected)]
        run.notes += [str(finding) for finding in plan.findings if finding.severity == "warning"]
        splits, sets = plan.prepared.splits, plan.prepared.sets
        continued = _open(run, plan)
        preferences = _saving_memory(run, plan)
        model = load_for_training(preferences)
        rows = _with_negatives(run, model, splits.train)
        trainer = build_trainer(
            preferences, rows, output=run.output / CHECKPOINTS, development=sets["development"], model=model
        )
        _require_the_same_arguments(run, trainer)
    if trainer.is_world_process_zero():
        baselines = _baselines(run, sets)
        before = _development_before(run, trainer, continued=continued)
    trainer.accelerator.wait_for_everyone()
    with run.timed("training"):
        _train(run, trainer)
    if not trainer.is_world_process_zero():
        # The first process writes everything; what it found is the same for all.
        trainer.accelerator.wait_for_everyone()
        return _unjudged(run, trainer, splits, sets)
    result = _finish(run, trainer, splits, sets, baselines, before)
    trainer.accelerator.wait_for_everyone()
    return result


# Before --------------------------------------------------------------------------------------------------------------


Sets = Mapping[str, EvaluationSet | None]


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _open(run: _Run, plan: TrainingPlan) -> bool:
    """Begin the run in its folder, or find the one that is to be continued; True where there is one."""
    from embedprefs.resolve import resolve

    started_with = {
        "base": fingerprint(resolve(without_quantisation(run.preferences))),
        "data": plan.prepared.splits.train.digest,
        **{name: item.digest if item is not None else None for name, item in plan.prepared.sets.items()},
        "training": run.preferences.training.model_dump(mode="json", exclude={"resume"}),
        "processes": processes(),
    }
    if not _is_first_process():
        return False
    continued = open_run(run.output, started_with, resume=run.resume)
    write_text(run.output / "plan.json", json.dumps(plan.to_json(), indent=2, ensure_ascii=False, default=str) + "\n")
    return continued


def _saving_memory(run: _Run, plan: TrainingPlan) -> Preferences:
    """Do what the plan decided about activation checkpointing where it is "auto".

    A run that continues keeps to what was decided when it began.
    """
    if run.preferences.training.activation_checkpointing != "auto":
        return run.preferences
    if "activation_checkpointing" in run.preferences.training.arguments:
        return run.preferences
    path = run.output / _ARGUMENTS
    if path.is_file():
        wanted = "activation_checkpointing" in json.loads(path.read_text(encoding="utf-8"))
    else:
        wanted = plan.arguments is not None and bool(plan.arguments["activation_checkpointing"])
    if not wanted:
        return run.preferences
    run.notes.append("Activations are computed again in the backward pass: keeping them would take too much memory.")
    return with_overrides(run.preferences, {"training.activation_checkpointing": "on"})


def _with_negatives(run: _Run, model: PreferredSentenceTransformer, data: TrainingData) -> TrainingData:
    """Mine hard negatives, where they are asked for; once, so that a run that continues has the same."""
    wanted = run.preferences.training.negatives
    if wanted.count == 0 or data.kind != "pairs":
        return data
    path = run.output / "negatives.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return replace(data, rows=rows, kind="triplets" if wanted.count == 1 else "tuples", documents=None)
    found, report = mine_negatives(model, data, wanted, progress=run.shown("mining"))
    run.notes.append(report.to_text())
    if _is_first_process():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows))
    return found


def _require_the_same_arguments(run: _Run, trainer: PreferredTrainer) -> None:
    """Refuse to continue with other arguments: on another machine other ones may have been chosen."""
    if not trainer.is_world_process_zero():
        return
    trained, parameters = trained_share(trainer.model)
    require_room(
        run.output,
        weight_bytes=4 * parameters,
        trained_bytes=4 * trained,
        checkpoints=trainer.args.save_total_limit or 1,
    )
    chosen = {name: value for name, value in trainer.choices.to_json().items() if name != "output_dir"}
    path = run.output / _ARGUMENTS
    if not path.is_file():
        write_text(path, json.dumps(chosen, indent=2, ensure_ascii=False) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    values = {name: choice["value"] for name, choice in chosen.items()}
    known = {name: choice["value"] for name, choice in before.items()}
    differences = sorted(
        name for name in values.keys() | known.keys() if _plain(values.get(name)) != _plain(known.get(name))
    )
    if differences:
        lines = [f"  {name}: {known.get(name)!r} -> {values.get(name)!r}" for name in differences]
        raise PreferenceMismatchError(
            f"{run.output}: the run there was started with other training arguments.\n"
            + "\n".join(lines)
            + "\n  State them as they were, under [training.arguments], or name another folder.",
            left={name: known.get(name) for name in differences},
            right={name: values.get(name) for name in differences},
            differences=differences,
        )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _baselines(run: _Run, sets: Sets) -> dict[str, Any]:
    """Evaluate the base as it is served, on the test and on the guard set; once, whatever interrupts the run."""
    wanted = {name: item for name, item in sets.items() if name != "development" and item is not None}
    found: dict[str, Any] = {}
    for name, item in wanted.items():
        path = run.output / f"{name}_base.jsonl"
        if path.is_file():
            kept = load_evaluation(path)
            if kept.data.digest == item.digest:
                found[name] = kept
    missing = {name: item for name, item in wanted.items() if name not in found}
    if missing:
        model = load_served(run.preferences)
        for name, item in missing.items():
            stage = "baseline" if name == "test" else f"baseline, {name}"
            with run.timed("baseline"):
                found[name] = item.evaluate(model, run.shown(stage))
            found[name].save(run.output / f"{name}_base.jsonl")
    return found


def _development_before(run: _Run, trainer: PreferredTrainer, *, continued: bool) -> float | None:
    """Return the metric on the development set before the first step."""
    if trainer.evaluator is None:
        return None
    path = run.output / _DEVELOPMENT
    name = trainer.evaluator.primary_metric
    if continued and path.is_file():
        return float(json.loads(path.read_text(encoding="utf-8"))[name])
    with run.timed("baseline"):
        value = trainer.evaluator(trainer.model)[name]
    write_text(path, json.dumps({name: value}) + "\n")
    return float(value)


# Training ------------------------------------------------------------------------------------------------------------


def _train(run: _Run, trainer: PreferredTrainer) -> None:
    folder = run.output / CHECKPOINTS
    if trainer.is_world_process_zero():
        removed = remove_incomplete(folder) if folder.is_dir() else []
        if removed:
            run.notes.append(f"Removed, because they were cut off in the middle or damaged: {', '.join(removed)}.")
    trainer.accelerator.wait_for_everyone()
    done = finished_training(run.output)
    if done is not None:
        last, best = done
        trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        with quiet_host():
            trainer.load_weights(best)
        run.notes.append(f"Training was finished before; the weights are those of {best.name}.")
        return
    checkpoint = last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint is not None and trainer.args.save_only_model:
        run.notes.append("Training began anew: with save_only_model, checkpoints cannot be continued from.")
        checkpoint = None
    if checkpoint is not None:
        run.notes.append(f"Continued from {checkpoint.name}.")
        logger.info("Continuing from %s.", checkpoint)
    interruption = Interruption()
    trainer.add_callback(ProgressReporter(run.progress, trainer.choices["metric_for_best_model"]))
    trainer.add_callback(interruption)
    try:
        with interruption.listening(), quiet_host():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_interrupted_words(run)) from error
    if interruption.saved_step is not None and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt(_interrupted_words(run))
    newest = last_checkpoint(folder) if folder.is_dir() else None
    if trainer.is_world_process_zero() and newest is not None:
        chosen = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        finished_training(run.output, newest, Path(chosen).name if chosen else None)


def _interrupted_words(run: _Run) -> str:
    """Say what is safe, and what the same command does."""
    same = f"The same command with the same output ({run.output})"
    if not run.output.is_dir():
        return "Interrupted; nothing was written."
    if finished_training(run.output) is not None:
        return f"Interrupted; training is finished, and its checkpoints are safe. {same} only evaluates them."
    folder = run.output / CHECKPOINTS
    kept = last_checkpoint(folder) if folder.is_dir() else None
    if kept is not None:
        return f"Interrupted; {kept.name} is safe. {same} continues from there."
    baseline = "the baseline is kept, and " if any(run.output.glob("*_base.jsonl")) else ""
    return f"Interrupted; {baseline}no checkpoint was made yet. {same} begins training."


# Afterwards ----------------------------------------------------------------------------------------------------------


def _finish(
    run: _Run, trainer: PreferredTrainer, splits: Splits, sets: Sets, baselines: Mapping[str, Any], before: float | None
) -> TrainingResult:
    model = trainer.model
    shares = trained_share(model)
    base_fingerprint = json.loads((run.output / "run.json").read_text(encoding="utf-8"))["base"]
    with run.timed("saving"):
        folder, difference = save_trained(model, run.preferences, run.output)
    if difference is not None:
        run.notes.append(f"The adapter was merged; probe vectors differ by at most {difference:.1e}.")
    served = load_trained(model, run.preferences, folder)
    made, planned = trainer.state.global_step, trainer.state.max_steps
    if made < planned:
        patience = run.preferences.training.early_stopping.patience
        run.notes.append(
            f"Training ended early, in step {made:,} of {planned:,}: the development metric did not improve in "
            f"{patience} evaluations."
        )
    precision = run.preferences.vectors.precision
    if precision in ("int8", "uint8"):
        run.notes.append(
            f"Evaluated and saved with float32 vectors: the ranges for {precision} belong to the base. Measure new "
            "ones: embedprefs calibrate TEXTS."
        )
    tuned: dict[str, Any] = {}
    for name, item in sets.items():
        if item is not None and name in baselines:
            with run.timed("test"):
                tuned[name] = item.evaluate(served, run.shown("test" if name == "test" else f"test, {name}"))
            tuned[name].save(run.output / f"{name}_trained.jsonl")
    margin = run.preferences.training.margin
    comparisons = {name: compare(baselines[name], tuned[name], margin=margin) for name in tuned}
    result = TrainingResult(
        output=run.output,
        model=folder,
        base=run.preferences.model.name,
        fingerprints={"base": base_fingerprint, "trained": served.fingerprint},
        comparison=comparisons.get("test"),
        guard=comparisons.get("guard"),
        baseline=baselines.get("test"),
        tuned=tuned.get("test"),
        development=_development(run, trainer, before),
        **_common(run, trainer, splits, sets, shares),
    )
    # Texts of the data are the user's own; the card goes wherever the model goes.
    shown = splits.train.rows[:_SHOWN_EXAMPLES] if run.preferences.training.model_card_texts else ()
    write_card(result, shown)
    write_preferences_beside(run.preferences, run.output, folder)
    write_report(result)
    result.save()
    return result


def _common(
    run: _Run, trainer: PreferredTrainer, splits: Splits, sets: Sets, shares: tuple[int, int]
) -> dict[str, Any]:
    rows = {"train": len(splits.train)}
    rows |= {name: item.size for name, item in sets.items() if item is not None}
    return {
        "loss": trainer.loss_choice.to_text(),
        "rows": rows,
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        "seconds": dict(run.seconds),
        "tokens": trainer.tokens_seen,
        "trained_parameters": shares[0],
        "parameters": shares[1],
        "arguments": trainer.choices.to_json(),
        "history": tuple(trainer.state.log_history),
        "notes": tuple(dict.fromkeys(run.notes)),
    }


def _unjudged(run: _Run, trainer: PreferredTrainer, splits: Splits, sets: Sets) -> TrainingResult:
    """Return what a further process knows: the training, and no verdict."""
    return TrainingResult(
        output=run.output,
        model=run.output / MODEL,
        base=run.preferences.model.name,
        fingerprints={},
        comparison=None,
        guard=None,
        baseline=None,
        tuned=None,
        development={},
        **_common(run, trainer, splits, sets, trained_share(trainer.model)),
    )


def _development(run: _Run, trainer: PreferredTrainer, before: float | None) -> dict[str, Any]:
    if before is None or trainer.evaluator is None:
        return {}
    name = f"eval_{trainer.evaluator.primary_metric}"
    values = [(entry[name], entry["step"]) for entry in trainer.state.log_history if name in entry]
    if not values:
        return {}
    chosen = trainer.args.load_best_model_at_end
    best, step = max(values, key=lambda item: (item[0], -item[1])) if chosen else values[-1]
    if best <= before:
        run.notes.append("No checkpoint was better than the base on the development set: more training may only hurt.")
    return {"metric": name, "before": before, "best": best, "step": step}
