"""Training data: rows with known roles, each with the document it came from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from embedprefs.errors import InputError, MissingExtraError
from embedprefs.training.columns import KINDS, Columns, DataKind, find_columns
from embedprefs.training.records import Records, read_records

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Rejected", "TrainingData", "read_training_data"]

Side = Literal["query", "document"]

#: Share of the rows that may lack a negative before the negatives of the others are given up instead.
_FEW_WITHOUT_NEGATIVE = 0.1
#: Fewer documents than this, found by a column's name alone, are no documents: a `source` may be a genre.
_FEWEST_DOCUMENTS = 10


@dataclass(frozen=True)
class Rejected:
    """Rows that are not trained on, for one reason."""

    reason: str
    """Why, in words: `the positive is empty`."""
    count: int
    places: tuple[int, ...]
    """Lines, or numbers of rows, of the first few."""

    def to_text(self) -> str:
        """Return it as a line: `294 rows: no negative (3, 17, 20, …)`."""
        more = ", …" if self.count > len(self.places) else ""
        rows = "row" if self.count == 1 else "rows"
        return f"{self.count:,} {rows}: {self.reason} ({', '.join(f'{place:,}' for place in self.places)}{more})"


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on, in one form whatever they were read from."""

    name: str
    """As it is called in messages: the file, or `the data`."""
    kind: DataKind
    columns: Columns
    """Which column of the source played which role."""
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    """Role -> value: anchor, positive, negative or negative_1 … negative_n; text_a, text_b; text; score; label."""
    documents: tuple[str, ...] | None = field(default=None, repr=False)
    """The source document of each row; None where nothing says it."""
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided while reading, in sentences."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def text_roles(self) -> tuple[str, ...]:
        """Roles of the texts, in the order a loss takes them."""
        names = dict.fromkeys(name for row in self.rows[:1] for name in row)
        order = ("anchor", "positive", "text_a", "text_b", "text")
        first = [name for name in order if name in names]
        return (*first, *(name for name in names if name.startswith("negative")))

    @property
    def sides(self) -> Mapping[str, Side]:
        """Role of each text -> which prompt it gets. Pairs of like texts, and classes, are documents."""
        return {role: "query" if role == "anchor" else "document" for role in self.text_roles}

    @property
    def passage_role(self) -> str:
        """The role of the text that is to be found: the positive; else the first text."""
        return "positive" if "positive" in self.text_roles else self.text_roles[0]

    @cached_property
    def digest(self) -> str:
        """Stands for the rows in their order; a resumed run must have the same."""
        total = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            total.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=repr).encode("utf-8", "replace"))
            total.update(b"\n")
        return total.hexdigest()

    @property
    def repeated(self) -> Mapping[str, int]:
        """Role -> rows whose text another row has too."""
        found = {}
        for role in self.text_roles:
            counts = Counter(row[role] for row in self.rows)
            found[role] = sum(count for count in counts.values() if count > 1)
        return found

    def distinct(self, role: str) -> int:
        """Return how many different texts a role has."""
        return len({row[role] for row in self.rows})

    def subset(self, indices: Iterable[int]) -> TrainingData:
        """Return some of the rows, in the order of the indices."""
        chosen = list(indices)
        documents = tuple(self.documents[index] for index in chosen) if self.documents is not None else None
        return replace(
            self, rows=[self.rows[index] for index in chosen], documents=documents, rejected=(), notes=self.notes
        )

    def with_rows(
        self, rows: Sequence[Mapping[str, Any]], kind: DataKind, *, notes: Iterable[str] = ()
    ) -> TrainingData:
        """Return other rows for the same documents, such as with negatives added."""
        return replace(self, rows=rows, kind=kind, notes=(*self.notes, *notes))

    def dataset(self, names: Sequence[str] | None = None) -> Dataset:
        """Return the rows as the host's trainer takes them.

        Args:
            names: Roles in the order the loss takes them; by default the texts, then `score` or `label`. Whatever is
                not named is left out: the host would train on it.

        Raises:
            MissingExtraError: the package datasets is not installed.
            InputError: the rows have no such role.
        """
        try:
            from datasets import Dataset as HostDataset
        except ImportError as error:
            raise MissingExtraError("datasets", extra="train", needed_for="Training") from error
        wanted = tuple(names) if names is not None else (*self.text_roles, *self.label_roles)
        absent = [name for name in wanted if self.rows and name not in self.rows[0]]
        if absent:
            raise InputError(
                f"{self.name}: the rows have no {', '.join(absent)}.\n  They hold {KINDS[self.kind]}: "
                f"{', '.join(self.rows[0])}."
            )
        return HostDataset.from_dict({name: [row[name] for row in self.rows] for name in wanted})

    @property
    def label_roles(self) -> tuple[str, ...]:
        """`score` or `label`, where the rows have it."""
        return tuple(name for name in ("score", "label") if self.rows and name in self.rows[0])


