"""The pages about stores and crash safety say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedprefs_qdrant.payloads import chunk_payload
from embedprefs_qdrant.pipeline import MOST_FAILURES_IN_A_ROW
from embedprefs_qdrant.reference import with_capabilities
from embedprefs_qdrant.stores import MAX_BATCH_BYTES, MAX_BATCH_POINTS, RetryPolicy
from embedprefs_qdrant.stores.client import DEFAULT_TIMEOUT
from embedprefs_qdrant.stores.edge import EXACT_BELOW
from embedprefs_qdrant.stores.opening import SCHEMES

TESTS = Path(__file__).parent
DOCS = TESTS.parents[2] / "docs"
CRASH_SAFETY = (DOCS / "explanation" / "crash-safety.md").read_text(encoding="utf-8")
STORES = (DOCS / "reference" / "stores.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", CRASH_SAFETY)


def test_the_page_on_stores_is_up_to_date():
    """Its generated part is what the stores say of themselves; `make docs` writes it."""
    assert with_capabilities(STORES) == STORES


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_a_test_that_a_page_names_exists(file, name):
    """A claim without its test would be a wish."""
    assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8")


def test_each_of_the_eighteen_pains_names_a_test():
    """None is only talked about."""
    rows = [line for line in CRASH_SAFETY.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 19))
    assert all("::test_" in row for row in rows)


def test_the_payload_fields_of_the_page_are_those_of_a_point():
    """No field more, none less."""
    from embedprefs_qdrant import Document
    from embedprefs_qdrant.chunking import Chunk

    chunk = Chunk("a", "x", 0, 1, (), 0, 1, 0, "hash", "x")
    payload = chunk_payload(Document("a", "x"), chunk, ("hash", 1, "cut"), {"dense": "0"})
    section = CRASH_SAFETY.partition("| payload field |")[2].partition("\n\n")[0]
    named = {field for line in section.splitlines()[2:] for field in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == set(payload)


def test_the_figures_of_the_pages_are_those_of_the_code():
    """Timeouts, batches, attempts."""
    policy = RetryPolicy()
    assert f"at most {DEFAULT_TIMEOUT:.0f} seconds" in STORES
    assert f"{MAX_BATCH_POINTS} points and {MAX_BATCH_BYTES // 2**20} MiB" in STORES
    assert (policy.attempts, policy.deadline, policy.longest_retry_after) == (6, 300.0, 60.0)
    assert f"below {EXACT_BELOW:,} points" in STORES
    assert MOST_FAILURES_IN_A_ROW == 3
    for scheme in SCHEMES:
        assert scheme.partition(":")[0] in STORES


def test_the_readme_s_python_runs(tmp_path, monkeypatch, model_folder, capsys):
    """With its own preferences file, over another model and a folder of one note."""
    page = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(toml|python)\n(.*?)```", page, re.DOTALL))
    settings = blocks["toml"].replace("sentence-transformers/all-MiniLM-L6-v2", str(model_folder))
    (tmp_path / "embedprefs.toml").write_text(settings, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "note.md").write_text("# Ban\n\nBan kel lim.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(blocks["python"], {"rows": [{"id": 1, "text": "Mos rut.", "open": True}]})
    out = capsys.readouterr().out
    assert "1 document: 1 new" in out
    assert "note.md ('Ban',)" in out
