"""A file of texts becomes a file of vectors: every format, every bad input, every interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from embedprefs import InputError, PreferenceMismatchError, load_model
from embedprefs.embedding import embed_file, plan_embedding
from embedprefs.embedding.partial import Partial
from embedprefs.testing import STATIC_WORDS, static_model_folder, tiny_bert_folder

TEXTS = ["red apple", "green tree", "", "blue sky", "red red sky", "naïve – 漢字"] * 5
PROBED_WORDS = {**STATIC_WORDS, "a": (1,) * 8, "the": (0, 1) * 4}
IDS = [f"id-{number}" for number in range(len(TEXTS))]


@pytest.fixture
def inputs(tmp_path):
    """Write the same texts in every format."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    records = [{"name": name, "body": text} for name, text in zip(IDS, TEXTS, strict=True)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "texts.csv").write_text(
        "name,body\n" + "".join(f'{item["name"]},"{item["body"]}"\n' for item in records)
    )
    parquet.write_table(pa.table({"name": IDS, "body": TEXTS}), tmp_path / "texts.parquet")
    return tmp_path


def read(path):
    """Return ids and vectors of an output."""
    if path.suffix == ".npy":
        return None, np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["ids"].tolist(), arrays["vectors"]
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
        return table["id"].to_pylist(), np.stack(table["vector"].to_numpy())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record["id"] for record in records], np.array([record["vector"] for record in records], dtype=np.float32)


@pytest.mark.parametrize("output", ["npy", "npz", "parquet", "jsonl"])
@pytest.mark.parametrize("source", ["txt", "jsonl", "csv", "parquet"])
def test_every_format_to_every_format(model, inputs, source, output):
    """Each output holds the model's vectors to the last bit, in the order of the input, with the ids."""
    fields = {} if source == "txt" else {"text_field": "body", "id_field": "name"}
    target = inputs / f"vectors.{output}"
    report = embed_file(model, inputs / f"texts.{source}", target, **fields)
    ids, vectors = read(target)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, model.encode_document(TEXTS))
    assert ids in (None, IDS if fields else list(range(1, len(TEXTS) + 1)))
    assert (report.texts, report.resumed, report.finished) == (len(TEXTS), 0, True)
    assert (report.empty, report.dimension, report.dtype) == (5, 8, "float32")
    assert report.tokens == sum(len(model.tokenizer.encode(text).ids) for text in set(TEXTS))
    assert sorted(path.name for path in inputs.iterdir() if "vectors" in path.name) == [target.name]


def test_queries_get_their_own_prompt(tmp_path, static_folder, inputs):
    model = load_model(static_folder, overrides={"prompts.query": "query ", "prompts.document": "document "})
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        embed_file(model, inputs / "texts.txt", tmp_path / f"{role}.npy", role=role)
        assert np.array_equal(np.load(tmp_path / f"{role}.npy"), encode(TEXTS))
    assert not np.array_equal(np.load(tmp_path / "query.npy"), np.load(tmp_path / "document.npy"))


def test_binary_vectors_keep_their_type(tmp_path, static_folder, inputs):
    model = load_model(static_folder, overrides={"vectors.precision": "ubinary"})
    report = embed_file(model, inputs / "texts.txt", tmp_path / "out.parquet")
    assert (report.dtype, report.dimension) == ("uint8", 1)
    _, vectors = read(tmp_path / "out.parquet")
    assert np.array_equal(vectors, model.encode_document(TEXTS))


def test_ids_can_be_written_beside_an_npy(model, inputs):
    """An .npy holds vectors alone; a JSON value a line says which row is which."""
    options = {"text_field": "body", "id_field": "name", "ids_file": inputs / "ids.jsonl"}
    embed_file(model, inputs / "texts.jsonl", inputs / "out.npy", **options)
    assert [json.loads(line) for line in (inputs / "ids.jsonl").read_text().splitlines()] == IDS


