"""What is done between the steps of the host's trainer: evaluate, report progress, stop, mark checkpoints."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import EarlyStoppingCallback, TrainerCallback

from embedprefs.training.checkpoints import mark_complete
from embedprefs.training.evaluation_sets import EvaluationSet
from embedprefs.training.progress import Progress, TrainingProgress

__all__ = [
    "CheckpointMarker",
    "DevelopmentEvaluator",
    "Interruption",
    "ProgressReporter",
    "ResumableEarlyStopping",
]


class DevelopmentEvaluator(SentenceEvaluator):  # type: ignore[misc]  # the host is untyped
    """Evaluates the model in training on the development set, with the metrics of `embedprefs evaluate`.

    Its metrics are called `dev_cosine_ndcg@10` as those of the host's evaluator are. Unlike it, judgements may be
    graded, and vectors are compared in the precision that they are served in.
    """

    def __init__(self, evaluation: EvaluationSet, similarity: str) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.similarity = similarity
        self.greater_is_better = True
        self.primary_metric = evaluation.metric_name(similarity).removeprefix("eval_")

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return metric -> value."""
        del output_path, epoch, steps  # nothing is written: the values stand in the trainer's log
        scored = self.evaluation.task is None
        return {
            f"dev_{name}_{self.similarity}" if scored else f"dev_{self.similarity}_{name}": value
            for name, value in self.evaluation.values(model).items()
        }


class CheckpointMarker(TrainerCallback):  # type: ignore[misc]  # the host is untyped
    """Marks a checkpoint when everything of it is written, so that one that was cut off is never resumed from.

    The last step is evaluated too, whatever the number of steps between evaluations: it may be the best.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_named: Any) -> Any:
        """Ask for the last evaluation."""
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_named: Any) -> None:
        """Write the mark."""
        del control
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            mark_complete(folder, state.global_step)


class ResumableEarlyStopping(EarlyStoppingCallback):  # type: ignore[misc]  # the host is untyped
    """Stops when the metric no longer improves; a resumed run counts as one that was never interrupted.

    The host's own callback begins to count anew. Here the evaluations before are read from the trainer's log.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Count the evaluations that the log holds."""
        super().on_train_begin(args, state, control, **named)
        best: float | None = None
        self.early_stopping_patience_counter = 0
        for entry in state.log_history:
            value = entry.get(args.metric_for_best_model)
            if value is None:
                continue
            if best is None or value - best > self.early_stopping_threshold:
                self.early_stopping_patience_counter = 0
            else:
                self.early_stopping_patience_counter += 1
            best = value if best is None else max(best, value)


class ProgressReporter(TrainerCallback):  # type: ignore[misc]  # the host is untyped
    """Tells how far training is and how long it will take."""

    def __init__(self, progress: Progress, metric: str | None) -> None:
        self._progress = progress
        self._metric_name = metric
        self._began = 0.0
        self._first = 0
        self._loss: float | None = None
        self._metric: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_named: Any) -> None:
        """Start the clock."""
        del args, control
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_named: Any) -> None:
        """Remember what was logged."""
        del args, state, control
        self._loss = (logs or {}).get("loss", self._loss)
        self._metric = (logs or {}).get(self._metric_name, self._metric)

    def on_step_end(self, args: Any, state: Any, control: Any, **_named: Any) -> None:
        """Report the step; the time of evaluations is part of what is left."""
        del args, control
        done = state.global_step - self._first
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step) if done > 1 else None
        self._progress(TrainingProgress("training", state.global_step, state.max_steps, left, self._loss, self._metric))


class Interruption(TrainerCallback):  # type: ignore[misc]  # the host is untyped
    """Ends training at the next step after Ctrl-C, with a checkpoint there; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.saved_step: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Listen for Ctrl-C within a block; in another thread than the main one Python delivers none."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.getsignal(signal.SIGINT)

        def ask(_number: int, _frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)

        if before == signal.SIG_IGN:
            # Started in the background of a shell, which keeps Ctrl-C from it.
            yield self
            return
        signal.signal(signal.SIGINT, ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **_named: Any) -> Any:
        """Ask the trainer to save and stop."""
        del args
        if self.asked:
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = False
            self.saved_step = state.global_step
        return control
