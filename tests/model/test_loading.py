"""`load_model`: what is refused before weights are read, and what is verified afterwards."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from embedprefs import (
    CheckFailedError,
    EmbedPrefsWarning,
    InvalidPreferenceError,
    ModelFilesError,
    Preferences,
    PreferredSentenceTransformer,
    ResourceError,
    load_model,
    load_preferences,
    testing,
)

pytestmark = pytest.mark.filterwarnings("ignore::embedprefs.EmbedPrefsWarning")


def test_preferences_a_folder_and_a_path_load_the_same_model(folders, ours, texts, tmp_path):
    expected = ours("bert").encode(texts)
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{folders["bert"]}"\n[compute]\ndevice = "cpu"\n', encoding="utf-8")
    for given in (
        folders["bert"],
        str(folders["bert"]),
        load_preferences(file),
        Preferences(model={"name": str(folders["bert"])}),
    ):
        model = load_model(given, overrides={"compute.device": "cpu"})
        assert isinstance(model, PreferredSentenceTransformer)
        assert np.array_equal(model.encode(texts), expected)
        assert not model.training


def test_a_relative_folder_is_relative_to_the_preferences_file(tmp_path):
    testing.static_model_folder(tmp_path / "models" / "static")
    file = tmp_path / "embedprefs.toml"
    file.write_text('[model]\nname = "models/static"\n', encoding="utf-8")
    assert load_model(load_preferences(file)).encode("red").tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_overrides_win_and_are_named_as_the_origin(folders, tmp_path):
    file = tmp_path / "embedprefs.toml"
    file.write_text(
        f'[model]\nname = "{folders["bert"]}"\n[prompts]\nquery = "q: "\ndocument = "d: "\n', encoding="utf-8"
    )
    model = load_model(load_preferences(file), overrides={"prompts.query": "query: ", "compute.device": "cpu"})
    assert (model.prompts["query"], model.prompts["document"]) == ("query: ", "d: ")
    assert "overrides" in str(model.preferences.origin("prompts.query"))
    assert str(file) in str(model.preferences.origin("prompts.document"))


def test_an_invalid_override_is_refused_as_in_a_file(folders):
    preferences = Preferences(model={"name": str(folders["bert"])})
    with pytest.raises(InvalidPreferenceError, match=r"compute\.devise"):
        load_model(preferences, overrides={"compute.devise": "cpu"})


@pytest.mark.parametrize("given", ["embedprefs.toml", 3, None])
def test_what_is_no_model_is_refused_with_the_way_to_do_it(given):
    with pytest.raises(InvalidPreferenceError, match="load_preferences"):
        load_model(given)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises((ModelFilesError, CheckFailedError)):
        load_model(tmp_path)


@pytest.mark.parametrize("device", ["cuda:7", "xpu", "mps", ["cpu", "cuda:7"]])
def test_a_device_that_is_not_there_is_refused_before_weights_are_read(device, tmp_path, monkeypatch):
    """The error comes although the weights are damaged: nobody has looked at them."""
    if torch.cuda.device_count() > 7 or torch.backends.mps.is_available() or torch.xpu.is_available():
        pytest.skip("this machine has the device")
    folder = testing.tiny_bert_folder(tmp_path)
    monkeypatch.setattr(
        PreferredSentenceTransformer, "__init__", lambda *_a, **_n: pytest.fail("the model was constructed")
    )
    with pytest.raises(ResourceError):
        load_model(folder, overrides={"compute.device": device})


def test_torch_itself_is_asked_for_the_device(folders):
    """Where the description of the machine is wrong, torch's refusal is ours, and nothing falls back."""
    from embedprefs.hardware.description import Accelerator, Hardware

    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has the device")
    described = Hardware(
        torch_version="2.13.0", torch_cuda_version="12.8", driver_cuda_version="13.0", memory_available=2**34,
        accelerators=tuple(Accelerator("cuda", index, "H", memory_free=2**34) for index in range(8)),
    )  # fmt: skip
    with pytest.raises(ResourceError, match="cuda:7: "):
        load_model(folders["bert"], overrides={"compute.device": "cuda:7"}, hardware=described)


def test_a_model_that_does_not_fit_is_refused_early(tmp_path):
    """1.58 GB of weights in a machine that has one: said before torch is asked for any."""
    from embedprefs.hardware.description import Hardware

    folder = testing.modernbert_large_folder(tmp_path)
    small = Hardware(memory_total=2**30, memory_available=2**30, torch_version="2.13.0", packages={"torch": "2.13.0"})
    with pytest.raises(ResourceError, match=r"394\.8 million parameters"):
        load_model(folder, overrides={"compute.device": "cpu"}, hardware=small)


@pytest.mark.parametrize(
    ("key", "value"),
    [("compute.weights", "int8"), ("compute.attention", "flash_attention_2")],
)
def test_what_this_version_does_not_run_is_refused(key, value, folders):
    with pytest.raises((InvalidPreferenceError, CheckFailedError), match=key):
        load_model(folders["modernbert"], overrides={key: value, "compute.device": "cpu"})


def test_findings_are_warned_of_and_errors_listed_together(folders):
    with pytest.raises(CheckFailedError) as caught:
        load_model(folders["bert"], overrides={"vectors.truncate_dim": 64, "tokenizer.padding_side": "left"})
    assert len(caught.value.findings) >= 2
    with pytest.warns(EmbedPrefsWarning, match="prompts"):
        load_model(folders["flagship"], overrides={"compute.device": "cpu"})


