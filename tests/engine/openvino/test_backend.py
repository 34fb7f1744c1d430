"""Running a converted model: threads, streams, processes, numerics, and what is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedprefs.engine.backend import Backend, Finish, Overlapping
from embedprefs.engine.openvino.backend import OpenVINOBackend
from embedprefs.engine.openvino.conversion import convert
from embedprefs.engine.openvino.description import Description
from embedprefs.errors import InvalidPreferenceError, ModelFilesError, ResourceError


@pytest.fixture(scope="module")
def bert(converted):
    """Return a converted BERT's model and folder."""
    return converted("bert", pooling="mean")


@pytest.fixture(scope="module")
def backend(bert):
    """Return that BERT in float32 on one thread."""
    return OpenVINOBackend(bert[1], numerics="float32", threads=1)


def only(backend):
    """Return the one compiled model of a backend that has just been made."""
    (compiled,) = backend._compiled.values()
    return compiled


def test_it_is_a_backend(backend):
    """It has every attribute and method of the protocol."""
    assert isinstance(backend, Backend)
    assert isinstance(backend, Overlapping)
    assert (backend.name, backend.numerics, backend.dimension) == ("openvino", "float32", 32)


def test_no_rows_give_no_vectors(backend):
    """Empty inputs have empty results of the right width."""
    nothing = np.empty((0, 5), dtype=np.int64)
    assert backend.vectors(nothing, nothing).shape == (0, 32)
    assert backend.token_vectors(nothing, nothing).shape == (0, 5, 32)


def test_results_are_the_callers_own(backend, tiny):
    """A later call does not change what an earlier one returned."""
    first_ids, first_mask = tiny.batch((9, 4), padding=0, seed=1)
    kept = backend.vectors(first_ids, first_mask)
    before = kept.copy()
    backend.vectors(*tiny.batch((9, 4), padding=0, seed=2))
    np.testing.assert_array_equal(kept, before)
    kept[:] = 0  # writable
    np.testing.assert_array_equal(backend.vectors(first_ids, first_mask), before)


def test_precision_is_always_set(bert):
    """The compiled model computes in the format that was asked for, never in one that OpenVINO picked by itself."""
    exact = OpenVINOBackend(bert[1], numerics="float32", threads=1)
    assert only(exact).model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert only(exact).model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


@pytest.mark.parametrize(
    ("threads", "streams", "small", "found"),
    [
        (1, None, True, 1),
        (2, None, True, 2),
        (8, None, True, 4),
        (2, None, False, 1),
        (8, None, False, 2),
        (3, 9, True, 3),
    ],
)
def test_threads_and_streams(bert, tiny, monkeypatch, threads, streams, small, found):
    """A batch takes the threads that are stated; a small model has a stream for each, a large one for every four."""
    if not small:
        monkeypatch.setattr("embedprefs.engine.openvino.backend._SMALL_MODEL", 0)
    backend = OpenVINOBackend(bert[1], threads=threads, streams=streams)
    assert only(backend).streams == 1  # a single text has all threads
    backend.vectors(*tiny.batch((40,) * 16, padding=0))
    several = list(backend._compiled.values())[-1]
    assert several.model.get_property("INFERENCE_NUM_THREADS") == min(threads, os.cpu_count())  # it takes what is there
    assert several.streams == min(found, os.cpu_count())
    assert not several.model.get_property("ENABLE_CPU_PINNING")


def test_a_few_short_texts_are_not_divided(bert, tiny):
    """What is over in a moment takes all threads together, and no second compiled form."""
    backend = OpenVINOBackend(bert[1], threads=2)
    backend.vectors(*tiny.batch((9, 4, 6, 8), padding=0))
    assert [streams for _, streams in backend._compiled] == [1]


def test_streams_share_a_batch(bert, backend, tiny):
    """A batch that is divided among streams has the same vectors in the same order, and so has a single text."""
    ids, mask = tiny.batch((40, 33, 20, 12, 9, 6, 3), padding=0)
    several = OpenVINOBackend(bert[1], numerics="float32", threads=3, streams=3)
    np.testing.assert_allclose(several.vectors(ids, mask), backend.vectors(ids, mask), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        several.vectors(ids[:1], mask[:1]), backend.vectors(ids[:1], mask[:1]), rtol=0, atol=1e-6
    )
    assert {(output, compiled.streams) for (output, _), compiled in several._compiled.items()} == {
        ("sentence_embedding", min(3, os.cpu_count())),
        ("sentence_embedding", 1),
    }


