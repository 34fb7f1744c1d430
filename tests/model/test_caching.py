"""A model with kept vectors: what it returns is what it computed first, and only ever for what it is."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from embedprefs import EmbedPrefsWarning, load_model
from embedprefs.cache import without_cache
from embedprefs.model import caching

MANY = [f"a river runs through town number {number}" for number in range(100)]


@pytest.fixture
def folder(tmp_path):
    """A cache of this test's own."""
    return tmp_path / "cache"


@pytest.fixture
def cached(load, folder):
    """Load a model that keeps its vectors."""

    def loaded(name="bert", **overrides):
        return load(name, **{"compute__cache": str(folder), **overrides})

    return loaded


def of(model, function, *arguments, **named):
    """Return what a call returns and its report."""
    with model.collect_report() as report:
        result = function(*arguments, **named)
    return result, report


def assert_computed(model, texts, **named):
    """The call uses no kept vector, and says so where vectors are kept."""
    result, report = of(model, model.encode_document, texts, **named)
    assert report.cached == 0
    return result, report


@pytest.mark.parametrize("name", ["bert", "static", "roberta"])
def test_kept_vectors_equal_the_computed_ones_bit_for_bit(cached, ours, texts, name):
    """In every form that the caller may ask for, and equal to a model that keeps none."""
    model = cached(name)
    first, cold = of(model, model.encode_document, texts)
    again, warm = of(model, model.encode_document, texts)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() == ours(name).encode_document(texts).tobytes()
    distinct = len(set(texts))
    assert (cold.cached, warm.cached, warm.duplicates) == (0, distinct, len(texts) - distinct)
    assert cold.batches > 0
    assert warm.batches == warm.cache_bypassed == cold.cache_bypassed == 0
    tensor, report = of(model, model.encode_document, texts, convert_to_tensor=True)
    assert report.cached == distinct
    assert isinstance(tensor, torch.Tensor)
    assert tensor.numpy().tobytes() == first.tobytes()
    rows = model.encode_document(texts, convert_to_numpy=False)
    assert [row.numpy().tobytes() for row in rows] == [row.tobytes() for row in first]
    assert model.encode_document(texts[1]).tobytes() == first[1].tobytes()
    assert model.encode_document(texts[::-1]).tobytes() == np.ascontiguousarray(first[::-1]).tobytes()
    assert model.encode_document([]).shape[0] == 0


def test_what_is_new_is_computed_beside_what_is_kept(cached, ours):
    """Each vector lands in its place."""
    model = cached()
    old = model.encode_document(MANY[:40:2])
    result, report = of(model, model.encode_document, MANY[:40])
    assert report.cached == 20
    assert result[::2].tobytes() == old.tobytes()
    assert result == pytest.approx(ours("bert").encode_document(MANY[:40]), abs=1e-6)
    stream = list(model.embed_stream(MANY[:40], chunk_size=7))
    assert np.concatenate([rows for _, rows in stream]).tobytes() == result.tobytes()


def test_a_result_is_the_callers_own(cached, texts):
    """Writing into it changes nothing that is kept."""
    model = cached()
    first = model.encode_document(texts)
    for _ in range(2):
        result = model.encode_document(texts)
        assert result.tobytes() == first.tobytes()
        result[:] = 0


def test_roles_and_prompts_are_kept_apart(cached, ours, texts):
    """Query, document, plain, and a prompt of the call each have their own vectors."""
    model = cached(prompts__query="query: ", prompts__document="passage: ")
    calls = {
        "document": (model.encode_document, {}),
        "query": (model.encode_query, {}),
        "plain": (model.encode, {}),
        "prompt": (model.encode_query, {"prompt": "find: "}),
        "none": (model.encode_query, {"prompt": ""}),
    }
    computed = {}
    for name, (function, named) in calls.items():
        computed[name], report = of(model, function, texts, **named)
        assert report.cached == 0, name
    for name, (function, named) in calls.items():
        again, report = of(model, function, texts, **named)
        assert report.cached == len(set(texts)), name
        assert again.tobytes() == computed[name].tobytes(), name
    assert computed["plain"] == pytest.approx(ours("bert").encode(texts), abs=1e-6)
    assert np.abs(computed["document"] - computed["query"]).max() > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        {"prompts__document": "text: "},
        {"compute__dtype": "bfloat16"},
        {"compute__attention": "eager"},
        {"vectors__truncate_dim": 16},
        {"tokenizer__max_seq_length": 32},
        {"vectors__precision": "binary"},
        {"compute__autocast": True},
    ],
    ids=str,
)
def test_other_preferences_find_nothing(cached, texts, other):
    """What changes the vectors, or moves them by rounding, has entries of its own."""
    cached().encode_document(texts)
    model = cached(**other)
    first, report = assert_computed(model, texts)
    assert report.cache_bypassed == 0
    again, report = of(model, model.encode_document, texts)
    assert report.cached == len(set(texts))
    assert again.tobytes() == first.tobytes()
    assert cached().encode_document(texts).shape == (len(texts), 32)


