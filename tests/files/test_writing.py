"""Writing to a file: what is changed, what stays, and what is refused."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError
from embedprefs.files import commented_file, write_preferences
from embedprefs.layers import load_preferences
from embedprefs.preferences import Preferences
from embedprefs.validation import nested, validated

FILE = """\
# The index of the handbook.
schema_version = 1

[model]
name = "m"  # the small one

# Measured in May.
[compute]
max_batch_size = 32   # more is slower
#device = "auto"

# Retrieval needs these.
[prompts]
query = 'search: '
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "embedprefs.toml"
    path.write_text(FILE)
    return path


def preferences_of(**values: object) -> Preferences:
    return validated(nested({"model.name": "m", **{key.replace("__", "."): value for key, value in values.items()}}))


def test_writing_back_what_was_read_changes_no_byte(file: Path) -> None:
    before = file.stat().st_mtime_ns
    write_preferences(load_preferences(file, environment={}), file)
    assert file.read_text() == FILE
    assert file.stat().st_mtime_ns == before


def test_single_values_change_in_place(file: Path) -> None:
    """A changed value keeps its comment, a new one replaces its commented-out default, the rest is untouched."""
    write_preferences(None, file, values={"compute.max_batch_size": 64, "compute.device": "cpu", "prompts.query": None})
    assert file.read_text() == (
        FILE.replace("= 32 ", "= 64 ").replace('#device = "auto"', 'device = "cpu"').replace("query = 'search: '\n", "")
    )


def test_a_new_key_joins_its_section_above_the_comment_of_the_next(file: Path) -> None:
    write_preferences(None, file, values={"model.revision": "abc"})
    assert 'name = "m"  # the small one\nrevision = "abc"\n\n# Measured in May.\n[compute]' in file.read_text()


def test_a_new_section_is_appended(file: Path) -> None:
    write_preferences(None, file, values={"index.hnsw.m": 8, "index.collection": "x"})
    assert file.read_text().endswith("query = 'search: '\n\n[index]\nhnsw.m = 8\ncollection = \"x\"\n")


def test_what_is_not_stated_is_removed(file: Path) -> None:
    write_preferences(preferences_of(), file)
    assert tomllib.loads(file.read_text()) == {
        "schema_version": 1,
        "model": {"name": "m"},
        "compute": {},
        "prompts": {},
    }
    assert "# more is slower" not in file.read_text()
    assert "# Measured in May." in file.read_text()


def test_another_models_file_is_written_over_only_with_force(file: Path) -> None:
    with pytest.raises(PreferencesFileError, match="states the model 'm'"):
        write_preferences({"model.name": "other"}, file)
    assert file.read_text() == FILE
    write_preferences({"model.name": "other"}, file, force=True)
    assert load_preferences(file, environment={}).model.name == "other"
    assert "# the small one" in file.read_text()


def test_a_file_that_is_no_toml_is_written_over_only_with_force(file: Path) -> None:
    file.write_text("[broken")
    with pytest.raises(PreferencesFileError, match="not TOML"):
        write_preferences(preferences_of(), file)
    assert file.read_text() == "[broken"
    write_preferences(preferences_of(), file, force=True)
    assert load_preferences(file, environment={}) == preferences_of()


def test_a_pyproject_that_is_no_toml_is_never_written_over(tmp_path: Path) -> None:
    """It holds more than our preferences."""
    project = tmp_path / "pyproject.toml"
    project.write_text("[broken")
    with pytest.raises(PreferencesFileError):
        write_preferences(preferences_of(), project, force=True)
    assert project.read_text() == "[broken"


def test_a_pyproject_gains_the_table_and_keeps_the_rest(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project] # mine\nname = "x"\n\n[tool.ruff]\nline-length = 99\n')
    write_preferences(preferences_of(compute__threads=2), project)
    text = project.read_text()
    assert text.startswith('[project] # mine\nname = "x"\n\n[tool.ruff]\nline-length = 99\n')
    assert load_preferences(project, environment={}).compute.threads == 2


def test_values_of_this_machine_are_not_written_into_the_projects_file(file: Path, isolated_home: Path) -> None:
    """The user file and the environment hold beneath and above the file; overrides of the call are meant for it."""
    user = isolated_home / ".config" / "embedprefs" / "embedprefs.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[compute]\nthreads = 3\n")
    preferences = load_preferences(
        file, environment={"EMBEDPREFS_COMPUTE__MAX_BATCH_SIZE": "8"}, overrides={"vectors.truncate_dim": 64}
    )
    assert (preferences.compute.threads, preferences.compute.max_batch_size) == (3, 8)
    write_preferences(preferences, file)
    text = file.read_text()
    assert "threads" not in text
    assert "max_batch_size = 32   # more is slower" in text
    assert "truncate_dim = 64" in text


