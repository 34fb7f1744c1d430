"""`compute.attention = "varlen"` on a processor: the same vectors, no padding, and padding again where it must be."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedprefs import CheckFailedError, EmbedPrefsWarning, load_model, resolve, testing
from embedprefs.calibration import Calibration
from embedprefs.engine import gpu
from embedprefs.engine.exactness import kept_measurement
from embedprefs.engine.gpu.backend import PackedBackend
from embedprefs.layers import preferences_for_model

TEXTS = [
    "short",
    "a cold winter morning with snow on the mountain and a warm fire in the house " * 6,
    "the old town",
    "",
    "short",
    *(f"text {number} " + "and some more of it " * (number % 7) for number in range(40)),
]
FOLDERS = {
    "bert": testing.tiny_bert_folder,
    "roberta": testing.tiny_roberta_folder,
    "modernbert": testing.tiny_modernbert_folder,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("varlen")
    return {name: write(root / name) for name, write in FOLDERS.items()}


STATED = {"compute.device": "cpu", "compute.backend": "torch", "compute.attention": "varlen"}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[..., Any]:
    def loaded(name: str = "bert", /, **overrides: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)
            return load_model(
                folders[name],
                overrides={**STATED, **{key.replace("__", "."): value for key, value in overrides.items()}},
            )

    return loaded


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_vectors_are_those_of_padded_texts_and_nothing_is_padded(load: Callable[..., Any], name: str) -> None:
    """The fingerprint is the same too: it is a matter of speed. What was measured is kept for the next start."""
    ours, padded = load(name), load(name, compute__attention="sdpa")
    assert isinstance(ours.engine.backend, PackedBackend)
    assert ours[0].auto_model.config._attn_implementation == gpu.ATTENTION
    with ours.collect_report() as report, padded.collect_report() as theirs:
        vectors = ours.encode_document(TEXTS)
        np.testing.assert_allclose(vectors, padded.encode_document(TEXTS), atol=1e-5)
    assert (report.padding, report.handed_over, report.backend, report.numerics) == (0, 0, "torch", "float32")
    assert (report.tokens, report.duplicates) == (theirs.tokens, 1)
    assert theirs.padding > 0
    assert ours.fingerprint == padded.fingerprint
    assert ours.engine.cosine == pytest.approx(1)
    assert kept_measurement(ours.resolved, "torch", "float32") == ours.engine.measurement
    assert ours.record.numerics["attention"] == "varlen"
    np.testing.assert_allclose(ours.encode_document(TEXTS[1]), vectors[1], atol=1e-6)


def test_arguments_of_a_call_hold(load: Callable[..., Any]) -> None:
    """Length, scaling, a stated number of texts, tensors, and what the host's own loop computes."""
    ours, padded = load(vectors__normalize=False), load(compute__attention="sdpa", vectors__normalize=False)
    for arguments in (
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"batch_size": 3},
        {"prompt": "query: "},
        {"output_value": "token_embeddings"},
        {"convert_to_tensor": True},
    ):
        left, right = ours.encode(TEXTS, **arguments), padded.encode(TEXTS, **arguments)
        for one, other in zip(left, right, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)


def test_the_prompt_is_left_out_where_pooling_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(folders["bert"], tmp_path / "without_prompt")
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "include_prompt": False}))
    values = {"compute.device": "cpu", "compute.backend": "torch"}
    found = []
    for attention in ("varlen", "sdpa"):
        model = load_model(folder, overrides={**values, "compute.attention": attention, "prompts.query": "find this: "})
        assert model.pooling_leaves_prompt_out
        found.append(model.encode_query(TEXTS))
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("precision", ["binary", "ubinary", "int8", "uint8"])
def test_codes_are_those_of_padded_texts(load: Callable[..., Any], precision: str) -> None:
    """They are made before vectors are copied; values outside the ranges are counted all the same."""
    ours, padded = load(), load(compute__attention="sdpa")
    vectors = padded.encode_document(TEXTS[5:])
    for model in (ours, padded):
        model._calibration = Calibration(
            vectors.min(axis=0) + 0.01, vectors.max(axis=0) - 0.01, len(vectors), "fingerprint"
        )
    with ours.collect_report() as report, padded.collect_report() as theirs:
        left = ours.encode_document(TEXTS[5:], precision=precision)
        right = padded.encode_document(TEXTS[5:], precision=precision)
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    # A value on the border of two steps may fall to either side.
    assert (left != right).mean() < 0.01
    assert abs(report.clipped - theirs.clipped) <= 2
    if precision.endswith("int8"):
        assert report.clipped > 0
    # Identical texts and a single one take another way to the same codes.
    np.testing.assert_array_equal(ours.encode_document([*TEXTS[5:8], TEXTS[5]], precision=precision)[:3], left[:3])
    np.testing.assert_array_equal(ours.encode_document(TEXTS[6], precision=precision), left[1])


