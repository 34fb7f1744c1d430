"""What the engine is worth on a GPU: the plain host's ways beside ours, for short, mixed and long texts.

    python benchmarks/gpu.py [--quick] [--device cuda:0] [--output FILE]

One command for a machine with an NVIDIA GPU; it needs no hub. Two models with random weights, of the sizes of
all-MiniLM-L6-v2 and ModernBERT-large, are written to a temporary folder (1.7 GB). All ways take turns in one process;
figures are medians of the rounds. "Highest memory" is what torch's allocator held at most on the GPU in one pass, model
included. Cosines are those to the host in float32; with random weights half precision keeps less of them than with
trained ones.

Exit code 0: measured; 3: there is no CUDA device here.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import aligned, quieten
from materials import random_minilm, random_modernbert, text_of_tokens

from embedprefs import EmbedPrefsError, load_model
from embedprefs.benchmarking import Timings, built_in_texts, compare_vectors, short_texts, take_turns
from embedprefs.cache import without_cache
from embedprefs.hardware import detect_hardware

NO_DEVICE = 3
GIBIBYTE = 1024**3

#: Ways of the plain host: name -> arguments of its constructor.
HOST_WAYS: Mapping[str, Mapping[str, Any]] = {
    "host default": {},
    "host bfloat16": {"model_kwargs": {"dtype": "bfloat16"}},
    "host bfloat16, flash-attn": {"model_kwargs": {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}},
}
#: Ours: name -> preferences that differ from the defaults.
OUR_WAYS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours, padded": {"compute.attention": "sdpa"},
    "ours, compiled": {"compute.compile": True},
    "ours, exact": {"compute.exactness": "exact"},
}


@dataclass(frozen=True)
class Row:
    """One way to embed one set of texts."""

    model: str
    texts: str
    way: str
    runs: str
    texts_per_second: float
    tokens_per_second: float
    times_host: float
    spread: float
    highest_memory: int
    """Bytes."""
    cosine_mean: float
    cosine_least: float
    seconds: tuple[float, ...]

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        return [
            self.texts,
            self.way,
            self.runs,
            f"{self.texts_per_second:,.0f}",
            f"{self.tokens_per_second:,.0f}",
            f"{self.times_host:.2f}",
            f"{self.spread:.0%}",
            f"{self.highest_memory / GIBIBYTE:.2f}",
            f"{self.cosine_mean:.6f}",
            f"{self.cosine_least:.6f}",
        ]


HEADINGS = [
    "texts", "way", "runs", "texts/s", "tokens/s", "times host", "spread", "highest GiB", "cosine mean", "least",
]  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model and the texts it is measured on."""

    name: str
    write: Callable[[Path], Path]
    longest: int
    """Tokens of the long texts."""
    counts: tuple[int, int, int]
    """How many short, mixed and long texts."""


def models() -> list[Model]:
    """Return what is measured; the counts keep a pass of the plain host within some seconds on a recent GPU."""
    return [
        Model("MiniLM-L6 in size, random weights", random_minilm, 256, (100_000, 10_000, 8000)),
        Model(
            "ModernBERT-large in size, random weights",
            lambda folder: random_modernbert(folder, "large"),
            8192,
            (20_000, 4000, 48),
        ),
    ]


def text_sets(folder: Path, model: Model, share: float) -> dict[str, list[str]]:
    """Return the texts of each set; no two of a set are the same."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    short, mixed, long = (max(8, int(count * share)) for count in model.counts)
    body = text_of_tokens(tokenizer, model.longest - 8)
    return {
        "short": list(short_texts(short)),
        "mixed": built_in_texts(min(mixed, 10_000)),
        "long": [f"{number} {body}" for number in range(long)],
    }


def lengths(folder: Path, texts: Sequence[str], longest: int) -> int:
    """Return the tokens that are read of all texts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return sum(min(len(encoding), longest) for encoding in tokenizer.encode_batch_fast(list(texts)))


def ways_of(folder: Path, device: str) -> tuple[dict[str, tuple[Any, str]], dict[str, str]]:
    """Load every way that runs here; return each with what it runs, and why the others do not."""
    from sentence_transformers import SentenceTransformer

    here: dict[str, tuple[Any, str]] = {}
    refused: dict[str, str] = {}
    for name, arguments in HOST_WAYS.items():
        try:
            model = SentenceTransformer(str(folder), device=device, **arguments)
        except (ImportError, ValueError, RuntimeError) as error:
            refused[name] = str(error).splitlines()[0]
            continue
        here[name] = (model, f"torch {next(model.parameters()).dtype}".replace("torch.", ""))
    for name, overrides in OUR_WAYS.items():
        if "compute.compile" in overrides and not device.startswith("cuda"):
            refused[name] = "compiled for GPUs only"
            continue
        try:
            model = load_model(folder, overrides={"compute.device": device, **overrides})
        except EmbedPrefsError as error:
            refused[name] = str(error).splitlines()[0]
            continue
        # What runs, and not what was meant to: the engine says whether texts are padded after all.
        numerics = model.engine.to_numerics()
        attention = numerics.get("attention", model.resolved["compute.attention"])
        here[name] = (model, f"{numerics['dtype']} {attention}")
    return here, refused


