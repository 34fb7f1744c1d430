"""A real static model, a small corpus, and ingestors over them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name, file):
    """Import a module that lies beneath this folder; the test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


corpus_module = _load("corpus", "ingest/corpus.py")
wire_module = _load("wire_server", "stores/conftest.py")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A static model that knows the corpus's words."""
    return corpus_module.write_model(tmp_path_factory.mktemp("model") / "static")


@pytest.fixture(scope="session")
def loaded_model(model_folder):
    """The same, loaded."""
    from embedprefs import load_model

    return load_model(str(model_folder))


@pytest.fixture
def corpus(tmp_path):
    """A corpus of 31 files."""
    return corpus_module.write_corpus(tmp_path / "corpus")


@pytest.fixture
def edit_corpus():
    """Edits the corpus in every way that leaves something stale behind."""
    return corpus_module.edit_corpus


@pytest.fixture
def make_ingestor(loaded_model, corpus):
    """Makes ingestors over the corpus; all of them are closed at the end."""
    from embedprefs.preferences import IndexPreferences
    from embedprefs_qdrant import QdrantIngestor

    made = []

    def make(store=":memory:", *, model=None, **index):
        ingestor = QdrantIngestor(
            model or loaded_model, store, root=corpus, index=IndexPreferences(**{"chunk_tokens": 64, **index})
        )
        made.append(ingestor)
        return ingestor

    yield make
    for ingestor in made:
        ingestor.close()


@pytest.fixture
def contents():
    """Everything a collection holds, comparable: id -> payload and the vectors' bytes."""

    def read(ingestor):
        points = ingestor.store.scroll(ingestor.collection.name, payload=True, vectors=True)
        return {
            point.id: (point.payload, {name: vector.tobytes() for name, vector in point.vectors.items()})
            for point in points
        }

    return read


@pytest.fixture
def wire():
    """A server on loopback that answers like Qdrant and fails on request."""
    with wire_module.serve() as running:
        yield running


@pytest.fixture
def fake_time():
    """A clock that moves only when somebody sleeps."""
    return wire_module.FakeTime()


@pytest.fixture
def faults():
    """What the server can do wrong."""
    return wire_module


@pytest.fixture(params=[":memory:", "edge"])
def store(request, tmp_path):
    """The address of the client's emulation, and of the real engine."""
    return request.param if request.param == ":memory:" else f"edge:{tmp_path / 'index'}"
