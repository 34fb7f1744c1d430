"""Adding documents group by group, and saying exactly what is stored when something fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document

from embedprefs import InputError, PartialResultError

__all__ = ["Addition", "documents_of", "refuse_named"]

#: Failed documents that a message names; all are in `failed`.
_NAMED = 5


class Addition:
    """One call of `add_documents` under way."""

    def __init__(self, documents: Sequence[Document], size: int) -> None:
        """Take documents that have ids, and how many go together."""
        self._documents = documents
        self._size = size
        self._stored = 0

    @property
    def ids(self) -> list[str]:
        """The documents' ids, in order."""
        return [str(document.id) for document in self._documents]

    def groups(self) -> Iterator[Sequence[Document]]:
        """The documents, so many at a time."""
        for start in range(0, len(self._documents), self._size):
            yield self._documents[start : start + self._size]

    def note(self, failed: Mapping[str, str]) -> None:
        """Count the oldest group that was written.

        Args:
            failed: Document id -> reason, of those of the group that could not be stored.

        Raises:
            PartialResultError: There are such; later groups are not tried.
        """
        ids = self.ids
        done = self._stored + self._size
        if not failed:
            self._stored = min(done, len(ids))
            return
        reasons = {**failed, **dict.fromkeys(ids[done:], "not tried, since the store failed before")}
        cause = next(iter(failed.values()))
        named = ", ".join(list(reasons)[:_NAMED])
        more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise PartialResultError(
            f"{len(reasons)} of {len(set(ids))} documents are not stored: {named}{more}.\n  {cause}\n"
            "  The others are. Adding all of them again is safe, and embeds only what is missing.",
            failed=reasons,
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say with every other error how much was stored before it."""
        try:
            yield
        except PartialResultError:
            raise
        except Exception as error:
            if self._stored:
                error.add_note(
                    f"At least {self._stored} of {len(self._documents)} documents were stored before. Adding all of "
                    "them again is safe, and embeds only what is missing."
                )
            raise


def documents_of(texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None) -> list[Document]:
    """Texts and their metadata as documents without ids.

    Raises:
        InputError: One text is given instead of several, one is no text, or there are more or fewer metadata.
    """
    if isinstance(texts, (str, bytes)):
        raise InputError("add_texts was given one text.\n  Give a list of texts: add_texts([text]).")
    listed = list(texts)
    if metadatas is not None and len(metadatas) != len(listed):
        raise InputError(
            f"There are {len(listed)} texts and {len(metadatas)} metadata.\n"
            "  Give one for each, {} where it has none."
        )
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"Input {place} is a {type(text).__name__}, and no text.\n  Leave such inputs out.")
    return [
        Document(page_content=text, metadata=dict(metadatas[place]) if metadatas is not None else {})
        for place, text in enumerate(listed)
    ]


def refuse_named(call: str, named: Mapping[str, Any], allowed: str) -> None:
    """Refuse arguments that a call does not take.

    Raises:
        InputError: There is one.
    """
    if named:
        raise InputError(f"{call} takes no argument {next(iter(named))!r}.\n  Allowed: {allowed}")
