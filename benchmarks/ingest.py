"""What an ingest costs beside embedding alone, and what it costs when little or nothing has changed.

    python benchmarks/ingest.py --model FOLDER --documents FOLDER [--every 4] [--peers]

Prints, for the embedded engine: time of ingest over time of embedding the same chunks alone (bound 1.10), second run
over the first (2 %), after editing 1 % of the files (4 %); with `--memory` the anonymous memory while the corpus is
doubled and quadrupled; with `--peers` langchain-qdrant's `add_documents` and LangChain's `index()` on the same chunks
and model. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from embedprefs import load_model
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant import QdrantIngestor, read_documents


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--documents", type=Path, required=True, help="folder of documents")
    parser.add_argument("--every", type=int, default=1, help="take every Nth file")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of ingest against embedding alone")
    parser.add_argument("--peers", action="store_true", help="measure langchain-qdrant and index() too")
    parser.add_argument("--memory", action="store_true", help="measure memory while the corpus grows (static model)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = copy_corpus(options.documents, folder / "corpus", options.every)
        missed = measure_memory(corpus, folder) if options.memory else measure_time(corpus, folder, options)
    sys.exit(1 if missed else 0)


def copy_corpus(source: Path, target: Path, every: int) -> Path:
    """Copy every Nth file, so that the benchmark can edit it."""
    files = sorted(path for path in source.rglob("*") if path.is_file())[::every]
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return target


def measure_time(corpus: Path, folder: Path, options: argparse.Namespace) -> bool:
    """Time the ingest; return whether a bound was missed."""
    model = load_model(options.model)
    model.encode_document(["warm up " * 20] * 16)
    with QdrantIngestor(model, f"edge:{folder / 'chunking'}", root=corpus, index=IndexPreferences()) as ingestor:
        documents = list(read_documents(str(corpus), root=corpus, on_error=print))
        chunks = [chunk for document in documents for chunk in ingestor.chunker.chunk(document)]
    texts = [chunk.embedded_text for chunk in chunks]
    print(f"{len(documents)} files, {len(texts)} chunks")
    alone, first = [], []
    for number in range(options.rounds):
        store = folder / f"index{number}"
        steps: list[Callable[[], None]] = [
            lambda: alone.append(seconds(lambda: model.encode_document(texts))),
            lambda store=store: first.append(seconds(lambda: ingest(model, store, corpus))),
        ]
        for step in steps if number % 2 == 0 else reversed(steps):
            step()
    store = folder / "index0"
    second = seconds(lambda: ingest(model, store, corpus))
    edited = edit(corpus)
    third = seconds(lambda: ingest(model, store, corpus))
    embedding, whole = statistics.median(alone), statistics.median(first)
    print(f"embedding alone            {embedding:8.1f} s")
    results = [
        ("ingest", whole, whole / embedding, 1.10),
        ("second run", second, second / whole, 0.02),
        (f"after {edited} edited files", third, third / whole, 0.04),
    ]
    missed = False
    for name, taken, ratio, bound in results:
        verdict = "" if ratio <= bound else "  MISSED"
        missed |= ratio > bound
        print(f"{name:26} {taken:8.1f} s   ratio {ratio:.3f} (bound {bound}){verdict}")
    if options.peers:
        measure_peers(options.model, texts, folder, whole)
    return missed


def ingest(model: object, store: Path, corpus: Path) -> None:
    """Open, ingest and close, as one run of the command does."""
    with QdrantIngestor(model, f"edge:{store}", root=corpus, index=IndexPreferences()) as ingestor:
        report = ingestor.ingest(str(corpus))
        if report.failed:
            sys.exit(f"failed: {report.failed}")


def edit(corpus: Path) -> int:
    """Add a sentence in the middle of one file in a hundred; return how many."""
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    chosen = files[:: max(1, len(files) // max(1, len(files) // 100))][: max(1, len(files) // 100)]
    for path in chosen:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines.insert(len(lines) // 2, "\nA sentence that was not there before.\n\n")
        path.write_text("".join(lines), encoding="utf-8")
    return len(chosen)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure_peers(model: str, texts: list[str], folder: Path, ours: float) -> None:
    """Time langchain-qdrant's `add_documents` and LangChain's `index()` over the client's local mode."""
    from langchain_core.documents import Document
    from langchain_core.indexing import InMemoryRecordManager, index
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_qdrant import QdrantVectorStore

    embeddings = HuggingFaceEmbeddings(model_name=model)
    documents = [Document(text, metadata={"source": str(number)}) for number, text in enumerate(texts)]
    for name in ("add_documents", "index()"):
        store = QdrantVectorStore.from_documents(
            documents[:1], embeddings, path=str(folder / name.strip("()")), collection_name="peer"
        )
        if name == "add_documents":
            taken = seconds(lambda store=store: store.add_documents(documents))
        else:
            records = InMemoryRecordManager("peer")
            records.create_schema()
            taken = seconds(
                lambda store=store, records=records: index(
                    documents, records, store, cleanup="incremental", source_id_key="source", key_encoder="sha1"
                )
            )
        print(f"{name:26} {taken:8.1f} s   {taken / ours:.2f} times ours")
        store.client.close()


def measure_memory(corpus: Path, folder: Path) -> bool:
    """Peak anonymous memory for one, two and four times the corpus, with a static model; it has to stay flat."""
    from embedprefs.testing import static_model_folder

    model = load_model(str(static_model_folder(folder / "model", normalize=True)))
    peaks = []
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    for times in (1, 2, 4):
        for copy in range(len(peaks) and times // 2, times):
            for path in files if copy else []:
                target = corpus / f"copy{copy}" / path.relative_to(corpus)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = path.read_text(encoding="utf-8")
                target.write_text(text.replace(". ", f" in copy {copy}. "), encoding="utf-8")
        store = folder / f"memory{times}"
        before = anonymous()
        peak = watch(lambda store=store: ingest(model, store, corpus))
        peaks.append(peak - before)
        print(f"{times} times {len(files)} files: {peak - before:7.1f} MB above the {before:.0f} MB before")
    growth = peaks[2] - peaks[0]
    missed = growth > max(0.25 * peaks[0], 30.0)
    print(f"growth from once to four times: {growth:.1f} MB{'  MISSED' if missed else ''}")
    return missed


def anonymous() -> float:
    """Anonymous memory of this process in MB; mapped files are not counted."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def watch(call: Callable[[], object]) -> float:
    """Return the highest anonymous memory while a call runs, in MB."""
    highest, done = [anonymous()], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            highest[0] = max(highest[0], anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return highest[0]


if __name__ == "__main__":
    main()
