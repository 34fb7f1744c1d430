"""Fidelity: how much of a reference's ranking another way to compute the vectors keeps. It is no quality.

Without judgements nobody knows which ranking is good. What can be measured is whether int8 vectors, fewer dimensions or
another backend still give the hits that the reference gives. For that, both have to be the same model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedprefs.errors import InputError, PreferenceMismatchError
from embedprefs.evaluation.lines import Problems, read_jsonl, require_file
from embedprefs.evaluation.results import EvaluatedModel, MetricResult
from embedprefs.evaluation.retrieval import Progress
from embedprefs.evaluation.retrieval_data import Corpus, Document, QueriesSource, open_corpus, read_queries
from embedprefs.evaluation.search import ExactSearch, Found
from embedprefs.evaluation.statistics import DEFAULT_RESAMPLES, Groups, bootstrap
from embedprefs.evaluation.vectors import EmbeddingModel, VectorForm, chunks
from embedprefs.evaluation.wording import figure, interval_words, many, table

__all__ = ["Drift", "Fidelity", "fidelity", "rank_biased_overlap"]

Floats = npt.NDArray[np.float64]
TextsSource = Iterable[str] | Mapping[str, str | Mapping[str, Any]] | Path | str

#: Depth of the rankings that are compared by rank-biased overlap.
_DEPTH = 100
_PERSISTENCE = 0.9
_SAMPLED_QUERIES = 200
_LONGEST_SENTENCE = 200
#: Fields of the identity in which two forms of one model may differ.
_FORM = frozenset(
    {
        "calibration",
        "embedding_dimension",
        "max_seq_length",
        "normalize",
        "precision",
        "similarity_fn_name",
        "template",
        "truncate_dim",
    }
)


@dataclass(frozen=True)
class Drift:
    """How far vectors moved: 1 - cosine to the reference's vector of the same text."""

    mean: float
    percentile_99: float
    largest: float


@dataclass(frozen=True)
class Fidelity:
    """How much of the reference's rankings is kept. It says nothing about whether either is good."""

    model: EvaluatedModel
    reference: EvaluatedModel
    metrics: Mapping[str, MetricResult]
    """`overlap@K`, `top1`, `rbo`."""
    documents_drift: Drift | None
    """None where the two vectors of a text have no cosine: bits, or another number of dimensions."""
    queries_drift: Drift | None
    documents: int
    queries: int
    queries_from: str
    """Where the queries come from: "given", or "first sentences"."""
    notes: tuple[str, ...] = ()

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric by its name."""
        return self.metrics[metric].value

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `measures` says what they are about."""
        values = asdict(self)
        values["metrics"] = {
            name: {"value": item.value, "interval": asdict(item.interval) if item.interval else None}
            for name, item in self.metrics.items()
        }
        return {"kind": "fidelity", "measures": "fidelity to the reference, not quality", **values}

    def to_text(self) -> str:
        """Return the fidelity as a table to read."""
        rows = [("kept of the reference", "value", "95 % interval")]
        rows += [(name, figure(item.value), interval_words(item.interval)) for name, item in self.metrics.items()]
        data = f"{many(self.documents, 'document')}, {many(self.queries, 'query', 'queries')}"
        lines = [
            "Fidelity to the reference, not quality: how much of its rankings is kept, whether they are good or not.",
            f"model      {self.model.title}",
            f"reference  {self.reference.title}",
            f"data       {data} ({self.queries_from})",
            "",
            *table(rows),
        ]
        for name, drift in (("documents", self.documents_drift), ("queries", self.queries_drift)):
            if drift is not None:
                lines.append(
                    f"1 - cosine of {name}: mean {drift.mean:.2e}, 99th percentile {drift.percentile_99:.2e}, "
                    f"largest {drift.largest:.2e}"
                )
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)