@pytest.mark.parametrize("streams", [1, 2])
def test_calls_from_several_threads(bert, tiny, streams):
    """Calls side by side get their own vectors."""
    backend = OpenVINOBackend(bert[1], numerics="float32", threads=2, streams=streams)
    batches = [tiny.batch((7 + number, 3, 5), padding=0, seed=number) for number in range(8)]
    expected = [backend.vectors(*batch) for batch in batches]
    barrier = threading.Barrier(4)

    def repeated(start: int) -> bool:
        barrier.wait()
        order = [(start + step) % len(batches) for step in range(40)]
        return all(np.allclose(backend.vectors(*batches[at]), expected[at], rtol=0, atol=1e-6) for at in order)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(repeated, range(4))) == [True] * 4


def rows_of(ids, mask):
    """Return rows without their padding."""
    return [row[:count].astype(np.int32) for row, count in zip(ids, mask.sum(axis=1), strict=True)]


@pytest.mark.parametrize("streams", [1, 2])
def test_batches_under_way_have_their_own_vectors(bert, backend, tiny, streams):
    """What is begun before the others are waited for equals what is computed alone, in whatever order it is taken."""
    other = OpenVINOBackend(bert[1], numerics="float32", threads=2, streams=streams)
    # Long ones and short ones: they are computed by different compiled forms.
    batches = [tiny.batch((20 + 11 * number, 9, 5, 3), padding=0, seed=number) for number in range(9)]
    submitted = [other.submit(rows_of(*batch)) for batch in batches]
    for (ids, mask), one in reversed(list(zip(batches, submitted, strict=True))):
        np.testing.assert_allclose(one.result(), backend.vectors(ids, mask), rtol=0, atol=1e-6)
        assert (one.padding, one.clipped) == (ids.size - mask.sum(), 0)


def test_callers_who_hold_batches_do_not_wait_for_one_another(bert, tiny):
    """More batches under way than there are streams, begun by several threads before any is taken, all end."""
    backend = OpenVINOBackend(bert[1], numerics="float32", threads=2, streams=2)
    batch = tiny.batch((70, 65, 60, 66), padding=0)
    expected = backend.vectors(*batch)
    barrier = threading.Barrier(4)

    def held(_number: int) -> bool:
        begun = []
        for _ in range(3):
            begun.append(backend.submit(rows_of(*batch)))
            barrier.wait(60)
        return all(np.allclose(one.result(), expected, rtol=0, atol=1e-6) for one in begun)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(held, range(4))) == [True] * 4


def test_vectors_are_given_whole(backend, tiny):
    """What the backend cannot do it refuses: nothing that is asked for is left out in silence."""
    with pytest.raises(ValueError, match="whole vectors"):
        backend.submit(rows_of(*tiny.batch((9, 4), padding=0)), finish=Finish(truncate_dim=8))


def test_no_rows_can_be_submitted(backend):
    """Nothing is begun for nothing."""
    assert backend.submit([]).result().shape == (0, 32)


