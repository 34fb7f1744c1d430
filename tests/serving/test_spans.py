"""An encoder gives spans of a text the vectors that the model gives them, and refuses the same with the same words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from embedprefs import InputError, InvalidPreferenceError, ModelFilesError, load_encoder, load_model, testing
from embedprefs.layers import preferences_for_model
from embedprefs.serving import compile_model
from embedprefs.serving.artefact import CHAIN_FILE
from embedprefs.testing.files import write_safetensors

TEXT = "The river froze. Its ice held the winter market of the old town.\n\n  It was a cold one. Ωmega ñandú 日本語 😀!"
LONG = " ".join(f"{word} number {number}" for number, word in enumerate(["river", "town", "snow"] * 40))
#: Counts that say the same of a call whatever computed it.
COUNTS = ("calls", "texts", "tokens", "truncated", "windowed", "windows", "batches", "clipped")


def spans_of(text):
    middle = len(text) // 2
    return [(0, len(text)), (0, 16), (17, middle), (middle - 9, middle + 20), (len(text) - 8, len(text))]


def assert_equal_vectors(left, right):
    """Floats agree within 1e-5; a bit may differ only where its float lies on the threshold."""
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    if left.dtype == np.float32:
        assert np.abs(left - right).max() <= 1e-5
    else:
        assert (left == right).mean() > 0.97


@pytest.mark.parametrize("text", [TEXT, LONG], ids=["at once", "in windows"])
@pytest.mark.parametrize("kind", ["bert", "prompted", "without_prompt", "windowed", "roberta", "modernbert"])
def test_spans_are_the_models(kind, text, models, encoders):
    """With prompts, truncation, windows, normalisation and binary precision; the reports say the same."""
    model, encoder = models(kind), encoders(kind)
    with model.collect_report() as expected, encoder.collect_report() as report:
        assert_equal_vectors(encoder.embed_spans(text, spans_of(text)), model.embed_spans(text, spans_of(text)))
    assert {name: getattr(report, name) for name in COUNTS} == {name: getattr(expected, name) for name in COUNTS}


@pytest.mark.parametrize(
    "arguments", [{"role": "query"}, {"prompt": ""}, {"prompt": "another: "}, {"prompt_name": "query"}]
)
def test_role_and_prompt_are_chosen_as_with_the_model(arguments, models, encoders):
    assert_equal_vectors(
        encoders("prompted").embed_spans(TEXT, spans_of(TEXT), **arguments),
        models("prompted").embed_spans(TEXT, spans_of(TEXT), **arguments),
    )


def test_a_span_of_the_whole_text_is_the_text(encoders):
    encoder = encoders("prompted")
    whole = encoder.embed_spans(TEXT, [(0, len(TEXT))])[0]
    np.testing.assert_allclose(whole, encoder.encode_document(TEXT), atol=1e-5)
    assert encoder.embed_spans(TEXT, []).shape == (0, 16)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("bert", {"spans": [(0, 3), (5, 5), (0, 9000)]}),
        ("bert", {"spans": [(0, 4), (65, 67)]}),
        ("bert", {"spans": [(0, 4)], "role": "passage"}),
        ("bert", {"text": ["a text"], "spans": [(0, 4)]}),
        ("static", {"spans": [(0, 4)]}),
    ],
)
def test_wrong_calls_are_refused_in_the_models_words(kind, call, models, encoders):
    """Whoever knows the one knows the other."""
    said = []
    for embedder in (models(kind), encoders(kind)):
        with pytest.raises(InputError) as error:
            embedder.embed_spans(**{"text": TEXT, **call})
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
    """A tiny BERT with a dense layer of other dimensions behind the pooling."""
    folder = testing.tiny_bert_folder(tmp_path_factory.mktemp("dense") / "model", normalize=True)
    numbers = np.random.default_rng(3)
    dense = folder / "9_Dense"
    dense.mkdir()
    settings = {"in_features": 32, "out_features": 24, "bias": True}
    activation = "torch.nn.modules.activation.Tanh"
    (dense / "config.json").write_text(json.dumps({**settings, "activation_function": activation}))
    weights = {"linear.weight": numbers.standard_normal((24, 32)), "linear.bias": numbers.standard_normal(24)}
    write_safetensors(dense / "model.safetensors", {name: each.astype(np.float32) for name, each in weights.items()})
    modules = json.loads((folder / "modules.json").read_text())
    entry = {"name": "dense", "path": "9_Dense", "type": "sentence_transformers.models.Dense"}
    modules = [*modules[:2], entry, *modules[2:]]
    (folder / "modules.json").write_text(json.dumps([{**each, "idx": at} for at, each in enumerate(modules)]))
    return folder


def test_modules_behind_the_pooling_are_run(dense_folder, tmp_path):
    """A dense layer's weights travel with the artefact; one that was written without them says so."""
    values = {"compute.device": "cpu", "compute.exactness": "exact", "compute.threads": 1, "compute.backend": "torch"}
    model = load_model(dense_folder, overrides=values)
    artefact = compile_model(
        preferences_for_model(dense_folder, values | {"compute.backend": "auto"}), tmp_path / "made"
    )
    encoder = load_encoder(artefact.folder)
    assert model.embed_spans(TEXT, spans_of(TEXT)).shape == (5, 24)
    assert_equal_vectors(encoder.embed_spans(TEXT, spans_of(TEXT)), model.embed_spans(TEXT, spans_of(TEXT)))

    older = tmp_path / "older"
    shutil.copytree(artefact.folder, older)
    (older / CHAIN_FILE).unlink()
    rewritten = json.loads((older / "artefact.json").read_text())
    del rewritten["files"][CHAIN_FILE]
    (older / "artefact.json").write_text(json.dumps(rewritten))
    served = load_encoder(older)
    np.testing.assert_allclose(served.encode_document(TEXT), encoder.encode_document(TEXT), atol=1e-6)
    with pytest.raises(ModelFilesError, match="before it kept the weights of Dense"):
        served.embed_spans(TEXT, [(0, 4)])


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_codes_are_those_of_the_calibration(precision, preferences_of, ranges, models, tmp_path):
    """Each code within one of what the model's floats give."""
    values = {"vectors.precision": precision, "vectors.calibration": str(ranges)}
    encoder = load_encoder(compile_model(preferences_of("bert", **values), tmp_path / "artefact").folder)
    codes = encoder.embed_spans(TEXT, spans_of(TEXT))
    expected, _ = encoder.calibration.quantize(models("bert").embed_spans(TEXT, spans_of(TEXT)), precision)
    assert codes.dtype == np.dtype(precision)
    assert np.abs(codes.astype(int) - expected.astype(int)).max() <= 1


def test_windows_without_room_are_refused(preferences_of, tmp_path):
    """As with the model: neighbours would share more than a window holds."""
    folder = compile_model(preferences_of("bert", **{"tokenizer.window_overlap": 70}), tmp_path / "artefact").folder
    with pytest.raises(InvalidPreferenceError, match="are to share 70"):
        load_encoder(folder).embed_spans(LONG, [(0, 4)])
