"""What is recorded beside vectors, and what comes of comparing it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedprefs.arguments import load_arguments
from embedprefs.errors import ModelFilesError, PreferenceMismatchError
from embedprefs.facts import facts_for, read_facts
from embedprefs.hardware import Hardware
from embedprefs.preferences import Kind, Preferences, every_field
from embedprefs.record import (
    CANARY_TEXTS,
    RECORD_VERSION,
    ContentHashes,
    Record,
    canary_bound,
    compare_with_saved,
    fingerprint,
    saved_preferences,
)
from embedprefs.record.identity import canonical_json
from embedprefs.resolve import resolve
from embedprefs.testing import (
    published_modernbert_embed_folder,
    static_model_folder,
    tiny_bert_folder,
    tiny_modernbert_folder,
    tiny_roberta_folder,
)

HARDWARE = Hardware(cpu_count=2, packages={"torch": "2.13.0", "transformers": "5.23.0"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, with calibration files beside it."""
    root = tmp_path_factory.mktemp("models")
    for name, value in (("ranges", 1), ("other-ranges", 2)):
        (root / f"{name}.json").write_text(json.dumps({"ranges": [value]}), encoding="utf-8")
    return tiny_bert_folder(root / "model", prompts={"query": "query: ", "document": "passage: "})


def resolved_for(folder, **sections):
    values = {**sections, "model": {"name": str(folder), **sections.get("model", {})}}
    preferences = Preferences.model_validate(values).with_origins({}, folder.parent / "embedprefs.toml")
    return resolve(preferences, facts_for(preferences), HARDWARE)


