"""`embedprefs evaluate`: retrieval quality on the user's own judgements, or fidelity where there are none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedprefs.cli.plugin import (
    ExitCode,
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    hush_other_bars,
    load,
    print_json,
    print_result,
    progress,
    say,
)
from embedprefs.errors import InputError

if TYPE_CHECKING:
    from embedprefs.evaluation import PairsEvaluation, RetrievalEvaluation, RetrievalTask
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.preferences import Preferences

__all__ = [
    "Duplicates",
    "EvaluationData",
    "GroupByOption",
    "MetricOption",
    "MissingDocuments",
    "QrelsOption",
    "QueriesOption",
    "RelevanceOption",
    "ResamplesOption",
    "SeedOption",
    "SplitOption",
    "evaluate",
    "register",
]

#: The word for the same model as it is without any shortcut.
_EXACT = "exact"
#: Values that give the vectors without any shortcut.
_WITHOUT_SHORTCUTS = {
    "vectors.precision": "float32",
    "vectors.calibration": None,
    "vectors.truncate_dim": None,
    "compute.dtype": "float32",
    "compute.autocast": False,
    "compute.weights": "full",
    "compute.backend": "torch",
    "compute.exactness": "exact",
}


class Duplicates(StrEnum):
    """What documents with one text are."""

    MERGE = "merge"
    KEEP = "keep"


class MissingDocuments(StrEnum):
    """What becomes of relevant documents that the corpus does not hold."""

    ERROR = "error"
    COUNT = "count"


QueriesOption = Annotated[
    Path | None, typer.Option("--queries", metavar="FILE", help="Queries, if not queries.jsonl of the folder.")
]
QrelsOption = Annotated[
    Path | None, typer.Option("--qrels", metavar="FILE", help="Judgements, if not qrels.tsv of the folder.")
]
SplitOption = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Which judgements: qrels/NAME.tsv or qrels_NAME.tsv.")
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME@K",
        help="ndcg@K, mrr@K, recall@K or map@K; the first is what a verdict is about. May be given several times.",
    ),
]
GroupByOption = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="FIELD",
        help="By what queries are resampled: a field of the corpus that names the source document, query, or auto.",
    ),
]
RelevanceOption = Annotated[
    int, typer.Option("--relevance-level", min=1, help="From which grade on a document is relevant; not for nDCG.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same intervals.")]
ResamplesOption = Annotated[int, typer.Option("--resamples", min=100, help="How often to resample.")]
DuplicatesOption = Annotated[
    Duplicates, typer.Option("--duplicates", help="Whether documents with one text count as one.")
]
MissingDocumentsOption = Annotated[
    MissingDocuments,
    typer.Option("--missing-documents", help="Refuse relevant documents that are not in the corpus, or count them."),
]


@dataclass(frozen=True)
class EvaluationData:
    """What DATA names, read and found to fit together; no model is needed for that."""

    task: RetrievalTask | None
    """None for scored pairs."""
    pairs: list[tuple[str, str, float]]
    resamples: int
    seed: int

    @classmethod
    def read(
        cls,
        data: Path,
        *,
        queries: Path | None,
        qrels: Path | None,
        split: str | None,
        metrics: Iterable[str] | None,
        resamples: int,
        seed: int,
        **options: Any,
    ) -> EvaluationData:
        """Read a folder in the BEIR layout, or a file of scored pairs; options are those of `evaluate`.

        Raises:
            InputError: there is nothing, it cannot be read, or it holds no judgements.
        """
        from embedprefs.evaluation import DEFAULT_METRICS, RetrievalTask, find_retrieval_files, read_pairs

        if not data.is_dir():
            if data.exists() and (queries or qrels or split or metrics):
                raise InputError(
                    f"{data}: a file holds scored pairs, which have neither queries, judgements nor cut-offs.\n"
                    "  Leave out --queries, --qrels, --split and --metric, or name a folder.",
                    file=data,
                )
            return cls(None, read_pairs(data), resamples, seed)
        files = find_retrieval_files(data, queries=queries, qrels=qrels, split=split)
        if files.qrels is None:
            raise InputError(
                f"{data}: there are no judgements (qrels.tsv), and without them quality cannot be measured.\n"
                "  Judge some queries; or measure fidelity to a reference, which is no quality: --reference exact",
                file=data,
            )
        task = RetrievalTask.read(
            files.corpus,
            files.queries,
            files.qrels,
            metrics=metrics or DEFAULT_METRICS,
            resamples=resamples,
            seed=seed,
            **options,
        )
        return cls(task, [], resamples, seed)

    @property
    def digest(self) -> str | None:
        """What evaluations on this data carry; None for scored pairs, which are compared when they are there."""
        return self.task.digest if self.task is not None else None

    def evaluate(self, preferences: Preferences) -> RetrievalEvaluation | PairsEvaluation:
        """Load the model of some preferences and evaluate it."""
        from embedprefs.evaluation import evaluate_pairs

        model = _loaded(preferences)
        with progress("Embedding", unit="texts") as show:
            if self.task is not None:
                return self.task.evaluate(model, show)
            return evaluate_pairs(model, self.pairs, resamples=self.resamples, seed=self.seed, progress=show)


def _loaded(preferences: Preferences) -> PreferredSentenceTransformer:
    from embedprefs.model import load_model

    say("Loading the model.")
    hush_other_bars()
    return load_model(preferences)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "evaluate")(evaluate)


def evaluate(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="A folder with corpus.jsonl, queries.jsonl and qrels.tsv, or a .jsonl or .csv file of scored pairs. "
            "Without it, training.evaluation_data of the preferences.",
        ),
    ] = None,
    *,
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    queries: QueriesOption = None,
    qrels: QrelsOption = None,
    split: SplitOption = None,
    metric: MetricOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write every query with its hits, one JSON object a line."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="Without judgements: measure fidelity to these preferences, or to exact: all dimensions in float32.",
        ),
    ] = None,
    group_by: GroupByOption = "auto",
    relevance_level: RelevanceOption = 1,
    duplicates: DuplicatesOption = Duplicates.MERGE,
    missing_documents: MissingDocumentsOption = MissingDocuments.ERROR,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 10_000,
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Measure retrieval quality on your own judgements, with intervals.

    Every query is compared with every document. The result says how small a difference this set can show. Without
    judgements only fidelity to a reference can be measured: how much of its rankings is kept, which is no quality.
    """
    prefs = load(preferences, set_)
    source = _data(data, prefs)
    if reference is not None:
        _refuse_with_reference(
            {"--metric": metric, "--qrels": qrels, "--split": split, "--output": output, "--group-by": group_by}
        )
        return _fidelity(prefs, reference, source, queries, seed, resamples, result_format)
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist.\n  Create it first.", file=output)
    read = EvaluationData.read(
        source,
        queries=queries,
        qrels=qrels,
        split=split,
        metrics=metric,
        resamples=resamples,
        seed=seed,
        group_by=group_by,
        relevance_level=relevance_level,
        duplicates=duplicates.value,
        missing_documents=missing_documents.value,
    )
    evaluation = read.evaluate(prefs)
    if output is not None:
        evaluation.save(output)
        say(f"Every query is in {output}.")
    if result_format is ResultFormat.JSON:
        print_json(evaluation.to_json())
    else:
        print_result(evaluation.to_text())
    return ExitCode.DONE


