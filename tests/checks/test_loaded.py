"""The rules on the loaded model, on tiny models that the host itself loads."""

from __future__ import annotations

import json
import shutil

import pytest
from sentence_transformers import SentenceTransformer

from embedprefs.checks import check_loaded
from embedprefs.checks.loaded import visible_devices_mismatch
from embedprefs.checks.table import LOADED_RULES
from embedprefs.preferences import Preferences
from embedprefs.resolve import resolve

BASE = {"compute.device": "cpu", "compute.dtype": "float32", "compute.attention": "sdpa"}


@pytest.fixture
def loaded(model_folders, nest):
    """Load a tiny model with the plain host: `loaded("bert", {...})` returns it and what it was to become."""

    def load(name="bert", stated=None, *, folder=None, **arguments):
        folder = folder or model_folders[name]
        preferences = Preferences.model_validate(nest({"model.name": str(folder), **BASE, **(stated or {})}))
        model = SentenceTransformer(str(folder), device="cpu", **arguments)
        return model.eval(), resolve(preferences)

    return load


def codes(findings):
    return {finding.code for finding in findings}


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "static", "unnormalized"])
def test_nothing_is_found_on_a_model_as_asked_for(name, loaded):
    """No rule fires on a model that is what its files say."""
    assert check_loaded(*loaded(name)) == []


def left_padding(model):
    model.tokenizer.padding_side = "left"


def shorter(model):
    model.max_seq_length = 16


def half(model):
    model.half()


def eager(model):
    model.transformers_model.set_attn_implementation("eager")


def without_mask(model):
    """Register an attention without a function for its mask, as a guide may tell."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("attention_without_mask", sdpa_attention_forward)
    model.transformers_model.set_attn_implementation("attention_without_mask")


def other_prompts(model):
    model.prompts = {"query": "search_query: "}


def dot(model):
    model.similarity_fn_name = "dot"


def on_meta(model):
    model.to("meta")


def more_tokens(model):
    model.tokenizer.add_tokens([f"<added-{number}>" for number in range(3)])


def deaf_to_prompts(model):
    """A model whose own code drops prompts."""
    inner = model[0].preprocess
    model[0].preprocess = lambda texts, prompt=None, **kwargs: inner(texts, **kwargs)


def without_normalize(model):
    del model[-1]


def longer_vectors(model):
    """A chain that ends in vectors of another length."""
    from sentence_transformers.sentence_transformer.modules import Dense

    model.append(Dense(32, 48))


def without_words(model):
    """Token embeddings that are no numbers, as an overflow in half precision leaves them."""
    model.transformers_model.get_input_embeddings().weight.data.fill_(float("nan"))


def broken(model):
    """A chain whose parts do not fit together."""
    from sentence_transformers.sentence_transformer.modules import Dense

    model.append(Dense(768, 16))


PROMPT = {"prompts.query": "search_query: ", "prompts.document": ""}

#: Rule -> (name of the tiny model, preferences, what is done to the model, preferences under which it is right).
PAIRS = {
    "tokenizer-setting-not-applied": ("bert", {}, left_padding, None),
    "tokenizer-kwargs-without-effect": ("bert", {"tokenizer.kwargs": {"add_prefix_space": True}}, None, {}),
    "config-override-not-applied": ("bert", {"model.config": {"hidden_dropout_prob": 0.3}}, None, {}),
    "dtype-not-applied": ("bert", {}, half, {"compute.dtype": "float16"}),
    "attention-not-applied": ("bert", {}, eager, {"compute.attention": "eager"}),
    "attention-without-mask": ("bert", {}, without_mask, None),
    "prompts-not-applied": ("bert", {}, other_prompts, {"prompts.query": "search_query: "}),
    "similarity-not-applied": ("bert", {}, dot, {"vectors.similarity_fn_name": "dot"}),
    "device-not-applied": ("bert", {}, on_meta, None),
    "tokenizer-exceeds-embedding": ("bert", {}, more_tokens, None),
    "prompt-without-effect": ("bert", PROMPT, deaf_to_prompts, {}),
    "prompt-leaves-no-room": (
        "bert",
        {"prompts.query": "the " * 40, "tokenizer.max_seq_length": 16},
        shorter,
        {"prompts.query": "the ", "tokenizer.max_seq_length": 16},
    ),
    "probe-text-fails": ("bert", {}, without_normalize, {"vectors.normalize": False}),
    "batch-changes-vector": ("bert", {}, left_padding, None),
}


def findings_of(code, model, resolved):
    from embedprefs.checks.subject import LoadedSubject

    (rule,) = [rule for rule in LOADED_RULES if rule.code == code]
    return list(rule.findings(LoadedSubject(model, resolved)))


def test_every_rule_has_a_pair():
    """Those without one in the table have tests of their own below."""
    own = {"tensors-not-loaded", "cuda-visible-devices-late"}
    assert {rule.code for rule in LOADED_RULES} == set(PAIRS) | own


@pytest.mark.parametrize("code", PAIRS)
def test_rule_fires(code, loaded):
    """The rule finds a setting that has not taken effect."""
    name, stated, change, _ = PAIRS[code]
    model, resolved = loaded(name, stated)
    if change is not None:
        change(model)
    findings = findings_of(code, model, resolved)
    assert findings
    assert all(finding.code == code and finding.severity == "error" for finding in findings)
    assert all(finding.message.endswith(".") and finding.fix.endswith(".") for finding in findings)


@pytest.mark.parametrize("code", PAIRS)
def test_rule_stays_silent(code, loaded):
    """The same model is right where that is what was asked for; else the unchanged one is."""
    name, stated, change, right = PAIRS[code]
    if right is None:
        model, resolved = loaded(name, stated)
    else:
        model, resolved = loaded("unnormalized" if change is without_normalize else name, right)
        if change is not None and change is not without_normalize:
            change(model)
    assert findings_of(code, model, resolved) == []


@pytest.mark.parametrize(
    ("change", "stated", "words"),
    [
        (longer_vectors, {}, "has 48 dimensions, and 32 were asked for"),
        (without_words, {"compute.dtype": "float16"}, "numbers that are not finite"),
        (broken, {}, "A short text cannot be embedded: RuntimeError"),
    ],
)
def test_a_probe_text_shows_what_is_wrong(change, stated, words, loaded):
    """The length of the vector, its numbers, and errors of the model's own code; in a half that overflows, too."""
    model, resolved = loaded(stated=stated)
    change(model)
    findings = findings_of("probe-text-fails", model, resolved)
    assert words in findings[0].message