def nested(key, value):
    """Return {"vectors": {"normalize": True}} for "vectors.normalize"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merged(base, patch):
    result = dict(base)
    for key, value in patch.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return result


# -------------------------------------------------------------------------------------------------- fingerprints


#: Identity preference -> a value that changes the effective identity, and what has to hold for it to matter.
CHANGES = {
    "model.from_scratch": (True, {}),
    "model.pooling": ("cls", {}),
    "model.config": ({"layer_norm_eps": 0.5}, {}),
    "tokenizer.max_seq_length": (32, {}),
    "tokenizer.padding_side": ("left", {}),
    "tokenizer.truncation_side": ("left", {}),
    "tokenizer.special_tokens": ({"cls_token": "[MASK]"}, {}),
    "tokenizer.overflow": ("window", {}),
    "tokenizer.window_overlap": (7, {"tokenizer": {"overflow": "window"}}),
    "tokenizer.window_pooling": ("max", {"tokenizer": {"overflow": "window"}}),
    "tokenizer.kwargs": ({"strip_accents": True}, {}),
    "prompts.query": ("search_query: ", {}),
    "prompts.document": ("search_document: ", {}),
    "prompts.task": ("retrieval", {}),
    "vectors.normalize": (False, {"vectors": {"truncate_dim": 16}}),
    "vectors.truncate_dim": (16, {}),
    "vectors.similarity_fn_name": ("dot", {}),
    "vectors.precision": ("binary", {}),
    "vectors.calibration": ("other-ranges.json", {"vectors": {"precision": "int8", "calibration": "ranges.json"}}),
}

#: Identity preferences whose value alone is not in a model's fingerprint, and why.
NOT_BY_VALUE = {
    "model.name": "Weights count by content; the name says where they are.",
    "model.adapter.name": "Adapters count by content (identity_cases.toml shows both verdicts).",
    "model.adapter.revision": "As the adapter's name.",
    "index.template": "Part of a collection's record, not of a model's.",
    "index.chunk_context": "As index.template.",
    "sparse.name": "The sparse vector's own record holds it.",
    "sparse.language": "As sparse.name.",
    "sparse.k": "As sparse.name.",
    "sparse.b": "As sparse.name.",
    "sparse.average_words": "As sparse.name.",
}


def test_every_identity_preference_is_tried_or_excused():
    """A new identity field cannot be declared without deciding what it does to the fingerprint."""
    declared = {item.key for item in every_field() if item.kind is Kind.IDENTITY}
    own = {key for key in declared if not key.startswith("index.vectors.")}  # further vectors have records of their own
    assert own == set(CHANGES) | set(NOT_BY_VALUE)


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_identity_preference_changes_the_fingerprint(folder, key):
    """Any one of them makes another vector space."""
    value, given_that = CHANGES[key]
    before = resolved_for(folder, **given_that)
    after = resolved_for(folder, **merged(given_that, nested(key, value)))
    assert before[key] != after[key]
    assert fingerprint(before) != fingerprint(after)
    assert Record.of(before).compare(Record.of(after)).status == "different"


NOT_IDENTITY = [
    item.key
    for item in every_field()
    if item.kind in (Kind.COMPUTE, Kind.REPORT) and not item.key.startswith("index.vectors.")
]


@pytest.mark.parametrize("key", NOT_IDENTITY)
def test_how_it_is_run_is_not_in_the_fingerprint(folder, key):
    """Nothing in [compute], and nothing that only reports, changes the vector space."""
    values = {
        "model.onnx_file": "onnx/model.onnx",
        "tokenizer.on_overflow": "error",
        "checks.ignore": ["prompts-missing"],
        "compute.device": "cuda:0",
        "compute.dtype": "bfloat16",
        "compute.autocast": True,
        "compute.weights": "int8",
        "compute.backend": "onnx",
        "compute.attention": "eager",
        "compute.exactness": "fast",
        "compute.batch_tokens": 17,
        "compute.max_batch_size": 3,
        "compute.compile": True,
        "compute.threads": 1,
        "compute.workers": 2,
        "compute.memory_limit": "1GiB",
        "compute.cache": True,
        "compute.cache_size": "1GiB",
    }
    assert fingerprint(resolved_for(folder, **nested(key, values[key]))) == fingerprint(resolved_for(folder))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_keys_does_not_matter(folder, seed):
    """The same preferences written in another order, and resolved again, have the same fingerprint."""
    sections = {
        "tokenizer": {"max_seq_length": 32, "overflow": "window", "kwargs": {"b": 1, "a": {"y": 2, "x": 1.0}}},
        "prompts": {"query": "q: ", "document": "d: ", "other": "o: "},
        "vectors": {"truncate_dim": 16, "precision": "ubinary"},
        "model": {"config": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}},
    }

    def shuffled(value, chance):
        if not isinstance(value, dict):
            return value
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}

    again = shuffled(sections, random.Random(seed))
    assert fingerprint(resolved_for(folder, **again)) == fingerprint(resolved_for(folder, **sections))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_survives_a_round_trip(value):
    """What a database gives back hashes as what was put in, though it turns 1.0 into 1 and reorders keys."""
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


def test_the_fingerprint_is_fixed():
    """A change of this value would refuse every collection that exists: it needs a new identity version."""
    resolved = fixed_example()
    hashes = ContentHashes(weights="w" * 64, tokenizer="t" * 64)
    assert Record.of(resolved, hashes=hashes).fingerprint == FIXED_FINGERPRINT


def test_a_fingerprint_of_preferences_says_to_resolve_them_first(folder):
    """What the vectors are is not known before the model's files are read."""
    with pytest.raises(TypeError, match="resolve"):
        fingerprint(Preferences.model_validate({"model": {"name": str(folder)}}))


def test_a_fingerprint_can_be_taken_of_a_record_and_of_what_has_one(folder):
    """Loaded models keep a record, which knows about weights changed since loading."""
    record = Record.of(resolved_for(folder))

    class Loaded:
        def __init__(self):
            self.record = record

    assert fingerprint(record) == fingerprint(Loaded()) == record.fingerprint == fingerprint(resolved_for(folder))