@pytest.mark.parametrize(
    ("streams", "count", "tokens", "batch_tokens", "most", "sizes"),
    [
        (1, 20, 50, 1000, 64, [20]),
        (2, 20, 50, 1000, 64, [5, 5, 5, 5]),
        (2, 8, 50, 1000, 64, [5, 3]),  # less would not be worth a stream of its own
        (2, 400, 50, 1000, 64, [20] * 20),
        (2, 20, 50, None, 64, [10, 10]),
        (2, 20, 50, None, 4, [4] * 5),
        (2, 3, 50, None, 64, [2, 1]),
    ],
)
def test_every_stream_has_batches(bert, streams, count, tokens, batch_tokens, most, sizes):
    """Few texts are divided so that no stream is idle; never into more than the budget and the stated size allow."""
    backend = OpenVINOBackend(bert[1], threads=2, streams=streams)
    plan = backend.plan(np.full(count, tokens), batch_tokens=batch_tokens, max_batch_size=most)
    assert [len(batch) for batch in plan] == sizes
    assert sorted(np.concatenate(plan)) == list(range(count))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_process_computes(bert, tiny):
    """A process that was forked after loading computes the same vectors, where OpenVINO's threads stayed behind."""
    backend = OpenVINOBackend(bert[1], numerics="float32", threads=2, streams=2)
    ids, mask = tiny.batch((9, 4, 6, 8), padding=0)
    expected = backend.vectors(ids, mask)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(backend.vectors(ids, mask)))
    process.start()
    process.join(60)
    hung = process.is_alive()
    process.kill()
    assert not hung
    np.testing.assert_allclose(queue.get(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("streams", [1, 2])
def test_failed_call_leaves_the_backend_usable(bert, backend, tiny, streams):
    """After inputs that do not fit together the same requests compute the next batch."""
    other = OpenVINOBackend(bert[1], numerics="float32", threads=2, streams=streams)
    ids, mask = tiny.batch((9, 4, 6, 8), padding=0)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            other.vectors(ids, mask[:, :-2])
        np.testing.assert_allclose(other.vectors(ids, mask), backend.vectors(ids, mask), rtol=0, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded by Linux's limit")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_smaller_batch_succeeds_after_memory_ran_out(bert, threads, begun):
    """Where a batch does not fit into memory, the error says so to the pipeline, and a smaller batch then computes.

    With one thread OpenVINO may lose such an error, and hand out what it computed before.
    """
    program = """
import resource, sys
import numpy as np
from pathlib import Path
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.openvino.backend import OpenVINOBackend

backend = OpenVINOBackend(Path(sys.argv[1]), threads=int(sys.argv[2]))


def vectors(ids):
    if sys.argv[3] == "True":
        return backend.submit(list(ids.astype(np.int32))).result()
    return backend.vectors(ids, np.ones_like(ids))


small = np.full((4, 9), 7)
expected = vectors(small)
rows = np.arange(40_000 * 2).reshape(40_000, 2) % 100 + 5
vectors(rows)  # another batch of as many rows, whose vectors must not be handed out again
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (taken + 200 * 2**20, before[1]))
huge = np.full((40_000, 64), 7)
try:
    vectors(huge)
    print("computed")
except (RuntimeError, MemoryError) as error:
    print(is_out_of_memory(error))
resource.setrlimit(resource.RLIMIT_AS, before)  # what was freed lies in pieces, and a model takes whole ones
print(np.array_equal(vectors(small), expected))
"""
    command = [sys.executable, "-c", program, str(bert[1]), str(threads), str(begun)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "True"]), result.stderr


def test_closed_backend_says_so(bert, tiny):
    """After `close` a call names the reason; closing twice does no harm."""
    backend = OpenVINOBackend(bert[1], threads=1)
    backend.close()
    backend.close()
    with pytest.raises(ResourceError, match="closed"):
        backend.vectors(*tiny.batch((4,), padding=0))


def test_compiled_form_is_kept_and_taken(bert, tiny, tmp_path):
    """The compiled form is written once, nothing half-written stays, and what is taken from there computes the same."""
    ids, mask = tiny.batch((9, 4), padding=0)
    first = OpenVINOBackend(bert[1], threads=1, compiled_cache=tmp_path / "compiled").vectors(ids, mask)
    blobs = list((tmp_path / "compiled").rglob("*.blob"))
    stamp = blobs[0].stat().st_mtime_ns
    assert len(blobs) == 1
    again = OpenVINOBackend(bert[1], threads=1, compiled_cache=tmp_path / "compiled").vectors(ids, mask)
    np.testing.assert_array_equal(first, again)
    assert blobs[0].stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "compiled").iterdir() if path.name.startswith("new-")] == []


@pytest.mark.parametrize("left", [0, 100, 3000])
def test_damaged_compiled_form_is_compiled_again(bert, tiny, tmp_path, left):
    """A compiled form that was cut off is no reason to fail, nor to compute anything else."""
    ids, mask = tiny.batch((9, 4), padding=0)
    folder = tmp_path / "compiled"
    first = OpenVINOBackend(bert[1], threads=1, compiled_cache=folder).vectors(ids, mask)
    blob = next(folder.rglob("*.blob"))
    content = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(content[:left])
    again = OpenVINOBackend(bert[1], threads=1, compiled_cache=folder).vectors(ids, mask)
    np.testing.assert_array_equal(first, again)


def test_numerics_must_fit_the_model(bert):
    """A model with full weights is not said to be int8."""
    with pytest.raises(ValueError, match="has full weights, not int8"):
        OpenVINOBackend(bert[1], numerics="int8", threads=1)


def test_threads_below_one_are_refused(bert):
    """No threads is no wish that can be met."""
    with pytest.raises(ValueError, match="at least 1"):
        OpenVINOBackend(bert[1], threads=0)


@pytest.mark.parametrize("absent", ["model.xml", "model.bin", "embedprefs.json"])
def test_absent_files_are_named(bert, tmp_path, absent):
    """A folder that lacks a file is refused with the file's name."""
    folder = shutil.copytree(bert[1], tmp_path / "copy", ignore=shutil.ignore_patterns("compiled"))
    (folder / absent).unlink()
    with pytest.raises(ModelFilesError, match=absent):
        OpenVINOBackend(folder, threads=1)


