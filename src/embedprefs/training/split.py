"""Train, development and test: divided by source document and near-duplicates, never by row.

Rows of one document are about the same sentences. A division by row would put some of them on both sides, and the test
would measure what was learnt by heart.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.training.data import TrainingData
from embedprefs.training.near_duplicates import Clusters, near_duplicates
from embedprefs.wording import many

if TYPE_CHECKING:
    from embedprefs.evaluation import RetrievalTask
    from embedprefs.preferences import Preferences

__all__ = ["Leakage", "Splits", "find_leakage", "leakage_of_task", "split_by_document"]

#: A reason to keep documents together is given up where it would put more than this share of the rows into one part.
_LARGEST_CLUSTER = 0.5
_EXAMPLES = 3


@dataclass(frozen=True)
class Leakage:
    """What evaluation shares with training."""

    documents: int = 0
    """Source documents on both sides."""
    queries: int = 0
    """Queries of the evaluation that are trained on."""
    passages: int = 0
    """Relevant passages of the evaluation that are trained on."""
    near_duplicates: int = 0
    """Its relevant passages that are nearly the same as one that is trained on; equal ones are not counted again."""
    examples: tuple[str, ...] = ()
    """Beginnings of a few of them."""

    @property
    def found(self) -> bool:
        """Whether there is any."""
        return bool(self.documents or self.queries or self.passages or self.near_duplicates)

    def to_text(self) -> str:
        """Return it in a line."""
        counts = (
            (self.documents, "document", None),
            (self.queries, "query", "queries"),
            (self.passages, "passage", None),
            (self.near_duplicates, "near-duplicate", None),
        )
        return ", ".join(many(count, noun, plural) for count, noun, plural in counts if count) or "none"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "documents": self.documents,
            "queries": self.queries,
            "passages": self.passages,
            "near_duplicates": self.near_duplicates,
        }


@dataclass(frozen=True)
class Splits:
    """The parts of some training data."""

    train: TrainingData
    dev: TrainingData | None
    """None where no part was asked for."""
    test: TrainingData | None
    unit: Literal["document", "passage"]
    """What was divided: source documents, or passages where nothing says which document they are from."""
    units: Mapping[str, int]
    """Part -> how many documents or passages it has."""
    notes: tuple[str, ...] = ()
    """What was decided, in sentences."""

    def leakage(self) -> Mapping[str, Leakage]:
        """Return what the development and the test part share with the training part."""
        parts = {"development": self.dev, "test": self.test}
        return {name: find_leakage(self.train, part) for name, part in parts.items() if part is not None}


def split_by_document(
    data: TrainingData,
    preferences: Preferences | None = None,
    *,
    development: float = 0.1,
    test: float = 0.1,
    seed: int = 42,
    near_duplicates: Literal["together", "ignore"] = "together",
) -> Splits:
    """Divide data into parts that share no document.

    Documents that share a passage, a query, or (unless ignored) a nearly equal passage are kept in one part. Where the
    data name no documents, each passage is one. The same data, shares and seed give the same parts, in whatever order
    the rows are.

    Args:
        data: What is divided.
        preferences: `[training.split]` then says everything below; no test part is taken where
            `training.evaluation_data` is the test.
        development: Share of the documents that choose the best checkpoint; 0 for none.
        test: Share of the documents for the verdict; 0 for none.
        seed: Another seed divides differently.
        near_duplicates: Whether nearly equal passages (Jaccard similarity of their three-word runs from 0.8 on) keep
            their documents together.

    Raises:
        InvalidPreferenceError: the shares leave nothing to train on, or there are too few documents for the parts.
    """
    if preferences is not None:
        split = preferences.training.split
        development, seed, near_duplicates = split.development, split.seed, split.near_duplicates
        test = split.test if preferences.training.evaluation_data is None else 0.0
    if development + test >= 1.0:
        raise InvalidPreferenceError(
            Problem(
                f"training.split.development and test are {development} and {test}, which leaves nothing to train on.",
                key="training.split.development",
                value=development,
                allowed="shares that are less than 1 together",
            )
        )
    units, names = _units(data)
    unit: Literal["document", "passage"] = "document" if data.documents is not None else "passage"
    clusters, notes = _clusters(data, units, len(names), together=near_duplicates == "together")
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(names)):
        members[clusters.root(number)].append(number)
    wanted = [(name, share) for name, share in (("test", test), ("development", development)) if share > 0]
    if len(members) < len(wanted) + 1:
        raise InvalidPreferenceError(_too_few(data, unit, len(names), len(members), len(wanted) + 1))
    part_of = _deal(members, names, wanted, seed)
    rows: dict[str, list[int]] = {"train": [], "development": [], "test": []}
    for row, own in enumerate(units):
        rows[part_of[own[0]]].append(row)
    counts = Counter(part_of.values())
    joined = len(names) - len(members)
    if joined:
        notes.append(f"{len(names):,} {unit}s are {len(members):,} groups that share no text.")
    return Splits(
        train=data.subset(rows["train"]),
        dev=data.subset(rows["development"]) if development > 0 else None,
        test=data.subset(rows["test"]) if test > 0 else None,
        unit=unit,
        units={name: counts[name] for name in rows if counts[name]},
        notes=tuple(notes),
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _units(data: TrainingData) -> tuple[list[tuple[int, ...]], list[str]]:
    """Return the units of each row (all of one part), and the units' names."""
    numbers: dict[str, int] = {}
    rows = []
    for index, row in enumerate(data.rows):
        if data.documents is not None:
            own = [data.documents[index]]
        elif data.kind == "scored_pairs":
            own = [_plain(row[role]) for role in data.text_roles]
        else:
            own = [_plain(row[data.passage_role])]
        rows.append(tuple(numbers.setdefault(name, len(numbers)) for name in own))
    return rows, list(numbers)


