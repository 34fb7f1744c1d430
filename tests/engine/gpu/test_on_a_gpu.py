"""What only a GPU can show: the kernel itself, pinned memory and streams, and what is compiled. Skipped without one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedprefs import EmbedPrefsWarning, load_model, testing
from embedprefs.engine.gpu.attention import kernel_problem
from embedprefs.engine.gpu.backend import PackedBackend


def _why_not_here() -> str | None:
    if not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "needs compute capability 8.0"
    return kernel_problem()


pytestmark = pytest.mark.skipif(_why_not_here() is not None, reason=str(_why_not_here()))

TEXTS = [f"text {number} " + "and some more of it " * (number % 60) for number in range(3000)]
WRITERS: dict[str, Callable[..., Path]] = {
    "bert": testing.tiny_bert_folder,
    "roberta": testing.tiny_roberta_folder,
    "modernbert": testing.tiny_modernbert_folder,
}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("on_a_gpu") / request.param)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Measure anew: what an earlier run kept says nothing about this one."""
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    yield
    torch.compiler.reset()


def load(folder: Path, **overrides: Any) -> Any:
    """Random weights keep less of a cosine in half precision than trained ones, so that "fast" is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        values = {"compute.device": "cuda:0", "compute.exactness": "fast", **overrides}
        return load_model(folder, overrides=values)


@pytest.fixture(scope="module")
def exact(folder: Path) -> Any:
    """The vectors of the host's modules on the processor, in float32."""
    return load(folder, **{"compute.device": "cpu", "compute.backend": "torch"}).encode_document(TEXTS)


def test_auto_computes_without_padding_and_close_to_float32(folder: Path, exact: np.ndarray) -> None:
    model = load(folder)
    assert isinstance(model.engine.backend, PackedBackend), model.engine.reason
    with model.collect_report() as report:
        found = model.encode_document(TEXTS)
    assert (report.padding, report.numerics, report.handed_over) == (0, "bfloat16", 0)
    assert (found * exact).sum(axis=1).min() > 0.99
    assert model.engine.cosine > 0.99


def test_a_text_has_its_vector_bit_for_bit_in_every_run(folder: Path) -> None:
    """Nothing is added in an order that changes: copies, streams and pooling are the same each time."""
    model = load(folder)
    first = model.encode_document(TEXTS)
    for _ in range(3):
        np.testing.assert_array_equal(model.encode_document(TEXTS), first)


def test_compiled_it_computes_the_same(folder: Path, exact: np.ndarray) -> None:
    model = load(folder, **{"compute.compile": True, "compute.batch_tokens": 8192})
    found = model.encode_document(TEXTS)
    assert model.engine.backend.compiled.runs
    assert (found * exact).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("precision", ["ubinary", "binary"])
def test_bits_are_made_on_the_device(folder: Path, precision: str) -> None:
    model = load(folder)
    vectors = model.encode_document(TEXTS)
    bits = np.unpackbits(model.encode_document(TEXTS, precision=precision).view(np.uint8), axis=1)
    if precision == "binary":
        bits[:, ::8] = 1 - bits[:, ::8]
    np.testing.assert_array_equal(bits, (vectors > 0).astype(np.uint8))


def test_memory_that_runs_out_halves_the_batches(folder: Path, exact: np.ndarray) -> None:
    """With little memory beyond what is taken already, the call goes on and loses nothing."""
    model = load(folder, **{"compute.batch_tokens": 1_000_000, "compute.max_batch_size": 100_000})
    model.encode_document(TEXTS[:10])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 16 * 2**20) / total)
    try:
        found = model.encode_document(TEXTS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (found * exact).sum(axis=1).min() > 0.99
    assert model.report.reduced > 0
