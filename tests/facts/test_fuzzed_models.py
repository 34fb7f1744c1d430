"""Whatever stands in a model's files, facts are read and nothing but our own errors is raised."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedprefs import testing
from embedprefs.errors import EmbedPrefsError
from embedprefs.facts import read_facts
from embedprefs.facts.content_hash import tokenizer_hash, weights_hash
from embedprefs.facts.memory import estimate_memory

NAMES = [
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("max_position_embeddings", "architectures", "text_config", "dtype", "torch_dtype", "auto_map", "pad_token_id"),
    *("prompts", "query", "default_prompt_name", "similarity_fn_name", "truncate_dim", "max_seq_length"),
    *("tokenizer_args", "processor_kwargs", "model_max_length", "padding_side", "pad_token", "cls_token", "content"),
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "added_tokens", "id", "model"),
    *("vocab", "merges", "type", "post_processor", "processors", "single", "SpecialToken", "special_tokens", "ids"),
    *("pre_tokenizer", "pretokenizers", "padding", "truncation", "direction", "normalizer", "pooling_mode"),
    *("pooling_mode_mean_tokens", "embedding_dimension", "word_embedding_dimension", "idx", "path", "name"),
    *("base_model_name_or_path", "_name_or_path", "weight_map", "types", "structure", "transformers_weights"),
]
WORDS = ["bert", "modernbert", "roberta", "BPE", "WordPiece", "Unigram", "Sequence", "TemplateProcessing", "ByteLevel"]
WORDS += [
    "sentence_transformers.models.Pooling",
    "sentence_transformers.models.Router",
    "x.Y",
    "1_Pooling",
    "..",
    "mean",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.floats(allow_nan=True)
    | st.sampled_from(WORDS)
    | st.text(max_size=4)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
FILES = [
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "config_embedprefs.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "1_Pooling/config.json",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return testing.tiny_bert_folder(tmp_path_factory.mktemp("whole") / "model")


def use_everything(folder) -> None:
    """Read a model and ask everything that is asked of facts."""
    facts = read_facts(str(folder), local_files_only=True)
    assert all(isinstance(problem, str) for problem in facts.problems)
    tokenizer_hash(facts)
    weights_hash(facts)
    estimate_memory(facts, dtype="float32", batch_tokens=64, max_length=32, attention="eager")


def what_is_said(folder) -> str | None:
    """Use a model; return the message of an error of ours, and let every other error pass through."""
    try:
        use_everything(folder)
    except EmbedPrefsError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), value=VALUES, mixed=st.booleans())
def test_any_json_in_any_file(whole, tmp_path, file, value, mixed):
    """A file replaced by other JSON, or with some of its values replaced, breaks nothing."""
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / file
    if mixed and isinstance(value, dict) and path.exists():
        before = json.loads(path.read_text())
        if isinstance(before, dict):
            value = {**before, **value}
    path.write_text(json.dumps(value))
    message = what_is_said(folder)
    assert message is None or len(message) > 20


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from([*FILES, "model.safetensors", "README.md"]), content=st.binary(max_size=60))
def test_any_bytes_in_any_file(whole, tmp_path, file, content):
    """A file replaced by other bytes breaks nothing."""
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / file).write_bytes(content)
    message = what_is_said(folder)
    assert message is None or len(message) > 20
