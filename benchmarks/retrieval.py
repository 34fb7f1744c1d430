"""Does ingest and search find what brute force finds, and what does hybrid search add?

    python benchmarks/retrieval.py --model FOLDER --data FOLDER [--queries 2000]

The data folder holds corpus.jsonl (id, text), queries.jsonl (id, text) and qrels.tsv (query, document, grade). Prints
nDCG@10 of exact dense search through ingest + search beside numpy over the same vectors (they agree within 0.002), of
BM25 alone and of both fused.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from embedprefs import load_preferences
from embedprefs_qdrant import Document, QdrantIngestor
from embedprefs_qdrant.stores import Nearest, SearchQuery

DEPTH = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, help="take the first N queries only")
    parser.add_argument("--store", default="edge", help="edge, or a store's URL")
    options = parser.parse_args()
    corpus = rows(options.data / "corpus.jsonl")
    queries = rows(options.data / "queries.jsonl")
    test = options.data / "qrels_test.tsv"
    judged = judgements(test if test.is_file() else options.data / "qrels.tsv")
    queries = {name: text for name, text in queries.items() if name in judged}
    queries = dict(list(queries.items())[: options.queries])
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "embedprefs.toml"
        settings.write_text(f'[model]\nname = "{Path(options.model).absolute()}"\n[index]\nhybrid = true\n')
        store = f"edge:{folder}/index" if options.store == "edge" else options.store
        with QdrantIngestor(load_preferences(settings), store) as ingestor:
            report = ingestor.ingest(Document(name, text) for name, text in corpus.items())
            print(f"{len(corpus)} documents in {report.chunks} chunks, {len(queries)} queries", flush=True)
            compare(ingestor, queries, judged)


def compare(ingestor: QdrantIngestor, queries: Mapping[str, str], judged: Mapping[str, Mapping[str, float]]) -> None:
    """Print nDCG@10 of each way to search."""
    texts = list(queries.values())
    points = list(ingestor.store.scroll(ingestor.collection.name, vectors=("dense",), payload=("source",)))
    matrix = np.stack([point.vectors["dense"] for point in points])
    sources = [point.payload["source"] for point in points]
    vectors = ingestor.space.embed_queries(texts)
    brute = [ranked(sources[place] for place in np.argsort(-(matrix @ vector))[: 5 * DEPTH]) for vector in vectors]
    dense = found(ingestor, texts, hybrid=False, exact=True)
    fused = found(ingestor, texts, hybrid=True, exact=True)
    assert ingestor.sparse is not None
    sparse = []
    for vector in ingestor.sparse.embed_queries(texts):
        query = SearchQuery(Nearest(vector, "sparse"), limit=5 * DEPTH)
        [hits] = ingestor.store.search(ingestor.collection.name, [query])
        sparse.append(ranked(str(hit.payload["source"]) for hit in hits))
    scores, each = {}, {}
    for name, rankings in (("numpy", brute), ("dense", dense), ("BM25", sparse), ("hybrid", fused)):
        values = [ndcg(ranking, judged[query]) for query, ranking in zip(queries, rankings, strict=True)]
        each[name], scores[name] = np.asarray(values), statistics(values)
        print(f"{name:8} nDCG@10 {scores[name][0]:.4f}  (standard error {scores[name][1]:.4f})")
    for name in ("BM25", "dense"):
        gain, error = statistics(each["hybrid"] - each[name])
        print(f"hybrid over {name}: {gain:+.4f} on the same queries (standard error {error:.4f})")
    difference = abs(scores["dense"][0] - scores["numpy"][0])
    print(f"dense against numpy: {difference:.4f} (bound 0.002)")
    if difference > 0.002:
        sys.exit(1)


def found(ingestor: QdrantIngestor, texts: Sequence[str], **options: bool) -> list[list[str]]:
    """Sources of each query's hits, each once, best first."""
    results = []
    for start in range(0, len(texts), 256):
        for hits in ingestor.search(texts[start : start + 256], limit=5 * DEPTH, **options):
            results.append(ranked(hit.source for hit in hits))
    return results


def ranked(sources: Iterable[str]) -> list[str]:
    """Each source once, in order of its best chunk."""
    return list(dict.fromkeys(sources))[:DEPTH]


def ndcg(ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """Normalised discounted cumulative gain at 10 (Jaervelin and Kekaelaeinen, ACM TOIS 2002)."""
    gain = sum(grades.get(source, 0.0) / math.log2(rank + 2) for rank, source in enumerate(ranking[:DEPTH]))
    best = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:DEPTH]))
    return gain / best if best else 0.0


def statistics(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    array = np.asarray(values)
    return float(array.mean()), float(array.std() / math.sqrt(len(array)))


def rows(file: Path) -> dict[str, str]:
    """Id -> text, with the title before it where there is one."""
    result = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = str(row.get("_id", row.get("id")))
        result[name] = "\n".join(part for part in (row.get("title"), row["text"]) if part)
    return result


def judgements(file: Path) -> dict[str, dict[str, float]]:
    """Query -> document -> grade."""
    result: dict[str, dict[str, float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        parts = line.split("\t")
        if len(parts) >= 3 and parts[-1].replace(".", "").isdigit():
            result.setdefault(parts[0], {})[parts[-2]] = float(parts[-1])
    return result


if __name__ == "__main__":
    main()
