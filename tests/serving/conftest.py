"""Compiled artefacts, once a session: written by `compile_model` from tiny models, with a cache folder of their own."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedprefs import testing
from embedprefs.calibration import calibrate
from embedprefs.engine.openvino.store import ConversionStore
from embedprefs.errors import EmbedPrefsWarning
from embedprefs.layers import preferences_for_model

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A river runs through the old town.",
    "what is a vector",
    "The quick brown fox jumps over the lazy dog.",
    "",
    "Ωmega ñandú 日本語 😀",
    "a cold winter morning with snow on the mountain and a warm fire in the house " * 12,
    "red apple, green tree and blue sky",
]

#: What an artefact is compiled with, by a short name: kind of model, and preferences.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "bert": ("bert", {}),
    "prompted": ("bert", {"prompts.query": "query: ", "prompts.document": "passage: ", "vectors.truncate_dim": 16}),
    "without_prompt": ("without_prompt", {"prompts.query": "the old town: ", "prompts.document": "a river: "}),
    "windowed": (
        "bert",
        {"tokenizer.overflow": "window", "tokenizer.window_overlap": 8, "tokenizer.window_pooling": "weighted"},
    ),
    "roberta": ("roberta", {"tokenizer.truncation_side": "left", "vectors.precision": "ubinary"}),
    "modernbert": ("modernbert", {"vectors.normalize": True, "vectors.precision": "binary"}),
}


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Let what is kept go into a folder, whichever home the test has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDPREFS_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def shared_cache(isolated_home: Path, serving_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep conversions for the session: each tiny model is converted once. `own_cache` gives a test an empty one."""
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(serving_root / "cache"))
    return serving_root / "cache"


@pytest.fixture
def own_cache(shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a register of its own; conversions are shared all the same."""
    folder = tmp_path / "own-cache"
    folder.mkdir()
    conversions = ConversionStore(shared_cache).folder
    conversions.mkdir(parents=True, exist_ok=True)
    (folder / conversions.name).symlink_to(conversions)
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def serving_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def sources(serving_root: Path) -> dict[str, Path]:
    """Folders of the models, which tests leave as they are."""
    without_prompt = testing.tiny_bert_folder(serving_root / "models" / "without_prompt")
    pooling = next(without_prompt.glob("*_Pooling")) / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "include_prompt": False}))
    return {
        "static": testing.static_model_folder(serving_root / "models" / "static", normalize=True),
        "bert": testing.tiny_bert_folder(serving_root / "models" / "bert"),
        "roberta": testing.tiny_roberta_folder(serving_root / "models" / "roberta"),
        "modernbert": testing.tiny_modernbert_folder(serving_root / "models" / "modernbert"),
        "without_prompt": without_prompt,
    }


@pytest.fixture(scope="session")
def preferences_of(sources: dict[str, Path]) -> Callable[..., Any]:
    """Return the preferences behind a short name, on the processor and exact."""

    def made(kind: str, **further: Any) -> Any:
        source, values = KINDS[kind]
        overrides = {"compute.device": "cpu", "compute.exactness": "exact", "compute.threads": 1, **values, **further}
        return preferences_for_model(sources[source], overrides)

    return made


@pytest.fixture(scope="session")
def models(preferences_of: Callable[..., Any], serving_root: Path) -> Callable[[str], Any]:
    """Load a model by its short name, once a session; it runs on torch."""
    loaded: dict[str, Any] = {}

    def model(kind: str) -> Any:
        if kind not in loaded:
            from embedprefs import load_model

            with warnings.catch_warnings(), cache_in(serving_root / "cache"):
                warnings.simplefilter("ignore", EmbedPrefsWarning)
                loaded[kind] = load_model(preferences_of(kind, **{"compute.backend": "torch"}))
        return loaded[kind]

    return model


@pytest.fixture(scope="session")
def compiled(preferences_of: Callable[..., Any], serving_root: Path) -> Callable[[str], Path]:
    """Compile by a short name, once a session; the folder is left as it is."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            from embedprefs.serving import compile_model

            with warnings.catch_warnings(), cache_in(serving_root / "cache"):
                warnings.simplefilter("ignore", EmbedPrefsWarning)
                folders[kind] = compile_model(preferences_of(kind), serving_root / "artefacts" / kind).folder
        return folders[kind]

    return folder


@pytest.fixture(scope="session")
def encoders(compiled: Callable[[str], Path]) -> Callable[[str], Any]:
    """Load an encoder by its short name, once a session."""
    loaded: dict[str, Any] = {}

    def encoder(kind: str) -> Any:
        if kind not in loaded:
            from embedprefs import load_encoder

            loaded[kind] = load_encoder(compiled(kind))
        return loaded[kind]

    return encoder


@pytest.fixture
def copy_of(compiled: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy an artefact, so that a test may change it."""

    def copied(kind: str) -> Path:
        return Path(shutil.copytree(compiled(kind), tmp_path / "copy"))

    return copied


@pytest.fixture(scope="session")
def ranges(models: Callable[[str], Any], serving_root: Path, texts: list[str]) -> Path:
    """A calibration for the tiny BERT."""
    path = serving_root / "ranges.json"
    calibrate(models("bert"), texts).save(path)
    return path