def fidelity(
    model: EmbeddingModel,
    reference: EmbeddingModel,
    texts: TextsSource,
    *,
    queries: QueriesSource | Sequence[str] | None = None,
    k: int = 10,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fidelity:
    """Measure how much of a reference's rankings a model keeps, without judgements.

    - `overlap@k`: the share of the reference's first k hits that are among the model's.
    - `top1`: the share of queries with the same first hit.
    - `rbo`: rank-biased overlap with p = 0.9, extrapolated from 100 hits (Webber, Moffat and Zobel 2010).
    - drift: 1 - cosine between both vectors of a text, where both have the same dimensions and are no bits.

    This is fidelity, never quality. It is refused for two different models: a fine-tuned model is meant to rank other
    than its base does, and only judgements say whether that is better.

    Args:
        model: What `load_model` returned, or anything with `encode_query` and `encode_document`.
        reference: The same model in the form that is trusted, such as float32 with all dimensions.
        texts: The documents: texts, a mapping from id to text, or corpus.jsonl.
        queries: Texts, a mapping, or queries.jsonl. Without them, the first sentences of up to 200 of the documents
            are taken, whose own document is then no hit; the result says so.
        k: How many hits are compared by overlap.
        resamples: How often to resample for the intervals, by query.
        seed: The same seed samples the same queries and gives the same intervals.
        progress: Called with the texts that are embedded and with all of them, for the reference and for the model.

    Raises:
        PreferenceMismatchError: the two are different models: their weights, tokenizer, prompts or modules differ.
        InputError: there are too few texts, or a file cannot be read.
    """
    if k < 1:
        raise InputError(f"k is {k}.\n  Allowed: a whole number from 1.")
    described, notes = EvaluatedModel.of(model)
    other, other_notes = EvaluatedModel.of(reference)
    notes = (*notes, *other_notes, *_require_one_model(described, other))
    documents = _documents(texts)
    ids, sampled = _sample(documents, seed, _SAMPLED_QUERIES if queries is None else 0)
    if len(ids) < 2:
        raise InputError(f"{many(len(ids), 'text')} cannot be ranked.\n  Give at least two, better thousands.")
    asked = [sentence for _, sentence in sampled] if queries is None else _given(queries)
    if not asked:
        raise InputError("No query could be taken from the texts: they are empty.\n  Give queries.")
    own = {position: identifier for position, (identifier, _) in enumerate(sampled)}
    rankings, drifts = _both(model, reference, documents, ids, asked, own, max(_DEPTH, k), progress)
    values = {name: np.array(column) for name, column in _values(rankings[0], rankings[1], k).items()}
    groups = Groups([str(number) for number in range(len(asked))])
    resampled = bootstrap(np.stack(list(values.values()), axis=1), groups, resamples=resamples, seed=seed)
    return Fidelity(
        model=described,
        reference=other,
        metrics={name: MetricResult.of(item) for name, item in zip(values, resampled, strict=True)},
        documents_drift=drifts[0],
        queries_drift=drifts[1],
        documents=len(ids),
        queries=len(asked),
        queries_from="given" if queries is not None else "first sentences of documents, each without its own document",
        notes=notes,
    )


def _require_one_model(model: EvaluatedModel, reference: EvaluatedModel) -> tuple[str, ...]:
    """Raise where the two are different models; return what cannot be known of them."""
    if model.record is None or reference.record is None:
        return ("Whether both are the same model is not known: one of them has no record.",)
    ours, theirs = model.record["identity"], reference.record["identity"]
    differing = sorted(name for name in {*ours, *theirs} - _FORM if ours.get(name) != theirs.get(name))
    if differing:
        raise PreferenceMismatchError(
            f"These are two different models: {', '.join(differing)} differ. How much one keeps of the other's ranking "
            "says nothing about which is better.\n"
            "  Judge both on queries with judgements: embedprefs compare A B DATA.",
            left={name: ours.get(name) for name in differing},
            right={name: theirs.get(name) for name in differing},
            differences=differing,
        )
    return ()


@dataclass(frozen=True)
class _Texts:
    """Texts without ids: their numbers, from 1, are their ids."""

    texts: Sequence[str]
    name: str = "texts"

    def __iter__(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts, start=1):
            yield Document(str(number), text)


@dataclass(frozen=True)
class _TextsFile:
    """A file of texts that `embedprefs embed` reads as well."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Document]:
        from embedprefs.embedding import open_texts

        for number, text in enumerate(open_texts(self.path), start=1):
            yield Document(str(number), text)


def _documents(source: TextsSource) -> Corpus:
    if isinstance(source, Mapping):
        return open_corpus(source)
    if not isinstance(source, (str, Path)):
        return _Texts(list(source))
    path = Path(source)
    require_file(path, "the texts")
    return open_corpus(path) if path.suffix.lower() == ".jsonl" and _has_ids(path) else _TextsFile(path)


def _has_ids(path: Path) -> bool:
    """Tell whether a file of JSON lines is a corpus: its first record has an `_id`."""
    return next(("_id" in record for _, record in read_jsonl(path, Problems())), False)


def _sample(documents: Corpus, seed: int, count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return all ids, and the first sentences of some documents: every one is taken with the same probability."""
    generator = np.random.default_rng(seed)
    ids: list[str] = []
    known: set[str] = set()
    taken: list[tuple[str, str]] = []
    filled = 0
    for document in documents:
        if document.id in known:
            raise InputError(f'{documents.name}: the id "{document.id}" stands there twice.', line=document.line)
        ids.append(document.id)
        known.add(document.id)
        sentence = _first_sentence(document.text)
        if not count or not sentence:
            continue
        filled += 1
        if len(taken) < count:
            taken.append((document.id, sentence))
        elif (place := int(generator.integers(filled))) < count:
            taken[place] = (document.id, sentence)
    return ids, taken


def _first_sentence(text: str) -> str:
    line = " ".join(text.split())
    end = re.search(r"[.!?。！？](?:\s|$)", line)
    return line[: min(end.end() if end else len(line), _LONGEST_SENTENCE)].strip()


def _given(queries: QueriesSource | Sequence[str]) -> list[str]:
    if isinstance(queries, (str, Path, Mapping)):
        return list(read_queries(queries).values())
    return list(queries)


def _both(
    model: EmbeddingModel,
    reference: EmbeddingModel,
    documents: Corpus,
    ids: Sequence[str],
    asked: Sequence[str],
    own: Mapping[int, str],
    depth: int,
    progress: Progress | None,
) -> tuple[list[list[Found]], list[Drift | None]]:
    """Return the hits of the reference and of the model, and how far documents and queries moved."""
    sides = [_Side(reference), _Side(model)]
    total, done = len(asked) + len(ids), len(asked)
    vectors = [side.encoded("query", list(asked)) for side in sides]
    moved_queries = _moved(*(side.floats(rows) for side, rows in zip(sides, vectors, strict=True)))
    searches = [
        ExactSearch(side.form, side.form.prepared(rows), ids, depth, left_out=own)
        for side, rows in zip(sides, vectors, strict=True)
    ]
    moved_documents: list[Floats | None] = []
    for chunk in chunks(iter(documents), model, length=lambda document: len(document.text)):
        rows = [side.encoded("document", [document.text for document in chunk]) for side in sides]
        for search, found in zip(searches, rows, strict=True):
            search.add([document.id for document in chunk], found)
        moved_documents.append(_moved(*(side.floats(found) for side, found in zip(sides, rows, strict=True))))
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    return [search.found() for search in searches], [_drift(moved_documents), _drift([moved_queries])]


class _Side:
    """One of the two models."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self.form = VectorForm.of(model)

    def encoded(self, role: str, texts: list[str]) -> npt.NDArray[Any]:
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        return np.asarray(encode(texts))

    def floats(self, rows: npt.NDArray[Any]) -> Floats | None:
        """Return vectors as floats of length 1; None for bits, whose lengths say nothing."""
        if self.form.similarity == "hamming":
            return None
        calibration = getattr(self._model, "calibration", None)
        if self.form.precision != "float32":
            if calibration is None:
                return None
            rows = calibration.dequantize(rows)
        return VectorForm("float32", "cosine").prepared(rows)


def _moved(reference: Floats | None, model: Floats | None) -> Floats | None:
    """Return 1 - cosine of each text's two vectors; None where they cannot be compared."""
    if reference is None or model is None or reference.shape != model.shape:
        return None
    # From the difference: 1 - cosine itself loses every digit where the two are nearly one.
    moved: Floats = ((reference - model) ** 2).sum(axis=1) / 2
    return moved


def _drift(moved: Sequence[Floats | None]) -> Drift | None:
    known = [part for part in moved if part is not None]
    if len(known) < len(moved) or not known:
        return None
    whole = np.concatenate(known)
    return Drift(float(whole.mean()), float(np.quantile(whole, 0.99)), float(whole.max()))


def _values(reference: list[Found], model: list[Found], k: int) -> dict[str, list[float]]:
    pairs = [
        ([doc for doc, _ in left], [doc for doc, _ in right]) for left, right in zip(reference, model, strict=True)
    ]
    return {
        f"overlap@{k}": [len({*left[:k]} & {*right[:k]}) / max(1, len(left[:k])) for left, right in pairs],
        "top1": [float(left[:1] == right[:1]) for left, right in pairs],
        "rbo": [rank_biased_overlap(left, right) for left, right in pairs],
    }


def rank_biased_overlap(left: Sequence[str], right: Sequence[str], *, persistence: float = _PERSISTENCE) -> float:
    """Return the rank-biased overlap of two rankings of equal length, extrapolated beyond their end (RBO_ext).

    Webber, Moffat and Zobel (2010), "A similarity measure for indefinite rankings", equation 30: the agreement at each
    depth, weighted by persistence ** depth; that at the last depth is taken to go on for ever.

    Args:
        left: A ranking without repetitions, best first.
        right: Another one.
        persistence: The chance that a reader goes on to the next rank; 0.9 puts 86 % of the weight on the first ten.

    Returns:
        From 0, nothing in common, to 1, the same.
    """
    if not left or len(left) != len(right):
        raise ValueError(f"Rankings of {len(left)} and {len(right)} documents cannot be compared.")
    seen_left, seen_right = set[str](), set[str]()
    common, total = 0, 0.0
    for depth, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        common += (one == other) + (one in seen_right) + (other in seen_left)
        seen_left.add(one)
        seen_right.add(other)
        total += common / depth * persistence**depth
    return total * (1 - persistence) / persistence + common / len(left) * persistence ** len(left)