def test_values_of_an_extended_file_stay_there(file: Path) -> None:
    (file.parent / "base.toml").write_text("[tokenizer]\nmax_seq_length = 128\n")
    file.write_text('extends = "base.toml"\n' + FILE)
    preferences = load_preferences(file, environment={})
    assert preferences.tokenizer.max_seq_length == 128
    write_preferences(preferences, file)
    assert file.read_text() == 'extends = "base.toml"\n' + FILE
    elsewhere = file.parent / "elsewhere" / "embedprefs.toml"
    elsewhere.parent.mkdir()
    write_preferences(preferences, elsewhere)
    assert "extends" not in elsewhere.read_text()
    assert load_preferences(elsewhere, environment={}).tokenizer.max_seq_length == 128


@pytest.mark.parametrize(
    "values",
    [
        {"model.kwargs": {"token": "verysecret"}},
        {"training.arguments": {"hub_token": "verysecret"}},
        {"index.store": "https://user:verysecret@host"},
        {"model.kwargs": {"headers": ["Bearer verysecret"]}},
    ],
)
def test_a_secret_is_never_written_nor_shown(file: Path, values: dict[str, object]) -> None:
    """Whether preferences were loaded or built in code."""
    built = Preferences.model_validate(nested({"model.name": "m", **values}))
    for write in (lambda: write_preferences(built, file), lambda: write_preferences(None, file, values=values)):
        with pytest.raises(InvalidPreferenceError) as caught:
            write()
        assert "verysecret" not in str(caught.value)
        assert "verysecret" not in repr(caught.value.problems)
        assert "environment variable" in str(caught.value)
    assert file.read_text() == FILE


def test_a_value_that_toml_cannot_hold_is_refused(file: Path) -> None:
    with pytest.raises(InvalidPreferenceError, match=r"model\.kwargs\.thing.*TOML cannot hold"):
        write_preferences(preferences_of(model__kwargs={"thing": object()}), file)
    assert file.read_text() == FILE


def test_invalid_values_are_refused_before_the_file_is_touched(file: Path) -> None:
    with pytest.raises(InvalidPreferenceError, match=r"compute\.threads"):
        write_preferences(None, file, values={"compute.threads": "many"})
    with pytest.raises(InvalidPreferenceError, match=r"compute\.devise"):
        write_preferences({"model.name": "m", "compute.devise": "cpu"}, file)
    assert file.read_text() == FILE


def test_permissions_and_links_survive(file: Path) -> None:
    file.chmod(0o640)
    link = file.parent / "link.toml"
    link.symlink_to(file)
    write_preferences(None, link, values={"compute.threads": 2})
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert "threads = 2" in file.read_text()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PreferencesFileError, match="No space left"):
        write_preferences(None, file, values={"compute.threads": 2})
    assert file.read_text() == FILE
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_unwritable_place_says_so(tmp_path: Path) -> None:
    with pytest.raises(PreferencesFileError, match="cannot be written"):
        write_preferences(preferences_of(), tmp_path / "absent" / "embedprefs.toml")


def test_no_file_is_written_into_a_models_folder(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(PreferencesFileError, match="model's folder"):
        write_preferences(preferences_of(), tmp_path / "embedprefs.toml")


def test_a_commented_default_is_taken_in_its_own_section_only(tmp_path: Path) -> None:
    """`revision` stands commented out in several sections of the file that init writes."""
    file = tmp_path / "embedprefs.toml"
    file.write_text(commented_file("m"))
    write_preferences(None, file, values={"rerank.revision": "abc", "compute.device": "cpu"})
    preferences = load_preferences(file, environment={})
    assert preferences.rerank.revision == "abc"
    assert preferences.model.revision is None
    assert len(file.read_text().splitlines()) == len(commented_file("m").splitlines())


def test_relative_paths_are_written_as_seen_from_the_new_folder(file: Path) -> None:
    (file.parent / "model").mkdir()
    write_preferences(None, file, values={"model.name": "model", "vectors.calibration": "./c.json"})
    elsewhere = file.parent / "elsewhere" / "embedprefs.toml"
    elsewhere.parent.mkdir()
    write_preferences(load_preferences(file, environment={}), elsewhere)
    written = load_preferences(elsewhere, environment={})
    assert (elsewhere.parent / written.model.name).resolve() == file.parent / "model"
    assert written.vectors.calibration == "../c.json"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write every file")
def test_a_read_only_file_is_not_replaced(file: Path) -> None:
    file.chmod(0o444)
    with pytest.raises(PreferencesFileError, match="read-only"):
        write_preferences(None, file, values={"compute.threads": 2})