def _clusters(
    data: TrainingData, units: Sequence[tuple[int, ...]], count: int, *, together: bool
) -> tuple[Clusters, list[str]]:
    weights = Counter(own[0] for own in units)
    total = len(units)
    joined: list[tuple[int, int]] = [(own[0], other) for own in units for other in own[1:]]
    notes = []
    reasons = [("the same passage", _same(data, units, _passage_roles(data)))]
    if "anchor" in data.text_roles:
        reasons.append(("the same query", _same(data, units, ["anchor"])))
    if together:
        reasons.append(("nearly the same passage", _similar(data, units)))
    for words, pairs in reasons:
        tried = [*joined, *pairs]
        largest = _largest(tried, count, weights)
        if largest > _LARGEST_CLUSTER * total and len(tried) > len(joined):
            notes.append(
                f"So many rows share {words} that they cannot be kept in one part: {largest:,} of {total:,} rows hang "
                "together. See leakage."
            )
        else:
            joined = tried
    clusters = Clusters(count)
    for first, second in joined:
        clusters.join(first, second)
    return clusters, notes


def _largest(pairs: Iterable[tuple[int, int]], count: int, weights: Mapping[int, int]) -> int:
    clusters = Clusters(count)
    for first, second in pairs:
        clusters.join(first, second)
    rows: Counter[int] = Counter()
    for number, weight in weights.items():
        rows[clusters.root(number)] += weight
    return max(rows.values(), default=0)