@pytest.mark.parametrize("suffix", ["npz", "parquet", "jsonl"])
def test_ids_of_both_kinds_and_beyond_64_bits_are_kept(model, tmp_path, suffix):
    ids = [7, "seven", 2**70]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": item, "text": "red"}) + "\n" for item in ids))
    embed_file(model, tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", id_field="id")
    found, _ = read(tmp_path / f"out.{suffix}")
    assert found == (ids if suffix == "jsonl" else [str(item) for item in ids])


def test_an_npz_needs_no_pickle(model, inputs):
    embed_file(model, inputs / "texts.jsonl", inputs / "out.npz", text_field="body", id_field="name")
    with zipfile.ZipFile(inputs / "out.npz") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["vectors.npy", "ids.npy"]
    with np.load(inputs / "out.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].dtype.kind == "U"


def test_a_stream_is_embedded_and_leaves_nothing_behind(model, tmp_path):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as stream:
        stream.write("\n".join(TEXTS).encode())
    with os.fdopen(read_end, "rb") as stream:
        report = embed_file(model, stream, tmp_path / "out.npy", input_format="txt")
    assert report.texts == len(TEXTS)
    assert np.array_equal(np.load(tmp_path / "out.npy"), model.encode_document(TEXTS))
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


# What is wrong with the request is said before anything is written.


def bad_request(name, expected, **options):
    return pytest.param(name, expected, options, id=f"{name} {' '.join(map(str, options.values()))}".strip())


@pytest.mark.parametrize(
    ("source", "expected", "options"),
    [
        bad_request("folder", r"is a folder"),
        bad_request("empty.txt", r"the file is empty"),
        bad_request("absent.txt", r"no such file"),
        bad_request("text.txt", r"Did you mean .*texts.txt"),
        bad_request("texts.doc", r'".doc"\.\n  Allowed: \.txt, \.jsonl, \.csv, \.parquet.*--input-format'),
        bad_request("blank.jsonl", r"blank.jsonl: nothing to embed: it holds no text"),
        bad_request("header.csv", r"header.csv: nothing to embed"),
        bad_request("latin.txt", r"latin.txt:2: byte 4 of the line \(0xef\)"),
        bad_request("latin-only.txt", r"not UTF-8 and were skipped", errors="skip"),
        bad_request("bad.jsonl", r"(?s)bad.jsonl:2: not JSON.*bad.jsonl:4: .*holds a number"),
        bad_request("texts.txt", r"Allowed: strict, replace, skip", errors="ignore"),
        bad_request("texts.txt", r"Allowed: txt, jsonl, csv, parquet", input_format="docx"),
    ],
)
def test_a_bad_input_is_named_and_nothing_is_left(model, inputs, source, expected, options):
    (inputs / "folder").mkdir()
    (inputs / "empty.txt").touch()
    (inputs / "texts.doc").write_text("red")
    (inputs / "blank.jsonl").write_text("\n\n")
    (inputs / "header.csv").write_text("text\n")
    (inputs / "latin.txt").write_bytes(
        b"red\nna\xc3\xaf\xefve\nblue\n"[:4] + b"na\xef\xef\n"[:0] + b"nai\xefve\nblue\n"
    )
    (inputs / "latin-only.txt").write_bytes(b"\xef\n\xef\n")
    (inputs / "bad.jsonl").write_text('{"text": "red"}\n{\n{"text": "blue"}\n{"text": 3}\n')
    before = sorted(inputs.rglob("*"))
    with pytest.raises(InputError, match=expected):
        embed_file(model, inputs / source, inputs / "out.npy", **options)
    assert sorted(inputs.rglob("*")) == before


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("folder.npy", "is a folder"),
        ("absent/out.npy", "does not exist"),
        ("there.npy", "--force"),
        ("out.pickle", r'"\.pickle"\.\n  Allowed: \.npy, \.npz, \.parquet, \.jsonl'),
        ("out", "no extension"),
        ("out.np", r"Did you mean \.np"),
    ],
)
def test_an_output_that_cannot_be_written_is_named_before_any_text_is_read(model, inputs, output, expected):
    (inputs / "folder.npy").mkdir()
    (inputs / "there.npy").write_text("mine")
    with pytest.raises(InputError, match=expected):
        embed_file(model, inputs / "texts.txt", inputs / output)
    assert (inputs / "there.npy").read_text() == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a folder that not even root may write to")