def _data(data: Path | None, preferences: Preferences) -> Path:
    """Return where the data is: what was named, or what the preferences name."""
    stated = preferences.get("training.evaluation_data")
    if data is None and stated is not None:
        data = preferences.folder / stated
    if data is None:
        raise InputError(
            "There is nothing to evaluate on.\n"
            "  Name a folder with corpus.jsonl, queries.jsonl and qrels.tsv, or write training.evaluation_data."
        )
    if not data.exists():
        raise InputError(f"{data}: there is no such file or folder.", file=data)
    return data


def _refuse_with_reference(options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value not in (None, [], "auto")]
    if given:
        raise InputError(
            f"{', '.join(given)}: has no meaning with --reference, which measures fidelity and no quality.\n"
            "  With judgements, compare two preferences: embedprefs compare A B DATA."
        )


def _fidelity(
    preferences: Preferences,
    reference: str,
    data: Path,
    queries: Path | None,
    seed: int,
    resamples: int,
    result_format: ResultFormat,
) -> int:
    from embedprefs.evaluation import fidelity
    from embedprefs.layers import load_preferences
    from embedprefs.layers.loading import with_overrides

    texts = data
    if data.is_dir():
        texts = data / "corpus.jsonl"
        queries = queries or next(iter(data.glob("queries.jsonl")), None)
        if any(data.glob("qrels*")):
            say(f"{data} holds judgements, which fidelity does not use: without --reference, quality is measured.")
    if reference == _EXACT:
        trusted = with_overrides(preferences, _WITHOUT_SHORTCUTS, source="--reference exact")
    else:
        trusted = load_preferences(Path(reference))
    first, second = _loaded(trusted), _loaded(preferences)
    with progress("Embedding", unit="texts") as show:
        found = fidelity(second, first, texts, queries=queries, seed=seed, resamples=resamples, progress=show)
    if result_format is ResultFormat.JSON:
        print_json(found.to_json())
    else:
        print_result(found.to_text())
    return ExitCode.DONE
