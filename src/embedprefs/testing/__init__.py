"""Tiny model folders for tests, made offline in milliseconds.

Each function writes a folder that `SentenceTransformer(folder)` and `load_model(folder)` load: configuration, a working
fast tokenizer, the module chain and a safetensors file. Weights come from a seed, so that a folder is the same on every
machine. Writing one needs numpy and the `tokenizers` package, and neither torch nor transformers.

    folder = tiny_modernbert_folder(tmp_path / "model")
    model = embedprefs.load_model(folder)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from embedprefs.testing.files import (
    Dtype,
    bert_shapes,
    made,
    modernbert_shapes,
    safetensors_header,
    write_chain,
    write_json,
    write_safetensors,
    write_sentence_transformers_config,
    write_transformer,
)
from embedprefs.testing.tokenizer import (
    byte_level_tokenizer,
    modernbert_config,
    modernbert_tokenizer,
    modernbert_tokenizer_config,
    tokenizer_config,
    tokenizers_package,
    wordpiece_tokenizer,
)

__all__ = [
    "FLAGSHIP",
    "STATIC_WORDS",
    "modernbert_large_folder",
    "published_modernbert_embed_folder",
    "static_model_folder",
    "tiny_bert_folder",
    "tiny_modernbert_folder",
    "tiny_roberta_folder",
]


#: Hub name of the model that `published_modernbert_embed_folder` stands for.
FLAGSHIP = "lightonai/modernbert-embed-large"

#: The words a static model knows unless told otherwise: each points along dimensions of its own, at its own length.
STATIC_WORDS: Mapping[str, Sequence[float]] = {
    "red": (1, 0, 0, 0, 0, 0, 0, 0),
    "green": (0, 2, 0, 0, 0, 0, 0, 0),
    "blue": (0, 0, 3, 0, 0, 0, 0, 0),
    "apple": (3, 0, 0, 4, 0, 0, 0, 0),
    "sky": (0, 0, 3, 0, 4, 0, 0, 0),
    "tree": (0, 5, 0, 0, 0, 12, 0, 0),
    "query": (0, 0, 0, 0, 0, 0, 1, 0),
    "document": (0, 0, 0, 0, 0, 0, 0, 1),
}


def static_model_folder(
    path: Path | str,
    words: Mapping[str, Sequence[float]] | None = None,
    *,
    normalize: bool = False,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Write a static model: a text's vector is the mean of its words' vectors, so tests can compute it by hand.

    Args:
        path: Folder to write; made where it does not exist.
        words: Word (lower case, letters and digits) -> its vector, all of one length. `STATIC_WORDS` by default.
        normalize: End the module chain with Normalize.
        prompts: Prompts for the model's own file.

    Returns:
        The folder. Unknown words all have the vector of 0.25 in each dimension; a text without words has zeros.
    """
    words = STATIC_WORDS if words is None else words
    dimensions = {len(vector) for vector in words.values()}
    if len(dimensions) != 1:
        raise ValueError(f"Every word needs a vector of one common length; found lengths {sorted(dimensions)}.")
    folder = made(path)
    vocabulary = {"[UNK]": 0} | {word: position for position, word in enumerate(words, start=1)}
    matrix = np.full((len(vocabulary), dimensions.pop()), 0.25, dtype=np.float32)
    for word, vector in words.items():
        matrix[vocabulary[word]] = vector
    write_safetensors(folder / "model.safetensors", {"embedding.weight": matrix})
    tokenizers = tokenizers_package()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_chain(folder, "StaticEmbedding", None, hidden_size=matrix.shape[1], normalize=normalize)
    write_sentence_transformers_config(folder, prompts)
    return folder


