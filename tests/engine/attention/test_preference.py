"""`compute.attention = "local"`: chosen for ModernBERT on a processor, refused elsewhere, and found by every copy."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, load_model, testing
from embedprefs.engine.attention import ATTENTION

TEXTS = ["short", "a cold winter morning with snow on the mountain and a warm fire in the house " * 6, "the old town"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.tiny_modernbert_folder(tmp_path_factory.mktemp("local") / "modernbert")


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., Any]:
    def loaded(**overrides: Any) -> Any:
        values = {"compute.device": "cpu", "compute.backend": "torch", "compute.dtype": "float32"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)
            return load_model(
                folder, overrides={**values, **{key.replace("__", "."): value for key, value in overrides.items()}}
            )

    return loaded


def test_a_modernbert_on_a_processor_gets_it_by_itself(load: Callable[..., Any]) -> None:
    """The vectors are those of dense masks, and the fingerprint too: it is a matter of speed."""
    ours, dense = load(), load(compute__attention="sdpa")
    assert ours.resolved["compute.attention"] == "local"
    assert ours[0].auto_model.config._attn_implementation == ATTENTION
    assert dense[0].auto_model.config._attn_implementation == "sdpa"
    np.testing.assert_allclose(ours.encode_document(TEXTS), dense.encode_document(TEXTS), atol=1e-5)
    assert ours.fingerprint == dense.fingerprint


def test_an_untrained_model_has_it_as_well(load: Callable[..., Any]) -> None:
    """Built from its configuration alone, as `model.from_scratch` says."""
    model = load(model__from_scratch=True)
    assert model[0].auto_model.config._attn_implementation == ATTENTION
    assert np.isfinite(model.encode_document(TEXTS)).all()


@pytest.mark.slow
def test_a_changed_model_finds_it_in_another_process(load: Callable[..., Any], tmp_path: Path) -> None:
    """Its weights travel, nothing is loaded there, and the attention is there all the same."""
    import torch

    model = load()
    with torch.no_grad():
        model[0].auto_model.embeddings.tok_embeddings.weight.mul_(1.5)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "expected.npy", model.encode_document(TEXTS))
    code = (
        "import pickle, sys, numpy as np; from pathlib import Path; folder = Path(sys.argv[1]);"
        "model = pickle.loads((folder / 'model.pickle').read_bytes());"
        f"found = model.encode_document({TEXTS!r});"
        "np.testing.assert_allclose(found, np.load(folder / 'expected.npy'), atol=1e-5)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
