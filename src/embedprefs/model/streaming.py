"""Texts without end, embedded chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from embedprefs.errors import InputError

if TYPE_CHECKING:
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["stream", "stream_chunks"]

#: Texts of a chunk unless told otherwise: enough to sort by length, and few megabytes of vectors.
CHUNK_SIZE = 2048
#: Characters after which a chunk ends, so that long texts do not add up.
CHUNK_CHARACTERS = 4_000_000


def stream(
    model: PreferredSentenceTransformer,
    texts: Iterable[Any],
    role: str,
    chunk_size: int | None,
    named: dict[str, Any],
) -> Iterator[tuple[list[Any], Any]]:
    """Check the arguments at once, and return the chunks as they are asked for."""
    # Imported here: it loads torch, and chunks are also embedded without.
    from embedprefs.model.encoding import CallArguments, encode

    task = model.resolved["prompts.task"] or role
    named = dict(named)
    if named.get("prompt") is None and named.get("prompt_name") is None:
        named["prompt_name"] = role
    known = {name: named.pop(name) for name in list(named) if name in CallArguments.__dataclass_fields__}
    arguments = CallArguments(**known, kwargs={"task": task, **named})

    def embed(chunk: list[str], start: int) -> Any:
        return encode(model, chunk, arguments, first_position=start)

    return stream_chunks(texts, role, chunk_size, embed)


def stream_chunks(
    texts: Iterable[Any], role: str, chunk_size: int | None, embed: Callable[[list[str], int], Any]
) -> Iterator[tuple[list[Any], Any]]:
    """Check the arguments of a stream at once, and return its chunks as they are asked for.

    Args:
        texts: Texts, or pairs of an id and a text.
        role: "query" or "document".
        chunk_size: Texts of a chunk, at most.
        embed: Called with the texts of a chunk and the position of the first one; returns their vectors.

    Raises:
        InputError: an argument is not allowed, or an item of the stream is no text.
    """
    if role not in ("query", "document"):
        raise InputError(f'role is {role!r}.\n  Give "query" or "document".')
    if isinstance(texts, (str, bytes)):
        raise InputError("embed_stream takes many texts, and was given one.\n  Give an iterable, or use encode.")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}.\n  Give a whole number of texts, at least 1.")
    return _chunks(texts, chunk_size or CHUNK_SIZE, embed)


def _chunks(
    texts: Iterable[Any], chunk_size: int, embed: Callable[[list[str], int], Any]
) -> Iterator[tuple[list[Any], Any]]:
    ids: list[Any] = []
    chunk: list[str] = []
    characters = start = 0
    paired: bool | None = None
    for position, item in enumerate(texts):
        pair = isinstance(item, tuple) and len(item) == 2
        if paired is None:
            paired = pair
        if pair is not paired:
            expected = "pairs of an id and a text" if paired else "texts"
            raise InputError(f"Input {position} is {type(item).__name__}; the stream began with {expected}.")
        identifier, text = item if paired else (position, item)
        if not isinstance(text, str):
            raise InputError(f"Input {position} is {type(text).__name__}, and no text.\n  Leave such inputs out.")
        ids.append(identifier)
        chunk.append(text)
        characters += len(text)
        if len(chunk) >= chunk_size or characters >= CHUNK_CHARACTERS:
            yield ids, embed(chunk, start)
            ids, chunk, characters, start = [], [], 0, position + 1
    if chunk:
        yield ids, embed(chunk, start)
