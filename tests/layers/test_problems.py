"""What is said of values that are not allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedprefs.errors import InvalidPreferenceError, Problem
from embedprefs.layers import load_preferences, user_file
from embedprefs.preferences import every_field
from embedprefs.validation import nearest_key, shown


def problems(folder: Path, text: str, **arguments: object) -> tuple[Problem, ...]:
    file = folder / "embedprefs.toml"
    file.write_text('[model]\nname = "m"\n' + text if "[model]" not in text else text)
    with pytest.raises(InvalidPreferenceError) as caught:
        load_preferences(file, **{"environment": {}, **arguments})  # type: ignore[arg-type]
    return caught.value.problems


def test_every_problem_of_every_layer_is_reported_at_once(tmp_path: Path) -> None:
    """Each with its own place."""
    user_file().parent.mkdir(parents=True)
    user_file().write_text("[compute]\nthreads = 0\n")
    (tmp_path / "base.toml").write_text('[vectors]\nprecision = "int4"\n')
    found = problems(
        tmp_path,
        'extends = "base.toml"\n[model]\nname = "m"\n[tokenizer]\nmax_seq_length = -1\npadding_side = "middle"\n',
        environment={"EMBEDPREFS_COMPUTE__DTYPE": "int4"},
        overrides={"index.chunk_tokens": 2},
    )
    assert [(problem.key, problem.source, problem.line) for problem in found] == [
        ("compute.threads", str(user_file()), 2),
        ("vectors.precision", str(tmp_path / "base.toml"), 2),
        ("tokenizer.max_seq_length", str(tmp_path / "embedprefs.toml"), 5),
        ("tokenizer.padding_side", str(tmp_path / "embedprefs.toml"), 6),
        ("compute.dtype", "environment variable EMBEDPREFS_COMPUTE__DTYPE", None),
        ("index.chunk_tokens", "overrides", None),
    ]


def test_a_value_that_a_stronger_layer_replaces_is_checked_too(tmp_path: Path) -> None:
    """It would be wrong again on the machine without that layer."""
    (problem,) = problems(tmp_path, '[compute]\ndtype = "fp16"\n', overrides={"compute.dtype": "float32"})
    assert problem.key == "compute.dtype"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[compute]\ndtype = "fp16"',
            'compute.dtype is "fp16".\n  Allowed: auto, float32, bfloat16, float16\n  Did you mean "float16"?',
        ),
        (
            '[compute]\ndevise = "cpu"',
            (
                "compute.devise is not a preference.\n  Allowed: device, dtype, autocast, weights, backend, attention, "
                "exactness, batch_tokens, max_batch_size, compile, threads, workers, memory_limit, cache, cache_size\n"
                "  Did you mean compute.device?"
            ),
        ),
        (
            '[vectors]\nnormalize = "yes"',
            'vectors.normalize is "yes".\n  Allowed: true or false\n  Write it without quotes: normalize = true',
        ),
        (
            '[vectors]\ntruncate_dim = "256"',
            (
                'vectors.truncate_dim is "256".\n  Allowed: a whole number, at least 1\n'
                "  Write it without quotes: truncate_dim = 256"
            ),
        ),
        ("[vectors]\ntruncate_dim = 256.0", "vectors.truncate_dim is 256.0.\n  Allowed: a whole number, at least 1"),
        (
            '[compute]\nbatch_tokens = "many"',
            'compute.batch_tokens is "many".\n  Allowed: auto or a whole number, at least 1',
        ),
        (
            '[compute]\ndevice = ["cpu", 3]',
            (
                'compute.device is ["cpu", 3].\n  Allowed: auto, cpu, mps, cuda, cuda:N, xpu, xpu:N, npu, npu:N, hpu, '
                "hpu:N, or a list of them"
            ),
        ),
        (
            "[tokenizer.special_tokens]\npad_token = 1",
            "tokenizer.special_tokens.pad_token is 1.\n  Allowed: a text or a list of texts",
        ),
        ('compute = "fast"', None),
        ("[prompts]\ncode = 3", 'prompts.code is 3.\n  Allowed: a text; "" for deliberately no prompt'),
        (
            '[prompts]\npassage = "p: "',
            (
                "prompts.passage would never be applied: the host knows the two roles as query and document.\n"
                "  It is called prompts.document here."
            ),
        ),
        (
            "[index.vectors.title.tokenizer]\nmax_seq_length = 0\n[index.vectors.title.model]\nname = 'x'",
            "index.vectors.title.tokenizer.max_seq_length is 0.\n  Allowed: a whole number, at least 1",
        ),
        (
            "[index.metadata_fields]\nyear = 'int'",
            'index.metadata_fields.year is "int".\n  Allowed: keyword, integer, float, bool, datetime, text, uuid',
        ),
        (
            "[modle]\nname = 'm'",
            (
                "[modle] is no table of the preferences.\n  Allowed: schema_version, extends, model, tokenizer, "
                "prompts, vectors, compute, training, index, sparse, rerank, checks\n  Did you mean model?"
            ),
        ),
    ],
)
def test_a_problem_says_what_was_found_what_is_allowed_and_what_to_do(
    tmp_path: Path, text: str, expected: str | None
) -> None:
    (problem,) = problems(tmp_path, text) if expected else problems(tmp_path, f'{text}\n[model]\nname = "m"')
    if expected:
        assert str(problem) == f"{tmp_path / 'embedprefs.toml'}:{problem.line}: {expected}"
        assert problem.line is not None
    else:
        assert 'compute is "fast", but it is a table' in str(problem)


def test_a_setting_that_the_checkpoint_fixes_is_explained(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[model]\nname = "m"\nnum_attention_heads = 6\n')
    assert "config.json fixes num_attention_heads" in str(problem.fix)
    assert "from_scratch" in str(problem.fix)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("compute.devise", "compute.device"),
        ("compute.max_batch", "compute.max_batch_size"),
        ("compute.batch_size", "compute.max_batch_size"),
        ("vectors.batch_tokens", "compute.batch_tokens"),
        ("batch_tokens", "compute.batch_tokens"),
        ("model.query", "prompts.query"),
        ("tokeniser.padding_side", "tokenizer.padding_side"),
        ("vector.normalise", "vectors.normalize"),
        ("index.hnsw.ef_constuct", "index.hnsw.ef_construct"),
        ("index.vectors.title.prompts.documnt", "index.vectors.title.prompts.document"),
        ("promts", "prompts"),
        ("zzz.qqq", None),
    ],
)
def test_the_nearest_known_key_is_suggested(key: str, near: str | None) -> None:
    assert nearest_key(key) == near


def test_every_preference_is_nearest_to_a_slip_in_its_own_name() -> None:
    """A doubled last letter leads back to the preference, wherever it stands."""
    for item in every_field():
        if "*" not in item.key and len(item.name) > 3:
            assert nearest_key(f"{item.key}{item.key[-1]}") == item.key


def test_without_a_model_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    file = tmp_path / "embedprefs.toml"
    file.write_text("[compute]\nthreads = 2\n")
    with pytest.raises(InvalidPreferenceError, match=r"model\.name is not stated") as caught:
        load_preferences(file, environment={})
    assert caught.value.problems[0].source == str(file)
    (tmp_path / ".git").mkdir()
    file.unlink()
    with pytest.raises(InvalidPreferenceError, match="embedprefs init MODEL") as caught:
        load_preferences(start=tmp_path, environment={})
    assert "EMBEDPREFS_MODEL__NAME" in str(caught.value)
    assert load_preferences(start=tmp_path, environment={"EMBEDPREFS_MODEL__NAME": "m"}).model.name == "m"


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ('[model.kwargs]\ntoken = "{}"', "HF_TOKEN"),
        ('[model.kwargs]\nuse_auth_token = "{}"', "HF_TOKEN"),
        ('[training.arguments]\nhub_token = "{}"', "HF_TOKEN"),
        ('[index]\napi_key = "{}"', "QDRANT_API_KEY"),
        ('[index]\nstore = "https://me:{}@host:6333"', "QDRANT_API_KEY"),
        ('[compute]\nthreads = "hf_{}"', "HF_TOKEN"),
        ('[model.adapter]\npassword = "{}"\nname = 3', "HF_TOKEN"),
        ('api_key = "{}"\n[model]\nname = "m"', "HF_TOKEN"),
        ('[training.loss_parameters]\nheaders = ["Bearer {}"]', "HF_TOKEN"),
    ],
)
def test_a_secret_is_refused_and_never_shown(tmp_path: Path, text: str, variable: str) -> None:
    secret = "abcdefghijklmnopqrstuvwxyz0123"
    found = problems(tmp_path, text.format(secret))
    assert all(secret not in str(problem) and secret not in repr(problem) for problem in found)
    (problem,) = [problem for problem in found if "secret" in problem.message]
    assert variable in str(problem.fix)
    assert problem.line is not None


def test_a_secret_in_the_environment_is_not_shown(tmp_path: Path) -> None:
    secret = "abcdefghijklmnopqrstuvwxyz0123"
    for variable in ("EMBEDPREFS_MODEL__KWARGS__TOKEN", "EMBEDPREFS_API_KEY"):
        found = problems(tmp_path, "", environment={variable: secret})
        assert all(secret not in repr(problem) for problem in found)
        assert variable in str(found[0])


@pytest.mark.parametrize(
    "text",
    [
        '[tokenizer.special_tokens]\npad_token = "[PAD]"',
        "[tokenizer.kwargs]\nadd_bos_token = true",
        '[training.arguments]\nhub_token = ""\npush_to_hub = false',
        '[index]\nstore = "http://localhost:6333"',
        "[model.kwargs]\ntoken = false",
        "[training.loss_parameters]\nmini_batch_num_tokens = 512",
    ],
)
def test_what_only_sounds_like_a_secret_is_allowed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "m"\n{text}')
    assert load_preferences(file, environment={}).model.name == "m"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        ("a\n" * 100, None),
        pytest.param(10**5000, "a number of more than 77 digits", id="huge"),
        ({"a": 1}, "a table"),
        ([1, "x", [True]], '[1, "x", [true]]'),
        (list(range(10**4)), None),
        ("hf_abcdefghijklmnopqrst", "a secret (not shown)"),
    ],
)
def test_values_are_shown_as_toml_would_write_them_and_short(value: object, text: str | None) -> None:
    assert shown(value) == text if text is not None else len(shown(value)) < 200
