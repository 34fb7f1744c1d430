"""The whole measurement on tiny models: what is compared, what is reported, what is refused. Never how long it took."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import warnings

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError, InvalidPreferenceError
from embedprefs.benchmarking import (
    COLUMNS,
    HOST,
    PREFERRED,
    Agreement,
    Peak,
    Timings,
    agreement_of,
    benchmark,
    compare_vectors,
)
from embedprefs.benchmarking.peer import plain_host
from embedprefs.layers import preferences_for_model
from embedprefs.resolve import resolve
from embedprefs.testing import tiny_modernbert_folder

TEXTS = ["the red apple", "a quiet house by the river", "snow", "the red apple", "water and stone " * 40]
QUESTIONS = ["where is the river", "who walks in the snow"]


def measured(folder, overrides=None, **options):
    preferences = preferences_for_model(folder, {"compute.device": "cpu", "compute.threads": 1, **(overrides or {})})
    return benchmark(preferences, TEXTS, **{"questions": QUESTIONS, "rounds": 2, "queries": 3, **options})


@pytest.fixture(scope="module")
def result(bert):
    """Module-wide: the preferred way and one more, on a tiny BERT with prompts."""
    return measured(bert, also={"exact": {"compute.exactness": "exact"}}, source="five texts")


def test_the_host_comes_first_then_the_preferences_then_the_alternatives(result):
    assert [measurement.name for measurement in result.measurements] == [HOST, PREFERRED, "exact"]
    assert result.host is result[HOST]
    assert result.preferred is result[PREFERRED]
    with pytest.raises(KeyError):
        result["nothing"]


def test_what_was_read_is_said(result):
    """64 tokens of the long text are read; prompts and special tokens count; one text repeats."""
    texts = result.texts
    assert (texts.source, texts.count, texts.distinct, texts.truncated, texts.longest) == ("five texts", 5, 4, 1, 64)
    assert texts.shortest == 5  # [CLS] text : snow [SEP]
    assert result.preferred.report["duplicates"] == 1
    assert result.preferred.report["texts"] == 5
    assert result.host.report == {}


def test_rates_and_ratios_follow_from_the_seconds(result):
    for measurement in result.measurements:
        seconds = measurement.passes
        assert len(seconds.seconds) == 2
        assert len(measurement.queries.seconds) == 3
        assert measurement.texts_per_second == pytest.approx(5 / seconds.median)
        assert measurement.tokens_per_second == pytest.approx(result.texts.tokens / seconds.median)
        assert measurement.times_host == pytest.approx(result.host.passes.median / seconds.median)
        assert measurement.query_times_host == pytest.approx(measurement.queries.median / result.host.queries.median)
    assert result.host.times_host == result.host.query_times_host == 1
    assert result.spread == max(measurement.passes.spread for measurement in result.measurements)


def test_the_prompt_is_the_hosts_too_so_that_vectors_agree(result):
    """A tiny random model in float32: were a prompt missing on one side, cosines would tell."""
    assert result.host.agreement.cosine_least == pytest.approx(1)
    assert result["exact"].agreement.promise_kept is True
    assert result["exact"].agreement.largest_difference < 1e-5
    assert result.preferred.agreement.cosine_least > 0.9995
    assert result.broken_promises == []


def test_a_share_of_the_peak_is_at_most_the_whole(result):
    assert {peak.precision for peak in result.peaks} == {measurement.precision for measurement in result.measurements}
    for peak in result.peaks:
        assert peak.operations_per_second > 0
        assert len(peak.runs) % 6 == 0  # three shapes, before and after
    for measurement in result.measurements:
        assert measurement.share_of_peak is None or 0 < measurement.share_of_peak <= 1
    assert result.operations > 0


def test_everything_is_json_and_has_a_row(result):
    values = json.loads(json.dumps(result.to_json()))
    assert values["kind"] == "benchmark"
    assert values["measurements"][0]["passes"]["median"] == result.host.passes.median
    assert values["texts"]["tokens"] == result.texts.tokens
    assert values["peaks"][0]["best"]["library"] in ("torch", "openvino")
    assert [len(row) for row in result.rows()] == [len(COLUMNS)] * 3
    assert result.rows()[1][0] == PREFERRED
    assert any("5 texts" in line and "1 of them repeated" in line for line in result.heading())


def test_how_noisy_it_was_is_said(result):
    quiet, noisy = Timings((1.0, 1.01)), Timings((1.0, 2.0))
    calm = dataclasses.replace(result.machine, load_before=0.0, load_after=1.5, processors=2)

    def with_(timings, machine):
        measurements = tuple(dataclasses.replace(item, passes=timings) for item in result.measurements)
        return dataclasses.replace(result, measurements=measurements, machine=machine).noise()

    assert "up to 1%" in with_(quiet, calm)
    assert "noisy" not in with_(quiet, calm)
    assert "Load average 0.00 before and 1.50 after, on 2 processors." in with_(quiet, calm)
    assert "The machine is noisy" in with_(noisy, calm)
    assert "something else was running" in with_(quiet, dataclasses.replace(calm, load_before=1.9))
    assert "not known" in with_(Timings((1.0,)), dataclasses.replace(calm, load_before=None))


def test_a_share_above_the_whole_is_a_note_and_no_figure(bert, monkeypatch):
    """A multiplication that was disturbed by another program must not make the model look better than possible."""
    from embedprefs.benchmarking import throughput

    slow = measured(bert, rounds=1, queries=1).peaks[0].runs[0]
    crawling = dataclasses.replace(slow, fastest=1e6)
    monkeypatch.setattr(throughput, "measure_peak", lambda *_sizes, **_options: Peak("float32", (crawling,)))
    disturbed = measured(bert, {"compute.dtype": "float32"}, rounds=1, queries=1)
    assert [item.share_of_peak for item in disturbed.measurements] == [None, None]
    assert sum("too noisy" in note for note in disturbed.notes) == 2


def test_a_static_model_has_speed_and_cosine_and_no_share(static):
    result = measured(static)
    assert result.peaks == ()
    assert result.operations is None
    assert [item.share_of_peak for item in result.measurements] == [None, None]
    assert result.preferred.agreement.cosine_least == pytest.approx(1)
    assert result.texts.tokens > 0
    assert result.rows()[0][COLUMNS.index("share of peak")] == "-"


def test_kept_embeddings_are_neither_asked_nor_added_to(bert, tmp_path):
    """Looking vectors up would be fast, and say nothing about embedding."""
    result = measured(bert, {"compute.cache": str(tmp_path / "kept")}, rounds=1, queries=1, peak=False)
    assert result.preferred.report["cached"] == 0
    for file in tmp_path.rglob("*.sqlite*"):
        with sqlite3.connect(file) as kept:
            tables = [name for (name,) in kept.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            assert sum(kept.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables) <= 1
    assert result.peaks == ()


def test_float_vectors_of_whole_texts_are_measured_whatever_is_preferred(bert):
    """Codes and windows cannot be compared with the host's float vectors of cut texts; a note says so."""
    overrides = {"vectors.precision": "binary", "tokenizer.overflow": "window", "tokenizer.on_overflow": "error"}
    result = measured(bert, overrides, rounds=1, queries=1, peak=False)
    assert result.preferred.agreement.cosine_least > 0.9995
    assert any("not binary ones" in note for note in result.notes)
    assert any("windows" in note for note in result.notes)