def tiny_bert_folder(
    path: Path | str,
    *,
    seed: int = 0,
    hidden_size: int = 32,
    num_hidden_layers: int = 2,
    max_seq_length: int = 64,
    pooling: str | None = "mean",
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """Write a tiny BERT: absolute positions (128), lower-case WordPiece.

    Args:
        path: Folder to write; made where it does not exist.
        seed: Seed of the weights.
        hidden_size: Length of token vectors and embeddings; a multiple of 4 (there are 4 attention heads).
        num_hidden_layers: Number of layers.
        max_seq_length: Tokens read of one text.
        pooling: The host's name of the pooling, `mean`, `cls` ...; None writes a bare checkpoint, no `modules.json`.
        normalize: End the module chain with Normalize.
        prompts: Prompts for the model's own file.
        dtype: Number format of the stored weights.

    Returns:
        The folder.
    """
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = wordpiece_tokenizer(specials)
    config = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": 2 * hidden_size,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 128,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": num_hidden_layers,
        "pad_token_id": 0,
        "torch_dtype": dtype,
        "type_vocab_size": 2,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    return write_transformer(
        path,
        config=config,
        shapes=bert_shapes(config),
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config("BertTokenizer", specials, max_seq_length, do_lower_case=True),
        seed=seed,
        dtype=dtype,
        chain=(pooling, normalize, max_seq_length),
        prompts=prompts,
    )


def tiny_roberta_folder(
    path: Path | str,
    *,
    seed: int = 0,
    hidden_size: int = 32,
    num_hidden_layers: int = 2,
    max_seq_length: int = 64,
    pooling: str | None = "mean",
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """Write a tiny RoBERTa: positions that start behind the padding token (130), byte-level BPE with an added space.

    Arguments and result are those of `tiny_bert_folder`.
    """
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizers = tokenizers_package()
    tokenizer = byte_level_tokenizer(specials, unknown="<unk>", add_prefix_space=False)
    # By position: releases of tokenizers differ in what they call the second one.
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    config = {
        "architectures": ["RobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": 2 * hidden_size,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 130,
        "model_type": "roberta",
        "num_attention_heads": 4,
        "num_hidden_layers": num_hidden_layers,
        "pad_token_id": 1,
        "torch_dtype": dtype,
        "type_vocab_size": 1,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    roberta_tokenizer_config = {
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": max_seq_length,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "add_prefix_space": False,
    }
    return write_transformer(
        path,
        config=config,
        shapes=bert_shapes(config),
        tokenizer=tokenizer,
        tokenizer_config=roberta_tokenizer_config,
        seed=seed,
        dtype=dtype,
        chain=(pooling, normalize, max_seq_length),
        prompts=prompts,
    )


def tiny_modernbert_folder(
    path: Path | str,
    *,
    seed: int = 0,
    hidden_size: int = 32,
    num_hidden_layers: int = 4,
    max_seq_length: int = 256,
    local_attention: int = 16,
    pooling: str | None = "mean",
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """Write a tiny ModernBERT: rotary positions (512), every third layer global, byte-level BPE.

    `local_attention` is the window of the local layers in tokens, both sides together; the other arguments and the
    result are those of `tiny_bert_folder`.
    """
    tokenizer = modernbert_tokenizer()
    config = modernbert_config(
        tokenizer,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        local_attention=local_attention,
        max_position_embeddings=512,
        torch_dtype=dtype,
    )
    return write_transformer(
        path,
        config=config,
        shapes=modernbert_shapes(config),
        tokenizer=tokenizer,
        tokenizer_config=modernbert_tokenizer_config(max_seq_length),
        seed=seed,
        dtype=dtype,
        chain=(pooling, normalize, max_seq_length),
        prompts=prompts,
    )


def published_modernbert_embed_folder(
    path: Path | str, *, seed: int = 0, hidden_size: int = 64, name_or_path: str | None = FLAGSHIP
) -> Path:
    """Write modernbert-embed-large as it is published, with random weights of a tiny size.

    The files say what the published ones say: no prompts at all, a chain of Transformer, Pooling and Normalize,
    `max_seq_length` 8192 beside `do_lower_case`, and a `config.json` that still carries the keys that nothing reads any
    more (`layer_norm_eps`, `position_embedding_type`, `gradient_checkpointing`, `reference_compile`,
    `repad_logits_with_grad`) and the older names `global_attn_every_n_layers`, `global_rope_theta` and
    `local_rope_theta`. Only the sizes differ: vocabulary, hidden size, layers, heads.

    Args:
        path: Folder to write; made where it does not exist.
        seed: Seed of the weights.
        hidden_size: Length of the embeddings (1024 in the published one); a multiple of 4.
        name_or_path: `_name_or_path` of config.json, by which the folder is recognised; None leaves it out.

    Returns:
        The folder.
    """
    tokenizer = modernbert_tokenizer()
    config = modernbert_config(
        tokenizer,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        local_attention=128,
        max_position_embeddings=8192,
        torch_dtype="float32",
    )
    if name_or_path is not None:
        config = {"_name_or_path": name_or_path, **config}
    folder = write_transformer(
        path,
        config=config,
        shapes=modernbert_shapes(config),
        tokenizer=tokenizer,
        tokenizer_config=modernbert_tokenizer_config(8192),
        seed=seed,
        dtype="float32",
        chain=("mean", True, 8192),
        prompts={},
    )
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "1_Pooling" / "config.json", {**pooling, "include_prompt": True})
    return folder


def modernbert_large_folder(path: Path | str, *, name_or_path: str | None = FLAGSHIP) -> Path:
    """Write a ModernBERT of the published size, 394,781,696 parameters, whose weights take no space on disk.

    The safetensors file has a true header and a hole of 1.58 GB behind it, so that what reads headers alone can be
    timed on a model of real size. The tokenizer's vocabulary is filled up to the published 50,368 tokens.

    Args:
        path: Folder to write; made where it does not exist.
        name_or_path: `_name_or_path` of config.json; None leaves it out.

    Returns:
        The folder.
    """
    folder = made(path)
    tokenizer = modernbert_tokenizer(vocab_size=50368)
    config = modernbert_config(
        tokenizer,
        hidden_size=1024,
        intermediate_size=2624,
        num_hidden_layers=28,
        num_attention_heads=16,
        local_attention=128,
        max_position_embeddings=8192,
        torch_dtype="float32",
    )
    if name_or_path is not None:
        config = {"_name_or_path": name_or_path, **config}
    write_json(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", modernbert_tokenizer_config(8192))
    shapes = modernbert_shapes(config)
    header, length = safetensors_header(shapes, "float32")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + length)
    write_chain(folder, "Transformer", "mean", hidden_size=1024, normalize=True, max_seq_length=8192)
    write_sentence_transformers_config(folder, {})
    return folder
