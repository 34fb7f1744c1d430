"""Hard negatives from the user's own passages, and questions that a function of the user's makes from documents.

Mining is the host's `mine_hard_negatives`, with the model's own prompts and without its cache of vectors: that cache
knows texts and prompt arguments but no weights, and returns one model's vectors for another.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedprefs.errors import InputError, InvalidPreferenceError, MissingExtraError, Problem
from embedprefs.training.data import TrainingData, read_training_data
from embedprefs.wording import many

if TYPE_CHECKING:
    from embedprefs.evaluation.retrieval import Progress
    from embedprefs.preferences import NegativesPreferences

__all__ = ["MiningReport", "mine_negatives", "synthetic_queries"]

_BATCH = 32
#: Texts that are embedded between two reports.
_PART = 2_048


@dataclass(frozen=True)
class MiningReport:
    """What mining did."""

    rows: int
    """Rows that have negatives now."""
    left_out: int
    """Rows for which too few passages lay far enough below the positive."""
    negatives: int
    """Negatives of each row."""
    passages: int
    """Passages that were searched."""
    relative_margin: float

    def to_text(self) -> str:
        """Return it as a sentence."""
        out = (
            f" {self.left_out:,} rows are left out: too few of their near passages score {self.relative_margin:.0%} "
            "below the positive."
            if self.left_out
            else ""
        )
        what = f"{many(self.negatives, 'hard negative')} {'was' if self.negatives == 1 else 'were'} mined"
        return f"{what} for each of {self.rows:,} rows among {self.passages:,} passages.{out}"


class _Reporting:
    """A model that reports how far it is; the host's mining asks for a bar of its own, which is not shown."""

    def __init__(self, model: Any, total: int, progress: Progress | None) -> None:
        self._model = model
        self._total = total
        self._progress = progress
        self._done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_query(self, texts: Sequence[str], **options: Any) -> Any:
        """Embed queries."""
        return self._embedded(self._model.encode_query, texts, options)

    def encode_document(self, texts: Sequence[str], **options: Any) -> Any:
        """Embed passages."""
        return self._embedded(self._model.encode_document, texts, options)

    def _embedded(self, encode: Callable[..., Any], texts: Sequence[str], options: dict[str, Any]) -> Any:
        found = []
        for start in range(0, len(texts), _PART):
            part = texts[start : start + _PART]
            found.append(encode(part, **{**options, "show_progress_bar": False}))
            self._done += len(part)
            if self._progress is not None:
                self._progress(self._done, self._total)
        return np.concatenate(found)


