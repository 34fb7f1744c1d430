"""What embedprefs makes of lightonai/modernbert-embed-large: prompts, dimensions, each way to run it, nDCG@10.

    python benchmarks/flagship.py --data FOLDER

One command for a machine that reaches the hub (1.6 GB are downloaded once). `--model FOLDER_OR_NAME` measures another
model. The data folder holds corpus.jsonl (_id, text, perhaps title), queries.jsonl (_id, text) and qrels.tsv
(query-id, corpus-id, score); without `--data` only the vectors are compared.

Cosines and seconds are those beside the plain `SentenceTransformer` in float32 with the same prompts, in the same run.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedprefs import CheckFailedError, EmbedPrefsError, EmbedPrefsWarning, load_model
from embedprefs.testing import FLAGSHIP

DEPTH = 10
SENTENCES = (
    "The harbour froze over twice in living memory, and both winters are still argued about.",
    "What is the boiling point of water on a high mountain?",
    "def area(radius: float) -> float: return 3.14159 * radius ** 2",
    "Größe, façade, naïve; 水在一百度沸腾; Вода кипит при ста градусах.",
)

Floats = npt.NDArray[np.float32]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=FLAGSHIP, help="hub name or folder")
    parser.add_argument("--data", type=Path, help="folder with corpus.jsonl, queries.jsonl and qrels.tsv")
    parser.add_argument("--queries", type=int, default=500, help="queries of the data to ask, at most")
    parser.add_argument("--texts", type=int, default=64, help="texts whose vectors are compared")
    parser.add_argument("--dims", type=int, nargs="*", default=[256], help="shorter vectors to judge as well")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", EmbedPrefsWarning)

    model = load_model(arguments.model, overrides={"compute.dtype": "float32"})
    describe(model)
    data = read_data(arguments.data, arguments.queries) if arguments.data else None
    texts = probe_texts(data, arguments.texts)
    exact, host_seconds = host_vectors(arguments.model, model, texts)
    compare_ways(arguments.model, texts, exact, host_seconds)
    if data is not None:
        judge(arguments.model, model, data, arguments.dims)


def describe(model: Any) -> None:
    """Print what the preferences became for this model."""
    resolved = model.resolved
    print(f"model            {resolved.facts.name}, {resolved.facts.parameter_count:,} parameters")
    for role in ("query", "document"):
        origin = resolved.choice(f"prompts.{role}").origin
        print(f"{role + ' prompt':16} {resolved[f'prompts.{role}']!r} ({origin})")
    print(f"reads            {model.max_seq_length} tokens")
    print(f"dimensions       {model.get_embedding_dimension()}, similarity {model.similarity_fn_name}")
    print(f"runs on          {resolved['compute.device']}, attention {resolved['compute.attention']}")
    print(f"fingerprint      {model.fingerprint}")
    query, document = model.encode_query(SENTENCES[1]), model.encode_document(SENTENCES[1])
    print(f"cosine of one text as query and as document: {float(query @ document):.4f}\n")


def host_vectors(name: str, model: Any, texts: Sequence[str]) -> tuple[Floats, float]:
    """Return the vectors of the plain host in float32, told the same prompts, and the seconds it took."""
    from sentence_transformers import SentenceTransformer

    prompts = {role: model.prompts[role] for role in ("query", "document")}
    kwargs = {} if model.resolved.facts.is_static else {"model_kwargs": {"dtype": "float32"}}
    host = SentenceTransformer(name, device=str(model.device), prompts=prompts, **kwargs)
    normalize = bool(model.resolved["vectors.normalize"])
    return timed(lambda: host.encode_document(list(texts), normalize_embeddings=normalize))


def compare_ways(name: str, texts: Sequence[str], exact: Floats, host_seconds: float) -> None:
    """Run the model in every way this machine and this version offer, and compare the vectors."""
    from embedprefs.resolve.backends import BACKENDS

    print(f"{'backend':10}{'dtype':10}{'attention':20}{'least cosine':>14}{'mean cosine':>14}{'seconds to host':>17}")
    print(f"{'(host)':10}{'float32':10}{'':20}{1:14.6f}{1:14.6f}{1:17.2f}")
    ways = itertools.product(
        [item.name for item in BACKENDS],
        ("sdpa", "eager", "local", "varlen", "flash_attention_2"),
        ("float32", "bfloat16", "float16"),
    )
    for backend, attention, dtype in ways:
        overrides = {"compute.backend": backend, "compute.dtype": dtype, "compute.attention": attention}
        way = f"{backend:10}{dtype:10}{attention:20}"
        try:
            model = load_model(name, overrides=overrides)
        except EmbedPrefsError as error:
            findings = error.findings if isinstance(error, CheckFailedError) else ()
            reason = findings[0].message if findings else str(error).splitlines()[0]
            if dtype == "bfloat16":  # the reason is the same in every dtype; float32 alone is refused by some kernels
                print(f"{way}  not here: {reason[:100]}")
            continue
        vectors, seconds = timed(lambda loaded=model: loaded.encode_document(list(texts)))  # type: ignore[misc]
        cosines = (vectors * exact).sum(axis=1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1))
        print(f"{way}{cosines.min():14.6f}{cosines.mean():14.6f}{seconds / host_seconds:17.2f}")
    print()


def judge(name: str, model: Any, data: Data, dims: Sequence[int]) -> None:
    """Print nDCG@10 as the preferences say, without prompts, and with shorter vectors."""
    corpus, queries, _ = data
    documents = np.asarray(model.encode_document(list(corpus.values())))
    asked = np.asarray(model.encode_query(list(queries.values())))
    print(f"nDCG@{DEPTH} over {len(queries)} queries and {len(corpus)} passages")
    print(f"  as the preferences say                {ndcg(documents, asked, data):.4f}")
    if any(model.prompts[role] for role in ("query", "document")):
        bare = load_model(name, overrides={"prompts.query": "", "prompts.document": "", "compute.dtype": "float32"})
        plain = [np.asarray(bare.encode(list(values.values()))) for values in (corpus, queries)]
        print(f"  without prompts, as the host has it   {ndcg(plain[0], plain[1], data):.4f}")
    for size in dims:
        if size < documents.shape[1]:
            cut = [
                values[:, :size] / np.linalg.norm(values[:, :size], axis=1, keepdims=True)
                for values in (documents, asked)
            ]
            print(f"  first {size:4} dimensions                 {ndcg(cut[0], cut[1], data):.4f}")


Data = tuple[Mapping[str, str], Mapping[str, str], Mapping[str, Mapping[str, float]]]


def read_data(folder: Path, most: int) -> Data:
    """Read corpus, queries with a judgement (the first `most`) and judgements."""
    corpus = {
        row["_id"]: f"{row.get('title', '')}\n{row['text']}".strip() for row in read_lines(folder / "corpus.jsonl")
    }
    judgements: dict[str, dict[str, float]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    judged = (row for row in read_lines(folder / "queries.jsonl") if row["_id"] in judgements)
    queries = {row["_id"]: row["text"] for row in list(judged)[:most]}
    return corpus, queries, judgements


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def probe_texts(data: Data | None, count: int) -> list[str]:
    """Return texts of many lengths: those of the data, or sentences strung together."""
    if data is not None:
        corpus = list(data[0].values())
        return corpus[:: max(1, len(corpus) // count)][:count]
    return [" ".join(SENTENCES[: 1 + number % 4] * (1 + number // 4)) for number in range(count)]


def timed(encode: Callable[[], Any]) -> tuple[Floats, float]:
    """Return the vectors and the seconds of the second run; the first one warms up."""
    encode()
    began = time.perf_counter()
    vectors = np.asarray(encode(), dtype=np.float32)
    return vectors, time.perf_counter() - began


def ndcg(documents: Floats, queries: Floats, data: Data) -> float:
    """Return the mean nDCG@10 of exact search by dot product.

    The gain of a passage is its score, discounted by the logarithm of its rank (Jarvelin and Kekalainen, 2002).
    """
    corpus, asked, judgements = data
    names = list(corpus)
    scores = []
    for query, vector in zip(asked, queries, strict=True):
        judged = judgements[query]
        found = np.argsort(-(documents @ vector), kind="stable")[:DEPTH]
        gain = sum(judged.get(names[at], 0.0) / math.log2(rank + 2) for rank, at in enumerate(found))
        best = sorted(judged.values(), reverse=True)[:DEPTH]
        scores.append(gain / sum(score / math.log2(rank + 2) for rank, score in enumerate(best)))
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
