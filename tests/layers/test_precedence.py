"""Which layer wins over which, pair by pair, and where each value says it comes from."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedprefs.errors import InvalidPreferenceError
from embedprefs.layers import load_preferences, preferences_for_model, user_file, with_overrides, write_tuned_lock
from embedprefs.preferences import DEFAULT_ORIGIN, Layer, Preferences

#: Layer -> how to let it state `compute.max_batch_size`, weakest first.
VALUES = {
    "default": "auto",
    "user file": 1,
    "extended file": 2,
    "preferences file": 3,
    "tuned.lock": 4,
    "environment": 5,
    "overrides": 6,
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Preferences]:
    """Return a function that loads preferences in which exactly the given layers state the batch size."""

    def loaded(*layers: str) -> Preferences:
        def stated(layer: str) -> str:
            return f"max_batch_size = {VALUES[layer]}\n" if layer in layers else ""

        user_file().parent.mkdir(parents=True, exist_ok=True)
        user_file().write_text("[compute]\n" + stated("user file"))
        (tmp_path / "base.toml").write_text("[compute]\n" + stated("extended file"))
        file = tmp_path / "embedprefs.toml"
        file.write_text('extends = "base.toml"\n[model]\nname = "m"\n[compute]\n' + stated("preferences file"))
        (tmp_path / "tuned.lock").unlink(missing_ok=True)
        if "tuned.lock" in layers:
            write_tuned_lock(tmp_path, {"max_batch_size": VALUES["tuned.lock"]})
        environment = {"EMBEDPREFS_COMPUTE__MAX_BATCH_SIZE": "5"} if "environment" in layers else {}
        overrides = {"compute.max_batch_size": VALUES["overrides"]} if "overrides" in layers else None
        return load_preferences(file, environment=environment, overrides=overrides)

    return loaded


@pytest.mark.parametrize(
    ("weak", "strong"), list(itertools.combinations(VALUES, 2)), ids=lambda layer: layer.replace(" ", "-")
)
def test_the_stronger_layer_wins(load: Callable[..., Preferences], weak: str, strong: str) -> None:
    assert load(weak, strong).compute.max_batch_size == VALUES[strong]


def test_with_every_layer_the_strongest_wins_and_without_any_the_default_holds(
    load: Callable[..., Preferences],
) -> None:
    assert load(*VALUES).compute.max_batch_size == VALUES["overrides"]
    preferences = load()
    assert preferences.compute.max_batch_size == "auto"
    assert preferences.origin("compute.max_batch_size") == DEFAULT_ORIGIN


@pytest.mark.parametrize(
    ("layer", "kind", "source", "line"),
    [
        ("user file", Layer.USER_FILE, "embedprefs.toml", 2),
        ("extended file", Layer.PROJECT_FILE, "base.toml", 2),
        ("preferences file", Layer.PROJECT_FILE, "embedprefs.toml", 5),
        ("environment", Layer.ENVIRONMENT, "environment variable EMBEDPREFS_COMPUTE__MAX_BATCH_SIZE", None),
        ("overrides", Layer.EXPLICIT, "overrides", None),
    ],
)
def test_a_value_knows_where_it_was_written(
    load: Callable[..., Preferences], layer: str, kind: Layer, source: str, line: int | None
) -> None:
    origin = load(layer).origin("compute.max_batch_size")
    assert origin.layer is kind
    assert origin.source.endswith(source)
    assert origin.line == line


def test_layers_are_merged_key_by_key(tmp_path: Path) -> None:
    """Tables are put together across layers, in free tables too; lists and values are replaced whole."""
    (tmp_path / "base.toml").write_text(
        '[tokenizer]\nspecial_tokens = { pad_token = "[A]", cls_token = "[B]" }\nmax_seq_length = 64\n'
        '[compute]\ndevice = ["cuda:0", "cuda:1"]\n'
    )
    file = tmp_path / "embedprefs.toml"
    file.write_text('extends = "base.toml"\n[model]\nname = "m"\n[compute]\ndevice = ["cpu"]\n')
    preferences = load_preferences(
        file,
        environment={"EMBEDPREFS_TOKENIZER__SPECIAL_TOKENS__PAD_TOKEN": "[C]"},
        overrides={"tokenizer": {"overflow": "window"}},
    )
    assert preferences.tokenizer.special_tokens == {"pad_token": "[C]", "cls_token": "[B]"}
    assert preferences.tokenizer.max_seq_length == 64
    assert preferences.tokenizer.overflow == "window"
    assert preferences.compute.device == ["cpu"]
    assert preferences.origin("tokenizer.special_tokens.cls_token").layer is Layer.PROJECT_FILE
    assert preferences.origin("tokenizer.special_tokens.pad_token").layer is Layer.ENVIRONMENT
    assert preferences.origin("tokenizer.special_tokens").layer is Layer.ENVIRONMENT


def test_every_stated_value_has_an_origin(tmp_path: Path) -> None:
    file = Path(__file__).parent.parent / "preferences_files" / "schema-1.toml"
    preferences = load_preferences(file, environment={"EMBEDPREFS_PROMPTS__CODE": "x"})
    for key in preferences.stated():
        assert preferences.origin(key) != DEFAULT_ORIGIN, key
    assert preferences.file == file
    assert preferences.folder == file.parent


def test_a_relative_path_gives_an_absolute_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders in the preferences stay right when the working folder changes afterwards."""
    (tmp_path / "embedprefs.toml").write_text('[model]\nname = "m"\n')
    monkeypatch.chdir(tmp_path)
    preferences = load_preferences("embedprefs.toml", environment={})
    monkeypatch.chdir("/")
    assert preferences.folder == tmp_path