def test_preferences_that_change_no_bit_share_entries(cached, texts):
    """Batches, threads and what is said about long texts are no part of a vector."""
    first = cached().encode_document(texts)
    model = cached(compute__max_batch_size=2, tokenizer__on_overflow="warn", compute__cache_size="1GiB")
    again, report = of(model, model.encode_document, texts)
    assert report.cached == len(set(texts))
    assert again.tobytes() == first.tobytes()


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_a_precision_is_applied_to_kept_vectors(cached, ours, texts, precision):
    """The float32 vector is kept, so that a call may ask for its codes."""
    model = cached()
    model.encode_document(texts)
    codes, report = of(model, model.encode_document, texts, precision=precision)
    assert report.cached == len(set(texts))
    assert np.array_equal(codes, ours("bert").encode_document(texts, precision=precision))


@pytest.mark.parametrize(
    "named",
    [
        {"normalize_embeddings": False, "truncate_dim": 16},
        {"truncate_dim": 16},
        {"device": "cpu"},
        {"processing_kwargs": {"text": {"max_length": 8}}},
    ],
    ids=str,
)
def test_arguments_that_change_the_vector_bypass_the_cache(cached, ours, texts, named):
    """They are computed, not kept, and counted; the next plain call finds its own."""
    model = cached()
    plain = model.encode_document(texts)
    for _ in range(2):
        result, report = assert_computed(model, texts, **named)
        assert report.cache_bypassed == len(set(texts))
        assert result == pytest.approx(ours("bert").encode_document(texts, **named), abs=1e-6)
    assert model.encode_document(texts).tobytes() == plain.tobytes()


def test_token_embeddings_are_never_kept(cached, ours):
    """The cache is for sentence embeddings."""
    model = cached()
    for _ in range(2):
        result, report = of(model, model.encode_document, MANY[:2], output_value="token_embeddings")
        assert report.cached == 0
        assert result[0].shape == ours("bert").encode_document(MANY[:2], output_value="token_embeddings")[0].shape


def test_windows_are_kept_as_one_vector(cached, ours):
    """A long text is looked up as a whole, and still reported as long."""
    text = "a river runs through the old town " * 40
    model = cached(tokenizer__overflow="window")
    first, cold = of(model, model.encode_document, [text, "short"])
    again, warm = of(model, model.encode_document, [text, "short"])
    assert cold.windowed == 1
    assert (warm.cached, warm.windows) == (2, 0)
    assert len(warm.overlong) == 1
    assert first.tobytes() == again.tobytes()
    mixed, report = of(model, model.encode_document, ["another", text])
    assert report.cached == 1
    assert mixed[1].tobytes() == first[0].tobytes()


def test_a_block_without_the_cache_computes(cached, texts):
    """Neither read nor written, and no bypass to report."""
    model = cached()
    with without_cache():
        for _ in range(2):
            _, report = assert_computed(model, texts)
            assert report.cache_bypassed == 0
    assert_computed(model, texts)


def test_no_cache_is_made_unless_asked_for(load, texts, isolated_home):
    """The default keeps nothing."""
    model = load("bert")
    model.encode_document(texts)
    assert model.resolved["compute.cache"] is False
    assert not list(isolated_home.rglob("*.sqlite"))