def test_an_alternative_that_changes_what_the_vectors_are_is_refused(bert):
    with pytest.raises(InvalidPreferenceError, match=r"vectors\.truncate_dim is no preference about speed"):
        measured(bert, also={"shorter": {"vectors.truncate_dim": 8}})


def test_an_unknown_key_is_refused_with_the_nearest_one(bert):
    with pytest.raises(InvalidPreferenceError, match=r"compute\.exactness"):
        measured(bert, also={"typo": {"compute.exactnes": "exact"}})


def test_a_name_of_its_own_ways_is_refused(bert):
    with pytest.raises(InvalidPreferenceError, match="its own ways"):
        measured(bert, also={HOST: {"compute.exactness": "exact"}})


@pytest.mark.parametrize(("options", "words"), [({"rounds": 0}, "rounds is 0"), ({"queries": 0}, "queries is 0")])
def test_nothing_to_measure_is_refused(bert, options, words):
    with pytest.raises(InputError, match=words):
        measured(bert, **options)
    with pytest.raises(InputError, match="nothing to embed"):
        benchmark(preferences_for_model(bert), [])


def test_cosines_of_pairs_of_vectors():
    vectors = np.array([[1, 0], [0, 2], [0, 0], [0, 0]], dtype=np.float32)
    exact = np.array([[2, 0], [1, 1], [0, 0], [1, 0]], dtype=np.float32)
    mean, least, difference = compare_vectors(vectors, exact)
    assert mean == pytest.approx((1 + np.sqrt(0.5) + 1 + 0) / 4)
    assert (least, difference) == (0, 1)
    with pytest.raises(InputError, match="shape"):
        compare_vectors(vectors, exact[:, :1])


