"""Our LangChain embeddings against `HuggingFaceEmbeddings`: the same model, the same vectors, in one run.

    python benchmarks/langchain.py --model FOLDER --documents FOLDER [--texts 10000] [--rounds 3] [--queries 64]

Documents are cut into chunks; the providers embed them, taking turns, and the vectors are compared: ours under
`exactness = "exact"` (the same vectors within 1e-5), and by default (a cosine of at least 0.9995). Then so many queries
are awaited at once: how long each took (median and 95th percentile), and how long other work of the event loop was held
up meanwhile: a call in the loop's default executor, and a coroutine that wants its turn every 5 ms. Ratios are of
medians over the rounds, above 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_embedprefs import EmbedPrefsEmbeddings

#: Characters of a chunk.
CHUNK = 600
PEER = "HuggingFaceEmbeddings"
#: Seconds between two turns of the unrelated coroutine.
TURN = 0.005


@dataclass
class Awaited:
    """What awaiting many queries at once took, in seconds."""

    median: float
    late: float
    """95th percentile."""
    executor: float
    """Longest wait of an empty call in the loop's default executor."""
    turn: float
    """Longest delay of a coroutine that wants its turn."""


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--documents", type=Path, required=True, help="folder of texts")
    parser.add_argument("--texts", type=int, default=10_000, help="chunks to embed")
    parser.add_argument("--queries", type=int, default=64, help="queries awaited at once")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from langchain_huggingface import HuggingFaceEmbeddings

    texts = list(itertools.islice(chunks(options.documents), options.texts))
    if not texts:
        sys.exit(f"{options.documents} holds no .md, .rst or .txt file.")
    queries = [text[:60] for text in texts[:: max(1, len(texts) // options.queries)]][: options.queries]
    providers: dict[str, Embeddings] = {
        PEER: HuggingFaceEmbeddings(model_name=options.model),
        "ours, exact": EmbedPrefsEmbeddings(model=options.model, overrides={"compute.exactness": "exact"}),
        "ours, default": EmbedPrefsEmbeddings(model=options.model),
    }
    compare(providers, texts[:256], queries)
    print(f"{len(texts)} chunks, {len(queries)} queries at once, {options.rounds} rounds\n")

    times: dict[str, list[float]] = {name: [] for name in providers}
    waits: dict[str, list[Awaited]] = {name: [] for name in providers}
    for number in range(options.rounds):
        names = list(providers) if number % 2 == 0 else list(reversed(providers))
        for name in names:
            times[name].append(seconds(lambda name=name: providers[name].embed_documents(texts)))
        for name in names:
            waits[name].append(asyncio.run(awaited(providers[name], queries)))
    report(times, waits, len(texts))


def chunks(folder: Path) -> Iterator[str]:
    """Paragraphs of every text file, put together to chunks."""
    for file in sorted(path for path in folder.rglob("*") if path.suffix in {".md", ".rst", ".txt"}):
        gathered = ""
        for paragraph in file.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            gathered = f"{gathered}\n\n{paragraph}".strip()
            if len(gathered) >= CHUNK:
                yield gathered[: 2 * CHUNK]
                gathered = ""
        if gathered:
            yield gathered


def compare(providers: dict[str, Embeddings], texts: list[str], queries: list[str]) -> None:
    """Warm all up, and make sure that they compute the same vectors."""
    vectors = {
        name: np.vstack([provider.embed_documents(texts), *(provider.embed_query(query) for query in queries[:8])])
        for name, provider in providers.items()
    }
    for name, own in vectors.items():
        if name == PEER:
            continue
        peer = vectors[PEER]
        worst = float(np.abs(own - peer).max())
        cosine = float(((own * peer).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(peer, axis=1)).min())
        print(f"{name} against {PEER}: largest difference {worst:.1e}, smallest cosine {cosine:.6f}")
        if worst > 1e-5 if "exact" in name else cosine < 0.9995:
            sys.exit("The providers give different vectors; their times say nothing.")


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


async def awaited(provider: Embeddings, queries: list[str]) -> Awaited:
    """Await all queries at once, and watch two bystanders."""
    latencies: list[float] = []
    delays: list[float] = []
    executor_waits: list[float] = []

    async def ask(query: str) -> None:
        began = time.perf_counter()
        await provider.aembed_query(query)
        latencies.append(time.perf_counter() - began)

    async def take_turns() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TURN)
            delays.append(time.perf_counter() - began - TURN)

    async def use_executor() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.to_thread(lambda: None)
            executor_waits.append(time.perf_counter() - began)
            await asyncio.sleep(TURN)

    tasks = [asyncio.create_task(ask(query)) for query in queries]
    bystanders = [asyncio.create_task(take_turns()), asyncio.create_task(use_executor())]
    await asyncio.gather(*tasks)
    await asyncio.sleep(2 * TURN)  # a bystander that was held up until now is counted too
    for task in bystanders:
        task.cancel()
    await asyncio.gather(*bystanders, return_exceptions=True)
    ordered = sorted(latencies)
    return Awaited(
        statistics.median(ordered),
        ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        max(executor_waits),
        max(delays),
    )


def report(times: dict[str, list[float]], waits: dict[str, list[Awaited]], count: int) -> None:
    """Print medians and their ratios to the peer's."""
    rows = [("embed_documents, s", [statistics.median(times[name]) for name in times])]
    for label, field in (
        ("aembed_query median, s", "median"),
        ("aembed_query 95th percentile, s", "late"),
        ("wait for the default executor, s", "executor"),
        ("delay of another coroutine, s", "turn"),
    ):
        rows.append((label, [statistics.median(getattr(wait, field) for wait in waits[name]) for name in waits]))
    print(f"{'':34}" + "".join(f"{name:>24}" for name in times))
    for label, values in rows:
        shown = [f"{values[0]:24.3f}", *(f"{value:15.3f} ({values[0] / value:5.2f}x)" for value in values[1:])]
        print(f"{label:34}" + "".join(shown))
    print(
        "\n" + "; ".join(f"{name}: {count / value:.0f} chunks/s" for name, value in zip(times, rows[0][1], strict=True))
    )


if __name__ == "__main__":
    main()
