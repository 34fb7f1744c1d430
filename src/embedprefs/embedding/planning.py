"""From a request to a job: everything that can be refused is refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from embedprefs.embedding.job import EmbeddingJob, Role
from embedprefs.embedding.outputs import OutputFormat, require_output_format
from embedprefs.embedding.report import EmbedFileReport, JobProgress
from embedprefs.embedding.sources import BadLine, ErrorHandling, InputFormat, Position, Row, TextSource, open_source
from embedprefs.errors import InputError

if TYPE_CHECKING:
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.resolve import Resolved

__all__ = ["chunk_sizes", "embed_file", "open_texts", "plan_embedding"]

_Choice = TypeVar("_Choice", bound=StrEnum)

#: Texts of one chunk, and the characters after which it is full: what a kill can cost, and what lies in memory.
_SLOW_CHUNK = (1024, 131_072)
#: A GPU or a static model is through with the above before its batches are well filled.
_FAST_CHUNK = (8192, 1_048_576)


def chunk_sizes(resolved: Resolved) -> tuple[int, int]:
    """Return the texts and the characters of a chunk that this model takes seconds for on this machine."""
    devices = resolved["compute.device"]
    on_cpu = all(device == "cpu" for device in ([devices] if isinstance(devices, str) else devices))
    return _SLOW_CHUNK if on_cpu and not resolved.facts.is_static else _FAST_CHUNK


def embed_file(
    model: PreferredSentenceTransformer,
    source: Path | str | BinaryIO,
    output: Path | str,
    *,
    role: Role = "document",
    input_format: InputFormat | str | None = None,
    text_field: str = "text",
    id_field: str | None = None,
    errors: ErrorHandling | str = ErrorHandling.STRICT,
    ids_file: Path | str | None = None,
    force: bool = False,
    restart: bool = False,
    progress: Callable[[JobProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> EmbedFileReport:
    """Embed a file of texts into a file of vectors, in bounded memory, continuing where an earlier run stopped.

    Args:
        model: What `load_model` returned.
        source: .txt (a text a line), .jsonl, .csv or .parquet; or a binary stream, which cannot be continued.
        output: .npy, .npz, .parquet or .jsonl; it appears in one step when everything is done.
        role: Whether the texts are documents or queries; it decides the prompt.
        input_format: How the texts lie in the input; known from a file's name, required for a stream.
        text_field: Field or column with the text.
        id_field: Field or column with the id; line numbers where there is none.
        errors: What becomes of lines that are not UTF-8: strict, replace or skip.
        ids_file: Also write the ids there, one JSON value a line in the order of the rows.
        force: Replace an output that exists.
        restart: Forget what an earlier run did.
        progress: Called after each chunk.
        stop: Asked before each chunk; True ends the run with what is done kept.

    Raises:
        InputError: input or output cannot be used as asked, a line cannot be read, or a vector is not finite.
        PreferenceMismatchError: an unfinished run was made with another identity.
        ResourceError: another process writes the same output.
    """
    texts, characters = chunk_sizes(model.resolved)
    job = plan_embedding(
        source,
        output,
        role=role,
        input_format=input_format,
        text_field=text_field,
        id_field=id_field,
        errors=errors,
        ids_file=ids_file,
        force=force,
        restart=restart,
        chunk_texts=texts,
        chunk_characters=characters,
    )
    return job.run(lambda: model, model.record, progress=progress, stop=stop)


def plan_embedding(
    source: Path | str | BinaryIO,
    output: Path | str,
    *,
    role: Role = "document",
    input_format: InputFormat | str | None = None,
    text_field: str = "text",
    id_field: str | None = None,
    errors: ErrorHandling | str = ErrorHandling.STRICT,
    ids_file: Path | str | None = None,
    force: bool = False,
    restart: bool = False,
    chunk_texts: int = _SLOW_CHUNK[0],
    chunk_characters: int = _SLOW_CHUNK[1],
) -> EmbeddingJob:
    """Check input and output of a job before any model is loaded; arguments as for `embed_file`.

    Raises:
        InputError: input or output cannot be used as asked.
        MissingExtraError: Parquet without pyarrow.
    """
    target = Path(output)
    output_format = _by_suffix(target, OutputFormat, "")
    require_output_format(output_format)
    handling = _choice(ErrorHandling, errors, "errors")
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None:
        _require_input(path)
        _require_other_file(path, target)
    _require_writable(target, force=force)
    if ids_file is not None:
        _require_writable(Path(ids_file), force=force)
    texts, chosen = _open(source, input_format, text_field=text_field, id_field=id_field, errors=handling)
    return EmbeddingJob(
        texts=texts,
        # A pipe named by a path, `<(zcat texts.gz)`, is a stream too: it can be read once only.
        path=path if path is not None and path.is_file() else None,
        output=target,
        output_format=output_format,
        ids_file=Path(ids_file) if ids_file is not None else None,
        role=role,
        options={
            "role": role,
            "input_format": chosen.value,
            "text_field": text_field if chosen is not InputFormat.TXT else None,
            "id_field": id_field if chosen is not InputFormat.TXT else None,
            "errors": handling.value,
        },
        restart=restart,
        chunk_texts=chunk_texts,
        chunk_characters=chunk_characters,
    )


def open_texts(
    source: Path | str,
    *,
    input_format: InputFormat | str | None = None,
    text_field: str = "text",
    errors: ErrorHandling | str = ErrorHandling.STRICT,
) -> Iterator[str]:
    """Yield the texts of a file, one at a time; arguments as for `embed_file`.

    Raises:
        InputError: the file cannot be used as asked, or a line cannot be read; the message names it.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(source)
    _require_input(path)
    handling = _choice(ErrorHandling, errors, "errors")
    texts, _ = _open(path, input_format, text_field=text_field, id_field=None, errors=handling)
    return _texts_of(texts, path)


