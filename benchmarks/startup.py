"""How long it takes until something is seen: `import embedprefs`, `embedprefs --help`, `embedprefs check`.

    python benchmarks/startup.py

Each is measured in fresh processes, whole, and the median is printed beside its bound; the exit code is 1 where one is
missed. `check` reads a ModernBERT folder of 395 million parameters with random weights, which is built here, and must
not read the weights.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7

#: The time of the import itself, without that of starting Python; and whether torch came with it.
IMPORT = """
import sys, time
began = time.perf_counter()
import embedprefs
print(time.perf_counter() - began)
assert "torch" not in sys.modules, "importing embedprefs loads torch"
"""


def seconds_of(command: list[str], folder: Path) -> float:
    """Return the seconds a process takes from its start to its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return time.perf_counter() - began


def seconds_of_import() -> float:
    """Return the seconds that the import takes in a fresh process."""
    printed = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout
    return float(printed)


def modernbert_project(folder: Path) -> Path:
    """Build the model and write its preferences file."""
    from embedprefs.testing import modernbert_large_folder

    modernbert_large_folder(folder / "model")
    command = [sys.executable, "-m", "embedprefs.cli", "init", "./model", "--quiet"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return folder


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = modernbert_project(Path(name))
        embedprefs = [sys.executable, "-m", "embedprefs.cli"]
        measured = [
            ("import embedprefs (no torch)", 0.1, [seconds_of_import() for _ in range(RUNS)]),
            ("embedprefs --help", 0.5, [seconds_of([*embedprefs, "--help"], folder) for _ in range(RUNS)]),
            (
                "embedprefs check, 395M parameters",
                3.0,
                [seconds_of([*embedprefs, "check"], folder) for _ in range(RUNS)],
            ),
        ]
    missed = False
    print(f"{'':36}{'median':>10}{'slowest':>10}{'bound':>10}   of {RUNS} fresh processes")
    for what, bound, seconds in measured:
        median = statistics.median(seconds)
        missed = missed or median >= bound
        verdict = "" if median < bound else "   MISSED"
        print(f"{what:36}{median:>9.3f}s{max(seconds):>9.3f}s{bound:>9.1f}s{verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
