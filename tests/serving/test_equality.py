"""An encoder gives the vectors of the model it was compiled from, whatever is asked of it, and reports the same."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError, InvalidPreferenceError, OverlongTextError, load_encoder
from embedprefs.serving import compile_model

METHODS = ("encode", "encode_query", "encode_document")
#: Counts that say the same of a call whatever computed it.
COUNTS = ("calls", "texts", "duplicates", "tokens", "truncated", "windowed", "windows", "overlong", "clipped")


def assert_equal_vectors(left, right):
    """Floats agree within 1e-5; a bit may differ only where its float lies on the threshold."""
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    if left.dtype == np.float32:
        assert np.abs(left - right).max() <= 1e-5
    else:
        assert (left == right).mean() > 0.99


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["static", "bert", "prompted", "without_prompt", "windowed", "roberta", "modernbert"])
def test_vectors_are_the_models(kind, method, models, encoders, texts):
    """For every role, with prompts, truncation, windows, left truncation, normalisation and binary precision."""
    model, encoder = models(kind), encoders(kind)
    with model.collect_report() as expected, encoder.collect_report() as report:
        assert_equal_vectors(getattr(encoder, method)(texts), getattr(model, method)(texts))
    assert {name: getattr(report, name) for name in COUNTS} == {name: getattr(expected, name) for name in COUNTS}


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": "another prompt: "},
        {"prompt": ""},
        {"prompt_name": "query"},
        {"truncate_dim": 8},
        {"truncate_dim": 8, "normalize_embeddings": False},
        {"normalize_embeddings": False},
        {"normalize_embeddings": True},
        {"precision": "ubinary"},
        {"precision": "binary", "truncate_dim": 24},
        {"batch_size": 1},
        {"batch_size": 3},
    ],
)
@pytest.mark.parametrize("kind", ["prompted", "windowed"])
def test_an_argument_of_the_call_wins_as_with_the_model(kind, arguments, models, encoders, texts):
    assert_equal_vectors(
        encoders(kind).encode_document(texts, **arguments), models(kind).encode_document(texts, **arguments)
    )


def test_one_text_gives_one_vector(models, encoders):
    one = encoders("bert").encode_query("what is a vector")
    assert one.shape == (32,)
    assert_equal_vectors(one, models("bert").encode_query("what is a vector"))


@pytest.mark.parametrize("arguments", [{}, {"truncate_dim": 12}, {"precision": "binary", "truncate_dim": 12}])
def test_no_texts_give_no_vectors_as_with_the_model(arguments, models, encoders):
    """Whatever the role; a name that no prompt has is refused all the same."""
    encoder, model = encoders("prompted"), models("prompted")
    for mine, theirs in (
        (encoder.encode, model.encode),
        (encoder.encode_query, model.encode_query),
        (encoder.encode_document, model.encode_document),
    ):
        found, expected = mine([], **arguments), theirs([], **arguments)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.shape[0] == 0
    assert list(encoder.embed_stream([])) == list(model.embed_stream([])) == []
    with pytest.raises(InputError, match="unheard-of"):
        encoder.encode([], prompt_name="unheard-of")


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_codes_are_those_of_the_calibration(precision, preferences_of, ranges, models, texts, tmp_path):
    """The ranges travel with the artefact: the calibration file may be gone."""
    own = tmp_path / "ranges.json"
    own.write_bytes(ranges.read_bytes())
    values = {"vectors.precision": precision, "vectors.calibration": str(own)}
    artefact = compile_model(preferences_of("bert", **values), tmp_path / "artefact")
    own.unlink()
    encoder = load_encoder(artefact.folder)
    codes = encoder.encode_document(texts).astype(int)
    assert encoder.encode_document(texts).dtype == np.dtype(precision)
    expected, clipped = encoder.calibration.quantize(models("bert").encode_document(texts), precision)
    assert np.abs(codes - expected.astype(int)).max() <= 1
    with encoder.collect_report() as report:
        encoder.encode_document(texts)
    assert abs(report.clipped - clipped) <= 1


def test_codes_without_a_calibration_are_refused(encoders):
    with pytest.raises(InvalidPreferenceError, match="needs ranges"):
        encoders("bert").encode("a river", precision="int8")


def test_a_stream_is_embedded_as_the_model_does(models, encoders, texts):
    pairs = [(f"id {place}", text) for place, text in enumerate(texts)]
    chunks = list(encoders("prompted").embed_stream(iter(pairs), role="query", chunk_size=3))
    assert [identifier for ids, _ in chunks for identifier in ids] == [identifier for identifier, _ in pairs]
    assert [len(ids) for ids, _ in chunks] == [3, 3, 2]
    assert_equal_vectors(np.concatenate([rows for _, rows in chunks]), models("prompted").encode_query(texts))


def test_a_stream_names_positions_in_the_stream(encoders, texts):
    encoder = encoders("bert")
    with encoder.collect_report() as report:
        list(encoder.embed_stream(texts, chunk_size=2))
    assert [item.position for item in report.overlong] == [6]


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"convert_to_numpy": False}, "tensors"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "int4"}, "precision"),
        ({"truncate_dim": 33}, "truncate_dim"),
        ({"truncate_dim": 0}, "truncate_dim"),
        ({"prompt_name": "clustering"}, "prompt_name"),
    ],
)
def test_what_cannot_be_done_is_refused(named, what, encoders):
    with pytest.raises(InputError, match=what):
        encoders("bert").encode("a river", **named)


def test_an_unknown_argument_is_no_silent_one(encoders):
    with pytest.raises(TypeError, match="show_progress"):
        encoders("bert").encode_document(["a river"], show_progress=True)


@pytest.mark.parametrize("inputs", [[None], [1.5], {"a": "b"}, b"bytes", [["nested"]]])
def test_what_is_no_text_is_refused_as_by_the_model(inputs, encoders, models):
    with pytest.raises(InputError) as ours:
        encoders("bert").encode(inputs)
    with pytest.raises(InputError) as theirs:
        models("bert").encode(inputs)
    assert str(ours.value) == str(theirs.value)


def test_over_long_texts_are_refused_where_the_preferences_say_so(preferences_of, serving_root, texts, tmp_path):
    """`on_overflow` is no identity: it holds as it stood when the artefact was compiled."""
    folder = compile_model(preferences_of("static"), tmp_path / "static").folder
    encoder = load_encoder(folder)
    assert encoder.max_seq_length is None  # a static model reads everything, so that nothing is too long
    encoder.encode(texts)
    folder = compile_model(preferences_of("bert", **{"tokenizer.on_overflow": "error"}), tmp_path / "bert").folder
    with pytest.raises(OverlongTextError) as error:
        load_encoder(folder).encode(texts)
    assert error.value.positions == (6,)


def test_over_long_texts_are_warned_of_at_the_callers_line(preferences_of, texts, tmp_path):
    folder = compile_model(preferences_of("bert", **{"tokenizer.on_overflow": "warn"}), tmp_path / "bert").folder
    encoder = load_encoder(folder)
    with pytest.warns(EmbedPrefsWarning, match="They are cut") as caught:
        encoder.encode(texts)
    assert caught[0].filename == __file__


def test_a_prompt_that_stands_in_the_texts_is_warned_of(encoders):
    with pytest.warns(EmbedPrefsWarning, match="begin with the prompt"):
        encoders("prompted").encode_query(["query: what is a vector"])


def test_loading_says_nothing_of_the_canaries(compiled):
    """They are not the user's texts: no warning, no count."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_encoder(compiled("prompted"))
    assert encoder.report.texts == 0