def test_a_folder_that_cannot_be_written_is_named(model, inputs):
    with pytest.raises(InputError, match="/proc: cannot be written"):
        embed_file(model, inputs / "texts.txt", Path("/proc/out.npy"))


def test_input_and_output_cannot_be_the_same_file(model, inputs):
    with pytest.raises(InputError, match="same file"):
        embed_file(model, inputs / "texts.jsonl", inputs / "texts.jsonl", force=True, text_field="body")


def test_force_replaces_in_one_step(model, inputs):
    (inputs / "out.npy").write_text("old")
    embed_file(model, inputs / "texts.txt", inputs / "out.npy", force=True)
    assert np.load(inputs / "out.npy").shape == (len(TEXTS), 8)


def test_replaced_and_skipped_lines_are_counted_and_named(model, tmp_path):
    source = tmp_path / "latin.txt"
    source.write_bytes(b"red\nbl\xefue\ngreen\n\xef\nsky\n")
    kept = embed_file(model, source, tmp_path / "kept.npy", errors="replace")
    assert (kept.texts, kept.replaced, kept.skipped, kept.named_lines) == (5, 2, 0, (2, 4))
    left = embed_file(model, source, tmp_path / "left.npz", errors="skip")
    assert (left.texts, left.replaced, left.skipped, left.named_lines) == (3, 0, 2, (2, 4))
    assert read(tmp_path / "left.npz")[0] == [1, 3, 5]


def test_vectors_that_are_not_finite_name_their_lines_and_keep_what_is_done(tmp_path):
    """A damaged weight or an overflow must not end as silent NaN in an index."""
    model = load_model(static_model_folder(tmp_path / "damaged", {**PROBED_WORDS, "apple": (float("nan"),) * 8}))
    source = tmp_path / "texts.txt"
    source.write_text("red\n" * 8 + "red apple\nblue\nan apple\n")
    job = plan_embedding(source, tmp_path / "out.npy", chunk_texts=4)
    with pytest.raises(InputError, match=r"texts.txt: lines 9, 11 are NaN or infinite"):
        job.run(lambda: model, model.record)
    assert not (tmp_path / "out.npy").exists()
    assert "8 of 11 texts are safe" in job.what_is_safe()


def test_a_text_that_is_too_long_is_named_by_its_line(tmp_path):
    """With `on_overflow = "error"` the model counts within a call; the reader needs the line of the file."""
    folder = tiny_bert_folder(tmp_path / "model", max_seq_length=16)
    model = load_model(folder, overrides={"tokenizer.on_overflow": "error"})
    (tmp_path / "texts.txt").write_text("short\n" * 5 + "long " * 50 + "\n")
    job = plan_embedding(tmp_path / "texts.txt", tmp_path / "out.npy", chunk_texts=2)
    with pytest.raises(InputError, match=r"texts.txt: line 6 is longer than the model reads"):
        job.run(lambda: model, model.record)


def test_texts_that_are_cut_are_counted_and_named_by_their_lines(tmp_path):
    """Nothing that was said of a text may vanish because the text was one of a million."""
    folder = tiny_bert_folder(tmp_path / "model", max_seq_length=16)
    (tmp_path / "texts.txt").write_text(("short\n" * 3 + "long " * 50 + "\n") * 2)
    for overflow, counts in (("truncate", (2, 0)), ("window", (0, 2))):
        model = load_model(folder, overrides={"tokenizer.overflow": overflow, "tokenizer.window_overlap": 4})
        job = plan_embedding(tmp_path / "texts.txt", tmp_path / f"{overflow}.npy", chunk_texts=3)
        report = job.run(lambda model=model: model, model.record)
        assert (report.truncated, report.windowed, report.overlong_lines) == (*counts, (4, 8))