def test_what_exactness_promises_is_judged():
    exact = np.eye(2, dtype=np.float32)
    near, far = exact + np.float32(5e-6), exact + np.float32(0.1)
    assert agreement_of(near, exact, "exact").promise_kept is True
    assert agreement_of(far, exact, "exact").promise_kept is False
    assert agreement_of(near, exact, "close").promise_kept is True
    assert agreement_of(far, exact, "close").promise_kept is False
    assert agreement_of(far, exact, "fast").promise is None
    assert agreement_of(far, exact, None).promise_kept is None


def test_a_broken_promise_is_a_sentence(result):
    promise = 'compute.exactness = "close" promises a cosine of at least 0.9995.'
    broken = dataclasses.replace(result.preferred, agreement=Agreement(0.99, 0.98, 0.2, promise, promise_kept=False))
    changed = dataclasses.replace(result, measurements=(result.host, broken))
    [sentence] = changed.broken_promises
    assert "as preferred" in sentence
    assert "0.980000" in sentence


@pytest.fixture(scope="module")
def with_adapter(tmp_path_factory):
    """A tiny ModernBERT, whose attention is ours by default, and an adapter for it."""
    peft = pytest.importorskip("peft")
    from sentence_transformers import SentenceTransformer

    folder = tiny_modernbert_folder(tmp_path_factory.mktemp("modernbert"))
    adapter = tmp_path_factory.mktemp("adapter")
    host = SentenceTransformer(str(folder), device="cpu")
    host.add_adapter(peft.LoraConfig(r=4, target_modules=["Wqkv"], init_lora_weights=False))
    host.transformers_model.save_pretrained(str(adapter))
    return folder, {"model.adapter": {"name": str(adapter)}}


def test_the_host_gets_the_adapter_and_keeps_its_own_attention(with_adapter):
    """Both sides give the same vectors; the host computes as it does when nobody says anything."""
    folder, overrides = with_adapter
    result = measured(folder, overrides, peak=False)
    assert (result.host.attention, result.preferred.attention) == ("sdpa", "local")
    assert result.preferred.agreement.cosine_least > 0.99999
    adapted, plain = (vectors_of_the_host(folder, settings) for settings in (overrides, {}))
    assert np.abs(adapted - plain).max() > 1e-3


def vectors_of_the_host(folder, overrides):
    """What the plain host that is compared with gives."""
    preferences = preferences_for_model(folder, {"compute.device": "cpu", **overrides})
    return plain_host(preferences, resolve(preferences), dtype="float32").encode(TEXTS)


def test_an_untrained_host_keeps_its_own_attention(tmp_path):
    folder = tiny_modernbert_folder(tmp_path / "model")
    preferences = preferences_for_model(folder, {"compute.device": "cpu", "model.from_scratch": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        host = plain_host(preferences, resolve(preferences))
    assert host[0].model.config._attn_implementation == "sdpa"