def test_calls_of_several_threads_do_not_disturb_each_other(encoders, texts):
    """Roles, lengths and batch sizes mixed: each thread gets the vectors it gets alone, and every text is counted."""
    encoder = encoders("prompted")
    alone = {method: getattr(encoder, method)(texts) for method in METHODS}
    failures = []

    def work(method):
        for size in (1, 2, 5, None):
            rows = getattr(encoder, method)(texts, batch_size=size)
            if np.abs(rows - alone[method]).max() > 1e-6:
                failures.append((method, size))

    threads = [threading.Thread(target=work, args=(method,)) for method in METHODS * 3]
    with encoder.collect_report() as report:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert report.texts == len(threads) * 4 * len(texts)


def test_the_report_says_what_ran(encoders, texts):
    encoder = encoders("bert")
    with encoder.collect_report() as report:
        encoder.encode(texts)
    assert (report.backend, report.numerics) == ("openvino", "float32")
    assert report.batches >= 1
    assert report.tokens > 0


def test_kept_vectors_are_looked_up(preferences_of, tmp_path, texts):
    """With `compute.cache` a text is computed once; a call that asks for other vectors is computed."""
    preferences = preferences_of("bert", **{"compute.cache": str(tmp_path / "kept")})
    encoder = load_encoder(compile_model(preferences, tmp_path / "artefact").folder)
    first = encoder.encode_document(texts)
    with encoder.collect_report() as report:
        again = encoder.encode_document(texts)
    assert again.tobytes() == first.tobytes()
    assert report.cached == len(set(texts))
    assert report.tokens == 0
    with encoder.collect_report() as report:
        encoder.encode_document(texts, truncate_dim=8)
        encoder.encode_query(texts)
    assert report.cached == 0
    assert report.cache_bypassed == len(set(texts))
