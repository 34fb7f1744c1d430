"""What the engine is worth on a processor: each figure beside its target, and beside the plain host in the same run.

    python benchmarks/cpu.py [--only SECTION ...] [--quick] [--output FILE]

Sections: speed, quality, query, repeats, stream, long, serving. Models: the real all-MiniLM-L6-v2, and ModernBERT-base
in its published size with random weights. Texts: real paragraphs with judgements, whose folder --data or the
environment variable EMBEDPREFS_TEST_DATA names. Whatever is compared runs in turns in one process; figures are medians.
The whole run takes a quarter of an hour on two quiet cores; --quick takes some minutes and shows less certain figures.

Exit code 0: every target is met; 1: one is missed, or could not be measured.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from apart import measure
from figures import Figure, Section, print_figures, quieten, run_sections, write_json
from materials import data_folder, minilm_folder, paragraphs, random_modernbert, text_of_tokens

from embedprefs import EmbedPrefsError, load_model
from embedprefs.benchmarking import (
    BenchmarkResult,
    Measurement,
    Timings,
    benchmark,
    built_in_questions,
    compare_vectors,
    take_turns,
)
from embedprefs.cache import without_cache
from embedprefs.evaluation import compare, evaluate
from embedprefs.hardware import detect_hardware
from embedprefs.layers import preferences_for_model

ON_PROCESSOR = {"compute.device": "cpu"}
EXACT = {"compute.exactness": "exact"}
INT8 = {"compute.weights": "int8", "compute.exactness": "fast"}
MEBIBYTE = 1024**2
LONG, SHORT = 8192, 512


@dataclass
class Bench:
    """What was asked for on the command line."""

    stated_model: Path | None
    stated_data: Path | None
    quick: bool
    rounds: int

    @cached_property
    def model(self) -> str:
        """Folder of the real model."""
        return minilm_folder(self.stated_model)

    @cached_property
    def data(self) -> Path:
        """Folder of the real texts."""
        return data_folder(self.stated_data)

    @cached_property
    def preferences(self) -> Any:
        """Preferences of the real model: everything "auto", on the processor."""
        return preferences_for_model(self.model, ON_PROCESSOR)

    @cached_property
    def questions(self) -> list[str]:
        """Questions of exactly 16 tokens each."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(Path(self.model) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        asked = built_in_questions()
        found = [text_of_tokens(tokenizer, 16, [*asked[at:], *asked[:at]]) for at in range(len(asked))]
        return [text for text in found if len(tokenizer.encode(text).ids) == 16]

    # Sections --------------------------------------------------------------------------------------------------------

    def speed(self) -> Iterator[Figure]:
        """Default, exact and int8 beside the host's default, over real paragraphs of mixed lengths."""
        texts = paragraphs(self.data, 150 if self.quick else 600)
        ways, refused = self._available({"exact": EXACT, "int8": INT8})
        result = benchmark(self.preferences, texts, also=ways, source="real paragraphs", rounds=self.rounds, queries=8)
        print("\n".join([*result.heading(), *result.remarks()]), flush=True)
        default = result.preferred
        yield speed_figure("default (close)", default, 4.0, result)
        yield Figure("mean cosine of the default", default.agreement.cosine_mean, "", 0.9999, digits=6)
        yield Figure("least cosine of the default", default.agreement.cosine_least, "", 0.9995, digits=6)
        yield share_figure("share of the peak, default", default, result, 0.70)
        if "exact" in ways:
            yield speed_figure("exact", result["exact"], 2.0, result)
            difference = result["exact"].agreement.largest_difference
            yield Figure("largest difference of a value, exact, in 1e-5", difference * 1e5, "", 1.0, at_least=False)
            yield share_figure("share of the peak, exact", result["exact"], result, None)
        if "int8" in ways:
            yield speed_figure("int8", result["int8"], 6.0, result)
            yield Figure("mean cosine of int8", result["int8"].agreement.cosine_mean, "", digits=4)
            yield share_figure("share of the peak, int8", result["int8"], result, None)
        yield from (Figure(f"{name} against the host's default", None, detail=why) for name, why in refused.items())

    def quality(self) -> Iterator[Figure]:
        """nDCG@10 of int8 as a share of float32, by judged questions."""
        folder = self.data / "squadshifts-wiki"
        evaluations = {}
        for name, overrides in (("float32", EXACT), ("int8", INT8)):
            model = load_model(self.model, overrides={**ON_PROCESSOR, **overrides})
            with without_cache():
                evaluations[name] = evaluate(
                    model,
                    folder / "corpus.jsonl",
                    folder / "queries.jsonl",
                    folder / "qrels_test.tsv",
                    metrics=["ndcg@10"],
                )
        found = {name: evaluation["ndcg@10"] for name, evaluation in evaluations.items()}
        verdict = compare(evaluations["float32"], evaluations["int8"], margin=0.01).verdict
        share = found["int8"] / found["float32"]
        yield Figure(
            "nDCG@10 of int8, share of float32",
            share,
            "",
            0.99,
            digits=4,
            detail=f"float32 {found['float32']:.4f}, int8 {found['int8']:.4f}; "
            f"a loss of at most 1 %, by a paired test: {verdict}",
            values=found,
        )

    def query(self) -> Iterator[Figure]:
        """One question of 16 tokens at a time."""
        asked = 60 if self.quick else 200
        result = benchmark(
            self.preferences, self.questions, questions=self.questions, rounds=1, queries=asked, peak=False
        )
        ours, host = result.preferred.queries, result.host.queries
        yield Figure(
            "one 16-token query, share of the host's time",
            result.preferred.query_times_host,
            "",
            0.35,
            at_least=False,
            detail=f"{ours.median * 1000:.2f} ms, host {host.median * 1000:.2f} ms, {result.preferred.runs}",
            values={"ours": list(ours.seconds), "host": list(host.seconds)},
        )

    def repeats(self) -> Iterator[Figure]:
        """A corpus of which half repeats beside one without repetition and of the same lengths."""
        texts = sorted(paragraphs(self.data, 150 if self.quick else 600), key=len)
        half = texts[::2]
        corpora = [list(texts), [*half, *half]]
        for corpus in corpora:
            random.Random(0).shuffle(corpus)
        model = load_model(self.model, overrides=ON_PROCESSOR)
        with without_cache():
            for corpus in corpora:
                model.encode_document(corpus)
            ways = [lambda _round, corpus=corpus: model.encode_document(corpus) for corpus in corpora]
            distinct, repeated = take_turns(ways, self.rounds)
        times, low, high = repeated.times_faster_than(distinct)
        yield Figure(
            "half of the corpus repeats, against none",
            times,
            "x",
            1.8,
            detail=f"rounds {low:.2f} to {high:.2f}; {distinct.median:.2f} s without repetition",
            values={"distinct": list(distinct.seconds), "repeated": list(repeated.seconds)},
        )

    def stream(self) -> Iterator[Figure]:
        """Many short texts beside few, each in a process of its own."""
        few, many = (1000, 20_000) if self.quick else (5000, 100_000)
        arguments = {"model": self.model, "overrides": ON_PROCESSOR}
        before = measure("stream", count=few, passes=3, **arguments)
        large = measure("stream", count=many, passes=1, **arguments)
        after = measure("stream", count=few, passes=3, **arguments)
        rate = few / statistics.median([*before["seconds"], *after["seconds"]])
        rates = f"{many / large['seconds'][0]:,.0f} and {rate:,.0f} texts/s"
        what = f"{many:,} short texts"
        yield Figure(
            f"{what}: rate, share of that for {few:,}", many / large["seconds"][0] / rate, "", 0.95, detail=rates
        )
        highest = max(before["highest"], after["highest"])
        yield Figure(
            f"{what}: highest memory, share of that for {few:,}",
            large["highest"] / highest,
            "",
            1.05,
            at_least=False,
            detail=f"{large['highest'] / MEBIBYTE:,.0f} and {highest / MEBIBYTE:,.0f} MiB",
            values={"few": [before, after], "many": large},
        )

    def long(self) -> Iterator[Figure]:
        """One text of 8192 tokens on ModernBERT-base in its published size."""
        with tempfile.TemporaryDirectory() as name:
            yield from LongText(random_modernbert(Path(name), "base"), 1 if self.quick else 2).figures()

    def serving(self) -> Iterator[Figure]:
        """The artefact in a process that cannot import torch, beside the host in a fresh process."""
        from embedprefs.serving import compile_model

        question = self.questions[0]
        with tempfile.TemporaryDirectory() as name:
            folder = str(Path(name) / "artefact")
            compile_model(self.preferences, folder)
            runs = 2 if self.quick else 5
            served = [measure("first_served", folder=folder, question=question) for _ in range(runs)]
            host = measure("first_vector", model=self.model, question=question, overrides=None)
        first = Timings(tuple(run["first"] for run in served))
        ours, theirs = (statistics.median(run["seconds"]) for run in (served[-1], host))
        cosine = compare_vectors(np.array([served[-1]["vector"]]), np.array([host["vector"]]))[0]
        held = statistics.median(run["resident"] for run in served)
        yield Figure(
            "artefact: first vector after the process is started",
            first.median,
            "s",
            1.0,
            at_least=False,
            detail=f"{first.fastest:.2f} to {first.slowest:.2f} s; the host {host['first']:.2f} s",
        )
        yield Figure(
            "artefact: resident memory, share of the host's",
            held / host["resident"],
            "",
            0.40,
            at_least=False,
            detail=f"{held / MEBIBYTE:,.0f} and {host['resident'] / MEBIBYTE:,.0f} MiB",
        )
        yield Figure(
            "artefact: one 16-token query, share of the host's time",
            ours / theirs,
            "",
            0.25,
            at_least=False,
            detail=f"{ours * 1000:.2f} ms, host {theirs * 1000:.2f} ms",
        )
        yield Figure("artefact: cosine to the host", cosine, "", 0.9999, digits=6)

    def _available(self, ways: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
        """Return the ways that this machine and version offer, and why the others are not."""
        here: dict[str, Mapping[str, Any]] = {}
        refused: dict[str, str] = {}
        for name, overrides in ways.items():
            try:
                load_model(self.model, overrides={**ON_PROCESSOR, **overrides})
            except EmbedPrefsError as error:
                refused[name] = " ".join(str(error).split())[:200]
            else:
                here[name] = overrides
        return here, refused


def speed_figure(name: str, measured: Measurement, target: float, result: BenchmarkResult) -> Figure:
    low, high = measured.times_host_of_a_round
    seconds = f"{measured.passes.median:.2f} s, host {result.host.passes.median:.2f} s"
    return Figure(
        f"{name} against the host's default",
        measured.times_host,
        "x",
        target,
        detail=f"rounds {low:.2f} to {high:.2f}; {seconds}; {measured.runs}",
        values=measured.to_json(),
    )


def share_figure(what: str, measured: Measurement, result: BenchmarkResult, target: float | None) -> Figure:
    peak = next((peak for peak in result.peaks if peak.precision == measured.precision), None)
    reached = peak.operations_per_second if peak is not None else None
    detail = f"peak {reached / 1e9:,.0f} GFLOP/s in {measured.precision}" if reached else "no peak was measured"
    values = peak.to_json() if peak is not None else {}
    return Figure(what, measured.share_of_peak, "", target, detail=detail, values=values)


@dataclass
class LongText:
    """One long text on a model of published size: time of all in turns, memory of each in a process of its own."""

    folder: Path
    rounds: int

    def figures(self) -> Iterator[Figure]:
        """Yield time, memory, and what a token costs in long texts beside short ones."""
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        long, short = (text_of_tokens(tokenizer, tokens) for tokens in (LONG, SHORT))
        host = SentenceTransformer(str(self.folder), device="cpu")
        ours = {
            name: load_model(self.folder, overrides={**ON_PROCESSOR, **overrides})
            for name, overrides in (("close", {}), ("exact", EXACT))
        }
        encoders: dict[str, Callable[[list[str]], Any]] = {"host": host.encode}
        encoders |= {name: model.encode for name, model in ours.items()}
        with without_cache():
            for encode in encoders.values():
                encode([short])  # converted, compiled and allocated
            costs = take_turns([lambda _round, encode=encode: encode([short]) for encode in encoders.values()], 3)
            vectors: dict[str, Any] = {}
            keep = [
                lambda _round, name=name, encode=encode: vectors.update({name: np.asarray(encode([long]))})
                for name, encode in encoders.items()
            ]
            times = take_turns(keep, self.rounds)
        by_name = dict(zip(encoders, times, strict=True))
        for name, target in (("close", 5.0), ("exact", 2.5)):
            faster, low, high = by_name[name].times_faster_than(by_name["host"])
            mean, _, difference = compare_vectors(vectors[name], vectors["host"])
            yield Figure(
                f"ModernBERT-base, one text of {LONG} tokens, {name}",
                faster,
                "x",
                target,
                detail=f"rounds {low:.2f} to {high:.2f}; {by_name[name].median:.1f} s, "
                f"host {by_name['host'].median:.1f} s; cosine {mean:.6f}, largest difference {difference:.1e}",
                values={"ours": list(by_name[name].seconds), "host": list(by_name["host"].seconds)},
            )
        for name, cost, timing in zip(encoders, costs, times, strict=True):
            yield Figure(
                f"cost of a token at {LONG} against {SHORT}, {name}",
                timing.median / LONG / (cost.median / SHORT),
                "x",
                4.0 if name == "close" else None,
                at_least=False,
                detail=f"{timing.median:.1f} s and {cost.median:.2f} s",
            )
        del host, ours, encoders
        yield from self._memory()

    def _memory(self) -> Iterator[Figure]:
        arguments = {"model": str(self.folder), "tokens": LONG}
        host = measure("long_text", overrides=None, **arguments)
        for name, overrides, target in (("close", {}, 0.5), ("exact", EXACT, 0.5)):
            ours = measure("long_text", overrides=overrides, **arguments)
            taken, theirs = (found["highest"] - found["before"] for found in (ours, host))
            yield Figure(
                f"highest memory beyond the loaded model's, {name}, share of host",
                taken / theirs,
                "",
                target,
                at_least=False,
                detail=f"{taken / MEBIBYTE:,.0f} and {theirs / MEBIBYTE:,.0f} MiB; in all "
                f"{ours['highest'] / MEBIBYTE:,.0f} and {host['highest'] / MEBIBYTE:,.0f} MiB",
                values={"ours": ours, "host": host},
            )


def sections_of(bench: Bench) -> list[Section]:
    """Return every section, in the order they are run."""
    return [
        Section("speed", "all-MiniLM-L6-v2, real paragraphs", bench.speed),
        Section("quality", "all-MiniLM-L6-v2, int8, judged questions", bench.quality),
        Section("query", "all-MiniLM-L6-v2, one question", bench.query),
        Section("repeats", "all-MiniLM-L6-v2, repeated texts", bench.repeats),
        Section("stream", "all-MiniLM-L6-v2, a long stream of short texts", bench.stream),
        Section("long", "ModernBERT-base, random weights, one long text", bench.long),
        Section("serving", "all-MiniLM-L6-v2, served without torch", bench.serving),
    ]


def heading() -> dict[str, Any]:
    """Return the machine, as JSON values."""
    hardware = detect_hardware()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    names = ("torch", "sentence-transformers", "transformers", "tokenizers", "openvino", "nncf", "embedprefs")
    versions = {name: hardware.packages[name] for name in names if name in hardware.packages}
    print(f"{hardware.processor_name}, {hardware.cpu_count} processors; {time.strftime('%Y-%m-%d')}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if load is not None:
        busy = " (something else is running)" if load > 0.25 * hardware.cpu_count else ""
        print(f"load average {load:.2f}{busy}")
    return {"date": time.strftime("%Y-%m-%d"), "machine": hardware.to_json(), "load_before": load}


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="run these sections only")
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--rounds", type=int, help="rounds of what is measured in turns (5; 2 with --quick)")
    parser.add_argument("--model", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, help="folder of the real texts")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write everything as JSON")
    arguments = parser.parse_args(given)
    bench = Bench(arguments.model, arguments.data, arguments.quick, arguments.rounds or (2 if arguments.quick else 5))
    sections = sections_of(bench)
    known = [section.name for section in sections]
    unknown = [name for name in arguments.only or [] if name not in known]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(known)}")
    quieten()
    described = heading()
    chosen = [section for section in sections if not arguments.only or section.name in arguments.only]
    found = run_sections(chosen, failures=(EmbedPrefsError, ImportError, RuntimeError, OSError))
    if arguments.output is not None:
        write_json(arguments.output, {**described, "quick": arguments.quick}, found)
    return print_figures(found)


if __name__ == "__main__":
    sys.exit(main())
