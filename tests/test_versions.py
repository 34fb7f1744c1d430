"""Lowest versions are the same wherever they stand, and what is pinned satisfies them."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from embedprefs.hardware import diagnosis

ROOT = Path(__file__).resolve().parents[1]


def _neighbour(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


lowest = _neighbour("lowest_versions")


def read(file):
    return tomllib.loads(file.read_text(encoding="utf-8"))


def pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def every_requirement():
    """What the distributions and the groups of development need, this project's own distributions left out."""
    found = [item for file in lowest.project_files() for item in lowest.requirements(file)]
    groups = read(ROOT / "pyproject.toml")["dependency-groups"].values()
    return [*found, *(Requirement(text) for group in groups for text in group)]


def test_what_is_pinned_is_allowed():
    """Every requirement is pinned, and its pin is within its bounds."""
    pins = pinned()
    assert len(every_requirement()) > 40
    for requirement in every_requirement():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_one_package_has_the_same_bounds_in_every_distribution():
    """Two lowest versions would be one too many to look at, and a lowest one above the highest could not be had."""
    found = {}
    for requirement in every_requirement():
        found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: bounds for name, bounds in found.items() if len(bounds) > 1} == {}
    for file in lowest.project_files():
        for requirement in lowest.requirements(file):
            assert requirement.specifier.contains(lowest.lowest_versions()[canonicalize_name(requirement.name)])


def table():
    """Package -> (lowest, below), as the page of versions says."""
    page = (ROOT / "docs" / "reference" / "versions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| *([\d.]*) *\|", page, re.MULTILINE)
    return {name: (low, below) for name, low, below in rows}


def test_the_page_of_versions_says_what_the_distributions_need():
    bounds = {canonicalize_name(item.name): item.specifier for item in every_requirement()}
    rows = table()
    assert rows.pop("Python")[0] == read(ROOT / "pyproject.toml")["project"]["requires-python"].removeprefix(">=")
    assert len(rows) > 15
    for name, (low, below) in rows.items():
        assert SpecifierSet(f">={low}" + (f",<{below}" if below else "")) == bounds[name], name
    extras = read(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    named = {Requirement(text).name for texts in extras.values() for text in texts if "embedprefs" not in text}
    assert named <= rows.keys()


def test_the_doctor_looks_for_the_versions_that_are_needed():
    bounds = {canonicalize_name(item.name): item.specifier for item in every_requirement()}
    supported = {**diagnosis._SUPPORTED, "openvino": diagnosis._SUPPORTED_OPENVINO}
    for name, (low, below) in supported.items():
        assert SpecifierSet(f">={low}" + (f",<{below}" if below else "")) == bounds[name], name
    python = {read(file)["project"]["requires-python"] for file in lowest.project_files()}
    assert python == {f">={diagnosis._SUPPORTED_PYTHON[0]}"}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/first-search.md", "integrations/qdrant/README.md"])
def test_pages_name_the_lowest_python(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"Python (\d\.\d+) or newer", text) == [diagnosis._SUPPORTED_PYTHON[0]]


def test_every_extra_that_a_message_names_exists():
    """What a message, a rule or a page tells to install can be installed; no package is named in place of its extra."""
    extras = {
        read(file)["project"]["name"]: {*read(file)["project"].get("optional-dependencies", {})}
        for file in lowest.project_files()
    }
    sources = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    sources += [file for kind in ("*.py", "*.md") for file in (ROOT / "integrations").rglob(kind)]
    named = 0
    for file in sources:
        text = file.read_text(encoding="utf-8")
        for distribution, listed in re.findall(r"([\w-]+)\[([a-z, -]+)\]\\?\"", text):
            if distribution in extras:
                named += 1
                assert {item.strip() for item in listed.split(",")} <= extras[distribution], (file, listed)
        assert not re.search(r"pip install \"?(openvino|nncf|onnxruntime|peft|pyarrow)\b(?!-gpu|>)", text), file
    assert named > 10


@pytest.mark.parametrize(
    ("files", "imported", "missing"),
    [
        ({"host/__init__.py": "from .a import Thing\n"}, {"host": {"Thing", "Other"}}, ["host.Other"]),
        ({"host/__init__.py": "", "host/a.py": ""}, {"host": {"a"}, "host.a": set(), "host.b": {"c"}}, ["host.b"]),
        ({"host/__init__.py": "", "host/deep/a.py": "class Lazy:\n"}, {"host": {"Lazy", "lazy"}}, ["host.lazy"]),
    ],
)
def test_a_name_that_a_version_lacks_is_found(tmp_path, files, imported, missing):
    """A name of a module, a module, and a class that a lazy package gathers from beneath."""
    wheel = tmp_path / "host-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    assert lowest.missing_names(wheel, imported) == missing


def test_what_the_code_imports_is_found():
    """Among it the host's class, which every model here is."""
    assert "SentenceTransformer" in lowest.imported_names("sentence_transformers")["sentence_transformers"]