def test_damaged_model_is_refused(bert, tmp_path):
    """A graph that OpenVINO cannot read is refused with what to do."""
    folder = shutil.copytree(bert[1], tmp_path / "copy", ignore=shutil.ignore_patterns("compiled"))
    (folder / "model.xml").write_text("<net", encoding="utf-8")
    with pytest.raises(ModelFilesError, match="Remove this folder"):
        OpenVINOBackend(folder, threads=1)


@pytest.mark.parametrize(
    ("change", "told"), [({"format": 99}, "format 99"), ({"poolings": None}, "cannot be read"), ({"more": 1}, "cannot")]
)
def test_other_description_is_refused(bert, tmp_path, change, told):
    """A description of another version, or a damaged one, is refused."""
    folder = shutil.copytree(bert[1], tmp_path / "copy", ignore=shutil.ignore_patterns("compiled"))
    file = folder / Description.FILE
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(ModelFilesError, match=told):
        OpenVINOBackend(folder, threads=1)


def test_running_needs_no_torch(bert):
    """Reading and running a converted model imports neither torch nor transformers nor sentence-transformers."""
    program = (
        "import sys, numpy as np; from pathlib import Path;"
        "from embedprefs.engine.openvino.backend import OpenVINOBackend;"
        "backend = OpenVINOBackend(Path(sys.argv[1]), threads=1);"
        "ids = np.array([[5, 6, 7]]); print(backend.vectors(ids, np.ones_like(ids)).shape);"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'nncf'} & set(sys.modules); print(sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(bert[1])], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == ["(1, 32)", "[]"]


# What is refused before converting ------------------------------------------------------------------------------------


def test_converting_leaves_the_model_as_it_was(tmp_path, tiny):
    """Mode, attention, weights and results of the model are the same after a conversion."""
    model = tiny.model(tmp_path / "model", "bert")
    model.train()
    model[1].eval()
    attention = model[0].auto_model.config._attn_implementation
    ids, mask = tiny.batch((9, 4), padding=0)
    (tmp_path / "converted").mkdir()
    convert(model, tmp_path / "converted")
    assert model[0].training
    assert not model[1].training
    assert model[0].auto_model.config._attn_implementation == attention
    assert all(parameter.requires_grad for parameter in model.parameters())
    backend = OpenVINOBackend(tmp_path / "converted", threads=1)
    host = tiny.host_vectors(model.eval(), ids, mask)["sentence_embedding"]
    np.testing.assert_allclose(backend.vectors(ids, mask), host, rtol=0, atol=1e-5)


def test_half_precision_is_refused(tmp_path, tiny):
    """A conversion starts from float32: rounded weights would pass for full ones."""
    model = tiny.model(tmp_path / "model", "bert").bfloat16()
    with pytest.raises(InvalidPreferenceError, match="loaded in bfloat16"):
        convert(model, tmp_path)


def test_other_modules_are_refused(tmp_path, tiny):
    """A module that is not the host's own, or works on something else, is refused by name."""
    import torch
    from sentence_transformers.base.modules import Normalize

    class Own(torch.nn.Module):
        def forward(self, features):
            return features

    model = tiny.model(tmp_path / "model", "bert")
    model.append(Own())
    with pytest.raises(InvalidPreferenceError, match=r"module .*Own is not converted"):
        convert(model, tmp_path)
    model = tiny.model(tmp_path / "second", "bert")
    model.append(Normalize("token_embeddings"))
    with pytest.raises(InvalidPreferenceError, match="works on token_embeddings"):
        convert(model, tmp_path)


def test_settings_that_a_trace_would_freeze_are_refused(tmp_path, tiny):
    """The loaded model is asked itself: its configuration or its padding may have been changed since it was read."""
    model = tiny.model(tmp_path / "model", "bert")
    model.tokenizer.padding_side = "left"
    with pytest.raises(InvalidPreferenceError, match="padded on the left"):
        convert(model, tmp_path)
    model.tokenizer.padding_side = "right"
    model[0].auto_model.config.is_decoder = True
    with pytest.raises(InvalidPreferenceError, match="decoder"):
        convert(model, tmp_path)


def test_adapters_are_refused(tmp_path, tiny):
    """An adapter laid over the model keeps it on torch."""
    peft = pytest.importorskip("peft")
    model = tiny.model(tmp_path / "model", "bert")
    model.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query"]))
    with pytest.raises(InvalidPreferenceError, match="adapter"):
        convert(model, tmp_path)
