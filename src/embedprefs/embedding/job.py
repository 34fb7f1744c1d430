"""The job behind `embedprefs embed`: texts in, a file of vectors out, at most one chunk in memory."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from embedprefs.embedding.outputs import OutputFormat, write_ids, write_output
from embedprefs.embedding.partial import JournalHeader, Partial, Progress
from embedprefs.embedding.report import EmbedFileReport, JobProgress
from embedprefs.embedding.sources import BadLine, Position, Row, SkippedLine, TextSource
from embedprefs.errors import EmbedPrefsWarning, InputError, OverlongTextError, PreferenceMismatchError
from embedprefs.model.report import EncodeReport
from embedprefs.record import Record

if TYPE_CHECKING:
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.serving import Encoder

__all__ = ["EmbeddingJob", "Role"]

_LARGEST_INT64 = 2**63
_NAMED_LINES = 20

Role = Literal["document", "query"]


@dataclass(frozen=True)
class _Chunk:
    rows: list[Row]
    skipped: list[int]
    end: Position


@dataclass(frozen=True)
class EmbeddingJob:
    """A job whose input and output have been checked; `plan_embedding` makes one."""

    texts: TextSource
    path: Path | None
    """The input; None for a stream, which cannot be read again."""
    output: Path
    output_format: OutputFormat
    ids_file: Path | None
    role: Role
    options: Mapping[str, Any]
    restart: bool
    chunk_texts: int
    chunk_characters: int

    @property
    def resumable(self) -> bool:
        """Whether a run that is cut short can be continued."""
        return self.path is not None

    def run(
        self,
        load: Callable[[], PreferredSentenceTransformer | Encoder],
        record: Record,
        *,
        progress: Callable[[JobProgress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> EmbedFileReport:
        """Embed what is left to embed and put the output in its place.

        Args:
            load: Returns the model; called when the first text is due, never when nothing is left to embed.
            record: Record of that model: what its vectors are.
            progress: Called after each chunk.
            stop: Asked before each chunk; True ends the run with what is done kept.

        Raises:
            InputError: a line cannot be read, a vector is not finite, or the input changed since it was begun.
            PreferenceMismatchError: an unfinished run was made with another identity.
            ResourceError: another process writes the same output.
        """
        partial = Partial(self.output)
        with partial.locked():
            step, header = self._begin(partial, record)
            resumed = step.rows
            model: PreferredSentenceTransformer | Encoder | None = None
            stopped = False
            try:
                for chunk in self._chunks(step.position, header):
                    if stop is not None and stop():
                        stopped = True
                        break
                    if model is None:
                        model = load()
                    step = self._embed(partial, step, chunk, model)
                    if progress is not None:
                        progress(JobProgress(step.rows, step.rows - resumed, header.input["texts"]))
                if not stopped:
                    self._finish(partial, step)
            finally:
                if not self.resumable or not step.rows:
                    partial.discard()
        return self._report(step, resumed=resumed, finished=not stopped)

    def with_chunks(self, texts: int, characters: int) -> Self:
        """Return the same job with chunks of at most so many texts, full at so many characters."""
        return replace(self, chunk_texts=texts, chunk_characters=characters)

    def what_is_safe(self) -> str:
        """Say in a sentence what an interrupted run has kept, and how to continue."""
        if not self.resumable:
            return "Nothing was kept: the input is a stream, which can be read only once."
        earlier = Partial(self.output).read()
        if earlier is None or not earlier[1].rows:
            return "Nothing was embedded yet."
        header, step = earlier
        return (
            f"{step.rows:,} of {header.input['texts']:,} texts are safe in {Partial(self.output).folder}; "
            "the same command continues there."
        )

    def _begin(self, partial: Partial, record: Record) -> tuple[Progress, JournalHeader]:
        """Continue an earlier run where there is one, after making sure that it was the same job."""
        earlier = None if self.restart or not self.resumable else partial.read()
        header = JournalHeader(
            input=_input_facts(self.path),
            options=dict(self.options),
            record=record.to_json(),
            chunk_texts=self.chunk_texts,
            chunk_characters=self.chunk_characters,
        )
        if earlier is not None and earlier[1].rows:
            found, step = earlier
            self._require_same(partial, found, header, record)
            partial.resume(step)
            # The chunks keep their boundaries, so that the vectors are those of an undisturbed run to the last bit.
            return step, found
        if self.resumable:
            try:
                header = replace(header, input={**header.input, "texts": self._count()})
            except InputError:
                partial.discard()
                raise
        return partial.begin(header), header

    def _count(self) -> int:
        """Read the input once to its end, so that a bad line is known before the first vector is computed.

        Raises:
            InputError: lines cannot be read; the message names them.
        """
        bad: list[BadLine] = []
        count = skipped = 0
        for item in self.texts.rows(Position()):
            if isinstance(item, Row):
                count += 1
            elif isinstance(item, SkippedLine):
                skipped += 1
            else:
                bad.append(item)
                if len(bad) == _NAMED_LINES:
                    break
        if bad:
            more = ["  There may be more."] if len(bad) == _NAMED_LINES else []
            raise InputError("\n".join([*(item.message for item in bad), *more]), file=self.path, line=bad[0].line)
        self._require_texts(count, skipped)
        return count

    def _require_texts(self, count: int, skipped: int) -> None:
        if not count:
            why = f"all its {skipped} lines are not UTF-8 and were skipped" if skipped else "it holds no text"
            raise InputError(f"{self.texts.name}: nothing to embed: {why}.", file=self.path)

    def _require_same(self, partial: Partial, found: JournalHeader, now: JournalHeader, record: Record) -> None:
        advice = f"  Run with --restart to begin again; that deletes {partial.folder}."
        earlier = Record.from_json(found.record)
        comparison = earlier.compare(record)
        sides = comparison.to_text("unfinished run", "now")
        if comparison.status == "different":
            raise PreferenceMismatchError(
                f"{partial.folder}: the unfinished run made other vectors than these preferences do.\n"
                f"{sides}\n{advice}",
                left=earlier.identity,
                right=record.identity,
                differences=[difference.field for difference in comparison.differences],
            )
        if comparison.status == "soft":
            warnings.warn(f"{partial.folder}: continued with other numerics. {sides}", EmbedPrefsWarning, stacklevel=2)
        changed = [key for key in ("size", "sha256") if found.input.get(key) != now.input.get(key)]
        if changed:
            raise InputError(
                f"{self.texts.name}: the input changed since the unfinished run in {partial.folder} began "
                f"({found.input['size']} bytes then, {now.input['size']} now).\n{advice}",
                file=self.path,
            )
        different = {key: value for key, value in now.options.items() if found.options.get(key) != value}
        if different:
            words = ", ".join(f"{key} was {found.options.get(key)!r}, is {value!r}" for key, value in different.items())
            raise InputError(
                f"{partial.folder}: the unfinished run was asked for something else: {words}.\n"
                f"  Ask for the same to continue it. {advice.strip()}",
                file=partial.folder,
            )

    def _chunks(self, start: Position, header: JournalHeader) -> Iterator[_Chunk]:
        """Cut the input into chunks whose boundaries depend on the input alone."""
        rows: list[Row] = []
        skipped: list[int] = []
        characters = 0
        end = start
        for item in self.texts.rows(start):
            end = item.end
            if isinstance(item, BadLine):
                raise InputError(item.message, file=self.path, line=item.line)
            if isinstance(item, SkippedLine):
                skipped.append(item.line)
            else:
                rows.append(item)
                characters += len(item.text)
            if len(rows) + len(skipped) >= header.chunk_texts or characters >= header.chunk_characters:
                yield _Chunk(rows, skipped, end)
                rows, skipped, characters = [], [], 0
        if rows or skipped:
            yield _Chunk(rows, skipped, end)

    def _embed(
        self, partial: Partial, step: Progress, chunk: _Chunk, model: PreferredSentenceTransformer | Encoder
    ) -> Progress:
        began = time.perf_counter()
        report = EncodeReport()
        vectors: np.ndarray[Any, Any] = np.empty((0, step.dimension or 0), dtype=step.dtype or np.float32)
        if chunk.rows:
            with model.collect_report() as report:
                vectors = self._vectors(chunk, model)
            self._require_finite(chunk, vectors)
        if len(vectors) != len(chunk.rows):
            raise RuntimeError(f"{len(chunk.rows)} texts became {len(vectors)} vectors.")
        ids = [row.id for row in chunk.rows]
        replaced = [row.line for row in chunk.rows if row.replaced]
        # Another thread's calls are in the report too, should there be any.
        overlong = [chunk.rows[item.position].line for item in report.overlong if item.position < len(chunk.rows)]
        named = (*step.named_lines, *sorted([*chunk.skipped, *replaced]))[:_NAMED_LINES]
        numbers = all(isinstance(item, int) and -_LARGEST_INT64 <= item < _LARGEST_INT64 for item in ids)
        with _writing(partial.folder):
            return partial.append(
                replace(
                    step,
                    rows=step.rows + len(ids),
                    position=chunk.end,
                    dtype=vectors.dtype.str if chunk.rows else step.dtype,
                    dimension=vectors.shape[1] if chunk.rows else step.dimension,
                    tokens=step.tokens + report.tokens,
                    in_workers=step.in_workers + report.in_workers,
                    truncated=step.truncated + report.truncated,
                    windowed=step.windowed + report.windowed,
                    clipped=step.clipped + report.clipped,
                    overlong_lines=(*step.overlong_lines, *overlong)[:_NAMED_LINES],
                    empty=step.empty + sum(not row.text.strip() for row in chunk.rows),
                    skipped=step.skipped + len(chunk.skipped),
                    replaced=step.replaced + len(replaced),
                    named_lines=named,
                    longest_id=max([step.longest_id, *(len(str(item)) for item in ids)]),
                    ids_are_numbers=step.ids_are_numbers and numbers,
                    seconds=step.seconds + time.perf_counter() - began,
                ),
                vectors,
                ids,
            )

    def _vectors(self, chunk: _Chunk, model: PreferredSentenceTransformer | Encoder) -> np.ndarray[Any, Any]:
        encode = model.encode_query if self.role == "query" else model.encode_document
        try:
            return np.asarray(encode([row.text for row in chunk.rows]))
        except OverlongTextError as error:
            # The model counts within one call; the reader needs the lines.
            lines = [chunk.rows[position].line for position in error.positions]
            raise OverlongTextError(
                f"{self.texts.name}: {_lines_in_words(lines)} longer than the model reads "
                f'(up to {max(error.tokens, default=0)} tokens), and tokenizer.on_overflow is "error".\n'
                '  Shorten them, or set tokenizer.on_overflow to "count", or tokenizer.overflow to "window".',
                positions=[line - 1 for line in lines],
                tokens=error.tokens,
            ) from error

    def _require_finite(self, chunk: _Chunk, vectors: np.ndarray[Any, Any]) -> None:
        if not np.issubdtype(vectors.dtype, np.floating):
            return
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            lines = [chunk.rows[int(index)].line for index in broken]
            raise InputError(
                f"{self.texts.name}: {_lines_in_words(lines)} NaN or infinite after embedding.\n"
                "  Nothing of this chunk was written. A low dtype is the usual cause: try --set compute.dtype=float32; "
                "if it stays, the weights are damaged.",
                file=self.path,
                line=lines[0],
            )

    def _finish(self, partial: Partial, step: Progress) -> None:
        self._require_texts(step.rows, step.skipped)
        _require_complete(partial, step)
        with _writing(self.output):
            if self.ids_file is not None:
                write_ids(partial, self.ids_file)
            write_output(partial, step, self.output_format, self.output)
        partial.discard()

    def _report(self, step: Progress, *, resumed: int, finished: bool) -> EmbedFileReport:
        return EmbedFileReport(
            output=self.output,
            finished=finished,
            texts=step.rows,
            resumed=resumed,
            tokens=step.tokens,
            in_workers=step.in_workers,
            truncated=step.truncated,
            windowed=step.windowed,
            overlong_lines=step.overlong_lines,
            clipped=step.clipped,
            empty=step.empty,
            skipped=step.skipped,
            replaced=step.replaced,
            named_lines=step.named_lines,
            dimension=step.dimension,
            dtype=np.dtype(step.dtype).name if step.dtype is not None else None,
            seconds=step.seconds,
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}.\n"
            "  What is done is kept. Make room, or make it writable, and run the same again.",
            file=path,
        ) from error


def _require_complete(partial: Partial, step: Progress) -> None:
    """Count once more what lies on the disk: every text read has one vector and one id."""
    expected = step.rows * (step.dimension or 0) * np.dtype(step.dtype).itemsize
    with partial.ids.open("rb") as stream:
        ids = sum(1 for _ in stream)
    if step.vector_bytes != expected or ids != step.rows:
        raise RuntimeError(
            f"{step.rows} texts were read, but {step.vector_bytes} bytes of vectors (expected {expected}) and "
            f"{ids} ids were written."
        )


def _input_facts(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {"path": None, "texts": None}
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path.resolve()), "size": path.stat().st_size, "sha256": digest}


def _lines_in_words(lines: Sequence[int]) -> str:
    """Return a subject and its verb-ready form: `line 4 is`, `lines 4, 9 are`."""
    shown = ", ".join(str(line) for line in lines[:_NAMED_LINES])
    more = f" and {len(lines) - _NAMED_LINES} more" if len(lines) > _NAMED_LINES else ""
    return f"line {shown} is" if len(lines) == 1 else f"lines {shown}{more} are"
