"""One stream of documents out of everything that can hold them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from embedprefs.errors import MissingExtraError
from embedprefs_qdrant.documents.discovery import FileFinder, FoundFile
from embedprefs_qdrant.documents.document import Document, FailedSource, SourceError, to_metadata
from embedprefs_qdrant.documents.parsers import PARSERS, read_bytes
from embedprefs_qdrant.documents.rows import ROW_READERS, RowFields, read_rows

__all__ = ["read_documents"]


def read_documents(
    inputs: Any,
    *,
    root: str | os.PathLike[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    respect_gitignore: bool = True,
    metadata_fields: Iterable[str] | None = None,
    text_field: str | None = None,
    id_field: str | None = None,
    on_error: Callable[[FailedSource], None],
) -> Iterator[Document]:
    """Read documents from files, folders, globs and objects, one at a time.

    Each input is one of these; iterables of them, generators included, are read as they come and never held:

    * a path, folder or glob: `.md .rst .txt .html .pdf`, and `.jsonl .csv .parquet`, whose rows are documents;
    * a `Document`, a LangChain `Document` (whatever has `page_content`), a mapping or a dataclass with a text field;
    * a tuple `(source, text)`.

    A source is the file's path relative to `root`, `path#id` for a row (without an id: its text's hash), or the id
    that the caller gave (`id`, or `source`). LangChain documents without an id are known by `metadata["source"]`, with
    the page where there is one; further documents of one source get `#2`, `#3`. Files in a folder are read in order of
    their names.

    What gives no document is handed to `on_error`, and reading goes on. A second document of the same source is a
    failure; the same file named twice is read once.

    Args:
        inputs: What to read.
        root: The folder that file sources are relative to, and to which patterns apply; the working directory if None.
        include: Patterns as in `.gitignore`; files in folders and from globs are read only where one matches.
        exclude: Patterns of what is never read.
        respect_gitignore: Leave out what `.gitignore` files, nested ones too, leave out of the repository.
        metadata_fields: The metadata to keep; None keeps all.
        text_field: The field of a row or mapping that holds the text; None looks for text, content, page_content, body,
            document.
        id_field: The field that holds its id; None looks for id, _id, doc_id, document_id.
        on_error: Called with each source that gave no document, as it is met.

    Raises:
        InvalidPreferenceError: A pattern cannot be read.
        Exception: Whatever an iterable given as input raises itself.
    """
    fields = frozenset([metadata_fields] if isinstance(metadata_fields, str) else metadata_fields or ())
    reader = _Reader(
        finder=FileFinder(root, include=include, exclude=exclude, respect_gitignore=respect_gitignore),
        fields=RowFields(text_field, id_field, None if metadata_fields is None else fields),
        on_error=on_error,
    )
    return reader.read(inputs)


class _Reader:
    def __init__(self, *, finder: FileFinder, fields: RowFields, on_error: Callable[[FailedSource], None]) -> None:
        self._finder = finder
        self._fields = fields
        self._on_error = on_error
        # Digests, so that a corpus of millions of documents costs megabytes and not its names.
        self._sources: set[bytes] = set()
        self._files: dict[str, str] = {}
        self._unnamed: Counter[str] = Counter()

    def read(self, inputs: Any) -> Iterator[Document]:
        """Read one input, or each of an iterable's."""
        if isinstance(inputs, str | os.PathLike):
            yield from self._read_path(inputs)
        elif _is_object(inputs):
            yield from self._read_object(inputs)
        elif isinstance(inputs, Iterable) and not isinstance(inputs, bytes | bytearray):
            for item in inputs:
                if isinstance(item, tuple):
                    yield from self._read_object(item)
                else:
                    yield from self.read(item)
        else:
            yield from self._read_object(inputs)

    def _read_path(self, name: str | os.PathLike[str]) -> Iterator[Document]:
        for found in self._finder.find(name):
            if isinstance(found, SourceError):
                self._fail(found, str(name))
                continue
            if not self._is_new_file(found):
                continue
            try:
                yield from self._read_file(found)
            except SourceError as error:
                self._fail(error, found.source)
            except MissingExtraError as error:
                self._fail(SourceError(str(error), "missing_extra"), found.source)

    def _is_new_file(self, found: FoundFile) -> bool:
        real = os.path.realpath(found.path)
        first = self._files.get(real)
        if first is None:
            self._files[real] = found.source
        elif first != found.source:  # the same name twice comes of overlapping inputs, which is no mistake
            reason = f"A link to {first}, which is read under that name."
            self._fail(SourceError(reason, "same_file"), found.source)
        return first is None

    def _read_file(self, found: FoundFile) -> Iterator[Document]:
        extension = found.path.suffix.lower()
        if extension in ROW_READERS:
            for row in read_rows(found.path, found.source, self._fields):
                if isinstance(row, SourceError):
                    self._fail(row, found.source)
                else:
                    yield from self._once(row)
            return
        parser = PARSERS.get(extension)
        if parser is None:
            known = " ".join(sorted([*PARSERS, *ROW_READERS]))
            raise SourceError(
                f'Files of type "{extension}" are not read. Read are: {known}.',
                "invalid" if found.is_named else "unsupported",
            )
        data = read_bytes(found.path)
        if not data.strip():
            raise SourceError("Empty.", "empty")
        parsed = parser(data)
        if not parsed.text[parsed.body_start :].strip():
            raise SourceError("Empty." if not parsed.body_start else "Nothing follows the front matter.", "empty")
        yield from self._once(
            Document(
                source=found.source,
                text=parsed.text,
                format=parsed.format,
                metadata=to_metadata(parsed.metadata, self._fields.metadata),
                title=parsed.title,
                body_start=parsed.body_start,
            )
        )

    def _read_object(self, item: Any) -> Iterator[Document]:
        name = _name_of(item)
        try:
            yield from self._once(self._to_document(item))
        except SourceError as error:
            self._fail(error, name)

    def _to_document(self, item: Any) -> Document:
        if isinstance(item, Document):
            if not item.text[item.body_start :].strip():
                raise SourceError("Empty.", "empty")
            return dataclasses.replace(item, metadata=to_metadata(item.metadata, self._fields.metadata))
        if isinstance(item, tuple):
            return self._pair(item)
        if hasattr(item, "page_content"):
            return self._langchain_document(item)
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            item = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        if isinstance(item, Mapping):
            return self._fields.document(
                {str(name): value for name, value in item.items()}, id_names=("source",), seen=self._unnamed
            )
        raise SourceError(
            f"A {type(item).__name__} is no document. Allowed: a path, a Document, a LangChain Document, a mapping or "
            "dataclass with a text field, a tuple (source, text), and iterables of these.",
            "invalid",
        )

    def _pair(self, item: tuple[Any, ...]) -> Document:
        if len(item) != 2 or not isinstance(item[0], str | os.PathLike | int) or not isinstance(item[1], str):
            kinds = ", ".join(type(part).__name__ for part in item)
            raise SourceError(f"A tuple ({kinds}) is no document. Allowed is (source, text), both texts.", "invalid")
        source = os.fspath(item[0]) if isinstance(item[0], os.PathLike) else item[0]
        return RowFields("text", "id", frozenset()).document({"id": source, "text": item[1]})

    def _langchain_document(self, item: Any) -> Document:
        metadata = getattr(item, "metadata", None) or {}
        identifier = getattr(item, "id", None)
        if not isinstance(item.page_content, str):
            raise SourceError(f"page_content is a {type(item.page_content).__name__}, not text.", "invalid")
        if not item.page_content.strip():
            raise SourceError("Empty.", "empty")
        if identifier is None and metadata.get("source"):
            # A loader's source is a file or page, and often many documents share it.
            identifier = str(metadata["source"])
            if metadata.get("page") is not None:
                identifier = f"{identifier}#page={metadata['page']}"
            self._unnamed[identifier] += 1
            if self._unnamed[identifier] > 1:
                identifier = f"{identifier}#{self._unnamed[identifier]}"
        row = {"page_content": item.page_content, "metadata": metadata}
        names = RowFields("page_content", None, self._fields.metadata)
        if identifier is not None:
            row["id"] = identifier
        document = names.document(row, seen=self._unnamed)
        title = metadata.get("title")
        kept = to_metadata(metadata, self._fields.metadata)
        return dataclasses.replace(document, metadata=kept, title=title if isinstance(title, str) and title else None)

    def _once(self, document: Document) -> Iterator[Document]:
        if self._remember(document.source):
            yield document
        else:
            reason = "A second document of this source; the first was read, this one was not. Give each its own id."
            self._fail(SourceError(reason, "duplicate"), document.source)

    def _remember(self, name: str) -> bool:
        """Whether this name is met for the first time."""
        digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()
        if digest in self._sources:
            return False
        self._sources.add(digest)
        return True

    def _fail(self, error: SourceError, source: str) -> None:
        self._on_error(FailedSource(error.source or source, error.reason, error.kind, error.line))


def _is_object(item: Any) -> bool:
    """Whether an input is one document in itself, though it may be iterable too."""
    return (
        isinstance(item, Document | Mapping)
        or hasattr(item, "page_content")
        or (dataclasses.is_dataclass(item) and not isinstance(item, type))
    )


def _name_of(item: Any) -> str:
    """What to call an object in a message when no document came of it."""
    if isinstance(item, Document):
        return item.source
    if isinstance(item, tuple) and item:
        return str(item[0])
    names = ("id", "source", "_id", "doc_id")
    found = next((item[name] for name in names if item.get(name)), None) if isinstance(item, Mapping) else None
    found = found or getattr(item, "id", None) or getattr(item, "source", None)
    metadata = getattr(item, "metadata", None)
    if not found and isinstance(metadata, Mapping):
        found = metadata.get("source")
    return str(found) if found else f"<{type(item).__name__}>"