# Interruptions.


def interrupted_job(model, source, output, *, after, chunk_texts=4, **options):
    """Embed some chunks, then stop as Ctrl-C does."""
    job = plan_embedding(source, output, chunk_texts=chunk_texts, **options)
    done = []
    report = job.run(lambda: model, model.record, progress=done.append, stop=lambda: len(done) >= after)
    assert not report.finished
    return report


def test_a_stopped_job_continues_and_computes_no_row_twice(model, inputs):
    report = interrupted_job(model, inputs / "texts.txt", inputs / "out.npy", after=3)
    assert (report.texts, report.resumed) == (12, 0)
    assert not (inputs / "out.npy").exists()
    before = model.report.texts
    report = embed_file(model, inputs / "texts.txt", inputs / "out.npy")
    assert (report.texts, report.resumed, report.computed) == (len(TEXTS), 12, len(TEXTS) - 12)
    assert model.report.texts - before == len(TEXTS) - 12
    embed_file(model, inputs / "texts.txt", inputs / "undisturbed.npy")
    assert (inputs / "out.npy").read_bytes() == (inputs / "undisturbed.npy").read_bytes()
    assert not (inputs / "out.npy.partial").exists()


def test_a_job_that_failed_while_finishing_keeps_everything_and_then_needs_no_model(model, inputs):
    """The disk was full, say: every text is done, and the next run only writes."""
    (inputs / "ids").mkdir()
    job = plan_embedding(inputs / "texts.txt", inputs / "out.jsonl", ids_file=inputs / "ids" / "ids.jsonl")
    (inputs / "ids").rmdir()
    with pytest.raises(InputError, match=r"(?s)cannot be written.*What is done is kept"):
        job.run(lambda: model, model.record)
    assert not (inputs / "out.jsonl").exists()
    (inputs / "ids").mkdir()

    def load_nothing():
        raise AssertionError("the model was loaded")

    report = job.run(load_nothing, model.record)
    assert (report.texts, report.computed) == (len(TEXTS), 0)
    ids, vectors = read(inputs / "out.jsonl")
    assert ids == [json.loads(line) for line in (inputs / "ids" / "ids.jsonl").read_text().splitlines()]
    assert np.array_equal(vectors, model.encode_document(TEXTS))


def test_a_changed_input_is_not_continued(model, inputs):
    source = inputs / "texts.txt"
    interrupted_job(model, source, inputs / "out.npy", after=2)
    text = source.read_text()
    source.write_text(text.replace("apple", "grape"))
    with pytest.raises(InputError, match=r"(?s)the input changed.*--restart"):
        embed_file(model, source, inputs / "out.npy")
    source.write_text(text)
    assert embed_file(model, source, inputs / "out.npy").resumed == 8, (
        "written again with the same content, it is the same"
    )


def test_another_identity_is_not_continued(model, static_folder, inputs):
    """A file whose first half has other vectors than its second would be useless and look fine."""
    interrupted_job(model, inputs / "texts.txt", inputs / "out.npy", after=2)
    other = load_model(static_folder, overrides={"vectors.normalize": True})
    with pytest.raises(PreferenceMismatchError, match=r"(?s)normalize.*--restart") as caught:
        embed_file(other, inputs / "texts.txt", inputs / "out.npy")
    assert caught.value.left != caught.value.right
    report = embed_file(other, inputs / "texts.txt", inputs / "out.npy", restart=True)
    assert report.resumed == 0
    assert np.allclose(np.linalg.norm(np.load(inputs / "out.npy")[0]), 1)


def test_other_options_are_not_continued(model, inputs):
    interrupted_job(model, inputs / "texts.txt", inputs / "out.npy", after=2)
    with pytest.raises(InputError, match="role was 'document', is 'query'"):
        embed_file(model, inputs / "texts.txt", inputs / "out.npy", role="query")