def test_late_chunking_reads_token_vectors_without_padding(load: Callable[..., Any]) -> None:
    text = TEXTS[1]
    spans = [(0, 20), (20, 60), (0, len(text))]
    ours, padded = load("modernbert"), load("modernbert", compute__attention="local")
    np.testing.assert_allclose(ours.embed_spans(text, spans), padded.embed_spans(text, spans), atol=1e-5)


def test_changed_weights_are_seen_by_the_next_call(load: Callable[..., Any]) -> None:
    """The modules are the model's own, no copy: nothing has to be noticed."""
    import torch

    model = load()
    before = model.encode_document(TEXTS)
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.mul_(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = model.encode_document(TEXTS)
    assert np.abs(after - before).max() > 1e-3
    model[0].auto_model.set_attn_implementation("sdpa")
    with pytest.warns(EmbedPrefsWarning, match=r"padded from now on.*attention was changed to sdpa"):
        np.testing.assert_allclose(model.encode_document(TEXTS), after, atol=1e-5)


def test_a_path_that_is_not_close_enough_is_refused_with_the_number(
    load: Callable[..., Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Positions that are off by one: texts are padded, the record says so, and a warning says why."""
    from embedprefs.engine.gpu import selection

    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    monkeypatch.setattr(selection, "first_position", lambda _: 1)
    with pytest.warns(EmbedPrefsWarning, match=r"Texts are padded.*smallest cosine is -?0\.\d+"):
        model = load_model(folders["bert"], overrides=STATED)
    engine, padded = model.engine, load(compute__attention="sdpa")
    assert (engine.name, engine.attention, engine.cosine) == ("torch", "sdpa", None)
    assert model.record.numerics["attention"] == "sdpa"
    np.testing.assert_allclose(model.encode_document(TEXTS), padded.encode_document(TEXTS), atol=1e-5)


def test_half_precision_is_measured_against_the_files_in_float32(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: the next start reads what was measured, and loads nothing a second time."""
    from embedprefs.model import loading

    model = load("roberta", compute__dtype="bfloat16")
    assert model.engine.numerics == "bfloat16"
    assert 0.99 < model.engine.cosine < 0.999999
    assert model.record.numerics["cosine_to_float32"] == model.engine.cosine
    exact = load("roberta", compute__attention="sdpa").encode_document(TEXTS)
    found = model.encode_document(TEXTS)
    assert found.dtype == np.float32
    assert (found * exact).sum(axis=1).min() > 0.99
    again = load("roberta", compute__dtype="bfloat16")
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("loaded a second time"))
    assert again.engine.measurement == model.engine.measurement


def test_a_number_format_that_auto_took_and_is_not_close_is_warned_of(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Texts without padding agree with padded ones, so that the format differs; one that is stated is kept to."""
    from embedprefs.engine import exactness
    from embedprefs.hardware import detect_hardware

    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    hardware = dataclasses.replace(detect_hardware(), native_bfloat16=True, processor_vendor="AuthenticAMD")

    def engine(**overrides: Any) -> Any:
        values = {**STATED, "compute.exactness": "fast", **overrides}
        resolved = resolve(preferences_for_model(str(folders["bert"]), values), None, hardware)
        path = exactness._file_of(resolved, "torch", "bfloat16")
        exactness._keep(path, exactness.Measurement(cosine=0.9, difference=0.1, texts=12))
        return load_model(folders["bert"], overrides=values, hardware=hardware).engine

    with pytest.warns(EmbedPrefsWarning, match=r'bfloat16: its cosine to float32 is 0\.90000.*\n.*dtype = "float32"'):
        assert isinstance(engine().backend, PackedBackend)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "bfloat16", EmbedPrefsWarning)
        assert engine(**{"compute.dtype": "bfloat16"}).cosine == 0.9


def test_a_path_that_fails_is_left_with_the_reason(
    load: Callable[..., Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel does that a GPU cannot run."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr(PackedBackend, "submit", broken)
    with pytest.warns(EmbedPrefsWarning, match=r"RuntimeError: FlashAttention only supports Ampere"):
        model = load_model(folders["bert"], overrides=STATED)
    padded = load(compute__attention="sdpa").encode_document(TEXTS)
    np.testing.assert_allclose(model.encode_document(TEXTS), padded, atol=1e-5)


def test_a_model_in_training_mode_is_measured_without_dropout(load: Callable[..., Any]) -> None:
    """And is in training mode afterwards; its texts go to the host's own loop meanwhile."""
    import torch

    model = load(model__from_scratch=True)  # measured anew at every start
    model.train()
    torch.manual_seed(0)
    assert model.engine.cosine == pytest.approx(1)
    assert model[0].auto_model.training


def test_a_model_that_no_test_proves_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Before weights are read; "auto" keeps such a model padded."""
    static = testing.static_model_folder(tmp_path / "static")
    with pytest.raises(CheckFailedError, match=r"varlen.*a static model has no attention"):
        load_model(static, overrides={"compute.attention": "varlen", "compute.device": "cpu"})
    with pytest.raises(CheckFailedError, match=r"varlen.*the backend is openvino"):
        load_model(
            folders["bert"],
            overrides={"compute.attention": "varlen", "compute.backend": "openvino", "compute.device": "cpu"},
        )
