"""What a job keeps beside its output survives every moment of a kill."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from embedprefs.embedding.partial import HEADER_BYTES, JournalHeader, Partial, Progress, npy_header
from embedprefs.embedding.sources import Position
from embedprefs.errors import InputError, ResourceError

HEADER = JournalHeader(
    input={"path": "texts.txt", "size": 9, "sha256": "x", "texts": 9},
    options={},
    record={},
    chunk_texts=3,
    chunk_characters=99,
)
VECTORS = np.arange(27, dtype=np.float32).reshape(9, 3)


def fill(partial, chunks=3):
    """Write chunks of three rows; return the progress after each."""
    step = partial.begin(HEADER)
    steps = []
    for chunk in range(chunks):
        rows = VECTORS[chunk * 3 : chunk * 3 + 3]
        step = replace(step, rows=step.rows + 3, position=Position(step.rows + 3, 0), dtype="<f4", dimension=3)
        step = partial.append(step, rows, [step.rows - 2, step.rows - 1, step.rows])
        steps.append(step)
    partial.close()
    return steps


def test_what_was_written_is_read_back(tmp_path):
    with Partial(tmp_path / "out.npy").locked() as partial:
        steps = fill(partial)
        assert partial.read() == (HEADER, steps[-1])
        assert np.array_equal(np.concatenate(list(partial.rows(steps[-1], chunk_rows=2))), VECTORS)
        assert list(partial.identifiers()) == list(range(1, 10))


@pytest.mark.parametrize("lost", ["journal", "vectors", "ids"])
def test_a_file_cut_anywhere_goes_back_to_the_last_whole_chunk(tmp_path, lost):
    """Whatever bytes a power cut takes from the end of one file, what is read back is a prefix of whole chunks."""
    with Partial(tmp_path / "whole.npy").locked() as whole:
        steps = [Progress(), *fill(whole)]
        whole_file = getattr(whole, lost)
        size = whole_file.stat().st_size
        for length in range(0, size, 7):
            copy = Partial(tmp_path / "copy.npy")
            shutil.copytree(whole.folder, copy.folder)
            with getattr(copy, lost).open("r+b") as stream:
                stream.truncate(length)
            with copy.locked():
                found = copy.read()
                if found is None:
                    assert lost == "journal"
                else:
                    step = found[1]
                    assert step in steps
                    if step.rows:
                        copy.resume(step)
                        kept = np.concatenate(list(copy.rows(step)))
                        assert np.array_equal(kept, VECTORS[: step.rows])
                        assert list(copy.identifiers()) == list(range(1, step.rows + 1))
                        assert copy.read() == (HEADER, step)
                copy.discard()


def test_rows_that_were_lost_to_zeros_are_noticed(tmp_path):
    """After a power cut a file can have its length but not its content; the checksum finds out."""
    with Partial(tmp_path / "out.npy").locked() as partial:
        steps = fill(partial)
        with partial.vectors.open("r+b") as stream:
            stream.seek(HEADER_BYTES + steps[1].vector_bytes)
            stream.write(bytes(12))
        assert partial.read() == (HEADER, steps[1])


def test_a_resumed_job_cuts_off_what_no_journal_line_covers(tmp_path):
    """A kill between the rows and the journal's line leaves rows that will be computed again; they must not double."""
    with Partial(tmp_path / "out.npy").locked() as partial:
        steps = fill(partial, chunks=2)
        for path in (partial.vectors, partial.ids, partial.journal):
            with path.open("ab") as stream:
                stream.write(b"half a row")
        found = partial.read()
        assert found == (HEADER, steps[1])
        partial.resume(found[1])
        step = partial.append(replace(steps[1], rows=9, position=Position(9, 0)), VECTORS[6:], [7, 8, 9])
        assert np.array_equal(np.concatenate(list(partial.rows(step))), VECTORS)
        assert list(partial.identifiers()) == list(range(1, 10))


@pytest.mark.parametrize("line", [b"not JSON\n", b'{"rows": 1}\n', b"[]\n"])
def test_a_damaged_journal_is_said_and_never_guessed_at(tmp_path, line):
    with Partial(tmp_path / "out.npy").locked() as partial:
        fill(partial)
        with partial.journal.open("ab") as stream:
            stream.write(line)
        with pytest.raises(InputError, match=r"(?s)journal.jsonl: .*damaged.*--restart"):
            partial.read()


def test_two_processes_do_not_write_one_output(tmp_path):
    with Partial(tmp_path / "out.npy").locked(), pytest.raises(ResourceError, match="another process"):  # noqa: SIM117
        with Partial(tmp_path / "out.npy").locked():
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out.npy.partial").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written"), Partial(tmp_path / "out.npy").locked():
        pass


@pytest.mark.parametrize("rows", [0, 1, 10**6, 10**15])
@pytest.mark.parametrize("dtype", ["<f4", "|i1", "|u1"])
def test_the_header_of_an_npy_file_has_one_size_whatever_the_number_of_rows(rows, dtype):
    """The place for it is reserved before the number is known."""
    assert len(npy_header(dtype, rows, 4096)) == HEADER_BYTES
