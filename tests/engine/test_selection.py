"""What runs a model: measured against float32 on torch, and refused with the number where it is not close enough."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import warnings

import numpy as np
import pytest
import torch

from embedprefs import Preferences, Record, load_model, resolve, testing
from embedprefs.engine import building
from embedprefs.engine.batching import padded
from embedprefs.engine.exactness import (
    PROBE_TEXTS,
    Measurement,
    is_exact_enough,
    kept_measurement,
    measure,
)
from embedprefs.engine.selection import candidates
from embedprefs.errors import EmbedPrefsWarning
from embedprefs.hardware import detect_hardware

TEXTS = ["a river", "The quick brown fox jumps over the lazy dog " * 3, "", "old town, 1234", "a river"]
BACKEND = {"compute.device": "cpu", "compute.backend": "openvino"}


class Rounded:
    """torch's own vectors, with a stated error: what a backend of lower precision gives."""

    name = "openvino"

    def __init__(self, inner, numerics, error):
        self.inner, self.numerics, self.error, self.dimension = inner, numerics, error, inner.dimension
        self.closed, self.calls = False, 0

    def vectors(self, ids, mask, *, prompt_tokens=0):
        self.calls += 1
        exact = self.inner.vectors(ids, mask, prompt_tokens=prompt_tokens)
        noise = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
        return exact + self.error * noise / np.sqrt(exact.shape[1]) * np.linalg.norm(exact, axis=1, keepdims=True)

    def token_vectors(self, ids, mask):
        return self.inner.token_vectors(ids, mask)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return testing.tiny_bert_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def machine():
    """This machine, with OpenVINO and bfloat16 that pays, whether it has them or not."""
    here = detect_hardware()
    return dataclasses.replace(
        here,
        native_bfloat16=True,
        processor_vendor="AuthenticAMD",
        packages={**here.packages, "openvino": "2026.4.1"},
    )


@pytest.fixture
def built(monkeypatch):
    """Backends that are built instead of converted ones: errors by numerics; those made are listed."""
    made = []

    def errors(**by_numerics):
        def build(model, resolved, name, numerics, *, tokenizer):
            error = by_numerics[numerics]
            if isinstance(error, BaseException):
                raise error
            made.append(Rounded(model._running.torch, numerics, error))
            return made[-1]

        monkeypatch.setattr(building, "build_backend", build)
        return made

    return errors


def load(folder, machine, **overrides):
    values = {**BACKEND, **{key.replace("__", "."): value for key, value in overrides.items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        return load_model(folder, overrides=values, hardware=machine)


def test_a_close_backend_runs_and_its_cosine_is_known_everywhere(folder, machine, built):
    """In the engine, the report of a call, the record and for the next process on the disk."""
    (made,) = (built(bfloat16=1e-2),)
    model = load(folder, machine)
    engine = model.engine
    assert (engine.name, engine.numerics) == ("openvino", "bfloat16")
    assert 0.9995 < engine.cosine < 0.99999
    with model.collect_report() as report:
        model.encode(TEXTS)
    assert (report.backend, report.numerics, report.duplicates, report.handed_over) == ("openvino", "bfloat16", 1, 0)
    assert model.record.numerics["cosine_to_float32"] == engine.cosine
    assert (model.record.numerics["backend"], model.record.numerics["dtype"]) == ("openvino", "bfloat16")
    assert kept_measurement(model.resolved, "openvino", "bfloat16") == engine.measurement
    assert made[0].calls > 1


def test_the_fingerprint_does_not_tell_what_runs(folder, machine, built):
    built(bfloat16=1e-2)
    on_torch = load(folder, machine, compute__backend="torch")
    assert load(folder, machine).fingerprint == on_torch.fingerprint


def test_what_is_not_close_falls_back_to_float32_and_says_the_number(folder, machine, built):
    made = built(bfloat16=5e-2, float32=0.0)
    model = load(folder, machine)
    with pytest.warns(EmbedPrefsWarning, match=r"openvino in bfloat16: its cosine to float32 is 0\.99\d+.*0\.9995"):
        engine = model.engine
    assert (engine.name, engine.numerics) == ("openvino", "float32")
    assert [backend.closed for backend in made] == [True, False]
    assert model.record.numerics["dtype"] == "float32"


def test_where_nothing_is_close_torch_runs(folder, machine, built):
    built(bfloat16=5e-2, float32=5e-2)
    model = load(folder, machine)
    with pytest.warns(EmbedPrefsWarning, match="runs on torch in float32"):
        engine = model.engine
    assert (engine.name, engine.numerics, engine.cosine) == ("torch", "float32", None)
    assert "cosine" in engine.reason
    assert model.record.numerics["backend"] == "torch"
    assert "cosine_to_float32" not in model.record.numerics
    expected = load(folder, machine, compute__backend="torch").encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS), expected)


