"""A collection is filled and searched with a compiled artefact, where there is no torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedprefs import Encoder, PreferredSentenceTransformer, load_encoder, load_model, load_preferences
from embedprefs.layers import preferences_for_model
from embedprefs.preferences import IndexPreferences
from embedprefs.serving import compile_model
from embedprefs.testing import tiny_bert_folder
from embedprefs_qdrant import QdrantIngestor

QUERY = "ban kel lim mos rut"

WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "sentence_transformers"):
    sys.modules[name] = None
from embedprefs.cli.main import run
run()
"""


@pytest.fixture
def project(tmp_path, model_folder, corpus, monkeypatch):
    """A project over the corpus, with the preferences of a static model; nothing is compiled yet."""
    file = tmp_path / "embedprefs.toml"
    file.write_text(
        f'[model]\nname = "{model_folder}"\n[compute]\ndevice = "cpu"\n'
        f'[index]\nroot = "{corpus}"\nstore = "edge:index"\nchunk_tokens = 64\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def ingestor_of(model=None):
    return QdrantIngestor(model if model is not None else load_preferences(), ":memory:")


def test_a_collection_is_filled_by_the_artefact_and_by_the_model_alike(project, corpus):
    """The artefact is used once it is there; the collection's identity and its hits stay the same."""
    with ingestor_of() as before:
        before.ingest(str(corpus))
        assert isinstance(before.space.model, PreferredSentenceTransformer)
        record = before.space.record
        expected = before.search(QUERY, limit=5)
    compile_model(load_preferences())
    with ingestor_of() as after:
        report = after.ingest(str(corpus))
        assert isinstance(after.space.model, Encoder)
        assert after.space.record.fingerprint == record.fingerprint
        assert after.space.record.numerics["backend"] == "numpy"
        hits = after.search(QUERY, limit=5)
    assert report.embedded > 0
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)


def test_an_encoder_is_handed_in_as_a_model_is(project, corpus, tmp_path):
    """Everything a collection has to know comes with the artefact: the model's own folder is not asked."""
    encoder = load_encoder(compile_model(load_preferences(), tmp_path / "artefact").folder)
    with ingestor_of() as expected, ingestor_of(encoder) as served:
        assert served.space.record.identity == expected.space.record.identity
        assert served.space.size == expected.space.size
        expected.ingest(str(corpus))
        served.ingest(str(corpus))
        wanted, found = (ingestor.search(QUERY, limit=5) for ingestor in (expected, served))
    assert [hit.id for hit in found] == [hit.id for hit in wanted]


def test_documents_are_read_whole_by_the_artefact_too(tmp_path, corpus, monkeypatch):
    """Each chunk gets the vector that the model gives it in its document; the identity is the same."""
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path / "cache"))
    folder = tiny_bert_folder(tmp_path / "model")
    model = load_model(folder, overrides={"compute.device": "cpu", "compute.backend": "torch"})
    preferences = preferences_for_model(folder, {"compute.device": "cpu", "compute.exactness": "exact"})
    encoder = load_encoder(compile_model(preferences, tmp_path / "artefact").folder)
    index = IndexPreferences(chunk_tokens=24, chunk_context="document")
    file = str(corpus / "part0" / "document003.md")
    stored = []
    for embedder in (model, encoder):
        with QdrantIngestor(embedder, ":memory:", root=corpus, index=index) as ingestor:
            assert ingestor.ingest(file).embedded > 4
            points = ingestor.store.scroll("documents", vectors=True)
            record = ingestor.space.record
            stored.append((record.fingerprint, {point.id: point.vectors["dense"] for point in points}))
    (wanted, expected), (fingerprint, found) = stored
    assert fingerprint == wanted
    assert found.keys() == expected.keys()
    assert max(abs(found[point] - expected[point]).max() for point in found) < 1e-5


def test_the_commands_answer_without_torch_once_the_model_is_compiled(project, corpus):
    """index, search and status in processes that cannot import torch; each embedding one says what it uses."""
    compile_model(load_preferences())

    def run(*arguments):
        command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        ended = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended

    indexed = run("index", str(corpus))
    assert indexed.stderr.count("Using the compiled artefact in") == 1
    found = run("search", QUERY, "--limit", "3")
    assert found.stderr.count("Using the compiled artefact in") == 1
    assert len([line for line in found.stdout.splitlines() if line.strip()[:1].isdigit()]) >= 3
    assert "Using the compiled artefact" not in run("status").stderr
