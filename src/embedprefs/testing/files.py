"""The files of a test model: configuration, module chain, random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Dtype = Literal["float32", "float16", "bfloat16"]
Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, npt.NDArray[np.float32]]

_DTYPE_NAMES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MODULES = "sentence_transformers.models."


def made(path: Path | str) -> Path:
    """Return the folder, made where it does not exist."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def write_transformer(
    path: Path | str,
    *,
    config: Mapping[str, Any],
    shapes: Shapes,
    tokenizer: Any,
    tokenizer_config: Mapping[str, Any],
    seed: int,
    dtype: Dtype,
    chain: tuple[str | None, bool, int],
    prompts: Mapping[str, str] | None,
) -> Path:
    """Write a whole transformer model; `chain` is pooling, normalize and max_seq_length."""
    folder = made(path)
    pooling, normalize, max_seq_length = chain
    write_json(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_safetensors(folder / "model.safetensors", _random_weights(shapes, seed), dtype)
    if pooling is not None:
        hidden_size = int(config["hidden_size"])
        write_chain(
            folder, "Transformer", pooling, hidden_size=hidden_size, normalize=normalize, max_seq_length=max_seq_length
        )
        write_sentence_transformers_config(folder, prompts)
    return folder


def write_chain(
    folder: Path,
    first: str,
    pooling: str | None,
    *,
    hidden_size: int,
    normalize: bool,
    max_seq_length: int | None = None,
) -> None:
    """Write modules.json and the configuration of each module."""
    modules = [("", first)]
    if pooling is not None:
        modules.append(("1_Pooling", "Pooling"))
        names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"} | {
            name: f"{name}_tokens" for name in ("mean_sqrt_len", "weightedmean")
        }
        modes = {f"pooling_mode_{name}": mode == pooling for mode, name in names.items()}
        if pooling == "lasttoken":
            modes["pooling_mode_lasttoken"] = True
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden_size, **modes})
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": module_path, "type": f"{_MODULES}{kind}"}
            for index, (module_path, kind) in enumerate(modules)
        ],
    )
    if max_seq_length is not None:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})


def write_sentence_transformers_config(folder: Path, prompts: Mapping[str, str] | None) -> None:
    """Write config_sentence_transformers.json in the form of a model published early in 2025."""
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "3.3.1", "transformers": "4.48.0", "pytorch": "2.5.1"},
            "prompts": dict(prompts or {}),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def bert_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the tensors of `BertModel` and `RobertaModel` without their pooler, which no embedding uses."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]

    def dense(name: str, rows: int, columns: int) -> Shapes:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str) -> Shapes:
        return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}

    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **norm("embeddings.LayerNorm"),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= dense(f"{layer}.attention.self.{part}", hidden, hidden)
        shapes |= dense(f"{layer}.attention.output.dense", hidden, hidden) | norm(f"{layer}.attention.output.LayerNorm")
        shapes |= dense(f"{layer}.intermediate.dense", inner, hidden)
        shapes |= dense(f"{layer}.output.dense", hidden, inner) | norm(f"{layer}.output.LayerNorm")
    return shapes | dense("pooler.dense", hidden, hidden)


def modernbert_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the tensors of `ModernBertModel`."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.tok_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.norm.weight": (hidden,),
        "final_norm.weight": (hidden,),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"layers.{index}"
        if index > 0:  # the first layer's input is normalised by the embeddings already
            shapes[f"{layer}.attn_norm.weight"] = (hidden,)
        shapes[f"{layer}.attn.Wqkv.weight"] = (3 * hidden, hidden)
        shapes[f"{layer}.attn.Wo.weight"] = (hidden, hidden)
        shapes[f"{layer}.mlp_norm.weight"] = (hidden,)
        shapes[f"{layer}.mlp.Wi.weight"] = (2 * inner, hidden)
        shapes[f"{layer}.mlp.Wo.weight"] = (hidden, inner)
    return shapes


def _random_weights(shapes: Shapes, seed: int) -> Weights:
    """Return weights large enough that different texts get clearly different vectors."""
    generator = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in shapes.items():
        values = generator.standard_normal(shape).astype(np.float32)
        if "orm" in name.split(".")[-2]:
            weights[name] = values * np.float32(0.1) + np.float32(name.endswith("weight"))
        elif "embeddings" in name:
            weights[name] = values
        elif name.endswith("bias"):
            weights[name] = values * np.float32(0.1)
        else:
            weights[name] = values * np.float32(1.5 / math.sqrt(shape[-1]))
    return weights


def safetensors_header(shapes: Shapes, dtype: Dtype) -> tuple[bytes, int]:
    """Return the header of a safetensors file (its length in 8 bytes, then JSON) and the length of what follows."""
    size = 4 if dtype == "float32" else 2
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + size * math.prod(shape)
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset


def write_safetensors(path: Path, weights: Weights, dtype: Dtype = "float32") -> None:
    """Write a safetensors file; the format is a header and the tensors' bytes."""
    header, _ = safetensors_header({name: values.shape for name, values in weights.items()}, dtype)
    with path.open("wb") as file:
        file.write(header)
        for values in weights.values():
            file.write(_as_bytes(values, dtype))


def _as_bytes(values: npt.NDArray[np.float32], dtype: Dtype) -> bytes:
    if dtype == "bfloat16":  # the upper half of a float32, rounded to nearest
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype("<f4" if dtype == "float32" else "<f2").tobytes()
