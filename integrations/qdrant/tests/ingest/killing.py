"""Kills ingests at random moments and looks whether the next run converges. Run as a script by test_kills.py.

The model is loaded once; each trial forks, so that a trial costs a fraction of a second instead of an import of torch.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path


def main(scheme: str, trials: int, folder: Path, seed: int, context: str = "chunk") -> None:
    """Run the trials and print what was found as JSON.

    Args:
        scheme: Of the store: edge or local.
        trials: Runs to kill.
        folder: Where everything is written.
        seed: Of the moments.
        context: As `index.chunk_context`; a transformer reads the documents where it is "document".
    """
    import torch
    from corpus import edit_corpus, write_corpus, write_model

    from embedprefs import EmbedPrefsWarning, load_model
    from embedprefs.preferences import IndexPreferences
    from embedprefs.testing import tiny_bert_folder
    from embedprefs_qdrant import QdrantIngestor

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", EmbedPrefsWarning)
    written = tiny_bert_folder(folder / "model") if context == "document" else write_model(folder / "model")
    settings = {"compute.threads": 1, "compute.device": "cpu", "compute.backend": "torch"}
    model = load_model(str(written), overrides=settings)
    index = IndexPreferences(chunk_tokens=30 if context == "document" else 64, chunk_context=context)
    corpus = write_corpus(folder / "corpus")

    def ingest(store: Path) -> None:
        with QdrantIngestor(model, f"{scheme}:{store}", root=corpus, index=index) as ingestor:
            ingestor.ingest(str(corpus), prune=True)

    def contents(store: Path) -> dict:
        with QdrantIngestor(model, f"{scheme}:{store}", root=corpus, index=index) as ingestor:
            points = ingestor.store.scroll(ingestor.collection.name, payload=True, vectors=True)
            return {
                point.id: (
                    json.dumps(point.payload, sort_keys=True),
                    {name: vector.tobytes() for name, vector in point.vectors.items()},
                )
                for point in points
            }

    before, undisturbed, trial = folder / "before", folder / "undisturbed", folder / "trial"
    ingest(before)
    edit_corpus(corpus)
    shutil.copytree(before, undisturbed)
    ingest(undisturbed)
    wanted = contents(undisturbed)
    fresh = folder / "fresh"
    ingest(fresh)
    # How long a run takes, from nothing and from the corpus before its edits: kills are to fall within it, on a machine
    # that others slow down too.
    durations = [_run_in_child(lambda: ingest(trial), trial, source)[0] for source in (None, before)]
    numbers = random.Random(seed)
    found = {
        "trials": trials,
        "killed": 0,
        "lost": 0,
        "extra": 0,
        "different": 0,
        "fresh_differs": sum(wanted.get(point) != value for point, value in contents(fresh).items()),
        "points": len(wanted),
    }
    for number in range(trials):
        source = before if number % 2 else None
        moment = numbers.uniform(0.0, durations[number % 2])
        seconds, killed = _run_in_child(lambda: ingest(trial), trial, source, kill_after=moment)
        found["killed"] += killed
        # A run that was over before its kill says how long one takes now.
        durations[number % 2] = 1.1 * durations[number % 2] if killed else seconds
        ingest(trial)
        now = contents(trial)
        found["lost"] += sum(point not in now for point in wanted)
        found["extra"] += sum(point not in wanted for point in now)
        found["different"] += sum(now[point] != wanted[point] for point in now if point in wanted)
    sys.stdout.write(json.dumps(found) + "\n")


def _run_in_child(run, store: Path, source: Path | None, kill_after: float | None = None) -> tuple[float, bool]:
    """Run in a forked process over a store that is empty or a copy; kill it after so many seconds.

    Returns:
        How long it ran, and whether it was killed.
    """
    shutil.rmtree(store, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, store)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            run()
        finally:
            os._exit(0)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.perf_counter() - started
        if ended:
            return seconds, False
        if kill_after is not None and seconds >= kill_after:
            os.killpg(child, signal.SIGKILL) if _leads_group(child) else os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return seconds, os.WIFSIGNALED(status)
        time.sleep(0.001)


def _leads_group(process: int) -> bool:
    try:
        return os.getpgid(process) == process
    except ProcessLookupError:
        return False


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