def test_exact_asks_for_the_numbers_and_not_for_the_cosine(folder, machine, built):
    """A cosine of 0.99999999 is within one bound and not within the other."""
    built(float32=1e-4)
    model = load(folder, machine, compute__exactness="exact")
    with pytest.warns(EmbedPrefsWarning, match=r"differ from float32 by up to \d\.\de-0[45].*1e-05"):
        assert model.engine.name == "torch"
    built(float32=1e-7)
    other = load(folder, machine, compute__exactness="exact", prompts__query="another ")
    assert other.engine.name == "openvino"


def test_a_conversion_that_fails_is_said_and_costs_nothing_but_time(folder, machine, built):
    built(bfloat16=RuntimeError("no rule for aten::fold\nand a long trace"), float32=RuntimeError("no rule"))
    model = load(folder, machine)
    with pytest.warns(EmbedPrefsWarning, match=r"openvino in bfloat16: RuntimeError: no rule for aten::fold\n"):
        vectors = model.encode(TEXTS)
    assert vectors.shape == (5, 32)


def test_what_was_measured_is_not_measured_again(folder, machine, built):
    """By another model object of the same files; other versions or processors measure anew."""
    made = built(bfloat16=1e-2)
    assert load(folder, machine).engine.measurement == load(folder, machine).engine.measurement
    assert made[0].calls > 1
    assert made[1].calls == 0
    newer = dataclasses.replace(machine, packages={**machine.packages, "openvino": "2027.0"})
    assert kept_measurement(load(folder, newer).resolved, "openvino", "bfloat16") is None


def test_a_damaged_measurement_is_made_again(folder, machine, built, isolated_home):
    built(bfloat16=1e-2)
    model = load(folder, machine)
    expected = model.engine.measurement
    (file,) = (isolated_home / ".cache").rglob("exactness/*.json")
    for text in ("", "[]", '{"cosine": "x"}', '{"cosine": 1}'):
        file.write_text(text)
        assert kept_measurement(model.resolved, "openvino", "bfloat16") is None
    assert load(folder, machine).engine.measurement == expected
    assert json.loads(file.read_text())["texts"] == expected.texts


def test_show_prints_what_was_measured(folder, built, tmp_path, monkeypatch):
    """And that nothing was yet, as long as nothing was; in JSON too."""
    from typer.testing import CliRunner

    from embedprefs.cli.main import create_app

    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedprefs.toml").write_text(
        f'[model]\nname = {str(folder)!r}\n[compute]\ndevice = "cpu"\nbackend = "openvino"\ndtype = "float32"\n'
    )

    def shown(*options):
        ended = CliRunner().invoke(create_app(), ["show", "--resolved", *options])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    assert "not measured yet" in shown()
    assert json.loads(shown("--format", "json"))["measured"] == {"openvino, float32": None}
    built(float32=1e-4)
    measured = load(folder, None, compute__dtype="float32").engine.measurement
    assert f"cosine at least {measured.cosine:.6f}" in " ".join(shown().split())
    assert json.loads(shown("--format", "json"))["measured"] == {"openvino, float32": dataclasses.asdict(measured)}


@pytest.mark.parametrize(
    ("found", "exactness", "numerics", "answer"),
    [
        (Measurement(0.99951, 1e-2, 9), "close", "bfloat16", True),
        (Measurement(0.99949, 1e-2, 9), "close", "bfloat16", False),
        (Measurement(1.0, 9e-6, 9), "exact", "float32", True),
        (Measurement(1.0, 2e-5, 9), "exact", "float32", False),
        (Measurement(0.97, 0.1, 9), "fast", "int8", True),
        (Measurement(0.97, 0.1, 9), "fast", "bfloat16", False),
        (Measurement(-1.0, 2.0, 9), "fast", "int8", False),
    ],
)
def test_bounds(found, exactness, numerics, answer):
    assert is_exact_enough(found, exactness, numerics) is answer


