"""Which column is which: by the names that data sets use, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.evaluation.index import SOURCE_FIELDS

__all__ = ["KINDS", "ROLES", "Columns", "DataKind", "find_columns"]

DataKind = Literal["pairs", "triplets", "tuples", "scored_pairs", "labelled", "texts"]

#: Kind of data -> what a row of it holds, in words.
KINDS: Mapping[DataKind, str] = {
    "pairs": "an anchor and a positive",
    "triplets": "an anchor, a positive and a negative",
    "tuples": "an anchor, a positive and several negatives",
    "scored_pairs": "two texts and a score",
    "labelled": "a text and its class",
    "texts": "a text",
}

#: Role -> the column names that mean it, as data sets have them.
ROLES: Mapping[str, tuple[str, ...]] = {
    "anchor": ("anchor", "query", "question", "anchors", "queries", "prompt", "search_query"),
    "positive": ("positive", "pos", "passage", "context", "answer", "document", "doc", "positives", "response", "code"),
    "negative": ("negative", "neg", "hard_negative", "negatives", "hard_negatives"),
    "text_a": ("text_a", "sentence1", "sentence_1", "sentence_a", "sentence_A", "text1", "premise"),
    "text_b": ("text_b", "sentence2", "sentence_2", "sentence_b", "sentence_B", "text2", "hypothesis"),
    "score": ("score", "similarity", "similarity_score", "scores", "label", "labels"),
    "text": ("text", "sentence", "content", "body"),
    "label": ("label", "labels", "class", "category", "intent"),
    "document": tuple(name for name in SOURCE_FIELDS if name != "document"),
}

_NUMBERED = re.compile(r"^(negative|neg|hard_negative)_?(\d+)$", re.IGNORECASE)
#: Columns of these roles are read as texts; a row without one of them cannot be used.
_TEXT_ROLES = ("anchor", "positive", "text_a", "text_b", "text")


@dataclass(frozen=True)
class Columns:
    """Which column plays which role."""

    kind: DataKind
    by_role: Mapping[str, tuple[str, ...]]
    """Role -> its columns; several for `negative` alone."""
    unused: tuple[str, ...]
    """Columns that are left out, so that they are never trained on."""

    def column(self, role: str) -> str | None:
        """Return the one column of a role; None where there is none."""
        return next(iter(self.by_role.get(role, ())), None)

    def to_text(self) -> str:
        """Return roles and columns in a line: `anchor = "question", positive = "context"`."""
        return ", ".join(
            f"{role} = " + ", ".join(f'"{name}"' for name in names) for role, names in self.by_role.items()
        )


def find_columns(
    names: Sequence[str],
    *,
    stated: Mapping[str, str | Sequence[str]] | None = None,
    document: str | None = None,
    examples: Mapping[str, Any] | None = None,
    source: str = "the data",
) -> Columns:
    """Find the role of each column.

    Args:
        names: The columns, in their order.
        stated: Role -> column (or columns, for `negative`), where the names do not say it.
        document: The column that names a row's source document, where it is stated.
        examples: A value of each column, to tell a score from a text.
        source: What messages call the data.

    Raises:
        InvalidPreferenceError: a stated role or column does not exist, or the columns are of no kind that is known.
    """
    stated = dict(stated or {})
    if document is not None:
        stated.setdefault("document", document)
    problems = list(_problems(names, stated, source))
    if problems:
        raise InvalidPreferenceError(problems)
    by_role: dict[str, tuple[str, ...]] = {
        role: (columns,) if isinstance(columns, str) else tuple(columns) for role, columns in stated.items()
    }
    for role in ROLES:
        if role == "score" and not ({"anchor", "positive"} <= set(by_role) or {"text_a", "text_b"} <= set(by_role)):
            continue  # a label of single texts is a class
        taken = {column for columns in by_role.values() for column in columns}
        if role not in by_role and (found := _by_name(role, names, taken, examples or {})):
            by_role[role] = found
    lists = any(isinstance((examples or {}).get(name), (list, tuple)) for name in by_role.get("negative", ()))
    kind = _kind(by_role, several_negatives=lists)
    if kind is None:
        raise InvalidPreferenceError(_unknown(names, source))
    wanted = _roles_of(kind)
    kept = {role: by_role[role] for role in (*wanted, "document") if role in by_role}
    used = {column for columns in kept.values() for column in columns}
    return Columns(kind, kept, tuple(name for name in names if name not in used))


def _problems(names: Sequence[str], stated: Mapping[str, str | Sequence[str]], source: str) -> Iterable[Problem]:
    for role, columns in stated.items():
        key = f"training.columns.{role}"
        if role not in ROLES:
            close = get_close_matches(role, ROLES, n=1)
            yield Problem(
                f'There is no role "{role}".',
                key=key,
                allowed=", ".join(ROLES),
                fix=f"Did you mean {close[0]}?" if close else "Write one of these roles.",
            )
            continue
        chosen = [columns] if isinstance(columns, str) else list(columns)
        if len(chosen) > 1 and role != "negative":
            yield Problem(f'The role "{role}" has {len(chosen)} columns.', key=key, value=chosen, allowed="one column")
        for column in chosen:
            if column not in names:
                close = get_close_matches(column, names, n=1)
                yield Problem(
                    f'{source} has no column "{column}".',
                    key="training.split.document_column" if role == "document" else key,
                    value=column,
                    allowed=", ".join(names),
                    fix=f"Did you mean {close[0]}?" if close else None,
                )


def _by_name(role: str, names: Sequence[str], taken: set[str], examples: Mapping[str, Any]) -> tuple[str, ...]:
    free = {name.casefold(): name for name in names if name not in taken}
    if role == "negative":
        numbered = [(int(match[2]), name) for name in free.values() if (match := _NUMBERED.match(name))]
        plain = [free[known] for known in ROLES["negative"] if known in free]
        return (*plain[:1], *(name for _, name in sorted(numbered)))
    for known in ROLES[role]:
        name = free.get(known.casefold())
        if name is not None and (role != "score" or _is_number(examples.get(name, 0.0))):
            return (name,)
    return ()


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    if isinstance(value, (list, tuple)):
        return all(_is_number(item) for item in value)
    return isinstance(value, (int, float))


def _kind(by_role: Mapping[str, tuple[str, ...]], *, several_negatives: bool) -> DataKind | None:
    if "anchor" in by_role and "positive" in by_role:
        if "negative" in by_role:
            return "tuples" if len(by_role["negative"]) > 1 or several_negatives else "triplets"
        return "scored_pairs" if "score" in by_role else "pairs"
    if "text_a" in by_role and "text_b" in by_role and "score" in by_role:
        return "scored_pairs"
    if "text_a" in by_role and "text_b" in by_role:
        return "pairs"
    if "text" in by_role:
        return "labelled" if "label" in by_role else "texts"
    return None


def _roles_of(kind: DataKind) -> tuple[str, ...]:
    return {
        "pairs": ("anchor", "positive", "text_a", "text_b"),
        "triplets": ("anchor", "positive", "negative", "score"),
        "tuples": ("anchor", "positive", "negative", "score"),
        "scored_pairs": ("anchor", "positive", "text_a", "text_b", "score"),
        "labelled": ("text", "label"),
        "texts": ("text",),
    }[kind]


def _unknown(names: Sequence[str], source: str) -> Problem:
    return Problem(
        f"{source} has the columns {', '.join(names) or 'none'}, which say no role.",
        key="training.columns",
        allowed="anchor and positive (and negative); text_a, text_b and score; text and label; or text",
        fix='Say which is which: [training.columns] anchor = "…", positive = "…".',
    )
