"""Finding the file that holds in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedprefs.errors import PreferencesFileError
from embedprefs.files import find_preferences_file
from embedprefs.layers import load_preferences

MODEL = '[model]\nname = "m"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    return root


def find(start: Path) -> Path | None:
    return find_preferences_file(start, environment={})


def test_the_nearest_file_upwards_is_found(repository: Path) -> None:
    (repository / "embedprefs.toml").write_text(MODEL)
    assert find(repository / "a" / "b") == repository / "embedprefs.toml"
    (repository / "a" / "embedprefs.toml").write_text(MODEL)
    assert find(repository / "a" / "b") == repository / "a" / "embedprefs.toml"


def test_the_search_ends_at_the_repository(repository: Path) -> None:
    (repository.parent / "embedprefs.toml").write_text(MODEL)
    assert find(repository / "a") is None


def test_the_search_ends_at_home(isolated_home: Path) -> None:
    (isolated_home.parent / "embedprefs.toml").write_text(MODEL)
    folder = isolated_home / "project"
    folder.mkdir()
    try:
        assert find(folder) is None
        (isolated_home / "embedprefs.toml").write_text(MODEL)
        assert find(folder) == isolated_home / "embedprefs.toml"
    finally:
        (isolated_home.parent / "embedprefs.toml").unlink()


def test_a_pyproject_counts_only_with_the_table(repository: Path) -> None:
    (repository / "pyproject.toml").write_text("[tool.embedprefs.model]\nname = 'm'\n")
    (repository / "a" / "pyproject.toml").write_text("[project]\nname = 'embedprefs'\n")
    assert find(repository / "a") == repository / "pyproject.toml"


def test_embedprefs_toml_wins_over_the_pyproject_beside_it(repository: Path) -> None:
    (repository / "pyproject.toml").write_text("[tool.embedprefs.model]\nname = 'm'\n")
    (repository / "embedprefs.toml").write_text(MODEL)
    assert find(repository) == repository / "embedprefs.toml"


def test_a_damaged_pyproject_matters_only_where_it_mentions_embedprefs(repository: Path) -> None:
    (repository / "pyproject.toml").write_text("[project\n")
    assert find(repository) is None
    (repository / "pyproject.toml").write_text("[tool.embedprefs]\n[project\n")
    with pytest.raises(PreferencesFileError, match="not TOML"):
        find(repository)


def test_a_damaged_file_that_is_nearest_is_not_passed_over(repository: Path) -> None:
    """Falling back to a file further up would silently use other preferences."""
    (repository / "embedprefs.toml").write_text(MODEL)
    (repository / "a" / "embedprefs.toml").mkdir()
    with pytest.raises(PreferencesFileError, match="a folder"):
        load_preferences(start=repository / "a", environment={})


def test_the_environment_names_the_file(repository: Path, tmp_path: Path) -> None:
    (repository / "embedprefs.toml").write_text(MODEL)
    other = tmp_path / "other.toml"
    other.write_text(MODEL)
    assert find_preferences_file(repository, environment={"EMBEDPREFS_PREFERENCES": str(other)}) == other
    with pytest.raises(PreferencesFileError, match="EMBEDPREFS_PREFERENCES"):
        find_preferences_file(repository, environment={"EMBEDPREFS_PREFERENCES": str(tmp_path / "absent.toml")})
    with pytest.raises(PreferencesFileError, match="EMBEDPREFS_PREFERENCES is empty"):
        find_preferences_file(repository, environment={"EMBEDPREFS_PREFERENCES": " "})


@pytest.mark.parametrize(
    "marker", ["modules.json", "config_sentence_transformers.json", "adapter_config.json", "config.json"]
)
def test_a_file_that_came_with_a_model_is_not_obeyed(repository: Path, marker: str) -> None:
    """Neither the search nor a given path uses a preferences file in a model's folder, nor one in a folder within."""
    model = repository / "model"
    (model / "inner").mkdir(parents=True)
    (model / marker).write_text(json.dumps({"model_type": "bert"}))
    (model / "embedprefs.toml").write_text(MODEL + "trust_remote_code = true\n")
    (model / "inner" / "embedprefs.toml").write_text(MODEL)
    assert find(model) is None
    assert find(model / "inner") is None
    (repository / "embedprefs.toml").write_text(MODEL)
    assert find(model / "inner") == repository / "embedprefs.toml"
    with pytest.raises(PreferencesFileError, match="model's folder"):
        load_preferences(model / "embedprefs.toml", environment={})


def test_a_config_json_of_something_else_makes_no_model_folder(repository: Path) -> None:
    (repository / "config.json").write_text('{"theme": "dark"}')
    (repository / "embedprefs.toml").write_text(MODEL)
    assert find(repository) == repository / "embedprefs.toml"
