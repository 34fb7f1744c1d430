"""A small corpus of Markdown files made of known words, and edits of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from embedprefs.testing import static_model_folder

__all__ = ["WORDS", "edit_corpus", "write_corpus", "write_model"]

WORDS = tuple(f"{first}{second}" for first in ("ba", "ke", "li", "mo", "ru", "sa", "ti") for second in "nmlrstkp")


def write_model(folder: Path) -> Path:
    """Write a static model that knows `WORDS`, each with a vector of its own; 16 dimensions."""
    numbers = np.random.default_rng(7)
    return static_model_folder(folder, {word: numbers.standard_normal(16).tolist() for word in WORDS}, normalize=True)


def _paragraph(numbers: random.Random, words: int) -> str:
    return " ".join(numbers.choice(WORDS) for _ in range(words)).capitalize() + "."


def _document(seed: int, sections: int) -> str:
    numbers = random.Random(seed)
    parts = [f"# Document {seed}\n\n{_paragraph(numbers, 30)}\n"]
    for section in range(sections):
        body = "\n\n".join(_paragraph(numbers, 40) for _ in range(numbers.randint(1, 3)))
        parts.append(f"## Section {section}\n\n{body}\n")
    return "\n".join(parts)


def write_corpus(folder: Path, documents: int = 30, *, seed: int = 0) -> Path:
    """Write a corpus: files of different lengths, in folders, a text that stands in two of them."""
    for number in range(documents):
        file = folder / f"part{number % 3}" / f"document{number:03}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_document(seed * 1000 + number, 2 + number % 7), encoding="utf-8")
    twin = folder / "part0" / "twin.md"
    twin.write_text((folder / "part0" / "document000.md").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def edit_corpus(folder: Path) -> None:
    """Change it in every way that leaves something stale behind: edit, insert, shrink, rename, delete, add."""
    files = sorted(folder.rglob("document*.md"))
    edited, inserted, shrunk, renamed, deleted = files[0], files[4], files[8], files[12], files[16]
    text = edited.read_text(encoding="utf-8")
    edited.write_text(text.replace("## Section 1", "## Section one"), encoding="utf-8")
    text = inserted.read_text(encoding="utf-8")
    inserted.write_text(text.replace("## Section 0\n", "## Section 0\n\nBan kel lim.\n", 1), encoding="utf-8")
    text = shrunk.read_text(encoding="utf-8")
    shrunk.write_text(text[: text.index("## Section 0")], encoding="utf-8")
    renamed.rename(renamed.with_name("renamed.md"))
    deleted.unlink()
    for number in range(900, 906):
        (folder / "part1" / f"document{number}.md").write_text(_document(number, 5), encoding="utf-8")
