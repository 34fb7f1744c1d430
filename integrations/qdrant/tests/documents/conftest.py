"""Reading with the failures at hand, and files to read."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedprefs_qdrant.documents import Document, FailedSource, read_documents


@dataclass
class Reading:
    """What one reading gave."""

    documents: list[Document]
    failed: list[FailedSource] = field(default_factory=list)

    @property
    def sources(self):
        return [document.source for document in self.documents]

    @property
    def kinds(self):
        return {failure.source: failure.kind for failure in self.failed}


@pytest.fixture
def read(tmp_path):
    """Read inputs relative to the test's own folder."""

    def reading(inputs, **options):
        failed = []
        documents = list(read_documents(inputs, **{"root": tmp_path, **options}, on_error=failed.append))
        return Reading(documents, failed)

    return reading


@pytest.fixture
def files(tmp_path):
    """Write files, given as path to text or bytes, below the test's own folder."""

    def write(contents):
        for name, content in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


@pytest.fixture(scope="session")
def real_texts():
    """The folder of real texts."""
    default = Path(__file__).parents[4] / ".." / "shared" / "data"
    folder = Path(os.environ.get("EMBEDPREFS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real texts are not there: set EMBEDPREFS_TEST_DATA")
    return folder
