"""Bringing a file up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError
from embedprefs.files import migrate_file, migrate_text
from embedprefs.layers import load_preferences
from embedprefs.preferences import find_field
from embedprefs.renamed import ARCHITECTURE_FIELDS, RENAMED_KEYS, renamed_key

OLD = """\
# My file.

[model]
# Which model.
model_name_or_path = "owner/model"  # by its hub name
# How long texts may be.
model_max_length = 512  # tokens
normalize_embeddings = true

[compute]
torch_dtype = "float32"
batch_size = 16
fp16 = true

[prompts]
passage = "document: "
"""

NEW = """\
# My file.

schema_version = 1

[model]
# Which model.
name = "owner/model"  # by its hub name

[compute]
dtype = "float32"
max_batch_size = 16
fp16 = true

[prompts]
document = "document: "

[tokenizer]
# How long texts may be.
max_seq_length = 512  # tokens

[vectors]
normalize = true
"""


def test_names_of_other_tools_are_renamed_and_moved_with_their_comments() -> None:
    text, changes = migrate_text(OLD)
    assert text == NEW
    assert [(change.key, change.line, change.done) for change in changes] == [
        ("model.model_name_or_path", 5, True),
        ("model.model_max_length", 7, True),
        ("model.normalize_embeddings", 8, True),
        ("compute.torch_dtype", 11, True),
        ("compute.batch_size", 12, True),
        ("compute.fp16", 13, False),
        ("prompts.passage", 16, True),
        ("schema_version", None, True),
    ]
    assert str(changes[0]) == "line 5: model.model_name_or_path is called model.name now."
    assert "compute.dtype" in changes[5].text


def test_a_file_of_today_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "embedprefs.toml"
    file.write_text(
        'schema_version = 1\n[model]\nname = "m"\n[prompts]\nclustering = "x"\n[model.kwargs]\nbatch_size = 1\n'
    )
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert migrate_file(file) == []
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_key_that_is_stated_under_both_names_is_left_to_its_author() -> None:
    text, changes = migrate_text("schema_version = 1\n[compute]\nbatch_size = 1\nmax_batch_size = 2\n")
    assert text == "schema_version = 1\n[compute]\nbatch_size = 1\nmax_batch_size = 2\n"
    assert [change.done for change in changes] == [False]
    assert "keep one" in changes[0].text


def test_inline_tables_dotted_keys_and_line_ends_are_kept() -> None:
    old = 'model = { model_name_or_path = "m", torch_dtype = "float32" }\r\ncompute.batch_size = 4\r\n'
    text, _ = migrate_text(old)
    assert text == (
        'schema_version = 1\r\nmodel = { name = "m" }\r\ncompute.max_batch_size = 4\r\ncompute.dtype = "float32"\r\n'
    )


def test_a_pyproject_is_migrated_within_its_table(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nmodel_name = "untouched"\n\n[tool.embedprefs.model]\nmodel_name = "m"\n')
    assert len(migrate_file(project, dry_run=True)) == 2
    assert "schema_version" not in project.read_text()
    migrate_file(project)
    assert 'model_name = "untouched"' in project.read_text()
    assert load_preferences(project, environment={}).model.name == "m"


def test_a_newer_file_and_one_that_is_no_toml_are_refused() -> None:
    with pytest.raises(InvalidPreferenceError, match="Upgrade embedprefs"):
        migrate_text("schema_version = 9")
    with pytest.raises(PreferencesFileError, match="TOML"):
        migrate_text("[")


@pytest.mark.parametrize("name", sorted(RENAMED_KEYS))
def test_every_stale_name_leads_to_a_preference_of_today(name: str) -> None:
    """The table names only keys that exist, or tables of them, and none that is declared under its own name."""
    new = RENAMED_KEYS[name]
    assert find_field(new) is not None or find_field(f"{new}.name") is not None
    assert renamed_key(f"model.{name}") is not None
    assert name not in ARCHITECTURE_FIELDS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.model_name_or_path", "model.name"),
        ("tokenizer.model_max_length", "tokenizer.max_seq_length"),
        ("vectors.normalize_embeddings", "vectors.normalize"),
        ("compute.torch_dtype", "compute.dtype"),
        ("compute.batch_size", "compute.max_batch_size"),
        ("compute.attn_implementation", "compute.attention"),
        ("training.evaluation_strategy", "training.arguments.eval_strategy"),
        ("training.gradient_checkpointing", "training.activation_checkpointing"),
        ("batch_size", "compute.max_batch_size"),
    ],
)
def test_loading_says_what_a_stale_name_is_called_here(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'model.name = "m"\n{old} = "x"\n')
    with pytest.raises(InvalidPreferenceError) as caught:
        load_preferences(file, environment={})
    assert caught.value.problems[0].fix == f"It is called {new} here."
    assert caught.value.problems[0].line == 2