def test_a_probe_text_is_cut_and_normalised(loaded):
    """Cut by the host behind the Normalize module, vectors are too short; that is found."""
    stated = {"vectors.truncate_dim": 8}
    model, resolved = loaded(stated=stated, truncate_dim=8)
    (finding,) = findings_of("probe-text-fails", model, resolved)
    assert finding.field == "vectors.normalize"


def test_a_verified_transformer_is_not_run(loaded):
    """Its files were compared with its architecture; running it would cost more than all other checks."""
    model, resolved = loaded()
    model.transformers_model.register_forward_pre_hook(lambda *_: pytest.fail("the transformer was run"))
    assert check_loaded(model, resolved) == []


def test_the_probes_leave_the_model_as_it_was(loaded):
    """Training mode and weights are untouched."""
    model, resolved = loaded()
    left_padding(model)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert findings_of("batch-changes-vector", model, resolved)
    assert model.training
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def changed_layers(folder, target, layers):
    """Copy a model and change the number of layers in its config.json alone."""
    copy = shutil.copytree(folder, target)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    return copy


@pytest.mark.parametrize(
    ("layers", "words"), [(3, "weights of the model are not in"), (1, "have no place in the model")]
)
def test_rule_fires_for_tensors_not_loaded(layers, words, loaded, model_folders, tmp_path):
    """A checkpoint with other layers than its configuration says, of a type whose tensor names are not known."""
    import dataclasses

    folder = changed_layers(model_folders["bert"], tmp_path / "model", layers)
    model, resolved = loaded(folder=folder)
    unknown = dataclasses.replace(resolved, facts=dataclasses.replace(resolved.facts, tensors_verified=False))
    (finding,) = findings_of("tensors-not-loaded", model, unknown)
    assert words in finding.message


def test_rule_stays_silent_for_tensors_that_were_loaded(loaded):
    """Every tensor has its place, in each of the tiny models."""
    import dataclasses

    for name in ("bert", "roberta", "modernbert"):
        model, resolved = loaded(name)
        unknown = dataclasses.replace(resolved, facts=dataclasses.replace(resolved.facts, tensors_verified=False))
        assert findings_of("tensors-not-loaded", model, unknown) == []


@pytest.mark.parametrize(
    ("setting", "seen", "late"),
    [("0", 2, True), ("0,1", 2, False), (None, 2, False), ("", 1, True), ("-1", 0, False), ("GPU-1a", 1, False)],
)
def test_a_late_setting_of_visible_devices_is_seen(setting, seen, late):
    """The number of GPUs torch counted is compared with the variable as it is now."""
    assert visible_devices_mismatch(setting, seen) is late


def test_rule_fires_for_cuda_visible_devices_late(loaded, monkeypatch):
    """With CUDA in use, a variable that names other GPUs than torch sees is reported."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.cuda.init()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(str(index) for index in range(torch.cuda.device_count() + 1)))
    (finding,) = findings_of("cuda-visible-devices-late", *loaded())
    assert finding.severity == "warning"


def test_rule_stays_silent_for_cuda_visible_devices_late(loaded, monkeypatch):
    """Without CUDA nothing can be late."""
    import torch

    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use in this process")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert findings_of("cuda-visible-devices-late", *loaded()) == []


def test_ignored_warnings_are_left_out(loaded):
    """`checks.ignore` holds for the loaded model too, and errors stay."""
    stated = {
        "prompts.query": "the the the the the the the ",
        "tokenizer.max_seq_length": 16,
        "checks.ignore": ["prompt-leaves-no-room", "tokenizer-setting-not-applied"],
    }
    model, resolved = loaded(stated=stated)
    assert "prompt-leaves-no-room" not in codes(check_loaded(model, resolved))
    assert "tokenizer-setting-not-applied" in codes(check_loaded(model, resolved))