def test_without_a_path_the_nearest_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "embedprefs.toml").write_text('[model]\nname = "m"\n')
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    assert load_preferences().file == tmp_path / "embedprefs.toml"


def test_an_empty_prompt_is_stated_and_an_absent_one_is_not(tmp_path: Path) -> None:
    """`""` means deliberately none, and wins over a layer beneath it."""
    (tmp_path / "base.toml").write_text('[prompts]\nquery = "q: "\ndocument = "d: "\n')
    file = tmp_path / "embedprefs.toml"
    file.write_text('extends = "base.toml"\n[model]\nname = "m"\n[prompts]\ndocument = ""\n')
    assert load_preferences(file, environment={}).prompts.stated() == {"query": "q: ", "document": ""}


def test_a_model_named_in_a_call_searches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user file, the environment and overrides hold; a project's file does not, and the name beats all."""
    (tmp_path / "embedprefs.toml").write_text('[model]\nname = "other"\n[vectors]\ntruncate_dim = 8\n')
    monkeypatch.chdir(tmp_path)
    user_file().parent.mkdir(parents=True)
    user_file().write_text("[compute]\nthreads = 2\n")
    environment = {
        "EMBEDPREFS_COMPUTE__DEVICE": "cpu",
        "EMBEDPREFS_MODEL__NAME": "third",
        "EMBEDPREFS_PREFERENCES": "x",
    }
    preferences = preferences_for_model(Path("owner/name"), {"vectors.normalize": True}, environment=environment)
    assert preferences.stated() == {
        "model.name": "owner/name",
        "compute.threads": 2,
        "compute.device": "cpu",
        "vectors.normalize": True,
    }
    assert preferences.file is None
    assert preferences.origin("model.name").source == "the call"


def test_an_override_of_none_takes_a_statement_back(tmp_path: Path) -> None:
    file = tmp_path / "embedprefs.toml"
    file.write_text('[model]\nname = "m"\n[vectors]\ntruncate_dim = 8\n')
    assert load_preferences(file, environment={}, overrides={"vectors.truncate_dim": None}).vectors.truncate_dim is None


def test_overrides_take_nested_tables_dotted_keys_and_paths(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"model": {"name": tmp_path}, "compute.device": "cpu", "compute": {"threads": 2}}
    preferences = load_preferences(start=tmp_path, environment={"HOME": "x"}, overrides=overrides)
    assert preferences.stated() == {"model.name": str(tmp_path), "compute.device": "cpu", "compute.threads": 2}


def test_loading_imports_no_heavy_package(tmp_path: Path) -> None:
    """Neither the host nor what only writing needs."""
    (tmp_path / "embedprefs.toml").write_text('[model]\nname = "m"\n')
    code = (
        "import sys; from embedprefs import load_preferences; load_preferences('embedprefs.toml');"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'tomlkit', 'huggingface_hub'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_overriding_later_is_overriding_at_once(tmp_path: Path) -> None:
    """Names with dots, empty tables and origins come through."""
    file = tmp_path / "embedprefs.toml"
    file.write_text('[model]\nname = "m"\n[prompts]\n"a.b" = "c"\n[training.lora]\n[compute]\nthreads = 2\n')
    overrides = {"compute.threads": 3, "prompts": {"query": "q: "}}
    at_once = load_preferences(file, environment={}, overrides=overrides)
    later = with_overrides(load_preferences(file, environment={}), overrides)
    assert later == at_once
    assert later.training.lora is not None
    assert (later.origins, later.file) == (at_once.origins, at_once.file)
    with pytest.raises(InvalidPreferenceError, match=r"overrides: compute\.threads"):
        with_overrides(later, {"compute.threads": 0})