def test_vectors_that_are_no_numbers_are_like_nothing(folder, machine, built):
    built(bfloat16=float("nan"))
    model = load(folder, machine, compute__backend="torch")
    model.encode("a")
    backend = model._running.torch
    found = measure(Rounded(backend, "bfloat16", float("nan")), backend, model.text_tokenizer(64))
    assert (found.cosine, found.difference) == (-1.0, float("inf"))
    same = measure(backend, backend, model.text_tokenizer(64))
    assert same.cosine == pytest.approx(1.0)
    assert (same.difference, same.texts) == (0.0, len(PROBE_TEXTS))


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        ({"backend": "torch"}, []),
        ({"backend": "openvino"}, [("openvino", "bfloat16"), ("openvino", "float32")]),
        ({"backend": "openvino", "dtype": "float32"}, [("openvino", "float32")]),
        (
            {"backend": "openvino", "weights": "int8", "exactness": "fast"},
            [("openvino", "int8"), ("openvino", "bfloat16"), ("openvino", "float32")],
        ),
        ({"backend": "onnx"}, [("onnx", "float32")]),
    ],
)
def test_candidates_in_order(compute, expected, folder, machine):
    preferences = Preferences.model_validate({"model": {"name": str(folder)}, "compute": {"device": "cpu", **compute}})
    assert list(candidates(resolve(preferences, hardware=machine))) == expected


# A model that changes after its engine was chosen ----------------------------------------------------------------


def step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(model.preprocess(["a river"]))["sentence_embedding"].sum().backward()
    optimizer.step()
    model.zero_grad()


def in_place(model):
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight.mul_(1.5)


def through_data(model):
    model[0].model.embeddings.word_embeddings.weight.data = model[0].model.embeddings.word_embeddings.weight.data * 1.5


def replaced(model):
    layers = model[0].model.encoder.layer
    layers[0], layers[1] = layers[1], layers[0]


def loaded_again(model):
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})


def pooled_otherwise(model):
    model[1].pooling_mode = "cls"


@pytest.mark.parametrize("change", [step, in_place, through_data, replaced, loaded_again, pooled_otherwise])
def test_a_changed_model_runs_on_torch(change, folder, machine, built):
    """A fused optimizer leaves no count of changes in the weights it changes; one text is enough to notice."""
    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    model.encode("a river")
    calls = made[0].calls
    change(model)
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading"), model.collect_report() as report:
        found = model.encode("a river")
    assert (report.backend, report.numerics, made[0].calls) == ("torch", "float32", calls)
    rows = model.text_tokenizer(64).tokenise(["a river"]).ids
    assert np.array_equal(found, model._running.torch.vectors(*padded(rows, 0))[0])


def test_a_change_without_a_sign_is_noticed_before_many_texts(folder, machine, built):
    """Values written through `.data` in place are not counted by torch; a few of them are looked at."""
    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    model.encode("a river")
    calls = made[0].calls
    model[0].model.embeddings.word_embeddings.weight.data.mul_(1.5)
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading"):
        model.encode([f"a river {number}" for number in range(20)])
    assert made[0].calls == calls


def test_a_change_without_a_sign_is_noticed_by_one_text_that_follows_a_pause(folder, machine, built, monkeypatch):
    """Queries that follow each other look at the weights ten times a second, not every time."""
    from embedprefs.model import running

    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    monkeypatch.setattr(running.time, "monotonic", lambda: 1000.0)
    model.encode("a river")
    model[0].model.embeddings.word_embeddings.weight.data.mul_(1.5)
    monkeypatch.setattr(running.time, "monotonic", lambda: 1000.2)
    calls = made[0].calls
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading"):
        model.encode("a river")
    assert made[0].calls == calls


def hooked(model):
    model[0].model.encoder.layer[0].output.dense.register_forward_hook(lambda _module, _inputs, output: output * 1.5)


def hooked_before(model):
    model[0].model.encoder.layer[0].register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.5, *inputs[1:]))


def adapted(model):
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))


EARLY = [step, in_place, through_data, replaced, loaded_again, pooled_otherwise, hooked, hooked_before, adapted]


@pytest.mark.parametrize("change", EARLY)
@pytest.mark.parametrize("way", ["the model", "a copy", "a shallow copy", "an unpickled copy"])
def test_what_was_changed_before_its_first_text_is_not_converted(change, way, folder, machine, built):
    """Nothing is converted or measured then: both are kept on the disk under the name of what was loaded."""
    import copy
    import pickle

    if change is adapted:
        pytest.importorskip("peft")
    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    if way != "the model":
        model.encode("a river")
        pickled = pickle.dumps(model)
        copied = {"a copy": copy.deepcopy, "a shallow copy": copy.copy}.get(way, lambda _: pickle.loads(pickled))
        model = copied(model)
        made.clear()
    change(model)
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading, so that it runs on torch"):
        engine = model.engine
    assert (engine.backend is model._running.torch, made) == (True, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbedPrefsWarning)
        found = model.encode("a river")
    rows = model.text_tokenizer(64).tokenise(["a river"]).ids
    assert np.array_equal(found, model._running.torch.vectors(*padded(rows, 0))[0])
    if way == "the model":
        assert kept_measurement(model.resolved, "openvino", "bfloat16") is None


