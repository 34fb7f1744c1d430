"""Where the time of a converted model goes: its operations by kind, and how near the linear layers come to the peak.

    python benchmarks/operations.py [--numerics float32 bfloat16 int8] [--model FOLDER] [--data FOLDER]
    python benchmarks/operations.py --long 8192

One stream of one thread, so that nothing waits: batches of real paragraphs through all-MiniLM-L6-v2, or with --long one
text of random tokens through a ModernBERT of base size with random weights, with every processor. OpenVINO counts the
time of each operation itself. "Linear layers" are its products with constant weights, with whatever it computes within
them (bias, activation, sum); "attention" are the kernels that it fuses, which in these models hold nothing else.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from figures import aligned, quieten
from materials import data_folder, minilm_folder, paragraphs, random_modernbert
from numpy.typing import NDArray

from embedprefs.benchmarking.multiplication import measure_peak
from embedprefs.engine.batching import padded, plan_batches
from embedprefs.engine.openvino.backend import native_bfloat16
from embedprefs.engine.openvino.conversion import convert
from embedprefs.engine.openvino.quantisation import built_in_texts, quantise
from embedprefs.engine.openvino.telemetry import import_openvino
from embedprefs.engine.tokenising import TextTokenizer
from embedprefs.hardware.processor import bfloat16_pays_here

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]

#: OpenVINO's kinds of nodes -> what they are in these models.
KINDS = {"FullyConnected": "linear layers", "FullyConnectedQuantizedLegacy": "linear layers", "Subgraph": "attention"}
#: Texts of all batches, and tokens of one.
TEXTS, BATCH_TOKENS = 150, 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numerics", nargs="+", choices=("float32", "bfloat16", "int8"), help="number formats")
    parser.add_argument("--model", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, help="folder of the real texts")
    parser.add_argument("--long", type=int, metavar="TOKENS", help="one text of so many tokens through a ModernBERT")
    arguments = parser.parse_args()
    quieten()

    from sentence_transformers import SentenceTransformer

    usual = ["float32", "bfloat16"] if arguments.long else ["float32", "bfloat16", "int8"]
    threads = (os.cpu_count() or 1) if arguments.long else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = random_modernbert(folder / "model", "base") if arguments.long else minilm_folder(arguments.model)
        model = SentenceTransformer(str(source), device="cpu", local_files_only=True)
        tokenizer = TextTokenizer.from_file(Path(source) / "tokenizer.json", limit=model.max_seq_length)
        if arguments.long:
            ids = np.random.default_rng(0).integers(5, 50_000, size=(1, arguments.long))
            batches = [(ids, np.ones_like(ids))]
        else:
            batches = batches_of(paragraphs(data_folder(arguments.data), TEXTS), tokenizer)
        converted = folder / "float32"
        converted.mkdir()
        convert(model, converted)
        inner = model[0].auto_model.config
        for numerics in arguments.numerics or usual:
            if numerics == "bfloat16" and not native_bfloat16():
                print("bfloat16: not native to this processor")
                continue
            files = converted
            if numerics == "int8":
                files = folder / "int8"
                files.mkdir()
                quantise(converted, files, built_in_texts(), tokenizer=tokenizer)
            peak = measure_peak(inner.hidden_size, inner.intermediate_size, numerics, threads=threads)
            report(
                f"{numerics}, {threads} thread{'s' * (threads > 1)}",
                times(files / "model.xml", numerics, batches, threads),
                operations=linear_operations(converted / "model.xml") * sum(ids.size for ids, _ in batches),
                peak=peak.operations_per_second,
            )


def batches_of(texts: list[str], tokenizer: TextTokenizer) -> list[Batch]:
    """Return token ids and masks, as the engine batches them."""
    rows = tokenizer.tokenise(texts).ids
    plan = plan_batches([len(row) for row in rows], batch_tokens=BATCH_TOKENS, max_batch_size=64)
    return [padded([rows[at] for at in batch], 0) for batch in plan]


def linear_operations(file: Path) -> int:
    """Return the floating-point operations of a token's products with constant weights."""
    model = import_openvino().Core().read_model(file)
    weights = [
        node.input_value(1).get_node()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul" and len(node.input_value(0).get_partial_shape()) == 3
    ]
    return sum(2 * int(np.prod(node.get_output_shape(0))) for node in weights if node.get_type_name() == "Constant")


def times(file: Path, numerics: str, batches: list[Batch], threads: int) -> Counter[str]:
    """Return the seconds of each kind of operation over all batches, after a first turn that warms up."""
    core: Any = import_openvino().Core()
    model = core.read_model(file)
    for result in list(model.get_results()):
        if "sentence_embedding" not in result.input_value(0).get_names():
            model.remove_result(result)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16"
        if numerics == "bfloat16" or (numerics == "int8" and bfloat16_pays_here())
        else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "PERF_COUNT": True,
    }
    compiled = core.compile_model(model, "CPU", settings)
    seconds: Counter[str] = Counter()
    for turn in range(2):
        for ids, mask in batches:
            # A request of its own for each: OpenVINO gives the mean over all calls of one.
            request = compiled.create_infer_request()
            request.infer({"input_ids": ids, "attention_mask": mask})
            if turn == 0:
                continue
            for operation in request.profiling_info:
                kind = KINDS.get(operation.node_type, "everything else")
                seconds[kind] += operation.real_time.total_seconds()
    return seconds


def report(title: str, seconds: Counter[str], *, operations: int, peak: float | None) -> None:
    """Print one table."""
    whole = seconds.total()
    rows = [["", "seconds", "share", "GFLOP/s", "of the peak"]]
    for kind, taken in seconds.most_common():
        speed = operations / taken if kind == "linear layers" else None
        rows.append(
            [
                kind,
                f"{taken:.2f}",
                f"{taken / whole:.0%}",
                f"{speed / 1e9:.0f}" if speed else "",
                f"{speed / peak:.2f}" if speed and peak else "",
            ]
        )
    shown = f"{peak / 1e9:.0f} GFLOP/s" if peak else "not known"
    print(f"\n{title}: {whole:.2f} s; the fastest product of the model's sizes makes {shown}")
    print("\n".join(aligned(rows)), flush=True)


if __name__ == "__main__":
    main()
