"""The tensors of every model type that is known here: names and shapes from the configuration's values.

Names, shapes and default values are those of transformers 5; a test builds every type with the host itself and compares
all three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ARCHITECTURES", "ArchitectureKind"]

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Values = Mapping[str, Any]


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (width,)
    if bias:
        yield f"{name}.bias", (width,)


def _bert_embeddings(values: Values, width: int) -> Shapes:
    yield "embeddings.word_embeddings.weight", (values["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (values["max_position_embeddings"], width)
    yield "embeddings.token_type_embeddings.weight", (values["type_vocab_size"], width)
    yield from _norm("embeddings.LayerNorm", width)


def _bert_layers(values: Values) -> Shapes:
    width, inner = values["hidden_size"], values["intermediate_size"]
    for number in range(values["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{part}", width, width)
        yield from _linear(f"{layer}.attention.output.dense", width, width)
        yield from _norm(f"{layer}.attention.output.LayerNorm", width)
        yield from _linear(f"{layer}.intermediate.dense", width, inner)
        yield from _linear(f"{layer}.output.dense", inner, width)
        yield from _norm(f"{layer}.output.LayerNorm", width)


def _bert(values: Values) -> Shapes:
    yield from _bert_embeddings(values, values["hidden_size"])
    yield from _bert_layers(values)
    yield from _linear("pooler.dense", values["hidden_size"], values["hidden_size"])


def _electra(values: Values) -> Shapes:
    yield from _bert_embeddings(values, values["embedding_size"])
    if values["embedding_size"] != values["hidden_size"]:
        yield from _linear("embeddings_project", values["embedding_size"], values["hidden_size"])
    yield from _bert_layers(values)


def _mpnet(values: Values) -> Shapes:
    width, inner = values["hidden_size"], values["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (values["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (values["max_position_embeddings"], width)
    yield from _norm("embeddings.LayerNorm", width)
    for number in range(values["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for part in ("q", "k", "v", "o"):
            yield from _linear(f"{layer}.attention.attn.{part}", width, width)
        yield from _norm(f"{layer}.attention.LayerNorm", width)
        yield from _linear(f"{layer}.intermediate.dense", width, inner)
        yield from _linear(f"{layer}.output.dense", inner, width)
        yield from _norm(f"{layer}.output.LayerNorm", width)
    buckets = (values["relative_attention_num_buckets"], values["num_attention_heads"])
    yield "encoder.relative_attention_bias.weight", buckets
    yield from _linear("pooler.dense", width, width)


def _distilbert(values: Values) -> Shapes:
    width, inner = values["hidden_size"], values["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (values["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (values["max_position_embeddings"], width)
    yield from _norm("embeddings.LayerNorm", width)
    for number in range(values["num_hidden_layers"]):
        layer = f"transformer.layer.{number}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from _linear(f"{layer}.attention.{part}", width, width)
        yield from _norm(f"{layer}.sa_layer_norm", width)
        yield from _linear(f"{layer}.ffn.lin1", width, inner)
        yield from _linear(f"{layer}.ffn.lin2", inner, width)
        yield from _norm(f"{layer}.output_layer_norm", width)


def _albert(values: Values) -> Shapes:
    width, inner = values["hidden_size"], values["intermediate_size"]
    yield from _bert_embeddings(values, values["embedding_size"])
    yield from _linear("encoder.embedding_hidden_mapping_in", values["embedding_size"], width)
    for group in range(values["num_hidden_groups"]):
        for number in range(values["inner_group_num"]):
            layer = f"encoder.albert_layer_groups.{group}.albert_layers.{number}"
            yield from _norm(f"{layer}.full_layer_layer_norm", width)
            for part in ("query", "key", "value", "dense"):
                yield from _linear(f"{layer}.attention.{part}", width, width)
            yield from _norm(f"{layer}.attention.LayerNorm", width)
            yield from _linear(f"{layer}.ffn", width, inner)
            yield from _linear(f"{layer}.ffn_output", inner, width)
    yield from _linear("pooler", width, width)


def _modernbert(values: Values) -> Shapes:
    width, inner, bias = values["hidden_size"], values["intermediate_size"], bool(values["norm_bias"])
    yield "embeddings.tok_embeddings.weight", (values["vocab_size"], width)
    yield from _norm("embeddings.norm", width, bias)
    attention, feed_forward = bool(values["attention_bias"]), bool(values["mlp_bias"])
    for number in range(values["num_hidden_layers"]):
        layer = f"layers.{number}"
        if number > 0:
            # The embeddings' own norm stands before the first layer.
            yield from _norm(f"{layer}.attn_norm", width, bias)
        yield from _linear(f"{layer}.attn.Wqkv", width, 3 * width, attention)
        yield from _linear(f"{layer}.attn.Wo", width, width, attention)
        yield from _norm(f"{layer}.mlp_norm", width, bias)
        yield from _linear(f"{layer}.mlp.Wi", width, 2 * inner, feed_forward)
        yield from _linear(f"{layer}.mlp.Wo", inner, width, feed_forward)
    yield from _norm("final_norm", width, bias)


def _nomic_bert(values: Values) -> Shapes:
    width, inner = values["hidden_size"], values["intermediate_size"]
    heads = values["num_attention_heads"] * (values.get("head_dim") or width // values["num_attention_heads"])
    yield "embeddings.word_embeddings.weight", (values["vocab_size"], width)
    yield "embeddings.token_type_embeddings.weight", (values["type_vocab_size"], width)
    yield from _norm("embeddings.LayerNorm", width)
    for number in range(values["num_hidden_layers"]):
        layer = f"layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", width, heads, bias=False)
        yield from _linear(f"{layer}.self_attn.o_proj", heads, width, bias=False)
        yield from _gated(f"{layer}.mlp", width, inner, bias=False)
        yield from _norm(f"{layer}.post_attention_layernorm", width)
        yield from _norm(f"{layer}.post_mlp_layernorm", width)


def _gated(name: str, width: int, inner: int, bias: bool) -> Shapes:
    yield from _linear(f"{name}.gate_proj", width, inner, bias)
    yield from _linear(f"{name}.up_proj", width, inner, bias)
    yield from _linear(f"{name}.down_proj", inner, width, bias)


def _decoder(
    values: Values,
    *,
    input_bias: bool,
    output_bias: bool,
    feed_forward_bias: bool = False,
    head_norms: bool = False,
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm"),
) -> Shapes:
    """Yield the tensors of the layout that llama began and most later language models share."""
    width, heads = values["hidden_size"], values["num_attention_heads"]
    head = values.get("head_dim") or width // heads
    keys = (values.get("num_key_value_heads") or heads) * head
    yield "embed_tokens.weight", (values["vocab_size"], width)
    for number in range(values["num_hidden_layers"]):
        layer = f"layers.{number}"
        yield from _linear(f"{layer}.self_attn.q_proj", width, heads * head, input_bias)
        yield from _linear(f"{layer}.self_attn.k_proj", width, keys, input_bias)
        yield from _linear(f"{layer}.self_attn.v_proj", width, keys, input_bias)
        yield from _linear(f"{layer}.self_attn.o_proj", heads * head, width, output_bias)
        if head_norms:
            yield f"{layer}.self_attn.q_norm.weight", (head,)
            yield f"{layer}.self_attn.k_norm.weight", (head,)
        yield from _gated(f"{layer}.mlp", width, values["intermediate_size"], feed_forward_bias)
        for norm in norms:
            yield f"{layer}.{norm}.weight", (width,)
    yield "norm.weight", (width,)


def _llama(values: Values) -> Shapes:
    bias = bool(values["attention_bias"])
    return _decoder(values, input_bias=bias, output_bias=bias, feed_forward_bias=bool(values["mlp_bias"]))


def _mistral(values: Values) -> Shapes:
    return _decoder(values, input_bias=False, output_bias=False)


def _qwen2(values: Values) -> Shapes:
    return _decoder(values, input_bias=True, output_bias=False)


def _qwen3(values: Values) -> Shapes:
    bias = bool(values["attention_bias"])
    return _decoder(values, input_bias=bias, output_bias=bias, head_norms=True)


def _gemma3(values: Values) -> Shapes:
    bias = bool(values["attention_bias"])
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    return _decoder(values, input_bias=bias, output_bias=bias, head_norms=True, norms=norms)


@dataclass(frozen=True)
class ArchitectureKind:
    """One model type: its tensors, the prefix of task models, and what a configuration need not state."""

    tensors: Callable[[Values], Shapes]
    prefix: str
    defaults: Values
    absolute: bool = False
    """True where positions are learned."""
    keeps_free: bool = False
    """True where the first padding_idx + 1 positions are never used."""


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_BERT = {**_BASE, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0}
_ROBERTA = {**_BERT, "pad_token_id": 1}
_DECODER = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_BIASES = {"attention_bias": False, "mlp_bias": False}
_QWEN = {**_DECODER, "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768}

#: Model type -> what is known of it.
ARCHITECTURES: Mapping[str, ArchitectureKind] = {
    "bert": ArchitectureKind(_bert, "bert", _BERT, absolute=True),
    "roberta": ArchitectureKind(_bert, "roberta", {**_ROBERTA, "vocab_size": 50265}, absolute=True, keeps_free=True),
    "xlm-roberta": ArchitectureKind(_bert, "roberta", _ROBERTA, absolute=True, keeps_free=True),
    "camembert": ArchitectureKind(_bert, "roberta", _ROBERTA, absolute=True, keeps_free=True),
    "mpnet": ArchitectureKind(
        _mpnet,
        "mpnet",
        {
            **_BASE,
            "vocab_size": 30527,
            "max_position_embeddings": 512,
            "relative_attention_num_buckets": 32,
            "pad_token_id": 1,
        },
        absolute=True,
        keeps_free=True,
    ),
    "distilbert": ArchitectureKind(
        _distilbert,
        "distilbert",
        {**_BASE, "num_hidden_layers": 6, "vocab_size": 30522, "max_position_embeddings": 512, "pad_token_id": 0},
        absolute=True,
    ),
    "electra": ArchitectureKind(
        _electra,
        "electra",
        {
            **_BERT,
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        absolute=True,
    ),
    "albert": ArchitectureKind(
        _albert,
        "albert",
        {
            **_BERT,
            "vocab_size": 30000,
            "embedding_size": 128,
            "hidden_size": 4096,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
        },
        absolute=True,
    ),
    "modernbert": ArchitectureKind(
        _modernbert,
        "model",
        {
            **_BASE,
            "vocab_size": 50368,
            "intermediate_size": 1152,
            "num_hidden_layers": 22,
            "max_position_embeddings": 8192,
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "pad_token_id": 50283,
        },
    ),
    "nomic_bert": ArchitectureKind(
        _nomic_bert,
        "nomic_bert",
        {**_BASE, "vocab_size": 30528, "max_position_embeddings": 2048, "type_vocab_size": 2, "pad_token_id": 0},
    ),
    "llama": ArchitectureKind(
        _llama,
        "model",
        {**_DECODER, **_BIASES, "vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    ),
    "mistral": ArchitectureKind(
        _mistral,
        "model",
        {
            **_DECODER,
            "vocab_size": 32000,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
        },
    ),
    "qwen2": ArchitectureKind(_qwen2, "model", {**_QWEN, "num_key_value_heads": 32}),
    "qwen3": ArchitectureKind(
        _qwen3, "model", {**_QWEN, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False}
    ),
    "gemma3_text": ArchitectureKind(
        _gemma3,
        "model",
        {
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131072,
            "attention_bias": False,
            "pad_token_id": 0,
        },
    ),
    "eurobert": ArchitectureKind(
        _llama,
        "model",
        {**_BASE, **_BIASES, "vocab_size": 128256, "max_position_embeddings": 8192, "pad_token_id": 128001},
    ),
}