def _same(data: TrainingData, units: Sequence[tuple[int, ...]], roles: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    pairs = []
    for row, own in zip(data.rows, units, strict=True):
        for role in roles:
            other = first.setdefault(_plain(row[role]), own[0])
            if other != own[0]:
                pairs.append((other, own[0]))
    return pairs


def _similar(data: TrainingData, units: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Return units whose passages are nearly the same."""
    owner: dict[str, int] = {}
    for row, own in zip(data.rows, units, strict=True):
        for role in _passage_roles(data):
            owner.setdefault(row[role], own[0])
    texts = list(owner)
    found = ((owner[texts[first]], owner[texts[second]]) for first, second in near_duplicates(texts))
    return [(first, second) for first, second in found if first != second]


def _deal(
    members: Mapping[int, Sequence[int]], names: Sequence[str], wanted: Sequence[tuple[str, float]], seed: int
) -> dict[int, str]:
    """Deal clusters to parts, in an order that follows from the seed and the names alone."""

    def order(root: int) -> str:
        least = min(names[number] for number in members[root])
        return hashlib.blake2b(f"{seed}\n{least}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    remaining = sorted(members, key=order)
    total = sum(len(numbers) for numbers in members.values())
    part_of: dict[int, str] = {}
    for name, share in wanted:
        target, taken, left = max(1, round(share * total)), 0, []
        for root in remaining:
            size = len(members[root])
            if taken + size <= target:
                part_of.update(dict.fromkeys(members[root], name))
                taken += size
            else:
                left.append(root)
        if not taken:
            # No cluster is small enough: the smallest one comes nearest to the share.
            smallest = min(left, key=lambda root: len(members[root]))
            left.remove(smallest)
            part_of.update(dict.fromkeys(members[smallest], name))
        remaining = left
    for root in remaining:
        part_of.update(dict.fromkeys(members[root], "train"))
    return part_of


def _too_few(data: TrainingData, unit: str, units: int, groups: int, parts: int) -> Problem:
    hang = f", which are {groups} groups that share texts" if groups < units else ""
    return Problem(
        f"{data.name} has {units} {unit}{'s' if units != 1 else ''}{hang}: too few for {parts} parts.",
        key="training.split.document_column" if unit == "document" else "training.split.test",
        fix="Name a column with more documents (training.split.document_column), set training.split.test = 0.0 and "
        "name training.evaluation_data, or add data.",
    )


def find_leakage(train: TrainingData, other: TrainingData) -> Leakage:
    """Return what a part that is evaluated on shares with the rows that are trained on."""
    queries = [row["anchor"] for row in other.rows] if "anchor" in other.text_roles else []
    passages = [row[role] for row in other.rows for role in _passage_roles(other)]
    return _leakage(train, queries, passages, set(other.documents or ()))


def leakage_of_task(train: TrainingData, task: RetrievalTask) -> Leakage:
    """Return what an evaluation set shares with the rows that are trained on.

    Its corpus may hold what is trained on: only queries, and the passages that answer them, count.

    Args:
        train: What is trained on.
        task: Corpus, queries and judgements.
    """
    relevant = {
        document for documents in task.judgements.grades.values() for document, grade in documents.items() if grade > 0
    }
    passages = [document.text for document in task.corpus if document.id in relevant]
    documents = {value for values in task.index.sources.values() for value in values.values()}
    return _leakage(train, list(task.queries.values()), passages, documents)


def _passage_roles(data: TrainingData) -> tuple[str, ...]:
    return ("positive",) if "positive" in data.text_roles else data.text_roles


def _leakage(train: TrainingData, queries: Sequence[str], passages: Sequence[str], documents: set[str]) -> Leakage:
    known_queries = {_plain(row["anchor"]) for row in train.rows} if "anchor" in train.text_roles else set()
    trained = list(dict.fromkeys(_plain(row[role]) for row in train.rows for role in _passage_roles(train)))
    evaluated = list(dict.fromkeys(_plain(text) for text in passages))
    same = set(trained) & set(evaluated)
    shared_queries = {_plain(text) for text in queries} & known_queries
    near = set(_crossing(trained, [text for text in evaluated if text not in same]))
    shown = [*sorted(same), *sorted(near), *sorted(shared_queries)][:_EXAMPLES]
    return Leakage(
        documents=len(set(train.documents or ()) & documents),
        queries=len(shared_queries),
        passages=len(same),
        near_duplicates=len(near),
        examples=tuple(text if len(text) <= 80 else f"{text[:77]}…" for text in shown),
    )


def _crossing(trained: Sequence[str], evaluated: Sequence[str]) -> Iterator[str]:
    texts = [*trained, *evaluated]
    for first, second in near_duplicates(texts):
        if first < len(trained) <= second:
            yield texts[second]