def test_checks_run_before_torch_is_imported(folders):
    """An error in the preferences is said without waiting for torch."""
    program = (
        "import sys, embedprefs\n"
        "try:\n"
        f"    embedprefs.load_model({str(folders['bert'])!r}, overrides={{'vectors.truncate_dim': 64}})\n"
        "except embedprefs.CheckFailedError:\n"
        "    print('torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_asked_for_is_the_one_that_runs(attention, load):
    assert load("modernbert", compute__attention=attention).config._attn_implementation == attention


def test_tokenizer_settings_take_effect(load):
    model = load("bert", tokenizer__max_seq_length=9, tokenizer__truncation_side="left")
    assert (model.max_seq_length, model.tokenizer.truncation_side) == (9, "left")
    assert model.preprocess(["one two three four five six seven eight nine ten"])["input_ids"].shape[1] == 9


def test_special_tokens_take_effect(load):
    assert load("bert", tokenizer__special_tokens={"mask_token": "[UNK]"}).tokenizer.mask_token == "[UNK]"


def test_special_tokens_without_a_vector_are_refused(load):
    """A token that the vocabulary lacks would be added behind the last vector."""
    with pytest.raises((ModelFilesError, CheckFailedError)):
        load("bert", tokenizer__special_tokens={"additional_special_tokens": ["[NEW1]", "[NEW2]"]})


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_bare_checkpoint_gets_the_pooling_that_is_stated(pooling, tmp_path, texts):
    """Without modules.json the host pools by the mean; here pooling is stated, and equals a chain that says so."""
    bare = testing.tiny_bert_folder(tmp_path / "bare", pooling=None)
    whole = testing.tiny_bert_folder(tmp_path / "whole", pooling=pooling, normalize=False)
    overrides = {"model.pooling": pooling, "compute.device": "cpu", "tokenizer.max_seq_length": 64}
    vectors = load_model(bare, overrides=overrides).encode(texts)
    assert vectors == pytest.approx(load_model(whole, overrides={"compute.device": "cpu"}).encode(texts), abs=1e-6)


def test_an_untrained_model_is_built_and_says_so(folders, texts):
    """`from_scratch` allows another architecture, and every report names the random weights."""
    overrides = {
        "model.from_scratch": True, "compute.device": "cpu",
        "model.config": {"num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 96},
    }  # fmt: skip
    torch.manual_seed(0)
    model = load_model(folders["bert"], overrides=overrides)
    torch.manual_seed(0)
    again = load_model(folders["bert"], overrides=overrides)
    vectors = model.encode(texts)
    assert vectors.shape == (len(texts), 48)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vectors, again.encode(texts))
    assert model.untrained
    assert model.report.untrained
    import pickle

    assert np.array_equal(pickle.loads(pickle.dumps(model)).encode(texts), vectors)


def test_an_adapter_is_laid_over_the_model(folders, load, texts, tmp_path):
    peft = pytest.importorskip("peft")
    from sentence_transformers import SentenceTransformer

    host = SentenceTransformer(str(folders["bert"]), device="cpu")
    host.add_adapter(peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False))
    host.transformers_model.save_pretrained(str(tmp_path / "adapter"))
    expected = host.encode(texts)
    model = load("bert", model__adapter={"name": str(tmp_path / "adapter")})
    assert model.encode(texts) == pytest.approx(expected, abs=1e-6)
    assert np.abs(expected - load("bert").encode(texts)).max() > 1e-3
    assert model.fingerprint != load("bert").fingerprint


def test_an_absent_adapter_is_named(load, tmp_path):
    with pytest.raises((ModelFilesError, CheckFailedError), match="nowhere"):
        load("bert", model__adapter={"name": str(tmp_path / "nowhere")})


def test_compiled_models_are_compiled(load, monkeypatch):
    """torch.compile itself needs a C++ compiler, so only that it is asked for is shown."""
    asked = []
    monkeypatch.setattr(PreferredSentenceTransformer, "compile", lambda *_a, **_n: asked.append(True))
    load("bert", compute__compile=True)
    assert asked == [True]


def test_memory_on_a_cpu_is_bounded_by_the_batch(load):
    """One text of a batch of 64 tokens goes through at a time."""
    model = load("bert", compute__batch_tokens=64)
    with model.collect_report() as report:
        model.encode(["river " * (60 - number) for number in range(4)])
    assert report.batches == 4


def test_a_stated_memory_limit_makes_batches_smaller_on_a_cpu(load, texts):
    """By the estimate, eager attention for 64 texts of 64 tokens takes 8 MB; a limit of 2 MB allows fewer at a time."""
    wide = {"compute__batch_tokens": 4096, "compute__max_batch_size": 64, "compute__attention": "eager"}
    free, limited = load("bert", **wide), load("bert", compute__memory_limit="2MB", **wide)
    assert free.batch_tokens == 4096
    assert 64 <= limited.batch_tokens < 4096
    assert limited.encode(texts) == pytest.approx(free.encode(texts), abs=1e-6)
    with limited.collect_report() as report:
        limited.encode([f"river {number} " * 30 for number in range(64)])
    assert report.batches > 1


def test_a_memory_limit_too_small_for_one_text_is_refused(load):
    with pytest.raises(ResourceError, match="memory_limit"):
        load("bert", compute__memory_limit="300KB", compute__attention="eager")