def read_training_data(
    source: Any,
    *,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    document_column: str | None = None,
    split: str | None = None,
) -> TrainingData:
    """Read training data and find out what it is.

    Rows that cannot be used are left out, and each reason is counted in `rejected`: an empty text, a score that is no
    number, a row that repeats an earlier one, a missing negative where nearly all rows have one.

    Args:
        source: .jsonl, .csv or .parquet; a folder with corpus.jsonl, queries.jsonl and judgements; a data set of the
            package datasets; a list of mappings; or `TrainingData`, which is returned as it is.
        columns: Role -> column, where the names do not say it; several columns for `negative`.
        document_column: The column that names a row's source document.
        split: Which judgements of a folder; "train" where it has such.

    Raises:
        InputError: there is nothing to read, or no row can be used.
        InvalidPreferenceError: columns are named that do not exist, or their roles are not known.
        MissingExtraError: Parquet without pyarrow.
    """
    if isinstance(source, TrainingData):
        return source
    records = read_records(source, split=split, document_column=document_column)
    if not records.rows:
        raise InputError(f"{records.name}: there are no rows to train on.")
    examples: dict[str, Any] = {}
    for row in records.rows:
        for name, value in row.items():
            if value is not None and value != "":
                examples.setdefault(name, value)
    found = find_columns(
        records.columns, stated=columns, document=document_column, examples=examples, source=records.name
    )
    return _Reading(records, found, columns or {}, document_column).data()


