"""`embedprefs compare`: is B worse than A, and by how much at most?"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs.cli.evaluate import (
    EvaluationData,
    GroupByOption,
    MetricOption,
    QrelsOption,
    QueriesOption,
    RelevanceOption,
    ResamplesOption,
    SeedOption,
    SplitOption,
)
from embedprefs.cli.plugin import (
    ExitCode,
    FormatOption,
    ResultFormat,
    SetOption,
    command,
    load,
    print_json,
    print_result,
    say,
)
from embedprefs.errors import InputError

if TYPE_CHECKING:
    from embedprefs.evaluation import PairedComparison, PairsEvaluation, RetrievalEvaluation
    from embedprefs.preferences import Preferences

__all__ = ["Requirement", "compare", "register"]

_SAVED = ".jsonl"


class Requirement(StrEnum):
    """What B has to be for exit code 0."""

    NOT_WORSE = "not-worse"
    BETTER = "better"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "compare")(compare)


def compare(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="The reference: a preferences file, a model, or a .jsonl file of evaluate."),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it, named in the same way.")],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="As for evaluate; not needed where both are .jsonl files of evaluate."),
    ] = None,
    *,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="SHARE",
            min=0.0,
            help="The share of A's value that B may lose, 0.01 for 1 %. The interval's bound has to keep it.",
        ),
    ] = None,
    require: Annotated[
        Requirement, typer.Option("--require", help="What has to be shown of B for exit code 0.")
    ] = Requirement.NOT_WORSE,
    set_: SetOption = None,
    set_a: Annotated[
        list[str] | None, typer.Option("--set-a", metavar="KEY=VALUE", help="Override one preference of A.")
    ] = None,
    set_b: Annotated[
        list[str] | None, typer.Option("--set-b", metavar="KEY=VALUE", help="Override one preference of B.")
    ] = None,
    queries: QueriesOption = None,
    qrels: QrelsOption = None,
    split: SplitOption = None,
    metric: MetricOption = None,
    group_by: GroupByOption = "auto",
    relevance_level: RelevanceOption = 1,
    changed: Annotated[
        int, typer.Option("--changed", min=0, help="How many of the queries that changed most to show.")
    ] = 5,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write both evaluations there: a.jsonl and b.jsonl."),
    ] = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 10_000,
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Compare two preferences, or two saved evaluations, on the same queries.

    Exits 1 where B is shown to be worse; with --margin, where it is not shown that B loses at most the margin; with
    --require better, where it is not shown that B is better. Otherwise 0, also where the queries are too few to tell.
    """
    from embedprefs.evaluation import compare as compared
    from embedprefs.evaluation.comparison import require_margin

    require_margin(margin)
    wanted = {"a": (a, set_a), "b": (b, set_b)}
    preferences = {
        name: None if _is_saved(side) else _preferences(side, [*(set_ or []), *(own or [])])
        for name, (side, own) in wanted.items()
    }
    _refuse_overrides_of_saved(wanted, preferences)
    if output is not None and not output.is_dir():
        raise InputError(f"{output}: is no folder.\n  Create it first.", file=output)
    read = None
    if data is not None:
        read = EvaluationData.read(
            data,
            queries=queries,
            qrels=qrels,
            split=split,
            metrics=metric,
            resamples=resamples,
            seed=seed,
            group_by=group_by,
            relevance_level=relevance_level,
        )
    saved = {name: _saved(wanted[name][0], read) for name, side in preferences.items() if side is None}
    evaluations = {
        name: saved[name] if side is None else _evaluated(wanted[name][0], side, read)
        for name, side in preferences.items()
    }
    if output is not None:
        for name, evaluation in evaluations.items():
            evaluation.save(output / f"{name}.jsonl")
        say(f"Every query of both is in {output}.")
    found = compared(
        evaluations["a"],
        evaluations["b"],
        metric=metric[0] if metric else None,
        margin=margin,
        changed=changed,
        resamples=resamples,
        seed=seed,
    )
    if result_format is ResultFormat.JSON:
        print_json(found.to_json())
    else:
        print_result(found.to_text(_texts(found, read)))
    accepted = found.verdict == "better" if require is Requirement.BETTER else found.is_acceptable
    return ExitCode.DONE if accepted else ExitCode.NEGATIVE


def _is_saved(side: str) -> bool:
    return Path(side).suffix.lower() == _SAVED


def _preferences(side: str, options: list[str]) -> Preferences:
    """Return the preferences of a file, or those that hold for a model that is named."""
    from embedprefs.layers import parse_set_option, preferences_for_model

    if Path(side).suffix.lower() == ".toml":
        return load(Path(side), options)
    return preferences_for_model(side, dict(parse_set_option(option) for option in options), overrides_source="--set")


def _refuse_overrides_of_saved(
    wanted: Mapping[str, tuple[str, list[str] | None]], preferences: Mapping[str, Preferences | None]
) -> None:
    for name, (side, own) in wanted.items():
        if own and preferences[name] is None:
            raise InputError(
                f"{side}: was evaluated already; --set-{name} cannot change it.\n  Name its preferences file instead.",
                file=side,
            )


def _saved(side: str, data: EvaluationData | None) -> RetrievalEvaluation | PairsEvaluation:
    """Load a saved evaluation; one of other data is refused before the other side is embedded."""
    from embedprefs.evaluation import load_evaluation

    evaluation = load_evaluation(side)
    if data is not None and data.digest not in (None, evaluation.data.digest):
        raise InputError(
            f"{side}: was evaluated on other data than what is named: texts, judgements or the corpus differ.\n"
            "  Name the data it was evaluated on, or evaluate it again.",
            file=side,
        )
    return evaluation


def _evaluated(
    side: str, preferences: Preferences, data: EvaluationData | None
) -> RetrievalEvaluation | PairsEvaluation:
    if data is None:
        raise InputError(
            f"{side}: has to be evaluated first, and DATA is not named.\n"
            "  Name the data: embedprefs compare A B DATA; or compare two .jsonl files of embedprefs evaluate."
        )
    return data.evaluate(preferences)


def _texts(found: PairedComparison, data: EvaluationData | None) -> dict[str, str]:
    """Return the texts of the hits that are shown, read once more from the corpus."""
    shown = {hit.id for query in found.changed for hits in (query.hits_a, query.hits_b) for hit in hits}
    if data is None or data.task is None or not shown:
        return {}
    return {document.id: document.text for document in data.task.corpus if document.id in shown}
