"""From a document to chunks that the model reads whole."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from embedprefs.errors import InputError, InvalidPreferenceError, Problem
from embedprefs.preferences.index_limits import DEFAULT_CHUNK_TOKENS, LEAST_CHUNK_TOKENS, most_chunk_overlap
from embedprefs_qdrant.chunking.boundaries import Boundaries
from embedprefs_qdrant.chunking.chunk import Chunk
from embedprefs_qdrant.chunking.outline import outline
from embedprefs_qdrant.chunking.sections import Section, divide
from embedprefs_qdrant.chunking.template import Template
from embedprefs_qdrant.chunking.tokens import TokenCounter, token_counter
from embedprefs_qdrant.documents import Document

__all__ = ["Chunker"]

logger = logging.getLogger("embedprefs.qdrant.chunking")

#: Raised whenever the same settings would cut a text at other places than before.
_VERSION = 1
#: Documents are gathered up to so many characters, so that their chunks are counted in one call.
_BATCH_CHARACTERS = 400_000


@dataclass(frozen=True)
class _Context:
    """What the template puts around the chunks of one section, and the tokens this takes."""

    headings: tuple[str, ...]
    title: str | None
    source: str
    tokens: int


@dataclass
class _Draft:
    """A stretch that will be a chunk once its tokens are counted."""

    start: int
    core_start: int
    """Where the part begins that no chunk before it holds."""
    end: int
    section: Section
    context: _Context
    embedded_text: str = ""
    tokens: int = 0


class Chunker:
    r"""Cuts documents into chunks whose embedded text, prompt included, never exceeds what the model reads.

    A document is divided at its headings: a section is one chunk where it fits, subsections included; otherwise it is
    cut between paragraphs, else sentences, else words. No chunk reaches over the edge of a section that was divided, so
    that editing one leaves the others' chunks as they were. Token counts are those of the model's own tokenizer, and
    each chunk is counted as it will be embedded.

    Args:
        tokenizer: The model's: a `tokenizers.Tokenizer`, a fast tokenizer of transformers, or a function from a list of
            texts to their token counts, special tokens included.
        max_seq_length: Tokens that the model reads at most.
        chunk_tokens: Tokens of a chunk's own text at most; None takes 512, or what fits if that is less.
        chunk_overlap: Tokens at most that a chunk repeats of the one before it, within one section.
        prompt: The document prompt, which the model puts before every text.
        reserved_tokens: Tokens to keep free besides.
        template: What is embedded for a chunk, for example `"{headings}\n\n{text}"`.

    Raises:
        InvalidPreferenceError: A value is out of range, or prompt and template leave no room for text; every problem is
            listed.
        TypeError: The tokenizer is of no kind named above.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_seq_length: int,
        chunk_tokens: int | None = None,
        chunk_overlap: int = 0,
        prompt: str = "",
        reserved_tokens: int = 0,
        template: str | Template = "{text}",
    ) -> None:
        self._counter: TokenCounter = token_counter(tokenizer)
        self.template = template if isinstance(template, Template) else Template(template)
        self.prompt = prompt
        self.max_seq_length = max_seq_length
        self._limit = max_seq_length - reserved_tokens
        bare = self._count_context((), None, "")
        room = self._limit - bare
        self.chunk_tokens = min(room, DEFAULT_CHUNK_TOKENS) if chunk_tokens is None else chunk_tokens
        self.chunk_overlap = chunk_overlap
        self._check(room, chunk_tokens)
        self._is_additive = self._counter.is_additive and self._has_separate_text()
        #: The tokens that headings, title and source may take: never more than the text they stand beside.
        self._context_limit = bare + room // 2
        self.configuration: dict[str, Any] = {
            "version": _VERSION,
            "tokenizer": self._counter.identity,
            "max_seq_length": self._limit,
            "chunk_tokens": self.chunk_tokens,
            "chunk_overlap": chunk_overlap,
            "prompt": prompt,
            "template": self.template.text,
        }

    @property
    def configuration_hash(self) -> str:
        """sha256 of all that decides where documents are cut: the same hash and text give the same chunks.

        It does not cover a tokenizer given as a function, whose `configuration["tokenizer"]` is None.
        """
        return hashlib.sha256(json.dumps(self.configuration, sort_keys=True).encode()).hexdigest()

    def chunk(self, document: Document) -> list[Chunk]:
        """Cut one document; a document of white space gives no chunk.

        Raises:
            InputError: A single character takes more tokens than the model reads.
        """
        return next(chunks for _, chunks in self.chunk_many([document]))

    def chunk_many(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[Chunk]]]:
        """Cut documents as they come, each yielded with its chunks in their order.

        Some documents are gathered before the first is yielded, because counting many chunks at once is faster.

        Raises:
            InputError: A single character takes more tokens than the model reads.
        """
        gathered: list[Document] = []
        characters = 0
        for document in documents:
            gathered.append(document)
            characters += len(document.text)
            if characters >= _BATCH_CHARACTERS:
                yield from self._chunk_all(gathered)
                gathered, characters = [], 0
        if gathered:
            yield from self._chunk_all(gathered)

    def _chunk_all(self, documents: list[Document]) -> Iterator[tuple[Document, list[Chunk]]]:
        starts = self._counter.starts([document.text[document.body_start :] for document in documents])
        planned = [self._plan(document, those) for document, those in zip(documents, starts, strict=True)]
        pairs = list(zip(documents, planned, strict=True))
        self._count([(document, boundaries, draft) for document, (boundaries, drafts) in pairs for draft in drafts])
        for document, (boundaries, drafts) in pairs:
            fitting: list[_Draft] = []
            for draft in drafts:
                if fitting and draft.start <= fitting[-1].core_start:
                    # The chunk before was divided further, and the overlap would repeat the whole of its last part.
                    draft.start = draft.core_start
                    self._count([(document, boundaries, draft)])
                fitting += self._fit(document, boundaries, draft)
            yield document, _finish(document, fitting)

    def _plan(self, document: Document, token_starts: list[int]) -> tuple[Boundaries, list[_Draft]]:
        """Where to cut a document, by the tokens of its text as a whole."""
        text, body = document.text, document.body_start
        starts = [body + start for start in token_starts] if body else token_starts
        parts = outline(text, document.format, body)
        boundaries = Boundaries(text, parts, starts)
        title = document.title or next((each.title for each in parts.headings), None)
        contexts: dict[tuple[str, ...], _Context] = {}

        def room(path: tuple[str, ...]) -> int:
            if path not in contexts:
                contexts[path] = self._context(document, path, title)
            return min(self.chunk_tokens, self._limit - contexts[path].tokens)

        drafts: list[_Draft] = []
        for section in divide(
            text, parts.headings, body, lambda start, end, path: boundaries.tokens(start, end) <= room(path)
        ):
            for start, core_start, end in self._cut(boundaries, section, room(section.path)):
                trimmed = boundaries.trimmed(start, end)
                if trimmed[0] < trimmed[1]:
                    core = max(trimmed[0], min(core_start, trimmed[1]))
                    drafts.append(_Draft(trimmed[0], core, trimmed[1], section, contexts[section.path]))
        return boundaries, drafts

    def _cut(self, boundaries: Boundaries, section: Section, room: int) -> Iterator[tuple[int, int, int]]:
        """Yield start (with overlap), start of what is new, and end, for each chunk of a section."""
        overlap = min(self.chunk_overlap, room // 2)
        # White space at the ends has tokens too, for some tokenizers, and must not become a chunk of overlap alone.
        start, end = boundaries.trimmed(section.start, section.end)
        before, most = start, room
        while (rest := boundaries.tokens(start, end)) > most:
            # A window as wide as half a chunk leaves a choice; its end keeps the last chunk from being a scrap.
            high = boundaries.after(start, min(most, rest - most // 4), end)
            low = min(boundaries.after(start, max(most // 2, 1), end), high)
            cut = boundaries.best(max(low, start + 1), max(high, start + 1)) or high
            if cut >= end:
                break
            yield self._overlapping(boundaries, before, start, overlap), start, cut
            before, start, most = start, boundaries.trimmed(cut, end)[0], room - overlap
        if start < end:
            yield self._overlapping(boundaries, before, start, overlap), start, end

    def _overlapping(self, boundaries: Boundaries, before: int, start: int, overlap: int) -> int:
        """Where a chunk starts that repeats the end, never the whole, of the one that starts at `before`."""
        if not overlap or start == before:
            return start
        earliest = boundaries.before(start, overlap, before + 1)
        latest = boundaries.before(start, max(overlap // 2, 1), before + 1)
        for low, high in ((earliest, latest), (earliest, start - 1)):
            place = boundaries.best(low, high, within_words=False)
            if place is not None:
                return place
        return start

    def _context(self, document: Document, path: tuple[str, ...], title: str | None) -> _Context:
        """What the template puts around a section's chunks, shortened where it would take more than half the room."""
        fields = self.template.fields
        headings = list(path) if "headings" in fields else []
        values = {
            "title": (title or "") if "title" in fields else "",
            "source": document.source if "source" in fields else "",
        }
        count = self._count_context(headings, values["title"], values["source"])
        is_shortened = count > self._context_limit
        while count > self._context_limit:
            if len(headings) > 1:
                headings = headings[1:]
            else:
                longest = max(
                    [("headings", headings[0] if headings else ""), *values.items()], key=lambda each: len(each[1])
                )
                shorter = longest[1][: len(longest[1]) // 2].rstrip()
                if longest[0] == "headings":
                    headings = [shorter] if shorter else []
                else:
                    values[longest[0]] = shorter
            count = self._count_context(headings, values["title"], values["source"])
        if is_shortened:
            logger.warning(
                "%s: what the template %r puts before the chunks of %r takes more than half of what the model reads; "
                "it is shortened to %r for embedding.",
                document.source,
                self.template.text,
                path[-1] if path else title,
                self.template.render(text="", headings=headings, title=values["title"], source=values["source"]),
            )
        return _Context(tuple(headings), values["title"], values["source"], count)

    def _count_context(self, headings: Iterable[str], title: str | None, source: str) -> int:
        rendered = self.template.render(text="", headings=tuple(headings), title=title, source=source)
        return self._counter.count([self.prompt + rendered])[0]

    def _count(self, drafts: list[tuple[Document, Boundaries, _Draft]]) -> None:
        """Fill in what is embedded for each draft, and the tokens this takes."""
        unknown: list[_Draft] = []
        for document, boundaries, draft in drafts:
            text = document.text
            draft.embedded_text = self.template.render(
                text=text[draft.start : draft.end],
                headings=draft.context.headings,
                title=draft.context.title,
                source=draft.context.source,
            )
            # Between white space, the count as a part of the whole is the count by itself: nothing is left to find out.
            if self._is_additive and _stands_alone(text, draft.start, draft.end):
                draft.tokens = draft.context.tokens + boundaries.tokens(draft.start, draft.end)
            else:
                unknown.append(draft)
        if unknown:
            counts = self._counter.count([self.prompt + draft.embedded_text for draft in unknown])
            for draft, tokens in zip(unknown, counts, strict=True):
                draft.tokens = tokens

    def _has_separate_text(self) -> bool:
        """Whether prompt and template leave white space on both sides of the text, whatever the other fields hold."""
        mark = "\0"
        rendered = [
            self.prompt + self.template.render(text=mark, headings=headings, title=value, source=value)
            for headings, value in (((), ""), (("x",), "x"))
        ]
        return all(_stands_alone(each, place := each.index(mark), place + 1) for each in rendered)

    def _fit(self, document: Document, boundaries: Boundaries, draft: _Draft) -> Iterator[_Draft]:
        """Yield a counted draft, or its parts where it takes more tokens than it may.

        Cutting within a word, and tokenizers whose tokens reach over white space, make a part longer than it was as a
        part of the whole.
        """
        is_single = draft.end - draft.start == 1
        if draft.tokens <= (self._limit if is_single else min(self._limit, draft.context.tokens + self.chunk_tokens)):
            yield draft
            return
        if draft.start < draft.core_start:
            parts = [(draft.core_start, draft.core_start, draft.end)]
        else:
            if is_single:
                raise InputError(
                    f"{document.source}: the character at offset {draft.start} takes {draft.tokens} tokens with prompt "
                    f"and template, and the model reads {self._limit}. Shorten the prompt or the template.",
                    file=document.source,
                )
            cut = self._middle(boundaries, draft.start, draft.end)
            parts = [(draft.start, draft.start, cut), (cut, cut, draft.end)]
        for start, core_start, end in parts:
            trimmed = boundaries.trimmed(start, end)
            if trimmed[0] < trimmed[1]:
                part = _Draft(trimmed[0], max(core_start, trimmed[0]), trimmed[1], draft.section, draft.context)
                self._count([(document, boundaries, part)])
                yield from self._fit(document, boundaries, part)

    @staticmethod
    def _middle(boundaries: Boundaries, start: int, end: int) -> int:
        length = end - start
        low, high = start + max(length // 3, 1), end - max(length // 3, 1)
        return boundaries.best(low, max(low, high)) or start + length // 2

    def _check(self, room: int, chunk_tokens: int | None) -> None:
        problems: list[Problem] = []
        if room < LEAST_CHUNK_TOKENS:
            message = (
                f"The model reads {self._limit} tokens, and prompt, template and special tokens take "
                f"{self._limit - room} of them: {max(room, 0)} are left for text."
            )
            problems.append(
                Problem(
                    message,
                    key="tokenizer.max_seq_length",
                    value=self.max_seq_length,
                    allowed=f"at least {LEAST_CHUNK_TOKENS} tokens for text",
                    fix="Raise max_seq_length, or shorten prompts.document or index.template.",
                )
            )
        elif chunk_tokens is not None and not LEAST_CHUNK_TOKENS <= chunk_tokens <= room:
            problems.append(
                Problem(
                    f"index.chunk_tokens is {chunk_tokens}.",
                    key="index.chunk_tokens",
                    value=chunk_tokens,
                    allowed=f"{LEAST_CHUNK_TOKENS} to {room}, which is what prompt, template and special tokens leave "
                    f"of the {self._limit} tokens that the model reads",
                    fix="Leave it out to take 512, or what fits if that is less.",
                )
            )
        elif not 0 <= self.chunk_overlap <= most_chunk_overlap(self.chunk_tokens):
            problems.append(
                Problem(
                    f"index.chunk_overlap is {self.chunk_overlap}.",
                    key="index.chunk_overlap",
                    value=self.chunk_overlap,
                    allowed=f"0 to {most_chunk_overlap(self.chunk_tokens)}, half of the {self.chunk_tokens} tokens of "
                    "a chunk",
                )
            )
        if problems:
            raise InvalidPreferenceError(problems)


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether plain white space, or the text's end, is on both sides of a stretch."""
    return (start == 0 or text[start - 1] in " \t\r\n") and (end == len(text) or text[end] in " \t\r\n")


def _finish(document: Document, drafts: list[_Draft]) -> list[Chunk]:
    occurrences: Counter[str] = Counter()
    chunks: list[Chunk] = []
    for index, draft in enumerate(drafts):
        content_hash = hashlib.sha256(draft.embedded_text.encode()).hexdigest()
        chunks.append(
            Chunk(
                source=document.source,
                text=document.text[draft.start : draft.end],
                start=draft.start,
                end=draft.end,
                headings=draft.section.path,
                index=index,
                token_count=draft.tokens,
                occurrence=occurrences[content_hash],
                content_hash=content_hash,
                embedded_text=draft.embedded_text,
            )
        )
        occurrences[content_hash] += 1
    return chunks
