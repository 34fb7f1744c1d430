"""Small random models of every architecture that is computed without padding, with the host's attention beside ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedprefs import testing
from embedprefs.engine import gpu

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
    "data2vec-text": {**_SHARED, "pad_token_id": 1},
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
    "ernie": {**_SHARED, "pad_token_id": 0},
    "eurobert": {
        **_SHARED,
        "num_key_value_heads": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 4,
    },
    "jina_embeddings_v3": {**_SHARED, "pad_token_id": 1},
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
    "nomic_bert": {**_SHARED, "pad_token_id": 0},
    "roberta": {**_SHARED, "pad_token_id": 1},
    "roberta-prelayernorm": {**_SHARED, "pad_token_id": 1},
    "xlm-roberta": {**_SHARED, "pad_token_id": 1},
    "xlm-roberta-xl": {**_SHARED, "pad_token_id": 1},
}


def build(folder: Path, model_type: str, *, pooling: str | Sequence[str] = "mean", **arguments: Any) -> Any:
    """Build a small random `SentenceTransformer`, its weights large enough to make vectors differ."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
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
    mode = pooling if isinstance(pooling, str) else tuple(pooling)
    pool = Pooling(transformer.get_embedding_dimension(), mode, **arguments)
    dense = Dense(pool.get_embedding_dimension(), 24)
    return SentenceTransformer(modules=[transformer, pool, dense, Normalize()], device="cpu").eval()


@contextmanager
def our_attention(model: Any) -> Iterator[None]:
    """Run a model with the attention for packed batches, and give it its own back."""
    gpu.register()
    inner = model[0].auto_model
    before = inner.config._attn_implementation
    inner.set_attn_implementation(gpu.ATTENTION)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def packed_backend(model: Any, **arguments: Any) -> Any:
    """Return what computes a model without padding."""
    from embedprefs.engine.gpu.architectures import first_position
    from embedprefs.engine.gpu.backend import PackedBackend

    return PackedBackend(model, first_position=first_position(model[0].config), autocast=nullcontext, **arguments)


def padded_batch(lengths: Sequence[int], *, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random token ids and their mask, padded on the right to the longest."""
    generator = np.random.default_rng(sum(lengths))
    ids = np.full((len(lengths), max(lengths)), pad_id, dtype=np.int64)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids[mask.astype(bool)] = generator.integers(5, 200, int(mask.sum()))
    return ids, mask


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Build a model; each is kept for the session."""
    kept: dict[str, Any] = {}

    def made(model_type: str, **arguments: Any) -> Any:
        name = repr((model_type, sorted(arguments.items())))
        if name not in kept:
            kept[name] = build(tmp_path_factory.mktemp(model_type) / "model", model_type, **arguments)
        return kept[name]

    return made
