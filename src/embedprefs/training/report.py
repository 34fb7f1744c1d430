"""The report of a run: curves as PNG, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import MissingExtraError
from embedprefs.evaluation.wording import figure, interval_words, p_value_words
from embedprefs.files import write_text
from embedprefs.training.progress import duration
from embedprefs.training.result import GUARD_VERDICTS, VERDICTS, judged

if TYPE_CHECKING:
    from embedprefs.evaluation import PairedComparison
    from embedprefs.training.result import TrainingResult

__all__ = ["draw_curves", "require_plotting", "write_report"]

_CURVES = "curves.png"
# Colours that people with any colour vision tell apart (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
_BANNERS = {"better": _GREEN, "equivalent": _BLUE, "undecided": "#6b6b6b", "worse": _ORANGE}


def require_plotting() -> None:
    """Raise where the curves could not be drawn at the end of a run.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", extra="train", needed_for="The report of a run of training")


def draw_curves(
    history: Sequence[Mapping[str, Any]], path: Path, *, metric: str | None = None, before: float | None = None
) -> Path:
    """Draw loss, development metric and learning rate by step.

    Args:
        history: The trainer's log.
        path: The PNG file to write.
        metric: Name of the development metric in the log.
        before: Its value before the first step.

    Returns:
        The file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_plotting()
    # Figures of their own, without pyplot: no window, no state that another thread shares.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loss = _series(history, "loss")
    values = _series(history, metric) if metric is not None else []
    if before is not None:
        values = [(0, before), *values]
    panels = 2 if values else 1
    drawing = Figure(figsize=(5.2 * panels, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, panels, squeeze=False)[0]
    _draw_loss(axes[0], loss, _series(history, "learning_rate"))
    if values:
        _draw_metric(axes[1], values, str(metric).removeprefix("eval_dev_"), before)
    drawing.savefig(path)
    return path


def _series(history: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(entry["step"]), float(entry[name])) for entry in history if name in entry and "step" in entry]


def _draw_loss(axes: Any, loss: Sequence[tuple[int, float]], rate: Sequence[tuple[int, float]]) -> None:
    steps, values = [step for step, _ in loss], [value for _, value in loss]
    axes.plot(steps, values, color=_BLUE, alpha=0.3, linewidth=1)
    axes.plot(steps, _smoothed(values), color=_BLUE, linewidth=2, label="loss, smoothed")
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color=_BLUE)
    axes.set_title("Training loss")
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    if rate:
        beside = axes.twinx()
        beside.plot([step for step, _ in rate], [value for _, value in rate], color=_GREY, linewidth=1, linestyle="--")
        beside.set_ylabel("learning rate (dashed)", color=_GREY)
        beside.tick_params(axis="y", labelcolor=_GREY)
        beside.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _draw_metric(axes: Any, values: Sequence[tuple[int, float]], name: str, before: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, found = [step for step, _ in values], [value for _, value in values]
    axes.plot(steps, found, color=_BLUE, linewidth=2, marker="o", markersize=4)
    if before is not None:
        axes.axhline(before, color=_GREY, linewidth=1, linestyle="--", label=f"before: {before:.4f}")
    checkpoints = [at for at, step in enumerate(steps) if step > 0]
    if checkpoints:
        best = max(checkpoints, key=lambda at: (found[at], -steps[at]))
        label = f"best checkpoint: {found[best]:.4f} in step {steps[best]}"
        star = {"color": _GREEN, "marker": "*", "markersize": 13, "linestyle": "none"}
        axes.plot([steps[best]], [found[best]], label=label, **star)
    axes.set_xlabel("step")
    axes.set_title(f"Development set: {name.replace('_', ' ')}")
    axes.grid(alpha=0.25)
    axes.margins(x=0.04, y=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best", fontsize="small")


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the running mean over about a tenth of the values, centred."""
    half = max(1, len(values) // 20)
    smooth = []
    for at in range(len(values)):
        window = values[max(0, at - half) : at + half + 1]
        smooth.append(sum(window) / len(window))
    return smooth


def write_report(result: TrainingResult) -> Path:
    """Write curves.png and report.html into the run's folder. The page holds no text of the data.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    development = result.development
    picture = draw_curves(
        result.history,
        result.output / _CURVES,
        metric=development.get("metric"),
        before=development.get("before"),
    )
    encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    sections = [
        _banner(result),
        _comparison("Test set", result.comparison),
        _comparison("Guard set", result.guard),
        f'<h2>Curves</h2><img alt="Loss and development metric by step" src="data:image/png;base64,{encoded}">',
        _numbers(result),
        _arguments(result),
        _notes(result),
    ]
    page = _PAGE.format(title=html.escape(f"Fine-tuning {result.base}"), body="\n".join(filter(None, sections)))
    write_text(result.report, page)
    return result.report


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d1d1f; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; margin: .5rem 0; }}
th, td {{ text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e3e3e3; vertical-align: top; }}
td.number {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }} .banner {{ color: white; border-radius: 8px; padding: .9rem 1.2rem; margin: 1rem 0; }}
.banner strong {{ font-size: 1.2rem; }} .reason {{ color: #666; }} code {{ overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def _banner(result: TrainingResult) -> str:
    found = result.comparison
    if found is None:
        return (
            '<div class="banner" style="background:#6b6b6b"><strong>No verdict</strong><br>There is no test set.</div>'
        )
    item = found.result
    words = (
        f"{found.metric} {figure(item.a)} &rarr; {figure(item.b)}, {figure(item.difference, signed=True)}, "
        f"95&nbsp;% interval {interval_words(item.interval, signed=True)}, {html.escape(p_value_words(item.p_value))}"
    )
    verdict = judged(found)
    title = VERDICTS[verdict].capitalize()
    guard = result.guard
    below = "" if guard is None else f"<br>Guard set: {GUARD_VERDICTS[guard.verdict]}."
    return (
        f'<div class="banner" style="background:{_BANNERS[verdict]}"><strong>{title}</strong><br>{words}{below}</div>'
    )


def _comparison(title: str, found: PairedComparison | None) -> str:
    if found is None:
        return ""
    rows = [
        (
            name,
            figure(item.a),
            figure(item.b),
            figure(item.difference, signed=True),
            interval_words(item.interval, signed=True),
            p_value_words(item.p_value),
        )
        for name, item in found.metrics.items()
    ]
    noun = "scored pairs" if found.grouped_by == "pair" else "queries"
    basis = f"{found.observations:,} {noun}"
    if found.grouped_by not in ("query", "pair"):
        basis += f" in {found.groups:,} groups ({found.grouped_by}), which are resampled together"
    same = found.observations - found.improved - found.worsened
    words = f"{basis}: {found.improved:,} better, {found.worsened:,} worse, {same:,} as before."
    if found.result.detectable_difference is not None:
        words += f" This comparison shows true differences from {figure(found.result.detectable_difference)} on."
    if found.margin is not None:
        words += f" Margin: {100 * found.margin:g} %."
    heading = ("metric", "before", "after", "difference", "95 % interval", "randomisation test")
    return f"<h2>{title}</h2>{_table(heading, rows)}<p>{html.escape(words)}</p>"


def _numbers(result: TrainingResult) -> str:
    rows = [
        ("model that was trained", result.base),
        ("loss", result.loss),
        *(
            (f"{name} set" if name != "train" else "rows trained on", f"{count:,}")
            for name, count in result.rows.items()
        ),
        ("steps", f"{result.steps:,} of {result.planned_steps:,}"),
        ("parameters trained", f"{result.trained_parameters:,} of {result.parameters:,}"),
        ("tokens trained on since the last start", f"{result.tokens:,}"),
        *((f"time, {stage}", duration(seconds)) for stage, seconds in result.seconds.items()),
        *((f"fingerprint, {name}", value) for name, value in result.fingerprints.items()),
        ("model", str(result.model)),
    ]
    return f"<h2>The run</h2>{_table(None, rows)}"


def _arguments(result: TrainingResult) -> str:
    rows = [(name, choice["value"], choice["reason"]) for name, choice in sorted(result.arguments.items())]
    return f"<h2>Training arguments</h2>{_table(('argument', 'value', 'why'), rows)}"


def _notes(result: TrainingResult) -> str:
    if not result.notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
    return f"<h2>To be known</h2><ul>{items}</ul>"


def _table(heading: Sequence[str] | None, rows: Iterable[Sequence[Any]]) -> str:
    head = "" if heading is None else f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in heading)}</tr>"
    body = "".join(
        f"<tr>{''.join(f'<td class=number>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table>{head}{body}</table>"
