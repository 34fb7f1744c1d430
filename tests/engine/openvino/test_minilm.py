"""The real all-MiniLM-L6-v2 on real paragraphs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from embedprefs.engine.openvino.backend import OpenVINOBackend, native_bfloat16
from embedprefs.engine.openvino.conversion import convert
from embedprefs.engine.openvino.quantisation import built_in_texts, quantise
from embedprefs.engine.pipeline import embed
from embedprefs.engine.tokenising import TextTokenizer

PARAGRAPHS = 25


@pytest.fixture(scope="module")
def minilm(minilm_folder, test_data, tmp_path_factory):
    """Return the conversion's folder, the tokenizer, real paragraphs, and the host's float32 vectors of them."""
    from sentence_transformers import SentenceTransformer

    with (test_data / "squadshifts-wiki" / "corpus.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(PARAGRAPHS), strict=False)]
    folder = tmp_path_factory.mktemp("minilm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(minilm_folder), device="cpu")
    convert(model, folder)
    tokenizer = TextTokenizer.from_file(minilm_folder / "tokenizer.json", limit=model.max_seq_length)
    return folder, tokenizer, texts, model.encode(texts, show_progress_bar=False)


def vectors(folder, numerics, tokenizer, texts):
    """Embed texts with a conversion."""
    backend = OpenVINOBackend(folder, numerics=numerics, threads=1)
    return embed(texts, tokenizer=tokenizer, backend=backend, batch_tokens=1024)


def test_float32_is_the_hosts(minilm):
    """float32 vectors of real paragraphs are the host's within 1e-5."""
    folder, tokenizer, texts, host = minilm
    np.testing.assert_allclose(vectors(folder, "float32", tokenizer, texts), host, rtol=0, atol=1e-5)


def test_bfloat16_is_close(minilm):
    """bfloat16 keeps a mean cosine of 0.9999 to the host's float32, and 0.9995 on the worst paragraph."""
    if not native_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    folder, tokenizer, texts, host = minilm
    cosines = (vectors(folder, "bfloat16", tokenizer, texts) * host).sum(axis=1)
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.9995


@pytest.mark.slow
def test_int8_with_built_in_texts(minilm, tmp_path):
    """int8 with ranges measured on the built-in texts keeps a mean cosine of 0.995."""
    pytest.importorskip("nncf", reason="nncf is not installed")
    folder, tokenizer, texts, host = minilm
    quantise(folder, tmp_path, built_in_texts(), tokenizer=tokenizer)
    cosines = (vectors(tmp_path, "int8", tokenizer, texts) * host).sum(axis=1)
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.98
