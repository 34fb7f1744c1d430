"""Weights and activations in int8."""

from __future__ import annotations

import pytest

from embedprefs.engine.openvino.backend import OpenVINOBackend
from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.kept import quantised_folder
from embedprefs.engine.openvino.quantisation import built_in_texts, quantisation_hash, quantise
from embedprefs.engine.openvino.store import ConversionStore
from embedprefs.engine.tokenising import TextTokenizer
from embedprefs.errors import InputError, InvalidPreferenceError

pytest.importorskip("nncf", reason="nncf is not installed")

TEXTS = ["a red fox", "two words", "the river runs through the old town and past the mill", "no"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Return the tokenizer of the small models."""
    from embedprefs.testing import tiny_bert_folder

    return TextTokenizer.from_file(tiny_bert_folder(tmp_path_factory.mktemp("bert")) / "tokenizer.json", limit=64)


@pytest.fixture(scope="module")
def quantised(converted, tokenizer, tmp_path_factory):
    """Return a small BERT and its folder in int8."""
    model, folder = converted("bert", pooling="mean")
    place = tmp_path_factory.mktemp("int8")
    description = quantise(folder, place, TEXTS, tokenizer=tokenizer)
    return model, folder, place, description


def test_int8_is_near_and_not_the_same(quantised, tiny):
    """The quantised model's vectors point where float32's do, and are not equal to them."""
    model, _, place, description = quantised
    backend = OpenVINOBackend(place, numerics="int8", threads=1)
    ids, mask = tiny.batch((20, 9, 4, 30), padding=0)
    host = tiny.host_vectors(model, ids, mask)["sentence_embedding"]
    vectors = backend.vectors(ids, mask)
    cosines = (vectors * host).sum(axis=1)
    assert (backend.numerics, description.weights) == ("int8", "int8")
    assert cosines.min() > 0.95
    assert abs(vectors - host).max() > 1e-4


def test_int8_weights_take_less_room(quantised):
    """The weights are stored in a byte each."""
    _, folder, place, _ = quantised
    full, small = ((place_ / Description.WEIGHTS_FILE).stat().st_size for place_ in (folder, place))
    assert small < 0.5 * full
    text = (place / Description.MODEL_FILE).read_text(encoding="utf-8")
    assert "FakeQuantize" in text  # activations too


def test_nothing_is_printed(converted, tokenizer, tmp_path, capfd):
    """nncf's progress bars and notes stay off the screen."""
    _, folder = converted("bert", pooling="mean")
    quantise(folder, tmp_path, TEXTS[:1], tokenizer=tokenizer)
    assert capfd.readouterr() == ("", "")


def test_int8_model_is_not_run_as_another(quantised, tokenizer, tmp_path):
    """A quantised model is not said to be float32, and is not quantised once more."""
    _, _, place, _ = quantised
    with pytest.raises(ValueError, match="has int8 weights, not float32"):
        OpenVINOBackend(place, numerics="float32", threads=1)
    with pytest.raises(InvalidPreferenceError, match="quantised already"):
        quantise(place, tmp_path, TEXTS, tokenizer=tokenizer)


def test_texts_are_needed(converted, tokenizer, tmp_path):
    """Ranges cannot be measured on nothing."""
    _, folder = converted("bert", pooling="mean")
    with pytest.raises(InputError, match="given none"):
        quantise(folder, tmp_path, [], tokenizer=tokenizer)


def test_quantised_model_is_kept_by_its_texts(tmp_path, tiny, tokenizer):
    """The same texts find the same model beside its conversion; other texts would make another one."""
    store = ConversionStore(tmp_path / "kept")
    model = tiny.model(tmp_path / "model", "bert")
    first = quantised_folder(model, tokenizer=tokenizer, texts=TEXTS, store=store)
    assert quantised_folder(model, tokenizer=tokenizer, texts=list(TEXTS), store=store) == first
    conversions = [path for path in store.folder.iterdir() if path.is_dir()]
    assert sorted(Description.read(path).weights for path in conversions) == ["full", "int8"]
    assert quantisation_hash(TEXTS) != quantisation_hash(TEXTS[:2])


def test_built_in_texts_are_many_and_varied():
    """There are some two hundred distinct texts, short and long, in several scripts."""
    texts = built_in_texts()
    assert len(texts) == len(set(texts)) >= 150
    assert min(map(len, texts)) < 10
    assert max(map(len, texts)) > 400
    scripts = ("а", "的", "の", "ا", "क", "요", "α")
    assert all(any(letter in text for text in texts) for letter in scripts)