def test_an_interrupted_stream_keeps_nothing_and_says_so(model, tmp_path):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as stream:
        stream.write(b"red\n" * 20)
    with os.fdopen(read_end, "rb") as stream:
        job = plan_embedding(stream, tmp_path / "out.npy", input_format="txt", chunk_texts=4)
        done = []
        report = job.run(lambda: model, model.record, progress=done.append, stop=lambda: len(done) >= 2)
    assert not report.finished
    assert "Nothing was kept" in job.what_is_safe()
    assert list(tmp_path.iterdir()) == []


KILLER = """
import faulthandler, json, os, signal, sys, time
from pathlib import Path
import sentence_transformers
from embedprefs import load_model
from embedprefs.embedding import plan_embedding
from embedprefs.embedding.partial import Partial
from embedprefs.model.preferred import PreferredSentenceTransformer

# The parent imports, and computes nothing before the last fork: threads of torch or of a tokenizer do not live on in a
# child, which would wait for them for ever. Should one hang all the same, it says where.
folder, source, output = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
journal = Partial(output).journal

def embed():
    model = load_model(folder, overrides={"compute.threads": 1})
    report = plan_embedding(source, output, chunk_texts=20).run(lambda: model, model.record)
    return report, model.report.texts

kept = []
for moment in range(1, 8):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(100, exit=True)
        embed()
        os._exit(0)
    begun = len(journal.read_bytes().splitlines()) if journal.exists() else 0
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if journal.exists() and len(journal.read_bytes().splitlines()) >= begun + 5 * moment:
            time.sleep(0.0007 * moment)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.0005)
    with Partial(output).locked() as partial:
        found = partial.read()
    kept.append(found[1].rows if found else 0)
report, encoded = embed()
print(json.dumps({"kept": kept, "report": report.to_json(), "encoded": encoded}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("suffix", ["npy", "jsonl"])
def test_killed_at_any_moment_it_ends_with_the_same_bytes_and_no_row_twice(model, static_folder, tmp_path, suffix):
    """kill -9 seven times over, at different moments; what the journal had is never computed again."""
    source = tmp_path / "texts.txt"
    source.write_text("".join(f"red apple {'sky ' * (number % 7)}{number}\n" for number in range(6_000)))
    output = tmp_path / f"out.{suffix}"
    arguments = [str(path) for path in (static_folder, source, output)]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLER), *arguments],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    kept = result["kept"]
    assert kept == sorted(kept)
    assert 0 < kept[0] < kept[-1] < 6_000, "the kills have to fall in the middle"
    assert result["report"]["resumed"] == kept[-1]
    assert result["encoded"] == 6_000 - kept[-1]
    undisturbed = tmp_path / f"undisturbed.{suffix}"
    embed_file(model, source, undisturbed)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert not Partial(output).folder.exists()


MEASURE = """
import json, resource, sys
import psutil
from embedprefs import load_model
from embedprefs.embedding import embed_file

model = load_model(sys.argv[1])
model.encode_document(["red"] * 100)
loaded = psutil.Process().memory_info().rss
report = embed_file(model, sys.argv[2], sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"texts": report.texts, "added": peak - loaded, "seconds": report.seconds}))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "jsonl"])
def test_a_million_short_lines_hold_less_than_300_mb(static_folder, tmp_path, suffix):
    """Beyond the model; neither the texts nor the vectors nor the ids are ever in memory as a whole."""
    source = tmp_path / "texts.txt"
    with source.open("w") as stream:
        stream.writelines(f"red apple number {number} under a blue sky\n" for number in range(1_000_000))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(static_folder), str(source), str(tmp_path / f"out.{suffix}")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["texts"] == 1_000_000
    assert result["added"] < 300e6
    assert _rows_in(tmp_path / f"out.{suffix}") == 1_000_000


def _rows_in(path):
    """Count the rows of a file, whatever its size: equal vectors take next to nothing in some."""
    if path.suffix == ".parquet":
        return parquet.read_metadata(path).num_rows
    if path.suffix == ".jsonl":
        with path.open("rb") as stream:
            return sum(1 for _ in stream)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return len(arrays["vectors"])
    return len(np.load(path, mmap_mode="r"))
