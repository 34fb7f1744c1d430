"""What a compiled artefact is worth to a service: each start in a fresh process, in turns with the plain host.

    python benchmarks/serving.py                 # compiles all-MiniLM-L6-v2 and measures it, about two minutes
    python benchmarks/serving.py --artefact DIR  # measures an artefact that is there, of the same model

The artefact's process cannot import torch, transformers or sentence-transformers. Medians are printed beside their
targets; the exit code is 1 where one is missed. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from apart import measure
from figures import Figure, Section, print_figures, quieten, run_sections, write_json
from materials import minilm_folder

from embedprefs.errors import EmbedPrefsError

MEBIBYTE = 1024**2
QUESTION = "Which winter froze the harbour, and how long did it stay closed?"
#: Seconds from the start of the process, share of the host's memory, share of the host's time for one question.
FIRST, MEMORY, QUERY = 1.0, 0.40, 0.25


def starts(model: str, artefact: str, runs: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Start both in turns and return what each process measured."""
    served, host = [], []
    for _ in range(runs):
        served.append(measure("first_served", folder=artefact, question=QUESTION))
        host.append(measure("first_vector", model=model, question=QUESTION, overrides=None))
    return served, host


def figures(model: str, artefact: str, runs: int) -> Iterator[Figure]:
    """Yield what the service notices: the first answer, memory, each further answer, and that it is the same one."""
    measure("first_served", folder=artefact, question=QUESTION)  # compiles for this processor, and fills the file cache
    served, host = starts(model, artefact, runs)
    first, host_first = ([run["first"] for run in side] for side in (served, host))
    yield Figure(
        "seconds from the start of the process to the first vector",
        statistics.median(first),
        "s",
        FIRST,
        at_least=False,
        detail=f"{min(first):.2f} to {max(first):.2f} s; the host {statistics.median(host_first):.2f} s",
        values={"served": first, "host": host_first},
    )
    held, host_held = (statistics.median(run["resident"] for run in side) for side in (served, host))
    yield Figure(
        "resident memory, share of the host's",
        held / host_held,
        "",
        MEMORY,
        at_least=False,
        detail=f"{held / MEBIBYTE:,.0f} and {host_held / MEBIBYTE:,.0f} MiB",
    )
    ours, theirs = (statistics.median(statistics.median(run["seconds"]) for run in side) for side in (served, host))
    yield Figure(
        "one 16-token question, share of the host's time",
        ours / theirs,
        "",
        QUERY,
        at_least=False,
        detail=f"{ours * 1000:.2f} ms, host {theirs * 1000:.2f} ms",
    )
    one, other = (np.array(side[-1]["vector"]) for side in (served, host))
    cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    yield Figure("cosine to the host", cosine, "", 0.9999, digits=6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of all-MiniLM-L6-v2; that of the package without it")
    parser.add_argument("--artefact", type=Path, help="an artefact that is there, in place of one compiled here")
    parser.add_argument("--runs", type=int, default=7, help="starts of each side")
    parser.add_argument("--json", type=Path, help="also write everything that was measured to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = minilm_folder(asked.model)
        artefact = str(asked.artefact or compiled(model, Path(name)))
        section = Section(
            "serving", "all-MiniLM-L6-v2, served without torch", lambda: figures(model, artefact, asked.runs)
        )
        found = run_sections([section], failures=(EmbedPrefsError, RuntimeError))
    if asked.json is not None:
        write_json(asked.json, {"runs": asked.runs}, found)
    return print_figures(found)


def compiled(model: str, folder: Path) -> Path:
    """Compile the model as its defaults say, and return the artefact's folder."""
    from embedprefs.layers import preferences_for_model
    from embedprefs.serving import compile_model

    quieten()
    return compile_model(preferences_for_model(model, {"compute.device": "cpu"}), folder / "artefact").folder


if __name__ == "__main__":
    sys.exit(main())