def measure(model: Model, folder: Path, device: str, rounds: int, share: float) -> Iterable[Row]:
    """Yield a row for each way and set of texts."""
    import torch

    ways, refused = ways_of(folder, device)
    for name, reason in refused.items():
        print(f"  {name}: not here: {reason[:140]}")
    for kind, texts in text_sets(folder, model, share).items():
        tokens = lengths(folder, texts, model.longest)
        vectors: dict[str, Any] = {}
        highest: dict[str, int] = {}
        for name, (loaded, _) in ways.items():
            try:
                with allocated(loaded, device) as memory:
                    vectors[name] = np.asarray(loaded.encode(texts, show_progress_bar=False))
            except torch.OutOfMemoryError:
                print(f"  {kind}: {name}: out of memory")
                continue
            highest[name] = memory["highest"]
        contestants = {name: loaded for name, (loaded, _) in ways.items() if name in vectors}
        gc.collect()
        timings = take_turns(
            [
                lambda _round, loaded=loaded, texts=texts: loaded.encode(texts, show_progress_bar=False)
                for loaded in contestants.values()
            ],
            rounds,
        )
        yield from table_rows(
            model.name, (kind, len(texts), tokens), ways, dict(zip(contestants, timings, strict=True)), vectors, highest
        )


@contextlib.contextmanager
def allocated(model: Any, device: str) -> Iterator[dict[str, int]]:
    """Yield a dictionary that holds afterwards what torch's allocator held at most, this model's weights included.

    Every model is loaded, so that all can take turns: what the others hold is taken off. On a processor it is 0.
    """
    import torch

    memory = {"highest": 0}
    if not device.startswith("cuda"):
        yield memory
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    own = sum(value.numel() * value.element_size() for value in model.parameters())
    others = torch.cuda.memory_allocated(device) - own
    yield memory
    memory["highest"] = torch.cuda.max_memory_allocated(device) - others


def table_rows(
    model: str,
    texts: tuple[str, int, int],
    ways: Mapping[str, tuple[Any, str]],
    timings: Mapping[str, Timings],
    vectors: Mapping[str, Any],
    highest: Mapping[str, int],
) -> Iterable[Row]:
    """Yield one row for each way; the host's default is what times and cosines are compared with."""
    kind, count, tokens = texts
    first = next(iter(timings))
    for name, timing in timings.items():
        mean, least, _ = compare_vectors(vectors[name], vectors[first])
        yield Row(
            model=model,
            texts=kind,
            way=name,
            runs=ways[name][1],
            texts_per_second=count / timing.median,
            tokens_per_second=tokens / timing.median,
            times_host=timings[first].median / timing.median,
            spread=timing.spread,
            highest_memory=highest[name],
            cosine_mean=mean,
            cosine_least=least,
            seconds=timing.seconds,
        )


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="the GPU, as torch numbers it")
    parser.add_argument("--rounds", type=int, help="rounds of each way (5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the texts")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write everything as JSON")
    arguments = parser.parse_args(given)
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device here", file=sys.stderr)
        return NO_DEVICE
    quieten()
    hardware = detect_hardware()
    properties = torch.cuda.get_device_properties(arguments.device)
    versions = {name: hardware.packages.get(name, "") for name in ("torch", "sentence-transformers", "transformers")}
    print(f"{properties.name}, {properties.total_memory / GIBIBYTE:.0f} GiB, driver {hardware.driver_version}")
    processor = f"{hardware.processor_name}, {hardware.cpu_count} processors"
    print(f"{time.strftime('%Y-%m-%d')}; CUDA {torch.version.cuda}; {processor}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    rounds, share = arguments.rounds or (2 if arguments.quick else 5), 0.1 if arguments.quick else 1.0
    rows: list[Row] = []
    for model in models():
        print(f"\n{model.name}", flush=True)
        with tempfile.TemporaryDirectory() as name, without_cache():
            folder = model.write(Path(name) / "model")
            found = list(
                measure(
                    model,
                    folder,
                    arguments.device,
                    rounds,
                    share,
                )
            )
        rows += found
        print("\n".join(aligned([HEADINGS, *(row.cells() for row in found)])), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if arguments.output is not None:
        described = {"date": time.strftime("%Y-%m-%d"), "gpu": properties.name, "machine": hardware.to_json()}
        arguments.output.write_text(json.dumps({**described, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
