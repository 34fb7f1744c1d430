"""Loaded models, once a session: ours, and the plain host on the same files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedprefs import testing
from embedprefs.errors import EmbedPrefsWarning

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A river runs through the old town.",
    "what is a vector",
    "The quick brown fox jumps over the lazy dog.",
    "",
    "Ωmega ñandú 日本語 😀",
    "a cold winter morning with snow on the mountain and a warm fire in the house " * 3,
    "short",
    "Numbers 1234567890 and (punctuation), too!",
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path) -> dict[str, Path]:
    """Folders of every kind of model, by a short name."""
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(root / "bert"),
        "roberta": testing.tiny_roberta_folder(root / "roberta"),
        "modernbert": testing.tiny_modernbert_folder(root / "modernbert"),
        "static": testing.static_model_folder(root / "static"),
        "flagship": testing.published_modernbert_embed_folder(root / "modernbert-embed-large"),
        "minilm": minilm_folder,
    }


@pytest.fixture(scope="session")
def load(folders: dict[str, Path]) -> Callable[..., Any]:
    """Load a model by its short name, on the CPU and without its warnings."""

    def loaded(name: str, **overrides: Any) -> Any:
        from embedprefs import load_model

        # torch is what the plain host runs; other backends have tests of their own in tests/engine.
        values = {
            "compute.device": "cpu",
            "compute.backend": "torch",
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)
            return load_model(folders[name], overrides=values)

    return loaded


@pytest.fixture(scope="session")
def ours(load: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a model with nothing stated, loaded once a session; tests must leave it as it is."""
    models: dict[str, Any] = {}

    def model(name: str) -> Any:
        if name not in models:
            models[name] = load(name)
        return models[name]

    return model


@pytest.fixture(scope="session")
def host(folders: dict[str, Path]) -> Callable[[str], Any]:
    """Return the plain host's model, loaded once a session in float32."""
    models: dict[str, Any] = {}

    def model(name: str) -> Any:
        from sentence_transformers import SentenceTransformer

        if name not in models:
            settings = {} if name == "static" else {"model_kwargs": {"dtype": "float32"}}
            models[name] = SentenceTransformer(str(folders[name]), device="cpu", **settings)
        return models[name]

    return model