def _texts_of(texts: TextSource, path: Path) -> Iterator[str]:
    for item in texts.rows(Position()):
        if isinstance(item, BadLine):
            raise InputError(item.message, file=path, line=item.line)
        if isinstance(item, Row):
            yield item.text


def _open(
    source: Path | str | BinaryIO,
    input_format: InputFormat | str | None,
    *,
    text_field: str,
    id_field: str | None,
    errors: ErrorHandling,
) -> tuple[TextSource, InputFormat]:
    path = Path(source) if isinstance(source, (str, Path)) else None
    if input_format is not None:
        chosen = _choice(InputFormat, input_format, "input_format")
    elif path is not None:
        chosen = _by_suffix(path, InputFormat, " Or name the format with --input-format.")
    else:
        raise InputError(
            "standard input has no file name that would tell its format.\n"
            f"  Name it with --input-format: {_names(InputFormat)}."
        )
    opened = Path(source) if isinstance(source, (str, Path)) else source
    name = str(path) if path is not None else "standard input"
    return open_source(opened, chosen, name=name, text_field=text_field, id_field=id_field, errors=errors), chosen


def _choice(kind: type[_Choice], value: str, what: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"{what} is {value!r}.\n  Allowed: {_names(kind)}.") from error


def _names(kind: type[StrEnum]) -> str:
    return ", ".join(member.value for member in kind)


def _by_suffix(path: Path, kind: type[_Choice], advice: str) -> _Choice:
    suffix = path.suffix.removeprefix(".").lower()
    names = [member.value for member in kind]
    if suffix in names:
        return kind(suffix)
    found = f'"{path.suffix}"' if suffix else "no extension"
    near = get_close_matches(suffix, names, n=1)
    suggestion = f" Did you mean .{near[0]}?" if near else ""
    allowed = ", ".join(f".{name}" for name in names)
    raise InputError(f"{path}: the file name has {found}.\n  Allowed: {allowed}.{suggestion}{advice}", file=path)


def _require_input(path: Path) -> None:
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder, where a file of texts is needed.\n  Name one file: {_names(InputFormat)}.", file=path
        )
    if not path.exists():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        suggestion = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise InputError(f"{path}: there is no such file.{suggestion}", file=path)
    if path.is_file():
        try:
            with path.open("rb") as stream:
                first = stream.read(1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}.", file=path) from error
        if not first:
            raise InputError(f"{path}: the file is empty.\n  Name a file with at least one text.", file=path)


def _require_other_file(path: Path, output: Path) -> None:
    if output.exists() and path.samefile(output):
        raise InputError(f"{output}: input and output are the same file.\n  Choose another output.", file=output)


def _require_writable(output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise InputError(f"{output}: is a folder.\n  Name a file to write.", file=output)
    if not output.parent.is_dir():
        raise InputError(
            f"{output}: the folder {output.parent} does not exist.\n  Create it, or choose another output.", file=output
        )
    if output.exists() and not force:
        raise InputError(
            f"{output}: exists already.\n  Choose another output, or replace it with --force.", file=output
        )
