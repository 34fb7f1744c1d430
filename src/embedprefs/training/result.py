"""What a run of training ended with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.evaluation import PairedComparison, PairsEvaluation, RetrievalEvaluation
from embedprefs.evaluation.wording import figure, interval_words, p_value_words
from embedprefs.files import write_text
from embedprefs.training.checkpoints import RESULT
from embedprefs.training.progress import duration

if TYPE_CHECKING:
    from embedprefs.evaluation.comparison import Verdict

__all__ = ["GUARD_VERDICTS", "VERDICTS", "TrainingResult", "judged"]

#: The verdict of a comparison -> what it says of a run.
VERDICTS: Mapping[str, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent within the margin",
    "undecided": "not enough queries to tell",
}
#: The same for the guard set, which only must not get worse.
GUARD_VERDICTS: Mapping[str, str] = {**VERDICTS, "equivalent": "no worse than the margin allows"}


def judged(found: PairedComparison) -> Verdict:
    """Return the verdict on a run.

    A comparison calls equivalent what loses no more than the margin. Here the question is whether training helped, so
    that a gain beyond the margin has to be ruled out too: else there were not enough queries to tell.
    """
    item = found.result
    if found.verdict == "equivalent" and not found.identical and item.interval is not None:
        within = item.interval.high <= (found.margin or 0.0) * abs(item.a)
        return "equivalent" if within else "undecided"
    return found.verdict


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: the model, whether it is better than its base, and how it came about."""

    output: Path
    """The run's folder."""
    model: Path
    """The trained model: what `load_model` and every command take. With `training.lora.merge = false`, the adapter."""
    base: str
    """Name of the model that was trained."""
    fingerprints: Mapping[str, str]
    """`base` and `trained`: a collection made with one is refused by the other."""
    comparison: PairedComparison | None
    """The trained model against its base on the test set; None where there is no test."""
    guard: PairedComparison | None
    """The same on `training.guard_data`; None where none is named."""
    baseline: RetrievalEvaluation | PairsEvaluation | None = field(repr=False)
    tuned: RetrievalEvaluation | PairsEvaluation | None = field(repr=False)
    development: Mapping[str, Any]
    """`metric`, its value `before` and the `best` one, the `step` of the best checkpoint; empty without that part."""
    loss: str
    rows: Mapping[str, int]
    """Part -> rows (or queries, for sets of their own)."""
    steps: int
    planned_steps: int
    seconds: Mapping[str, float]
    """Stage -> seconds of this process."""
    tokens: int
    """Tokens that were trained on in this process, padding left out."""
    trained_parameters: int
    parameters: int
    arguments: Mapping[str, Mapping[str, Any]]
    """Training argument -> value and reason."""
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """The trainer's log: loss, learning rate and metrics by step."""
    notes: tuple[str, ...] = ()
    """What has to be known to read the figures."""

    @property
    def verdict(self) -> str | None:
        """`better`, `worse`, `equivalent within the margin`, `not enough queries to tell`; None without a test."""
        return VERDICTS[judged(self.comparison)] if self.comparison is not None else None

    @property
    def is_acceptable(self) -> bool:
        """Whether nothing was shown to have got worse, on the test and on the guard set."""
        return not any(found is not None and found.verdict == "worse" for found in (self.comparison, self.guard))

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.output / "report.html"

    def to_text(self) -> str:
        """Return the result to read."""
        lines = []
        if self.comparison is None:
            lines.append("VERDICT none: there is no test set.")
        else:
            lines.append(f"VERDICT {self.verdict}   {comparison_words(self.comparison)}")
        if self.guard is not None:
            lines.append(f"guard {GUARD_VERDICTS[self.guard.verdict]}   {comparison_words(self.guard)}")
        if self.development:
            lines.append(
                f"development {self.development['metric']} {figure(self.development['before'])} -> "
                f"{figure(self.development['best'])} in step {self.development['step']:,}"
            )
        shares = f"{self.trained_parameters:,} of {self.parameters:,} parameters"
        took = duration(self.seconds.get("training", 0.0))
        known = self.fingerprints
        lines.append(f"trained {self.rows['train']:,} rows, {self.steps:,} steps with {self.loss}, {shares}, in {took}")
        lines.append(f"model {self.model}")
        if known:
            other = f"fingerprint {known['trained'][:12]} (base: {known['base'][:12]})"
            lines.append(f"{other}: collections of the base have to be made again")
        lines.append(f"report {self.report}")
        # Findings of the plan say themselves what they are.
        notes = (note if note.startswith("warning[") else f"Note: {note}" for note in self.notes)
        return "\n".join([*lines, *notes])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without any text of the data."""
        return {
            "verdict": self.verdict,
            "is_acceptable": self.is_acceptable,
            "output": str(self.output),
            "model": str(self.model),
            "base": self.base,
            "fingerprints": dict(self.fingerprints),
            "test": _comparison_json(self.comparison),
            "guard": _comparison_json(self.guard),
            "development": dict(self.development),
            "loss": self.loss,
            "rows": dict(self.rows),
            "steps": self.steps,
            "planned_steps": self.planned_steps,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "tokens": self.tokens,
            "trained_parameters": self.trained_parameters,
            "parameters": self.parameters,
            "arguments": {name: dict(choice) for name, choice in self.arguments.items()},
            "history": [dict(entry) for entry in self.history],
            "notes": list(self.notes),
        }

    def save(self) -> None:
        """Write result.json into the run's folder; its presence says that the run is finished."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, default=str)
        write_text(self.output / RESULT, text + "\n")


def comparison_words(found: PairedComparison) -> str:
    """Return a comparison in a line."""
    item = found.result
    noun = "pairs" if found.grouped_by == "pair" else "queries"
    grouped = "" if found.grouped_by in ("query", "pair") else f", {found.groups:,} groups ({found.grouped_by})"
    return (
        f"{found.metric} {figure(item.a)} -> {figure(item.b)}  {figure(item.difference, signed=True)} "
        f"[95 % interval {interval_words(item.interval, signed=True)}]  {p_value_words(item.p_value)} "
        f"(randomisation test, {found.observations:,} {noun}{grouped})"
    )


def _comparison_json(found: PairedComparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    value = found.to_json()
    # Queries are the user's texts; they stay in the saved evaluations.
    value.pop("changed", None)
    value.pop("differences", None)
    return value
