"""What each layer reads, and what it may not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedprefs.errors import EmbedPrefsWarning, InvalidPreferenceError, PreferencesFileError
from embedprefs.layers import (
    RESERVED_VARIABLES,
    load_preferences,
    machine_description,
    parse_set_option,
    preferences_for_model,
    user_file,
    version_description,
    write_tuned_lock,
)

MODEL = '[model]\nname = "m"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "embedprefs.toml"
    path.write_text(MODEL)
    return path


def write_user_file(text: str) -> Path:
    path = user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- The user file -------------------------------------------------------------------------------------------------


def test_the_user_file_lies_in_the_platforms_configuration_folder(isolated_home: Path) -> None:
    assert user_file().is_relative_to(isolated_home)
    assert user_file().parts[-2:] == ("embedprefs", "embedprefs.toml")


def test_the_user_file_holds_compute_the_cache_folder_and_tracking(file: Path) -> None:
    write_user_file(
        'schema_version = 1\n[compute]\nthreads = 2\n[model]\ncache_folder = "/models"\n'
        '[training.arguments]\nreport_to = "wandb"\nrun_name = "mine"\nproject = "p"\n'
    )
    preferences = load_preferences(file, environment={})
    assert preferences.compute.threads == 2
    assert preferences.model.cache_folder == "/models"
    assert preferences.training.arguments == {"report_to": "wandb", "run_name": "mine", "project": "p"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (MODEL, "model.name"),
        ("[vectors]\ntruncate_dim = 8", "vectors.truncate_dim"),
        ("[training.arguments]\nlearning_rate = 1.0", "training.arguments.learning_rate"),
        ('extends = "x.toml"', "extends"),
        ('[prompts]\nquery = "q"', "prompts.query"),
    ],
)
def test_the_user_file_may_hold_nothing_that_changes_a_vector(file: Path, text: str, key: str) -> None:
    path = write_user_file(text + "\n[compute]\nthreads = 2\n")
    with pytest.raises(InvalidPreferenceError) as caught:
        load_preferences(file, environment={})
    (problem,) = caught.value.problems
    assert problem.key == key
    assert problem.source == str(path)
    assert problem.line is not None
    assert "user file" in problem.message
    assert "project's embedprefs.toml" in str(problem.fix)


# --- extends -------------------------------------------------------------------------------------------------------


def test_a_chain_of_files_is_followed_each_relative_to_itself(tmp_path: Path) -> None:
    """The nearest statement wins, with its own file and line as origin."""
    (tmp_path / "shared" / "deep").mkdir(parents=True)
    (tmp_path / "shared" / "deep" / "root.toml").write_text("[compute]\nthreads = 1\nmax_batch_size = 1\nworkers = 1\n")
    (tmp_path / "shared" / "base.toml").write_text(
        'extends = "deep/root.toml"\n[compute]\nthreads = 2\nmax_batch_size = 2\n'
    )
    file = tmp_path / "embedprefs.toml"
    file.write_text('extends = "shared/base.toml"\n[compute]\nthreads = 3\n' + MODEL)
    preferences = load_preferences(file, environment={})
    compute = preferences.compute
    assert (compute.threads, compute.max_batch_size, compute.workers) == (3, 2, 1)
    assert str(preferences.origin("compute.threads")) == f"{file}:3"
    assert str(preferences.origin("compute.max_batch_size")) == f"{tmp_path / 'shared' / 'base.toml'}:4"
    assert str(preferences.origin("compute.workers")) == f"{tmp_path / 'shared' / 'deep' / 'root.toml'}:4"
    assert preferences.extends == "shared/base.toml"


def test_paths_in_a_base_file_stay_relative_to_it(tmp_path: Path) -> None:
    """A folder beside the base is found from the project; hub names and absolute paths stay as they are."""
    base = tmp_path / "shared"
    (base / "model").mkdir(parents=True)
    (base / "base.toml").write_text(
        '[model]\nname = "model"\ncache_folder = "/absolute"\n[vectors]\ncalibration = "./calibration.json"\n'
        '[rerank]\nname = "cross-encoder/ms-marco-MiniLM-L6-v2"\n'
    )
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "embedprefs.toml"
    file.write_text('extends = "../shared/base.toml"\n')
    preferences = load_preferences(file, environment={})
    assert preferences.model.name == "../shared/model"
    assert preferences.vectors.calibration == "../shared/calibration.json"
    assert preferences.model.cache_folder == "/absolute"
    assert preferences.rerank.name == "cross-encoder/ms-marco-MiniLM-L6-v2"


def test_a_circle_is_refused_with_its_way(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.toml").write_text(f'extends = "{other}.toml"\n{MODEL}')
    with pytest.raises(InvalidPreferenceError, match=r"a\.toml -> .*b\.toml -> .*c\.toml -> .*b\.toml") as caught:
        load_preferences(tmp_path / "a.toml", environment={})
    assert caught.value.key == "extends"
    assert caught.value.problems[0].source == str(tmp_path / "c.toml")


def test_an_absent_base_names_who_extends_it(file: Path) -> None:
    file.write_text(f'extends = "absent.toml"\n{MODEL}')
    with pytest.raises(
        PreferencesFileError, match=r"absent\.toml: there is no such file[\s\S]*embedprefs\.toml:1 extends it"
    ):
        load_preferences(file, environment={})


@pytest.mark.parametrize("value", ["3", '""', '["a.toml"]'])
def test_extends_takes_one_path(file: Path, value: str) -> None:
    file.write_text(f"extends = {value}\n{MODEL}")
    with pytest.raises(InvalidPreferenceError, match="extends is") as caught:
        load_preferences(file, environment={})
    assert caught.value.problems[0].line == 1


def test_a_base_in_a_models_folder_is_refused(tmp_path: Path, file: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    (model / "base.toml").write_text(MODEL)
    file.write_text('extends = "model/base.toml"\n')
    with pytest.raises(PreferencesFileError, match="model's folder"):
        load_preferences(file, environment={})


# --- tuned.lock ----------------------------------------------------------------------------------------------------


def test_a_lock_from_this_machine_holds(file: Path) -> None:
    write_tuned_lock(file.parent, {"max_batch_size": 16, "device": "cpu"}, comment="Measured on 500 texts.")
    preferences = load_preferences(file, environment={})
    assert preferences.compute.max_batch_size == 16
    assert str(preferences.origin("compute.device")).startswith(str(file.parent / "tuned.lock"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("cpu_count = ", "cpu_count = 1000", "cpu_count"),
        ("transformers = ", 'transformers = "0.0"', "transformers"),
        ("accelerators = ", 'accelerators = ["Another"]', "accelerators"),
        ("[versions]", "[other]", r"no table \[versions\]"),
        ("torch = ", 'unknown-package = "1"', "absent"),
    ],
)
def test_a_lock_from_elsewhere_is_ignored_with_its_reason(file: Path, old: str, new: str, reason: str) -> None:
    lock = write_tuned_lock(file.parent, {"max_batch_size": 16})
    lines = [new if line.startswith(old) else line for line in lock.read_text().splitlines()]
    lock.write_text("\n".join(lines))
    with pytest.warns(EmbedPrefsWarning, match=rf"tuned\.lock is ignored.*{reason}"):
        preferences = load_preferences(file, environment={})
    assert preferences.compute.max_batch_size == "auto"


def test_a_lock_holds_compute_alone(file: Path) -> None:
    lock = write_tuned_lock(file.parent, {"max_batch_size": 16})
    lock.write_text(lock.read_text() + "\n[vectors]\ntruncate_dim = 8\n")
    with pytest.raises(InvalidPreferenceError, match=r"vectors may not stand in tuned\.lock"):
        load_preferences(file, environment={})


def test_only_compute_preferences_can_be_locked(tmp_path: Path) -> None:
    with pytest.raises(InvalidPreferenceError, match=r"compute\.truncate_dim"):
        write_tuned_lock(tmp_path, {"truncate_dim": 8})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_lock_is_not_ignored(file: Path) -> None:
    (file.parent / "tuned.lock").write_text("[compute")
    with pytest.raises(PreferencesFileError, match=r"tuned\.lock.*not TOML"):
        load_preferences(file, environment={})


def test_the_description_of_this_machine_is_stable() -> None:
    assert machine_description() == machine_description()
    assert machine_description()["cpu_count"] >= 1
    assert set(version_description()) <= {"torch", "transformers", "sentence-transformers", "openvino"}


# --- The environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("EMBEDPREFS_COMPUTE__DEVICE", "cpu", "compute.device", "cpu"),
        ("EMBEDPREFS_COMPUTE__DEVICE", '["cuda:0", "cuda:1"]', "compute.device", ["cuda:0", "cuda:1"]),
        ("EMBEDPREFS_COMPUTE__THREADS", "4", "compute.threads", 4),
        ("EMBEDPREFS_COMPUTE__COMPILE", "true", "compute.compile", True),
        ("EMBEDPREFS_COMPUTE__MEMORY_LIMIT", "75%", "compute.memory_limit", "75%"),
        ("EMBEDPREFS_MODEL__REVISION", "1234567", "model.revision", "1234567"),
        ("EMBEDPREFS_MODEL__REVISION", "1e5", "model.revision", "1e5"),
        ("EMBEDPREFS_MODEL__REVISION", "true", "model.revision", "true"),
        ("EMBEDPREFS_PROMPTS__QUERY", "search_query: ", "prompts.query", "search_query: "),
        ("EMBEDPREFS_PROMPTS__QUERY", '"quoted: "', "prompts.query", "quoted: "),
        ("EMBEDPREFS_PROMPTS__QUERY", "", "prompts.query", ""),
        ("EMBEDPREFS_PROMPTS__QUERY", "Instruct: x\nQuery: ", "prompts.query", "Instruct: x\nQuery: "),
        ("EMBEDPREFS_PROMPTS__QUERY", "1\nother = 2", "prompts.query", "1\nother = 2"),
        ("EMBEDPREFS_PROMPTS__CLUSTERING", "c: ", "prompts.clustering", "c: "),
        ("EMBEDPREFS_TRAINING__ARGUMENTS__LEARNING_RATE", "2e-5", "training.arguments.learning_rate", 2e-5),
        ("EMBEDPREFS_INDEX__HNSW__M", "8", "index.hnsw.m", 8),
        ("EMBEDPREFS_INDEX__VECTORS__TITLE__MODEL__NAME", "t", "index.vectors.title.model.name", "t"),
        ("embedprefs_compute__dtype", "float32", "compute.dtype", "float32"),
    ],
)
def test_a_variable_is_read_as_toml_where_that_fits_else_as_text(
    file: Path, variable: str, text: str, key: str, value: object
) -> None:
    preferences = load_preferences(file, environment={variable: text})
    assert preferences.get(key) == value
    assert preferences.origin(key).source == f"environment variable {variable}"


@pytest.mark.parametrize(
    ("variable", "fix"),
    [
        ("EMBEDPREFS_COMPUTE__DEVISE", "Did you mean EMBEDPREFS_COMPUTE__DEVICE?"),
        ("EMBEDPREFS_DEVICE", "Did you mean EMBEDPREFS_COMPUTE__DEVICE?"),
        ("EMBEDPREFS_COMPUTE_DEVICE", "Did you mean EMBEDPREFS_COMPUTE__DEVICE?"),
        ("EMBEDPREFS_BATCH_SIZE", "Did you mean EMBEDPREFS_COMPUTE__MAX_BATCH_SIZE?"),
        ("EMBEDPREFS_PREFERENCE", "Did you mean EMBEDPREFS_PREFERENCES?"),
        ("EMBEDPREFS_", "Unset it."),
        ("EMBEDPREFS_COMPUTE", None),
        ("EMBEDPREFS_COMPUTE__DEVICE__X", None),
        ("EMBEDPREFS___", "Unset it."),
    ],
)
def test_a_variable_that_names_no_preference_is_an_error(file: Path, variable: str, fix: str | None) -> None:
    """A misspelt variable that is ignored would leave the user with other settings than those asked for."""
    with pytest.raises(InvalidPreferenceError, match=f"{variable} names no preference") as caught:
        load_preferences(file, environment={variable: "1"})
    (problem,) = caught.value.problems
    assert problem.source == f"environment variable {variable}"
    if fix is not None:
        assert problem.fix == fix


def test_reserved_variables_are_no_preferences(file: Path) -> None:
    environment = {variable: str(file) for variable in RESERVED_VARIABLES}
    assert load_preferences(file, environment=environment).stated() == {"model.name": "m"}


@pytest.mark.parametrize("variable", ["EMBEDPREFS_EXTENDS", "EMBEDPREFS_SCHEMA_VERSION"])
def test_what_is_about_a_file_cannot_come_from_the_environment(file: Path, variable: str) -> None:
    with pytest.raises(InvalidPreferenceError, match="about a file"):
        load_preferences(file, environment={variable: "1"})


def test_variables_that_contradict_each_other_are_refused(file: Path) -> None:
    environment = {"EMBEDPREFS_MODEL__KWARGS": "{ a = 1 }", "EMBEDPREFS_MODEL__KWARGS__A": "2"}
    with pytest.raises(InvalidPreferenceError, match="contradicts"):
        load_preferences(file, environment=environment)


# --- --set and overrides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "parsed"),
    [
        ("compute.device=cpu", ("compute.device", "cpu")),
        ("compute.max_batch_size=16", ("compute.max_batch_size", 16)),
        ("prompts.query=a = b ", ("prompts.query", "a = b ")),
        ("prompts.query=", ("prompts.query", "")),
        (" compute.compile =false", ("compute.compile", False)),
        ("model.revision=123", ("model.revision", "123")),
        ("vectors.truncate_dim=many", ("vectors.truncate_dim", "many")),
        ('training.freeze=["a", "b"]', ("training.freeze", ["a", "b"])),
    ],
)
def test_set_takes_a_key_and_a_value(option: str, parsed: tuple[str, object]) -> None:
    assert parse_set_option(option) == parsed


@pytest.mark.parametrize("option", ["compute.device", "=cpu", "", "a b=1", "a..b=1"])
def test_set_without_key_or_value_is_refused(option: str) -> None:
    with pytest.raises(InvalidPreferenceError, match="KEY=VALUE"):
        parse_set_option(option)


def test_overrides_go_by_the_name_of_their_source(file: Path) -> None:
    """The command line calls its overrides by the option that the user typed."""
    with pytest.raises(InvalidPreferenceError, match=r"--set: compute\.devise is not a preference"):
        load_preferences(file, environment={}, overrides={"compute.devise": "cpu"}, overrides_source="--set")


@pytest.mark.parametrize("overrides", [{"extends": "x"}, {"schema_version": 1}])
def test_what_is_about_a_file_cannot_be_overridden(file: Path, overrides: dict[str, object]) -> None:
    with pytest.raises(InvalidPreferenceError, match="about a file"):
        load_preferences(file, environment={}, overrides=overrides)


@pytest.mark.parametrize("key", ["", "a..b", 5])
def test_an_override_needs_a_key(file: Path, key: object) -> None:
    with pytest.raises(InvalidPreferenceError, match="is no key"):
        load_preferences(file, environment={}, overrides={key: 1})  # type: ignore[dict-item]


def test_a_model_cannot_be_named_twice_in_a_call() -> None:
    with pytest.raises(InvalidPreferenceError, match="stated twice"):
        preferences_for_model("a", {"model.name": "b"}, environment={})
    assert preferences_for_model("a", {"model.name": "a"}, environment={}).model.name == "a"