def test_weights_changed_since_loading_count(folder):
    """A model trained in memory is no longer what its files are."""
    resolved = resolved_for(folder)
    changed = Record.of(resolved, hashes=ContentHashes(weights="changed", tokenizer="t"))
    assert changed.compare(Record.of(resolved)).status == "different"


def test_a_calibration_that_is_not_there_is_named(folder):
    """The path and the command that makes it."""
    resolved = resolved_for(folder, vectors={"precision": "int8", "calibration": "nowhere.json"})
    with pytest.raises(ModelFilesError, match=r"nowhere\.json.*\n.*embedprefs calibrate"):
        fingerprint(resolved)


def test_paths_names_and_secrets_are_in_no_identity(folder, monkeypatch):
    """A record can be published: it tells nothing about this machine or its user."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    record = Record.of(resolved_for(folder, model={"cache_folder": "/home/someone/cache"}))
    text = json.dumps(record.to_json())
    for forbidden in (str(folder), folder.parent.name, "/home/someone", "hf_secret", os.sep + "tmp"):
        assert forbidden not in text


# ------------------------------------------------------------------------------------------------------- records


def test_a_record_survives_a_round_trip(folder):
    """Through JSON, as any database keeps it."""
    record = Record.for_collection(
        resolved_for(folder), template="{title}\n{text}", numerics={"cosine_to_float32": 0.9999}
    )
    again = Record.from_json(json.dumps(record.to_json()))
    assert again == record
    assert again.compare(record).status == "same"
    assert again.identity["template"] == "{title}\n{text}"
    assert again.numerics["cosine_to_float32"] == 0.9999


def test_a_collection_has_the_template_of_its_preferences(folder):
    """Unless another one is given; an empty one is one."""
    resolved = resolved_for(folder, index={"template": "{source}: {text}"})
    assert Record.for_collection(resolved).identity["template"] == "{source}: {text}"
    assert Record.for_collection(resolved, template="").identity["template"] == ""
    assert "template" not in Record.of(resolved).identity


def test_a_newer_minor_version_is_read_and_kept(folder):
    """What this version does not know is not lost when the record is written again."""
    data = {**Record.of(resolved_for(folder)).to_json(), "version": "1.7", "signature": "new"}
    again = Record.from_json(data)
    assert again.to_json() == data
    assert again.compare(Record.of(resolved_for(folder))).status == "same"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2.0"}, "newer embedprefs.*2.0.*\n.*pip install --upgrade embedprefs"),
        ({"version": "0.9"}, "0.9"),
        ({"version": None}, RECORD_VERSION),
        ({"version": "1"}, RECORD_VERSION),
        ({"identity": None}, "identity"),
        ({"numerics": []}, "numerics"),
        ({"fingerprint": "0" * 64}, "changed or damaged"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_refused(folder, change, message):
    """With what was found and what to do."""
    with pytest.raises(PreferenceMismatchError, match=message):
        Record.from_json({**Record.of(resolved_for(folder)).to_json(), **change})


@pytest.mark.parametrize("text", ["", "[]", "null", b"\xff", "{"])
def test_what_is_no_record_is_refused(text):
    """Whatever a database gives back."""
    with pytest.raises(PreferenceMismatchError):
        Record.from_json(text)


@settings(max_examples=200)
@given(JSON)
def test_no_value_makes_from_json_crash(value):
    """Only our own error, whatever stands where a record should."""
    with pytest.raises(PreferenceMismatchError):
        Record.from_json(value)


def test_a_changed_field_is_found_out(folder):
    """A record edited by hand no longer has the fingerprint it states."""
    data = json.loads(json.dumps(Record.of(resolved_for(folder)).to_json()))
    data["identity"]["query_prompt"] = "edited: "
    with pytest.raises(PreferenceMismatchError, match="fingerprint") as caught:
        Record.from_json(data)
    assert caught.value.left != caught.value.right


# ------------------------------------------------------------------------------------------------- the comparison


def test_both_sides_are_shown_field_by_field(folder):
    """Names, both values, aligned; rounding is told from meaning."""
    left = Record.of(resolved_for(folder, compute={"device": "cpu", "dtype": "float32"}))
    right = Record.of(
        resolved_for(folder, prompts={"query": "search_query: "}, compute={"device": "cpu", "dtype": "bfloat16"})
    )
    text = left.compare(right).to_text("collection", "preferences")
    assert text == (
        "Another vector space. These fields differ:\n"
        "                  collection  preferences\n"
        '  query_prompt    "query: "   "search_query: "\n'
        '  numerics.dtype  "float32"   "bfloat16"  (rounding only)'
    )
    assert left.compare(left).to_text() == "The same vector space: every recorded field agrees."
    assert not left.compare(right)
    assert left.compare(left)


def test_hashes_are_shown_short_and_missing_fields_as_missing(folder):
    """64 digits twice are no help to a reader; both sides are still told apart."""
    left = Record.of(resolved_for(folder), template="{text}")
    other_hashes = ContentHashes(weights="f" * 64, tokenizer="t" * 64)
    right = dataclasses.replace(Record.of(resolved_for(folder), template="{text}", hashes=other_hashes), numerics={})
    identity = dict(right.identity)
    del identity["task"]
    text = left.compare(dataclasses.replace(right, identity=identity)).to_text()
    assert f"sha256 {'f' * 16}…" in text
    assert "f" * 17 not in text
    task_line = next(line for line in text.splitlines() if line.strip().startswith("task"))
    assert task_line.split(maxsplit=1)[1].split("  ")[0] == "none"
    assert "(not recorded)" in task_line


def test_a_long_value_does_not_break_the_columns(folder):
    """A long prompt goes on a line of its own."""
    long_prompt = "Represent this sentence for searching relevant passages, whatever they are about: " * 2
    left = Record.of(resolved_for(folder, prompts={"query": long_prompt}))
    text = left.compare(Record.of(resolved_for(folder))).to_text()
    assert long_prompt in text
    assert '"query: "' in text.splitlines()[-1]


def test_a_part_of_a_table_is_named_alone(folder):
    """One changed field of the configuration does not show all of it."""
    right = resolved_for(folder, model={"config": {"layer_norm_eps": 0.5}})
    difference = Record.of(resolved_for(folder)).compare(Record.of(right)).differences[0]
    assert (difference.field, difference.right, difference.severity) == (
        "configuration.layer_norm_eps",
        0.5,
        "different",
    )


def test_a_record_without_numerics_says_nothing_about_rounding(folder):
    """An identity kept alone compares as the same."""
    record = Record.of(resolved_for(folder))
    assert dataclasses.replace(record, numerics={}).compare(record).status == "same"


# ------------------------------------------------------------------------------------------------------ canaries


def test_canary_texts_are_what_collections_were_filled_with():
    """They never change: their vectors are stored."""
    assert len(set(CANARY_TEXTS)) == len(CANARY_TEXTS) == 6
    lengths = [len(text) for text in CANARY_TEXTS]
    assert min(lengths) < 5
    assert max(lengths) > 3000
    joined = "\n".join(CANARY_TEXTS).encode()
    assert hashlib.sha256(joined).hexdigest() == CANARY_SHA256


@pytest.mark.parametrize("one", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("other", ["float32", "float16", "bfloat16"])
def test_the_canary_bound_allows_what_rounding_may_do(one, other):
    """Two vectors, each within its own distance of a third, are within the bound of one another, either way round."""
    left, right = {"dtype": one}, {"dtype": other}
    bound = canary_bound(left, right)
    assert bound == canary_bound(right, left)
    assert 0.97 < bound < 1
    distances = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 5e-3}
    chance = np.random.default_rng(0)
    true = chance.normal(size=16)
    true /= np.linalg.norm(true)
    worst = 1.0
    for _ in range(200):
        turned = []
        for dtype in (one, other):
            away = chance.normal(size=16)
            away -= away @ true * true
            away /= np.linalg.norm(away)
            cosine = 1 - distances[dtype]
            turned.append(cosine * true + np.sqrt(1 - cosine**2) * away)
        worst = min(worst, float(turned[0] @ turned[1]))
    assert worst >= bound


def test_a_measured_cosine_tightens_the_bound():
    """What was measured says more than what a number format may do."""
    measured = {"dtype": "bfloat16", "cosine_to_float32": 0.99998}
    assert canary_bound(measured, measured) > canary_bound({"dtype": "bfloat16"}, {"dtype": "bfloat16"})
    assert canary_bound({"dtype": "float32", "weights": "int8"}, {}) < canary_bound({"dtype": "float32"}, {})


# ------------------------------------------------------------------------------------------------- saved with a model


@pytest.mark.parametrize("builder", [tiny_bert_folder, tiny_modernbert_folder, static_model_folder])
def test_what_is_saved_restores_the_identity(builder, tmp_path):
    """A model saved with preferences and loaded without any makes the same vectors."""
    folder = builder(tmp_path / "model", prompts={"query": "own: "})
    sections = {"prompts": {"query": "", "document": "d: "}, "vectors": {"truncate_dim": 4, "precision": "ubinary"}}
    if builder is not static_model_folder:
        sections["tokenizer"] = {"max_seq_length": 32, "overflow": "window", "window_overlap": 4}
    before = resolved_for(folder, **sections)
    saved = saved_preferences(before)
    assert saved["preferences"]["prompts"]["query"] == ""
    (folder / "config_embedprefs.json").write_text(json.dumps(saved), encoding="utf-8")
    assert fingerprint(resolved_for(folder)) == fingerprint(before)


def test_saving_rewrites_files_and_keeps_the_identity(tmp_path):
    """Other bytes for the same weights: what was saved unchanged is the same model, what was changed is not."""
    original = tiny_bert_folder(tmp_path / "original", seed=1)
    stated = {"tokenizer": {"special_tokens": {"cls_token": "[MASK]"}}, "model": {"config": {"layer_norm_eps": 0.5}}}
    before = resolved_for(original, **stated)

    written = tiny_bert_folder(tmp_path / "written", seed=2)  # stands for the bytes a host would write
    config = json.loads((written / "config.json").read_text(encoding="utf-8"))
    config |= {"layer_norm_eps": 0.5, "transformers_version": "5.23.0"}
    (written / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((written / "tokenizer_config.json").read_text(encoding="utf-8"))
    (written / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "cls_token": "[MASK]"}), encoding="utf-8")
    saved = saved_preferences(before, read_facts(str(written)), unchanged=True)
    (written / "config_embedprefs.json").write_text(json.dumps(saved), encoding="utf-8")

    assert saved["fingerprint"] == fingerprint(before) == fingerprint(resolved_for(written))

    weights = bytearray((written / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (written / "model.safetensors").write_bytes(weights)
    comparison = compare_with_saved(resolved_for(written))
    assert comparison.status == "different"
    assert [difference.field for difference in comparison.differences] == ["weights"]


@pytest.mark.parametrize("builder", [tiny_bert_folder, tiny_roberta_folder, published_modernbert_embed_folder])
def test_what_the_host_saves_has_the_same_fingerprint(builder, tmp_path):
    """The host's own save_pretrained, with the file of embedprefs beside it: loaded without preferences, the same."""
    from sentence_transformers import SentenceTransformer

    before = resolved_for(
        builder(tmp_path / "original"),
        tokenizer={"max_seq_length": 32, "special_tokens": {"additional_special_tokens": ["<extra>"]}},
        vectors={"truncate_dim": 16},
        prompts={"query": "stated: "},
        compute={"device": "cpu", "dtype": "float32", "attention": "eager"},
    )
    model = SentenceTransformer(**load_arguments(before))
    saved_folder = tmp_path / "saved"
    model.save_pretrained(str(saved_folder), create_model_card=False)
    saved = saved_preferences(before, read_facts(str(saved_folder)), unchanged=True)
    (saved_folder / "config_embedprefs.json").write_text(json.dumps(saved), encoding="utf-8")

    after = resolved_for(saved_folder)
    assert Record.of(before).compare(Record.of(after)).status in ("same", "soft"), compare_with_saved(after).to_text()
    assert fingerprint(after) == fingerprint(before) == saved["fingerprint"]


