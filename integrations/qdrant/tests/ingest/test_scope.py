"""Which stored documents a run speaks for, and which of them are gone."""

from __future__ import annotations

import json

import pytest

from embedprefs_qdrant.documents import FailedSource
from embedprefs_qdrant.scope import RunSources

STORED = [
    *(
        "a.md",
        "docs/b.md",
        "docs/deep/c.md",
        "docs/.hidden.md",
        "docs2/d.md",
        "docs/rows.jsonl#1",
        "docs/rows.jsonl#x/y",
    ),
    *("docs/odd[1].md", "docs/odd1.md", "note 1", "../outside/e.md"),
]


@pytest.fixture
def root(tmp_path):
    """A folder with some of the files."""
    folder = tmp_path / "root"
    for name in ("a.md", "docs/b.md", "docs/deep/c.md", "docs2/d.md", "docs/odd[1].md", "docs/rows.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        (".", STORED),
        ("docs", [name for name in STORED if name.startswith("docs/")]),
        ("docs/", [name for name in STORED if name.startswith("docs/")]),
        ("docs/b.md", ["docs/b.md"]),
        ("docs/rows.jsonl", ["docs/rows.jsonl#1", "docs/rows.jsonl#x/y"]),
        ("docs/odd[1].md", ["docs/odd[1].md"]),
        ("docs/*.md", ["docs/b.md", "docs/odd[1].md", "docs/odd1.md"]),
        ("docs/odd?.md", ["docs/odd1.md"]),
        ("docs/**/*.md", ["docs/b.md", "docs/deep/c.md", "docs/odd[1].md", "docs/odd1.md"]),
        ("**", [name for name in STORED if ".hidden" not in name and not name.startswith("..")]),
        ("*.jsonl", []),
        ("docs/*.jsonl", ["docs/rows.jsonl#1", "docs/rows.jsonl#x/y"]),
        ("../outside", ["../outside/e.md"]),
        ("gone.md", []),
    ],
)
def test_a_path_speaks_for_what_a_finder_would_find_there(root, monkeypatch, name, covered):
    """Folders for everything beneath, files for themselves and their rows, globs as globs, brackets as they stand."""
    monkeypatch.chdir(root)
    assert RunSources(name, root).in_scope(STORED) == sorted(covered)


def test_a_link_to_the_root_is_the_root(root, tmp_path, monkeypatch):
    """A path through a link is known by the same names."""
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert RunSources(str(tmp_path / "link" / "docs"), root).in_scope(STORED)[0].startswith("docs/")
    monkeypatch.chdir(tmp_path / "link")
    assert RunSources("docs", tmp_path / "link").in_scope(STORED)[0].startswith("docs/")


@pytest.mark.parametrize("documents", [[("a.md", "text")], iter(["docs"]), {"id": "a.md", "text": "x"}])
def test_other_inputs_speak_for_nothing(root, documents):
    """Objects and iterables may be any part of what is known."""
    assert RunSources(documents, root).in_scope(STORED) == []


def test_a_scope_that_is_given_replaces_the_inputs(root):
    """Its `*` matches slashes too."""
    assert RunSources([("a", "x")], root, ["docs/*", "note *"]).in_scope(["docs/deep/c.md", "note 1", "a.md"]) == [
        "docs/deep/c.md",
        "note 1",
    ]


def test_what_failed_may_be_there_still_and_what_is_empty_now_is_gone(root):
    """A broken line protects all rows of its file, an unreadable folder all beneath it."""
    sources = RunSources(str(root), root)
    failed, skipped = {}, {}
    sources.meet("a.md")
    sources.note(FailedSource("docs/rows.jsonl", "Not JSON.", "malformed", 3), failed, skipped)
    sources.note(FailedSource("docs/deep", "The folder cannot be read.", "unreadable"), failed, skipped)
    sources.note(FailedSource("docs2/d.md", "Empty.", "empty"), failed, skipped)
    gone = sources.absent(["a.md", "docs/rows.jsonl#1", "docs/deep/c.md", "docs2/d.md", "docs/b.md"])
    assert gone == ["docs/b.md", "docs2/d.md"]
    assert (list(failed), list(skipped)) == (["docs/rows.jsonl", "docs/deep"], ["docs2/d.md"])


def test_every_failure_of_a_table_is_counted(root):
    """The first are named; thousands do not fill memory."""
    sources, failed = RunSources(str(root), root), {}
    for line in range(1, 2001):
        sources.note(FailedSource("rows.csv", "Bad.", "malformed", line), failed, {})
    assert failed["rows.csv"] == "line 1: Bad.; line 2: Bad.; line 3: Bad.; line 4: Bad.; line 5: Bad. (and 1995 more)"


