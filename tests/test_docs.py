"""Everything the README and the documentation show is run, and what they print is what they show."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from embedprefs.engine.exactness import MEASUREMENTS
from embedprefs.engine.openvino.store import ConversionStore
from embedprefs.files.folders import cache_folder
from embedprefs.testing import FLAGSHIP, published_modernbert_embed_folder

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages that are derived from the code hold examples, not runs.
GENERATED = {"preferences.md", "checks.md", "commands.md"}


def _neighbour(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


pages = _neighbour("pages")
warm_commands = _neighbour("warm_commands").warm_commands


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory, minilm_folder):
    """A hub cache with the real MiniLM, and the flagship's files as published with tiny random weights."""
    home = tmp_path_factory.mktemp("hub")

    def snapshot(name, commit):
        folder = home / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        return folder / "snapshots" / commit

    published_modernbert_embed_folder(snapshot(FLAGSHIP, "a" * 40))
    shutil.copytree(minilm_folder, snapshot("sentence-transformers/all-MiniLM-L6-v2", "b" * 40))
    return home


@pytest.fixture(scope="session")
def launcher(hub_cache):
    """The folder of an `embedprefs` whose commands need not import torch anew, one after the other."""
    home = {"HOME": str(hub_cache), "HF_HOME": str(hub_cache), "HF_HUB_CACHE": str(hub_cache / "hub")}
    with (
        tempfile.TemporaryDirectory(prefix="warm") as folder,
        warm_commands(Path(folder), {**os.environ, **home}) as commands,
    ):
        yield commands


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """What pages share of their caches: each model is converted and measured once, not once a page."""
    folder = tmp_path_factory.mktemp("kept")
    for name in (ConversionStore().folder.name, MEASUREMENTS):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def environment(hub_cache, launcher, kept, isolated_home, monkeypatch):
    """The environment of a user whose models are in the cache."""
    cache_folder().mkdir(parents=True)
    for folder in kept.iterdir():
        (cache_folder() / folder.name).symlink_to(folder, target_is_directory=True)
    monkeypatch.setenv("HF_HOME", str(hub_cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache / "hub"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(launcher), pages.python_folder(), os.environ["PATH"]]))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    return dict(os.environ)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name)
def test_a_page_does_what_it_shows(page, tmp_path, environment):
    """Files are written, commands and Python are run, printed output is compared."""
    pages.run_page(page, tmp_path, environment)


def test_the_readme_is_run():
    """The runner finds the README's blocks: two commands, a file, documents, a session, Python."""
    blocks = pages.blocks_of(ROOT / "README.md")
    languages = [block.language for block in blocks]
    assert languages.count("console") >= 3
    assert "python" in languages
    assert any(block.argument == "embedprefs.toml" for block in blocks)


def test_a_page_that_shows_something_else_fails(tmp_path, environment):
    """The runner itself: wrong output, a failing command and an unknown extra are all noticed."""
    for text, words in (
        ("```console\n$ echo one\ntwo\n```\n", "the page shows"),
        ("```console\n$ false\n```\n", "exited 1"),
        ("```python\nprint(1)\n#> 2\n```\n", "the page shows"),
        ('```console\n$ pip install "embedprefs[nonsense]"\n```\n', "no extra nonsense"),
        ("```console\n$ make nonsense\n```\n", "no target nonsense"),
    ):
        page = tmp_path / "page.md"
        page.write_text(text)
        with pytest.raises(AssertionError, match=words):
            pages.run_page(page, tmp_path, environment)


def test_every_link_between_pages_leads_somewhere():
    """No page names a file that is not there."""
    import re

    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