def test_a_trained_model_has_an_identity_of_its_own(tmp_path):
    """Weights that changed since loading are another model, and its saved folder says which."""
    before = resolved_for(tiny_bert_folder(tmp_path / "original", seed=1))
    written = tiny_bert_folder(tmp_path / "trained", seed=2)
    saved = saved_preferences(before, read_facts(str(written)))
    (written / "config_embedprefs.json").write_text(json.dumps(saved), encoding="utf-8")

    after = resolved_for(written)
    assert saved["rewritten"] == {}
    assert saved["fingerprint"] == fingerprint(after) != fingerprint(before)
    assert compare_with_saved(after).status == "same"
    assert compare_with_saved(before) is None
    other_prompt = resolved_for(written, prompts={"query": "other: "})
    assert [item.field for item in compare_with_saved(other_prompt).differences] == ["query_prompt"]


def test_a_resolved_value_and_its_record_can_be_pickled(folder):
    """Worker processes get them."""
    resolved = pickle.loads(pickle.dumps(resolved_for(folder)))
    assert fingerprint(resolved) == fingerprint(resolved_for(folder))
    record = Record.of(resolved)
    assert pickle.loads(pickle.dumps(record)) == record


def test_saved_preferences_hold_identity_alone(folder):
    """Nothing of this machine, no access setting, no compute setting, no path."""
    saved = saved_preferences(resolved_for(folder, compute={"device": "cpu"}, model={"trust_remote_code": True}))
    assert set(saved["preferences"]) == {"tokenizer", "prompts", "vectors"}
    assert str(folder.parent) not in json.dumps(saved)
    assert "on_overflow" not in saved["preferences"]["tokenizer"]