def test_a_mistyped_glob_removes_nothing(make_ingestor, corpus, store, monkeypatch):
    """That nothing matches is an error of the request, not the end of the documents."""
    monkeypatch.chdir(corpus)
    ingestor = make_ingestor(store)
    ingestor.ingest("part1/*.md")
    report = ingestor.ingest(["part1/*.mdx", "part1/document001.md"], prune=True, allow_mass_deletion=True)
    assert list(report.failed) == ["part1/*.mdx"]
    assert report.pruned == []


def test_a_glob_prunes_what_it_no_longer_finds(make_ingestor, corpus, store, monkeypatch):
    """And nothing of other folders."""
    monkeypatch.chdir(corpus)
    ingestor = make_ingestor(store)
    ingestor.ingest(".")
    (corpus / "part1" / "document004.md").unlink()
    (corpus / "part2" / "document002.md").unlink()
    assert ingestor.ingest("part1/*.md", prune=True).pruned == ["part1/document004.md"]


def test_a_file_that_is_empty_now_is_named_and_pruned(make_ingestor, corpus, store):
    """Its old chunks must not be found for ever."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    (corpus / "part1" / "document001.md").write_text("", encoding="utf-8")
    assert ingestor.ingest(str(corpus)).absent == ["part1/document001.md"]
    assert ingestor.ingest(str(corpus), prune=True).pruned == ["part1/document001.md"]
    assert ingestor.status().documents == 30


def test_rows_of_a_table_that_are_gone_are_pruned_and_a_broken_line_keeps_them(make_ingestor, tmp_path, store):
    """A row is a document of its own."""
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = folder / "rows.jsonl"

    def write(*numbers, broken=False):
        lines = [json.dumps({"id": number, "text": f"Ban kel {number}."}) for number in numbers]
        rows.write_text("\n".join([*lines, *(["{"] if broken else [])]) + "\n", encoding="utf-8")

    ingestor = make_ingestor(store)
    ingestor.root = folder
    write(1, 2, 3, 4)
    assert ingestor.ingest(str(rows)).documents == 4
    write(1, 2, 4, broken=True)
    report = ingestor.ingest(str(rows), prune=True)
    assert (report.pruned, list(report.failed)) == ([], ["rows.jsonl"])
    write(1, 2, 4)
    assert ingestor.ingest(str(rows), prune=True).pruned == ["rows.jsonl#3"]


def test_names_with_brackets_spaces_and_other_scripts(make_ingestor, tmp_path, store):
    """Sources are the names as they stand, and pruning finds exactly them."""
    folder = tmp_path / "odd [names]"
    names = ["a [1].md", "a1.md", "a*.md", "größe été.md", "документ.md", "x#y.md"]
    for name in names:
        (folder / "sub?").mkdir(parents=True, exist_ok=True)
        (folder / "sub?" / name).write_text(f"Ban kel {name}", encoding="utf-8")
    ingestor = make_ingestor(store)
    ingestor.root = folder
    assert ingestor.ingest(str(folder)).documents == len(names)
    (folder / "sub?" / "a [1].md").unlink()
    (folder / "sub?" / "документ.md").unlink()
    assert ingestor.ingest(str(folder / "sub?"), prune=True).pruned == ["sub?/a [1].md", "sub?/документ.md"]
    found = {hit.source for hit in ingestor.search("ban kel", limit=10, where="path=sub?/größe été.md")}
    assert found == {"sub?/größe été.md"}


def test_sources_do_not_depend_on_the_current_folder(make_ingestor, corpus, store, monkeypatch, tmp_path):
    """The same files named from elsewhere are unchanged."""
    monkeypatch.chdir(corpus)
    ingestor = make_ingestor(store)
    ingestor.ingest("part1")
    monkeypatch.chdir(corpus / "part1")
    assert ingestor.ingest(".").unchanged == 10
    monkeypatch.chdir(tmp_path)
    assert ingestor.ingest("corpus/part1").unchanged == 10


def test_a_relative_root_is_that_of_the_start(loaded_model, corpus, monkeypatch, tmp_path):
    """Changing the folder later renames no source."""
    from embedprefs_qdrant import QdrantIngestor

    monkeypatch.chdir(corpus.parent)
    with QdrantIngestor(loaded_model, ":memory:", root="corpus") as ingestor:
        ingestor.ingest("corpus")
        monkeypatch.chdir(tmp_path)
        assert ingestor.ingest(str(corpus)).unchanged == 31


def test_a_relative_store_starts_at_the_current_folder_or_at_the_preferences(model_folder, monkeypatch, tmp_path):
    """Given in a call: as every path of a call. Written in a file: as every path of that file."""
    from embedprefs_qdrant import QdrantIngestor

    file = tmp_path / "project" / "embedprefs.toml"
    file.parent.mkdir()
    file.write_text(f'[model]\nname = "{model_folder}"\n[index]\nstore = "edge:index"\n', encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for store, folder in ((None, file.parent), ("edge:index", elsewhere)):
        with QdrantIngestor(str(file), store) as ingestor:
            ingestor.ingest([("a", "Ban kel.")])
        assert (folder / "index" / "documents").is_dir()