def test_true_keeps_vectors_in_the_users_cache_folder(load, texts, isolated_home, tmp_path, monkeypatch):
    """EMBEDPREFS_CACHE names another one."""
    model = load("bert", compute__cache=True)
    model.encode_document(texts)
    assert len(list(isolated_home.rglob("embeddings/*/vectors.sqlite"))) == 1
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    model = load("bert", compute__cache=True)
    model.encode_document(texts)
    assert len(list(tmp_path.glob("embeddings/*/vectors.sqlite"))) == 1


# A model that is no longer what was loaded ---------------------------------------------------------------------------


def step(model, *, fused):
    """Train one step by hand."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    model(model.preprocess(MANY[:2]))["sentence_embedding"].sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def through_data(model):
    model[0].auto_model.encoder.layer[0].output.dense.weight.data.mul_(3)


def one_value(model):
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight[7, 3] += 1


def replaced(model):
    weight = model[0].auto_model.encoder.layer[0].output.dense.weight
    model[0].auto_model.encoder.layer[0].output.dense.weight = torch.nn.Parameter(weight.detach() * 3)


def pooled_otherwise(model):
    model[1].pooling_mode = "cls"


def another_module(model):
    del model[2]


def shorter(model):
    model.max_seq_length = 8


def half(model):
    model.bfloat16()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: step(model, fused=True),
        lambda model: step(model, fused=False),
        through_data,
        one_value,
        replaced,
        pooled_otherwise,
        another_module,
        shorter,
        half,
    ],
    ids=["fused", "step", "data", "value", "replaced", "pooling", "module", "length", "dtype"],
)
def test_a_changed_model_uses_and_keeps_nothing(cached, texts, change):
    """Its vectors are its own, and a model loaded afterwards finds those of the model as it was."""
    model = cached()
    before = model.encode_document(texts)
    change(model)
    for _ in range(2):
        now, report = assert_computed(model, texts)
        assert report.cache_bypassed == len(set(texts))
    with without_cache():
        assert now.tobytes() == model.encode_document(texts).tobytes()
    _, report = of(model, model.encode_document, MANY)
    assert report.cache_bypassed == len(MANY)
    fresh = cached()
    again, report = of(fresh, fresh.encode_document, texts)
    assert report.cached == len(set(texts))
    assert again.tobytes() == before.tobytes()
    assert_computed(fresh, MANY)


def test_a_model_changed_before_its_first_call_keeps_nothing(cached, texts):
    """The comparison is with what was loaded, not with what was there at the first call."""
    for change in (one_value, pooled_otherwise):
        model = cached()
        change(model)
        _, report = assert_computed(model, texts)
        assert report.cache_bypassed == len(set(texts))


def test_weights_put_back_find_their_vectors_again(cached, texts):
    """A trainer that reloads its first state is the model that was loaded."""
    model = cached()
    before = model.encode_document(texts)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, fused=True)
    assert_computed(model, texts)
    model.load_state_dict(state)
    again, report = of(model, model.encode_document, texts)
    assert report.cached == len(set(texts))
    assert again.tobytes() == before.tobytes()


def test_a_change_that_leaves_no_sign_is_found_before_many_texts_are_kept(cached):
    """Through `.data`, in one value that is not looked at: calls of many texts compare every bit."""
    model = cached()
    model.encode_document(MANY)
    model[0].auto_model.embeddings.word_embeddings.weight.data[7, 3] += 1
    _, report = assert_computed(model, MANY)
    assert report.cache_bypassed == len(MANY)


def test_copies_are_judged_by_themselves(cached, texts):
    """A deep copy that is trained keeps nothing; the model it was made of goes on."""
    import copy

    model = cached()
    model.encode_document(texts)
    other = copy.deepcopy(model)
    _, report = of(other, other.encode_document, texts)
    assert report.cached == len(set(texts))
    step(other, fused=True)
    assert_computed(other, texts)
    _, report = of(model, model.encode_document, texts)
    assert report.cached == len(set(texts))


def test_random_weights_are_never_kept(cached, texts):
    """Two models from scratch have the same fingerprint and other vectors."""
    model = cached(model__from_scratch=True)
    for _ in range(2):
        _, report = assert_computed(model, texts)
        assert report.cache_bypassed == len(set(texts))


def test_numerics_set_around_a_call_are_kept_apart(cached, texts):
    """An autocast of the caller's moves vectors by rounding."""
    model = cached()
    model.encode_document(texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around, report = of(model, model.encode_document, texts)
        assert report.cached == 0
    again, report = of(model, model.encode_document, texts)
    assert report.cached == len(set(texts))
    assert np.abs(again - around).max() > 0


def test_probes_of_loading_are_computed(cached, monkeypatch):
    """Checks on the loaded model see the model, not the cache."""
    asked = []
    monkeypatch.setattr(caching, "cache_of_call", lambda *arguments, **named: asked.append(named))
    cached(prompts__query="query: ")
    assert asked == []


# Other processes, and commands ---------------------------------------------------------------------------------------

_OTHER = """
import hashlib, sys, warnings
warnings.simplefilter("ignore")
from embedprefs import load_model
model = load_model(sys.argv[1], overrides={"compute.device": "cpu", "compute.cache": sys.argv[2]})
texts = sys.stdin.read().split("\\n")
print(hashlib.sha256(model.encode_document(texts).tobytes()).hexdigest(), model.report.cached)
"""


def test_another_process_finds_them(cached, folders, folder):
    """What one process computed, the other looks up, bit for bit, in both directions."""

    def elsewhere(texts):
        ended = subprocess.run(
            [sys.executable, "-c", _OTHER, str(folders["bert"]), str(folder)],
            input="\n".join(texts),
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        digest, found = ended.stdout.split()
        return digest, int(found)

    model = cached()
    model.encode_document(MANY[:50])
    digest, found = elsewhere(MANY)
    assert found == 50
    result, report = of(model, model.encode_document, MANY)
    assert report.cached == 100
    assert hashlib.sha256(result.tobytes()).hexdigest() == digest


def test_embedding_a_file_again_computes_nothing(folders, tmp_path, monkeypatch):
    """`embed` uses the cache by preference."""
    from typer.testing import CliRunner

    from embedprefs.cli.main import create_app
    from embedprefs.model.engine_calls import EngineCall

    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedprefs.toml").write_text(
        f"[model]\nname = {str(folders['bert'])!r}\n[compute]\ncache = './kept'\n"
    )
    (tmp_path / "texts.txt").write_text("\n".join(MANY))
    computed = []
    plain = EngineCall.vectors

    def counting(self, items):
        computed.append(len(items))
        return plain(self, items)

    monkeypatch.setattr(EngineCall, "vectors", counting)
    for name in ("first.npy", "second.npy"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)
            ended = CliRunner().invoke(create_app(), ["embed", "texts.txt", "-o", name])
        assert ended.exit_code == 0, ended.output
        if name == "first.npy":
            assert sum(computed) >= len(MANY)
            computed.clear()
    assert computed.count(len(MANY)) == 0
    assert sum(computed) < 20  # the probes of loading alone
    assert (tmp_path / "first.npy").read_bytes() == (tmp_path / "second.npy").read_bytes()
    assert (tmp_path / "kept" / "store-1" / "vectors.sqlite").is_file()


def test_a_cache_that_cannot_be_written_costs_a_warning(folders, tmp_path, ours, texts):
    """The vectors are computed as without it."""
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        model = load_model(
            folders["bert"], overrides={"compute.device": "cpu", "compute.cache": str(tmp_path / "file" / "cache")}
        )
    with pytest.warns(EmbedPrefsWarning, match="cannot be used"):
        result = model.encode_document(texts)
    assert result.tobytes() == ours("bert").encode_document(texts).tobytes()


def test_int8_codes_come_from_kept_float32_vectors(cached, load, texts, tmp_path):
    """The same codes and the same count of clipped values, whether computed or looked up."""
    from embedprefs.calibration import calibrate

    calibrate(load("bert"), texts[:4]).save(tmp_path / "ranges.json")
    model = cached(vectors__precision="int8", vectors__calibration=str(tmp_path / "ranges.json"))
    first, cold = of(model, model.encode_document, texts)
    again, warm = of(model, model.encode_document, texts)
    assert first.dtype == np.int8
    assert warm.cached == len(set(texts))
    assert first.tobytes() == again.tobytes()
    assert cold.clipped == warm.clipped > 0
    floats, report = of(model, model.encode_document, texts, precision="float32")
    assert report.cached == len(set(texts))
    assert floats.tobytes() == load("bert").encode_document(texts).tobytes()