# --------------------------------------------------------------------------------------------------- fixed example

FIXED_FINGERPRINT = "e4fd2d16610e27be08b5d32f245a834498392de81f76d65e6bfb5e4addbe1aec"
CANARY_SHA256 = "13eff9f2fa34f53f424a60c7b99e1897c7a4fc5185a92b9f3f7a6aa5f6db05e4"


def fixed_example():
    """A model described by hand, so that its fingerprint depends on nothing but this code."""
    from embedprefs.facts import ModelFacts, ModuleFacts

    modules = tuple(
        ModuleFacts(index, str(index), path, f"sentence_transformers.models.{kind}", config)
        for index, (kind, path, config) in enumerate(
            [
                ("Transformer", "", {}),
                ("Pooling", "1_Pooling", {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 1024}),
                ("Normalize", "2_Normalize", {}),
            ]
        )
    )
    facts = ModelFacts(
        name="lightonai/modernbert-embed-large",
        folder=None,
        revision="0123456789012345678901234567890123456789",
        source="hub",
        files=(),
        config={"model_type": "modernbert", "num_hidden_layers": 4, "num_attention_heads": 16},
        sentence_transformers_config={},
        sentence_bert_config={},
        modules=modules,
        tokenizer=None,
        tensors={},
        model_type="modernbert",
        max_seq_length=8192,
        embedding_dimension=1024,
        pooling_mode="mean",
        normalizes=True,
    )
    prompts = {"query": "search_query: ", "document": "search_document: "}
    sections = {"model": {"name": facts.name}, "prompts": prompts, "vectors": {"truncate_dim": 256}}
    return resolve(Preferences.model_validate(sections), facts, HARDWARE)
