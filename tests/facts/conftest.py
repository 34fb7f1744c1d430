"""Model folders, and the host's own view of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from embedprefs import testing


def _read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="session")
def edit_json():
    """Change a JSON file in place: `edit_json(path, key=value)`; None removes a key."""

    def edit(path: Path, **changes) -> None:
        values = _read_json(path)
        values.update(changes)
        _write_json(path, {name: value for name, value in values.items() if value is not None})

    return edit


@pytest.fixture
def bert_folder(tmp_path) -> Path:
    return testing.tiny_bert_folder(tmp_path / "bert")


@pytest.fixture
def roberta_folder(tmp_path) -> Path:
    return testing.tiny_roberta_folder(tmp_path / "roberta")


@pytest.fixture
def modernbert_folder(tmp_path) -> Path:
    return testing.tiny_modernbert_folder(tmp_path / "modernbert")


@pytest.fixture
def static_folder(tmp_path) -> Path:
    return testing.static_model_folder(tmp_path / "static")


@pytest.fixture(scope="session")
def load_host():
    """Load a folder with the plain host on the processor."""

    def load(folder: Path, **arguments):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **arguments)

    return load


@pytest.fixture
def cached_model(tmp_path):
    """Lay a model folder into a hub cache as huggingface_hub does: refs, snapshots, blobs named by their etag."""

    def lay(
        folder: Path, name: str, commit: str = "0123456789abcdef0123456789abcdef01234567", reference="main"
    ) -> Path:
        cache = tmp_path / "hub"
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / reference).write_text(commit, encoding="ascii")
        (repository / "blobs").mkdir(exist_ok=True)
        for path in folder.rglob("*"):
            if not path.is_file():
                continue
            content = path.read_bytes()
            large = path.suffix == ".safetensors"
            etag = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest()
            blob = repository / "blobs" / etag
            blob.write_bytes(content)
            link = repository / "snapshots" / commit / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return cache

    return lay


@pytest.fixture
def copy_of(tmp_path):
    """Copy a model folder, to be changed."""

    def copy(folder: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy
