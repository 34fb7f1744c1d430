"""Looks whether the lowest versions that `pyproject.toml` allows exist, and hold what the code imports from them.

    python tests/lowest_versions.py

It asks the package index that pip is set up for, and installs nothing: small wheels are downloaded into a temporary
folder and read as text; of the large ones pip is asked alone whether the version is there. A name counts as there where
it stands in the module that is imported, or is a module itself. What a function does is not looked at: that is what the
tests are for, with the versions of `constraints.txt`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

__all__ = ["imported_names", "lowest_versions", "missing_names", "project_files", "requirements"]

ROOT = Path(__file__).resolve().parents[1]

#: Distributions whose wheels are too large to be downloaded for this.
LARGE = frozenset({"torch", "openvino", "nncf", "onnxruntime", "matplotlib", "pyarrow", "numpy", "onnx"})
#: Distribution -> the package that it brings, where the names differ.
PACKAGES = {
    "huggingface-hub": "huggingface_hub",
    "html-to-markdown": "html_to_markdown",
    "langchain-core": "langchain_core",
    "langchain-qdrant": "langchain_qdrant",
    "markdown-it-py": "markdown_it",
    "pyyaml": "yaml",
    "qdrant-client": "qdrant_client",
    "qdrant-edge-py": "qdrant_edge",
    "sentence-transformers": "sentence_transformers",
}
#: Compiled modules, whose names no text tells.
COMPILED = frozenset({"qdrant_edge", "html_to_markdown"})


def project_files() -> list[Path]:
    """Return the pyproject.toml of every distribution here."""
    return [ROOT / "pyproject.toml", *sorted(ROOT.glob("integrations/*/pyproject.toml"))]


def requirements(file: Path) -> Iterator[Requirement]:
    """Yield what a distribution needs, its extras included, the distributions of this project left out."""
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    for text in (*project["dependencies"], *(item for extra in extras for item in extra)):
        requirement = Requirement(text)
        if not re.search("embedprefs", requirement.name):
            yield requirement


def lowest_versions() -> dict[str, Version]:
    """Return distribution -> the lowest version that any distribution here allows."""
    found: dict[str, Version] = {}
    for file in project_files():
        for requirement in requirements(file):
            lowest = [Version(item.version) for item in requirement.specifier if item.operator in (">=", "==")]
            if not lowest:
                raise ValueError(f"{file}: {requirement} has no lowest version.")
            name = canonicalize_name(requirement.name)
            found[name] = min(found.get(name, lowest[0]), *lowest)
    return found


def imported_names(package: str) -> dict[str, set[str]]:
    """Return module -> the names that the code here imports from it, for the modules of a package."""
    found: dict[str, set[str]] = {}
    for folder in (ROOT / "src", *sorted(ROOT.glob("integrations/*/src"))):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                    modules = {node.module: {alias.name for alias in node.names}}
                elif isinstance(node, ast.Import):
                    modules = {alias.name: set[str]() for alias in node.names}
                else:
                    continue
                for module, names in modules.items():
                    if module.partition(".")[0] == package:
                        found.setdefault(module, set()).update(names)
    return found


def missing_names(wheel: Path, imported: dict[str, set[str]]) -> list[str]:
    """Return the imported modules and names that a wheel does not hold."""
    missing = []
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        for module, names in sorted(imported.items()):
            path = module.replace(".", "/")
            source = next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in files), None)
            if source is None:
                if not any(file.startswith(f"{path}/") for file in files):
                    missing.append(module)
                continue
            words = set(re.findall(r"\w+", archive.read(source).decode("utf-8", errors="replace")))
            modules = {name for name in names if any(file.startswith(f"{path}/{name}") for file in files)}
            left = names - words - modules
            # A package that imports lazily may gather its names from the modules beneath it.
            beneath = (file for file in files if left and file.startswith(f"{path}/") and file.endswith(".py"))
            for file in beneath:
                text = archive.read(file).decode("utf-8", errors="replace")
                left -= {name for name in left if re.search(rf"^(class|def) {name}\b", text, re.MULTILINE)}
            missing.extend(f"{module}.{name}" for name in sorted(left))
    return missing


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _problems(name: str, version: Version, folder: Path) -> list[str]:
    wanted = f"{name}=={version}"
    if name in LARGE:
        # For the version itself, whatever this Python is: a wheel of it need not fit.
        asked = _pip("install", "--dry-run", "--no-deps", "--ignore-installed", wanted)
        return [f"{wanted}: {asked.stderr.strip().splitlines()[-1]}"] if asked.returncode else []
    asked = _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wanted)
    if asked.returncode:
        return [f"{wanted}: {asked.stderr.strip().splitlines()[-1]}"]
    package = PACKAGES.get(name, name)
    wheel = next(file for file in folder.glob("*.whl") if canonicalize_name(file.name.partition("-")[0]) == name)
    return (
        []
        if package in COMPILED
        else [f"{wanted} lacks {item}" for item in missing_names(wheel, imported_names(package))]
    )


def main() -> int:
    """Look at every lowest version; return 1 where one is missing or lacks a name."""
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for name, version in sorted(lowest_versions().items()):
            found = _problems(name, version, Path(folder))
            print(f"{name} {version}: {'not as it should be' if found else 'ok'}", flush=True)
            problems.extend(found)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
