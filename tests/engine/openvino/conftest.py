"""Small random models of every architecture that is converted, and their conversions, once a session."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedprefs import testing

pytest.importorskip("openvino", reason="openvino is not installed")

#: model_type -> values of a small configuration; those of BERT's kin share the rest.
_SHARED = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 140,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "albert": {**_SHARED, "embedding_size": 16, "pad_token_id": 0},
    "bert": {**_SHARED, "pad_token_id": 0},
    "camembert": {**_SHARED, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": 200,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 140,
        "pad_token_id": 0,
    },
    "electra": {**_SHARED, "embedding_size": 16, "pad_token_id": 0},
    "modernbert": {
        **_SHARED,
        "num_hidden_layers": 4,
        "max_position_embeddings": 512,
        "local_attention": 16,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mpnet": {**_SHARED, "pad_token_id": 1},
    "roberta": {**_SHARED, "pad_token_id": 1},
    "xlm-roberta": {**_SHARED, "pad_token_id": 1},
}


def build_model(
    folder: Path, model_type: str, *, pooling: str | Sequence[str] = "mean", **pooling_arguments: Any
) -> Any:
    """Build a small random `SentenceTransformer`, its weights large enough to make vectors differ."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoConfig, AutoModel

    testing.tiny_bert_folder(folder, pooling=None)
    torch.manual_seed(7)
    inner = AutoModel.from_config(AutoConfig.for_model(model_type, **CONFIGURATIONS[model_type])).eval()
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    inner.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = Transformer(str(folder), max_seq_length=128)
    width = transformer.get_embedding_dimension()
    mode = pooling if isinstance(pooling, str) else tuple(pooling)
    modules = [transformer, Pooling(width, mode, **pooling_arguments), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def padded_batch(lengths: Sequence[int], *, padding: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random token ids and their mask, padded on the right to the longest."""
    generator = np.random.default_rng(seed)
    ids = np.full((len(lengths), max(lengths)), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = generator.integers(5, 200, length)
        mask[row, :length] = 1
    return ids, mask


def host_vectors(model: Any, ids: np.ndarray, mask: np.ndarray, **features: Any) -> dict[str, np.ndarray]:
    """Return what the host's own modules make of token ids."""
    import torch

    with torch.no_grad():
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), **features}
        outputs = model(inputs)
    return {name: outputs[name].numpy() for name in ("sentence_embedding", "token_embeddings")}


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """What tests build small models and batches with."""
    return SimpleNamespace(
        configurations=CONFIGURATIONS, model=build_model, batch=padded_batch, host_vectors=host_vectors
    )


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """Build a model and convert it; both are kept for the session."""
    kept: dict[str, tuple[Any, Path]] = {}

    def made(model_type: str, **arguments: Any) -> tuple[Any, Path]:
        from embedprefs.engine.openvino.conversion import convert

        name = json.dumps([model_type, arguments], sort_keys=True)
        if name not in kept:
            root = tmp_path_factory.mktemp(model_type)
            model = build_model(root / "model", model_type, **arguments)
            (root / "converted").mkdir()
            convert(model, root / "converted")
            kept[name] = model, root / "converted"
        return kept[name]

    return made