def mine_negatives(
    model: Any,
    data: TrainingData,
    preferences: NegativesPreferences,
    *,
    passages: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> tuple[TrainingData, MiningReport]:
    """Give each pair passages that are near its question and no answer to it.

    A passage is taken where its similarity to the question is at least `relative_margin` below that of the positive
    (positive-aware mining, NV-Retriever, arXiv 2407.15831): nearer ones may be right answers that nobody marked. Texts
    that answer the same question elsewhere in the data are never taken, and questions and passages get the prompts of
    the model.

    Args:
        model: What `load_model` returned.
        data: Pairs.
        preferences: `[training.negatives]`.
        passages: Where negatives are looked for; the positives of the data if not given.
        progress: Called with how many texts are embedded, and how many there are.

    Returns:
        The pairs with their negatives, and what was done. Pairs for which there are too few are left out, and counted.

    Raises:
        InvalidPreferenceError: the data are no pairs, or `count` is 0.
        InputError: no row has enough negatives.
        MissingExtraError: the package datasets is not installed.
    """
    from sentence_transformers.util import mine_hard_negatives

    if data.kind != "pairs" or preferences.count < 1:
        what = f"{data.name} holds {data.kind}" if data.kind != "pairs" else "training.negatives.count is 0"
        raise InvalidPreferenceError(
            Problem(
                f"There is nothing to mine: {what}.",
                key="training.negatives.count",
                value=preferences.count,
                allowed="1 or more, for pairs of an anchor and a positive",
            )
        )
    own = (row["positive"] for row in data.rows)
    corpus = list(dict.fromkeys([*own, *(passages or ())]))
    try:
        pairs = data.dataset(("anchor", "positive"))
    except MissingExtraError as error:
        raise MissingExtraError("datasets", extra="train", needed_for="Mining negatives") from error
    # A bar of the host's that no argument prevents; what goes wrong is raised or logged.
    with contextlib.redirect_stderr(io.StringIO()):
        found = mine_hard_negatives(
            pairs,
            _Reporting(model, len(set(pairs["anchor"])) + len(corpus), progress),
            anchor_column_name="anchor",
            positive_column_name="positive",
            corpus=corpus,
            range_min=preferences.range_min,
            range_max=min(preferences.range_max, len(corpus)) if preferences.range_max is not None else None,
            relative_margin=preferences.relative_margin,
            num_negatives=preferences.count,
            sampling_strategy="top",
            output_format="n-tuple",
            batch_size=_BATCH,
            verbose=False,
        )
    return _with_negatives(data, found, preferences, len(corpus))


def _with_negatives(
    data: TrainingData, found: Any, preferences: NegativesPreferences, passages: int
) -> tuple[TrainingData, MiningReport]:
    count = preferences.count
    roles = ["negative"] if count == 1 else [f"negative_{number}" for number in range(1, count + 1)]
    names = [name for name in found.column_names if name not in ("anchor", "positive")]
    by_pair = {(row["anchor"], row["positive"]): [row[name] for name in names] for row in found}
    kept, rows = [], []
    for index, row in enumerate(data.rows):
        negatives = by_pair.get((row["anchor"], row["positive"]))
        if negatives is not None:
            kept.append(index)
            rows.append({**row, **dict(zip(roles, negatives, strict=True))})
    if not rows:
        raise InputError(
            f"{data.name}: no row has {count} passages that score {preferences.relative_margin:.0%} below its "
            "positive.\n  Lower training.negatives.count or relative_margin, or add passages."
        )
    report = MiningReport(len(rows), len(data) - len(rows), count, passages, preferences.relative_margin)
    kind = data.subset(kept).with_rows(rows, "triplets" if count == 1 else "tuples", notes=[report.to_text()])
    return kind, report


def synthetic_queries(
    documents: Mapping[str, str] | Iterable[str],
    generate: Callable[[str], str | Iterable[str]],
    *,
    name: str = "synthetic questions",
) -> TrainingData:
    """Make training pairs from documents alone, with a function that writes questions for a text.

    Questions that are empty, that repeat one of the same document, or that were written for several documents, are left
    out and counted in `rejected` and `notes`: a question that fits many passages teaches nothing.

    Args:
        documents: Texts, or texts by the name of the document they are from.
        generate: Called with each text; returns a question or several. What it does, such as asking a language model,
            is the caller's.
        name: What messages call the data.

    Returns:
        Pairs of a question (anchor) and its text (positive), each with its document.

    Raises:
        InputError: the function failed for a document, which is named, or no question was left.
    """
    texts = (
        dict(documents) if isinstance(documents, Mapping) else {f"document {n}": t for n, t in enumerate(documents, 1)}
    )
    asked: dict[str, set[str]] = {}
    rows: list[dict[str, str]] = []
    empty = 0
    for document, text in texts.items():
        for question in _questions(generate, document, text):
            plain = " ".join(question.split())
            if not plain:
                empty += 1
                continue
            asked.setdefault(plain.casefold(), set()).add(document)
            rows.append({"anchor": plain, "positive": text, "document": document})
    clear = [row for row in rows if len(asked[row["anchor"].casefold()]) == 1]
    if not clear:
        raise InputError(f"{name}: no question was written that fits one document alone.")
    read = read_training_data(clear, columns={"document": "document"})
    notes = []
    if empty:
        notes.append(f"{empty:,} questions were empty.")
    if len(clear) < len(rows):
        notes.append(f"{len(rows) - len(clear):,} questions were written for several documents, and are left out.")
    return TrainingData(name, read.kind, read.columns, read.rows, read.documents, read.rejected, (*read.notes, *notes))


def _questions(generate: Callable[[str], str | Iterable[str]], document: str, text: str) -> list[str]:
    try:
        answer = generate(text)
        questions = [answer] if isinstance(answer, str) else list(answer)
    except Exception as error:
        raise InputError(f'The function that writes questions failed for "{document}": {error}') from error
    wrong = next((item for item in questions if not isinstance(item, str)), None)
    if wrong is not None:
        raise InputError(
            f'The function that writes questions returned {type(wrong).__name__} for "{document}".\n'
            "  It has to return a text, or several."
        )
    return questions