@dataclass
class _Reading:
    records: Records
    columns: Columns
    stated: Mapping[str, str | Sequence[str]]
    document_column: str | None
    reasons: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def data(self) -> TrainingData:
        self.notes.extend(self.records.notes)
        kind, columns = self.columns.kind, self.columns
        width = self._negatives()
        if width == 0 and kind in ("triplets", "tuples"):
            kind = "pairs"
            roles = {role: names for role, names in columns.by_role.items() if role not in ("negative", "score")}
            columns = Columns(kind, roles, (*columns.unused, *columns.by_role["negative"]))
        elif kind in ("triplets", "tuples"):
            kind = "tuples" if width > 1 else "triplets"
            columns = replace(columns, kind=kind)
        rows: list[Mapping[str, Any]] = []
        kept: list[Mapping[str, Any]] = []
        seen: set[bytes] = set()
        for record, place in zip(self.records.rows, self.records.places, strict=True):
            row = self._row(record, columns, width, place)
            if row is None:
                continue
            key = hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if key in seen:
                self._reject("it repeats an earlier row", place)
                continue
            seen.add(key)
            rows.append(row)
            kept.append(record)
        rejected = tuple(Rejected(reason, len(places), tuple(places[:5])) for reason, places in self.reasons.items())
        if not rows:
            raise InputError(
                f"{self.records.name}: no row can be used.\n" + "\n".join(f"  {item.to_text()}" for item in rejected)
            )
        documents = self._documents(kept, columns)
        if columns.unused:
            self.notes.append(f"Columns that are not trained on: {', '.join(columns.unused)}.")
        return TrainingData(self.records.name, kind, columns, rows, documents, rejected, tuple(self.notes))

    def _reject(self, reason: str, place: int) -> None:
        self.reasons.setdefault(reason, []).append(place)

    def _negatives(self) -> int:
        """Return how many negatives each row is to have; 0 where they are given up or there are none."""
        names = self.columns.by_role.get("negative")
        if not names:
            return 0
        counts = Counter(len(_negatives_of(record, names)) for record in self.records.rows)
        total = len(self.records.rows)
        widest = max(counts)
        # The most negatives that nearly every row has: a loss takes the same number from each.
        for width in range(widest, 0, -1):
            lacking = sum(count for have, count in counts.items() if have < width)
            if lacking <= _FEW_WITHOUT_NEGATIVE * total:
                if width < widest:
                    self.notes.append(f"{width} negatives of each row are used; some rows have up to {widest}.")
                return width
        self.notes.append(
            f"{counts[0]:,} of {total:,} rows have no negative, so that the negatives of the others are not used."
        )
        return 0

    def _row(self, record: Mapping[str, Any], columns: Columns, width: int, place: int) -> Mapping[str, Any] | None:
        row: dict[str, Any] = {}
        like_pairs = columns.kind == "pairs" and "anchor" not in columns.by_role
        for role in ("anchor", "positive", "text_a", "text_b", "text"):
            if (name := columns.column(role)) is None:
                continue
            text = record.get(name)
            if not isinstance(text, str):
                self._reject(f"the {role} is no text" if text is not None else f"the {role} is missing", place)
                return None
            if not text.strip():
                self._reject(f"the {role} is empty", place)
                return None
            row[{"text_a": "anchor", "text_b": "positive"}[role] if like_pairs else role] = text
        if width:
            negatives = _negatives_of(record, columns.by_role["negative"])
            if len(negatives) < width:
                self._reject("no negative" if width == 1 else f"fewer than {width} negatives", place)
                return None
            if row["positive"] in negatives[:width]:
                self._reject("the positive is its own negative", place)
                return None
            names = ["negative"] if width == 1 else [f"negative_{number}" for number in range(1, width + 1)]
            row |= dict(zip(names, negatives, strict=False))
        if (name := columns.column("score")) is not None:
            score = _score(record.get(name))
            if score is None:
                self._reject("the score is no number", place)
                return None
            row["score"] = score
        if (name := columns.column("label")) is not None:
            label = record.get(name)
            if label is None or label == "":
                self._reject("the label is missing", place)
                return None
            row["label"] = label
        return row

    def _documents(self, kept: Sequence[Mapping[str, Any]], columns: Columns) -> tuple[str, ...] | None:
        name = columns.column("document")
        if name is None:
            return None
        values = [record.get(name) for record in kept]
        lacking = sum(value is None or value == "" for value in values)
        asked = self.document_column is not None or "document" in self.stated
        if lacking and asked:
            raise InputError(
                f'{self.records.name}: {lacking:,} of {len(values):,} rows have no "{name}", which names the document '
                "of a row.\n  Fill it, or name another column: training.split.document_column.",
            )
        distinct = len({str(value) for value in values})
        if not asked and (lacking or distinct < min(_FEWEST_DOCUMENTS, len(values))):
            self.notes.append(
                f'The column "{name}" does not name the documents ('
                + (f"{lacking:,} rows have none" if lacking else f"{distinct} different values")
                + "), so that each passage counts as one."
            )
            return None
        return tuple(str(value) for value in values)


def _negatives_of(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the negatives of a row, from one column that holds a list or from several columns."""
    return list(dict.fromkeys(_flat(record.get(name) for name in names)))


def _flat(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and value.strip():
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _flat(value)


def _score(value: object) -> float | list[float] | None:
    if isinstance(value, (list, tuple)):
        scores = [_score(item) for item in value]
        return (
            [score for score in scores if isinstance(score, float)]
            if all(isinstance(score, float) for score in scores)
            else None
        )
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