@pytest.mark.parametrize("change", [hooked, hooked_before])
def test_a_hook_laid_around_a_module_sends_texts_to_torch(change, folder, machine, built):
    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    model.encode("a river")
    calls = made[0].calls
    change(model)
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading"):
        model.encode("a river")
    assert made[0].calls == calls


def test_training_another_model_changes_nothing_here(folder, machine, built):
    """An optimizer of the same process is a sign of change; the weights themselves decide, and are compared once."""
    made = built(bfloat16=1e-2)
    model, other = load(folder, machine), load(folder, machine, compute__backend="torch")
    expected = model.encode("a river")
    step(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbedPrefsWarning)
        assert np.array_equal(model.encode("a river"), expected)
    assert made[0].calls > 0
    in_place(model)
    with pytest.warns(EmbedPrefsWarning, match="was changed after loading"):
        model.encode("a river")


def test_a_part_in_training_mode_is_handed_over(folder, machine, built):
    """Its dropout would be on; the host's loop puts it into evaluation mode, and it is put back."""
    built(bfloat16=1e-2)
    model = load(folder, machine, compute__backend="torch")
    expected = model.encode(TEXTS)
    model[0].train()
    with model.collect_report() as report:
        assert np.abs(model.encode(TEXTS) - expected).max() <= 1e-6
    assert report.handed_over == len(TEXTS)
    assert model[0].training


def test_copies_choose_anew(folder, machine, built):
    """A copy shares no engine: its weights are its own."""
    import copy
    import pickle

    made = built(bfloat16=1e-2)
    model = load(folder, machine)
    expected = model.encode(TEXTS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._running.engine is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbedPrefsWarning)
            assert np.abs(other.encode(TEXTS) - expected).max() < 0.1
    assert len({id(backend.inner) for backend in made}) == len(made)


def test_out_of_memory_is_remembered_by_the_model(folder, machine, built):
    """The run goes on with half the budget, says so, and later calls begin with it."""
    made = built(bfloat16=1e-2)
    model = load(folder, machine, compute__batch_tokens=512)
    model.encode("a")
    whole = type(made[0]).vectors

    def small(self, ids, mask, *, prompt_tokens=0):
        if ids.size > 200:
            raise MemoryError
        return whole(self, ids, mask, prompt_tokens=prompt_tokens)

    made[0].vectors = small.__get__(made[0])
    texts = [f"a river {number}" for number in range(200)]
    with model.collect_report() as report:
        vectors = model.encode(texts)
    assert report.reduced >= 1
    assert model.batch_tokens <= 256
    assert vectors.shape == (200, 32)
    with model.collect_report() as report:
        model.encode(texts)
    assert report.reduced == 0


# The real thing --------------------------------------------------------------------------------------------------


def test_a_converted_model_gives_the_vectors_of_torch(folder, tmp_path):
    """Within the bound of each exactness, through every argument the engine knows."""
    pytest.importorskip("openvino")
    on_torch = load(folder, None, compute__backend="torch")
    exact = load(folder, None, compute__exactness="exact")
    assert (exact.engine.name, exact.engine.numerics) == ("openvino", "float32")
    for arguments in (
        {},
        {"prompt": "query: "},
        {"normalize_embeddings": True, "truncate_dim": 8},
        {"batch_size": 2},
        {"convert_to_tensor": True},
    ):
        with exact.collect_report() as report:
            found = exact.encode(TEXTS, **arguments)
        assert report.backend == "openvino"
        assert np.abs(np.asarray(found) - np.asarray(on_torch.encode(TEXTS, **arguments))).max() <= 1e-5
    record = Record.from_json(exact.record.to_json())
    assert record.numerics["backend"] == "openvino"
    assert record.compare(on_torch.record).status == "soft"
    exact.save_pretrained(str(tmp_path / "saved"))
    assert np.abs(load(tmp_path / "saved", None).encode(TEXTS) - on_torch.encode(TEXTS)).max() <= 0.05


def in_child(model, texts, results):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectors = model.encode(texts)
    results.put((vectors, [str(warning.message) for warning in caught], torch.get_num_threads()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_forked_child_computes_with_one_thread_and_says_so(folder):
    """torch's threads are not in the copy: a child that asked for them would wait for ever."""
    model = load(folder, None, compute__backend="torch", compute__threads=2)
    texts = [f"a river runs through {number} old towns " * 8 for number in range(64)]
    expected = model.encode(texts)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=in_child, args=(model, texts, results))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forking beside threads
        child.start()
    try:
        vectors, said, threads = results.get(timeout=60)
        child.join(30)
    finally:
        child.kill()
    assert np.abs(vectors - expected).max() <= 1e-6
    assert any("does not survive a fork" in message or "do not survive a fork" in message for message in said)
    assert threads >= 1
