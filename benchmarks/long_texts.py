"""What one long text costs a ModernBERT: the host's dense masks beside blocked local attention, on torch and OpenVINO.

    python benchmarks/long_texts.py
    python benchmarks/long_texts.py --length 2048 --layers 6 --rounds 5

The model has the size of ModernBERT-base and the random weights that its training begins with, so that no hub is
needed. Every way to run it takes its turn in each round, in one process; ratios are of medians, to the plain host in
float32. Cosines to it say which numbers are computed, not how good a trained model would be. Seconds of the processor
stand beside those of the clock: on a machine that others use as well they vary less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import aligned, quieten
from materials import random_modernbert

Vectors = npt.NDArray[np.float32]
Way = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Vectors]

#: The length beside which the cost of a token is judged.
SHORT = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192, help="tokens of the text")
    parser.add_argument("--layers", type=int, default=22, help="layers of the model, every third of them global")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each way")
    parser.add_argument("--without-host", action="store_true", help="leave the host out, which takes the longest")
    arguments = parser.parse_args()
    quieten()

    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = built(Path(folder), arguments.layers)
        ways = ways_to_run(model, Path(folder), arguments.threads)
        if arguments.without_host:
            del ways["host float32"]
        print(f"{arguments.layers} layers, {arguments.threads} threads, {arguments.rounds} rounds")
        for length in sorted({SHORT, arguments.length}):
            report(length, measured(ways, length, arguments.rounds))


def built(folder: Path, layers: int) -> Any:
    """Return a random model of base width, in float32 on the processor."""
    from sentence_transformers import SentenceTransformer

    source = random_modernbert(folder / "model", "base")
    model = SentenceTransformer(str(source), device="cpu", local_files_only=True)
    inner = model[0].auto_model
    inner.layers = inner.layers[:layers]
    inner.config.num_hidden_layers = layers
    inner.config.layer_types = inner.config.layer_types[:layers]
    return model.eval()


def ways_to_run(model: Any, folder: Path, threads: int) -> dict[str, Way]:
    """Return what computes a batch's vectors, by name; OpenVINO where it is installed."""
    from embedprefs import MissingExtraError
    from embedprefs.engine.attention import ATTENTION, register

    register()
    ways: dict[str, Way] = {
        "host float32": on_torch(model, "sdpa"),
        "torch, local, float32": on_torch(model, ATTENTION),
    }
    converted = folder / "converted"
    converted.mkdir()
    try:
        from embedprefs.engine.openvino.backend import OpenVINOBackend, native_bfloat16
        from embedprefs.engine.openvino.conversion import convert

        convert(model, converted)
        ways["openvino float32"] = OpenVINOBackend(converted, numerics="float32", threads=threads).vectors
        if native_bfloat16():
            ways["openvino bfloat16"] = OpenVINOBackend(converted, numerics="bfloat16", threads=threads).vectors
    except MissingExtraError as error:
        print(error)
    return ways


def on_torch(model: Any, attention: str) -> Way:
    """Return the model's own modules with this attention."""
    import torch

    def vectors(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Vectors:
        with torch.inference_mode(), attention_of(model, attention):
            features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            found: Vectors = model({**features, "modality": "text"})["sentence_embedding"].numpy()
        return found

    return vectors


@contextmanager
def attention_of(model: Any, attention: str) -> Iterator[None]:
    """Run a model with another attention for a while."""
    inner = model[0].auto_model
    before = inner.config._attn_implementation  # noqa: SLF001 - transformers has no public word for reading it
    inner.set_attn_implementation(attention)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def measured(ways: dict[str, Way], length: int, rounds: int) -> dict[str, tuple[float, float, Vectors]]:
    """Return seconds of the clock and of the processor, medians, and the vectors, of each way for one text."""
    ids = np.random.default_rng(0).integers(5, 50_000, size=(1, length))
    mask = np.ones_like(ids)
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    vectors = {name: way(ids[:, :16], mask[:, :16]) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            vectors[name] = way(ids, mask)
            clock[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    return {name: (statistics.median(clock[name]), statistics.median(processor[name]), vectors[name]) for name in ways}


def report(length: int, found: dict[str, tuple[float, float, Vectors]]) -> None:
    """Print one table."""
    reference = next(iter(found))
    seconds, used, exact = found[reference]
    rows = [["", "seconds", "times faster", "by processor time", "ms a token", "cosine"]]
    for name, (clock, processor, vectors) in found.items():
        cosine = float((vectors * exact).sum() / np.linalg.norm(vectors) / np.linalg.norm(exact))
        rows.append(
            [
                name,
                f"{clock:.3f}",
                f"{seconds / clock:.2f}",
                f"{used / processor:.2f}",
                f"{1000 * clock / length:.3f}",
                f"{cosine:.7f}",
            ]
        )
    print(f"\none text of {length} tokens, beside {reference}")
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
