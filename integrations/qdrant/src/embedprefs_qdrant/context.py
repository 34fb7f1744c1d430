"""A chunk as a part of the document that is read for its vector.

With `chunk_context = "document"` the model reads the whole document, and a chunk's vector is the mean of its tokens'
vectors. Two chunks then have the same vector only where they stand at the same place of the same text.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import Self

from embedprefs_qdrant.chunking import Chunk
from embedprefs_qdrant.documents import Document
from embedprefs_qdrant.documents.document import hash_text

__all__ = ["ContextSample", "Passage", "ReadDocument"]


@dataclass(frozen=True)
class Passage:
    """A stretch of a text that is read whole."""

    document: str
    """The text."""
    start: int
    """Its first character."""
    end: int
    """The one behind its last."""
    content_hash: str
    """Of the text and the place in it: as long as it is the same, so is the vector. 64 hexadecimal digits."""


@dataclass(frozen=True)
class ReadDocument:
    """What is read of a document: all of it but its front matter, which no chunk holds either."""

    text: str
    digest: str
    """The text's sha256."""
    shift: int
    """Where it begins in the document."""

    @classmethod
    def of(cls, document: Document) -> Self:
        """What is read of this document."""
        text = document.text[document.body_start :] if document.body_start else document.text
        return cls(text, hash_text(text), document.body_start)

    def passage(self, chunk: Chunk) -> Passage:
        """Where a chunk of the document stands in what is read."""
        return self.passage_at(chunk.start, chunk.end)

    def passage_at(self, start: int, end: int) -> Passage:
        """What stands between two offsets into the document."""
        start, end = start - self.shift, end - self.shift
        digest = hashlib.sha256(f"{self.digest} {start} {end}".encode()).hexdigest()
        return Passage(self.text, start, end, digest)


class ContextSample:
    """Points chosen at random while documents are read, with the documents that have to be read for them.

    Every point has the same chance, and no more documents are kept than points are wanted.
    """

    def __init__(self, count: int) -> None:
        """Take how many points are wanted, at most."""
        self._count = count
        self._numbers = random.SystemRandom()
        self._seen = 0
        self._chosen: list[Document] = []

    def meet(self, document: Document, points: int) -> None:
        """Let each of a document's points take the place of one that was chosen before (Vitter's algorithm R).

        Args:
            document: The document.
            points: How many points the store has of it.
        """
        for _ in range(points):
            self._seen += 1
            if len(self._chosen) < self._count:
                self._chosen.append(document)
            elif (place := self._numbers.randrange(self._seen)) < self._count:
                self._chosen[place] = document

    def chosen(self) -> list[tuple[Document, int]]:
        """The documents, and how many points of each to look at."""
        counts = Counter(document.source for document in self._chosen)
        return [
            (document, counts[document.source]) for document in {each.source: each for each in self._chosen}.values()
        ]
