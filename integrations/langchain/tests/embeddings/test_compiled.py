"""The compiled artefact of a model embeds for LangChain by itself, and a loaded encoder is accepted as a model is."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from embedprefs import Encoder, PreferredSentenceTransformer, load_encoder, load_preferences
from embedprefs.serving import compile_model
from embedprefs.testing import static_model_folder
from langchain_embedprefs import EmbedPrefsEmbeddings

TEXTS = ["red apple", "green tree", "blue sky"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a static model and its preferences; nothing is compiled yet."""
    static_model_folder(tmp_path / "model", prompts={"query": "query ", "document": "document "})
    (tmp_path / "embedprefs.toml").write_text('[model]\nname = "./model"\n[compute]\ndevice = "cpu"\n')
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def embeddings(project, **overrides):
    return EmbedPrefsEmbeddings(preferences=project / "embedprefs.toml", overrides=overrides or None)


async def test_it_embeds_by_itself_once_it_is_compiled(project, caplog):
    """The same vectors, the same fingerprint, and one line in the log."""
    before = embeddings(project)
    expected = before.embed_query("red apple"), before.embed_documents(TEXTS)
    assert isinstance(before.encoder, PreferredSentenceTransformer)
    fingerprint = before.fingerprint
    before.close()
    compile_model(load_preferences(project / "embedprefs.toml"))
    with caplog.at_level(logging.INFO, "embedprefs.serving"), embeddings(project) as after:
        assert after.embed_query("red apple") == pytest.approx(expected[0], abs=1e-6)
        assert np.allclose(after.embed_documents(TEXTS), expected[1], atol=1e-6)
        assert np.allclose(await after.aembed_documents(TEXTS), expected[1], atol=1e-6)
        assert isinstance(after.encoder, Encoder)
        assert after.fingerprint == fingerprint
        assert after.report.backend == "numpy"
        assert sum("Using the compiled artefact" in message for message in caplog.messages) == 1
        assert isinstance(after.sentence_transformer, PreferredSentenceTransformer)
        assert isinstance(after.encoder, Encoder)


def test_other_preferences_load_the_model(project):
    compile_model(load_preferences(project / "embedprefs.toml"))
    with embeddings(project, **{"prompts.query": "another query "}) as other:
        other.embed_query("red apple")
        assert isinstance(other.encoder, PreferredSentenceTransformer)


def test_an_encoder_is_accepted_as_a_loaded_model_is(project):
    folder = compile_model(load_preferences(project / "embedprefs.toml"), project / "artefact").folder
    encoder = load_encoder(folder)
    handed_in = EmbedPrefsEmbeddings(model=encoder)
    assert handed_in.embed_query("red apple") == pytest.approx(encoder.encode_query("red apple").tolist())
    assert handed_in.fingerprint == encoder.fingerprint
    assert handed_in.dimension == 8
    assert handed_in.encoder is encoder


def test_an_encoder_travels_as_its_preferences(project, monkeypatch):
    """What arrives is refused where it is not the same, as with a model."""
    monkeypatch.chdir(project)
    compile_model(load_preferences(), project / "artefact")
    handed_in = EmbedPrefsEmbeddings(model=load_encoder(project / "artefact"))
    arrived = pickle.loads(pickle.dumps(handed_in))
    assert arrived.expected_fingerprint == handed_in.fingerprint
