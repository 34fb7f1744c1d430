"""Measurements that need a process of their own: memory at its highest, and the time from the start of a process.

`measure(...)` runs this file in a fresh Python and returns what it printed. Imported by cpu.py and gpu.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["measure", "reset_highest", "resident"]


def measure(task: str, **arguments: Any) -> dict[str, Any]:
    """Run a task of this file in a fresh process and return what it measured.

    Raises:
        RuntimeError: the process failed; the end of what it wrote is the message.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    began = time.time()
    command = [sys.executable, str(Path(__file__).resolve()), task, json.dumps({**arguments, "began": began})]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{task} failed: {' '.join(ended.stderr.strip().splitlines()[-1:])}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def resident(name: str = "VmRSS") -> int:
    """Return the bytes of memory this process holds (VmRSS), or held at most (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def reset_highest() -> None:
    """Count the highest memory from now on; does nothing where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the highest memory includes that of loading", file=sys.stderr)


def loaded(model: str, overrides: dict[str, Any] | None) -> Any:
    """Return a model with preferences, or the plain host where `overrides` is None."""
    warnings.simplefilter("ignore")
    if overrides is None:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, device="cpu")
    from embedprefs import load_model

    return load_model(model, overrides={"compute.device": "cpu", **overrides})


def stream(model: str, count: int, passes: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """Embed a stream of short texts; the vectors are looked at and let go."""
    from embedprefs.benchmarking import short_texts

    ours = loaded(model, overrides)
    consume(ours.embed_stream(short_texts(min(count, 1000))))
    reset_highest()
    before, seconds = resident(), []
    for _ in range(passes):
        began = time.perf_counter()
        vectors = consume(ours.embed_stream(short_texts(count)))
        seconds.append(time.perf_counter() - began)
        assert vectors == count
    return {"seconds": seconds, "before": before, "highest": resident("VmHWM"), "after": resident()}


def consume(chunks: Iterator[tuple[list[Any], Any]]) -> int:
    """Take every chunk and return how many vectors came."""
    return sum(len(vectors) for _, vectors in chunks)


def long_text(model: str, tokens: int, overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Embed one long text and return the memory it took beyond what the loaded model holds."""
    from materials import text_of_tokens
    from tokenizers import Tokenizer

    text = text_of_tokens(Tokenizer.from_file(str(Path(model) / "tokenizer.json")), tokens)
    ours = loaded(model, overrides)
    ours.encode(["a few words first"])
    reset_highest()
    before = resident()
    began = time.perf_counter()
    ours.encode([text])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "before": before, "highest": resident("VmHWM")}


def first_vector(model: str, question: str, overrides: dict[str, Any] | None, began: float) -> dict[str, Any]:
    """Load a model, embed one question, and return when that was done, what it holds, and a question's time."""
    encoder = loaded(model, overrides)
    return {**answered(encoder.encode, question, began), "torch": "torch" in sys.modules}


def first_served(folder: str, question: str, began: float) -> dict[str, Any]:
    """As `first_vector`, from an artefact, in a process that cannot import torch."""
    for name in ("torch", "transformers", "sentence_transformers"):
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's word for "cannot be imported"
    from embedprefs import load_encoder

    encoder = load_encoder(folder)
    return {**answered(encoder.encode_query, question, began), "torch": sys.modules.get("torch") is not None}


def answered(encode: Callable[[str], Any], question: str, began: float) -> dict[str, Any]:
    """Return seconds since the process was asked for, and seconds of each of fifty further questions."""
    vector = encode(question)
    first, held = time.time() - began, resident()
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        encode(question)
        seconds.append(time.perf_counter() - start)
    return {"first": first, "resident": held, "seconds": seconds, "vector": [float(value) for value in vector]}


def main() -> None:
    """Run the task that the command line names."""
    tasks: dict[str, Callable[..., dict[str, Any]]] = {
        "stream": stream,
        "long_text": long_text,
        "first_vector": first_vector,
        "first_served": first_served,
    }
    arguments = json.loads(sys.argv[2])
    began = arguments.pop("began")
    if sys.argv[1].startswith("first"):
        arguments["began"] = began
    print(json.dumps(tasks[sys.argv[1]](**arguments)))


if __name__ == "__main__":
    main()
