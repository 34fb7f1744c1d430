"""Find, read, write and bring up to date one preferences file."""

from __future__ import annotations

from embedprefs.files.commented import commented_file
from embedprefs.files.finding import FILE_NAME, find_preferences_file
from embedprefs.files.migration import Change, migrate_file, migrate_text
from embedprefs.files.reading import ReadFile, is_model_folder, read_toml_file, refuse_model_folder
from embedprefs.files.schema import SCHEMA_ID, json_schema
from embedprefs.files.writing import write_preferences, write_text

__all__ = [
    "FILE_NAME",
    "SCHEMA_ID",
    "Change",
    "ReadFile",
    "commented_file",
    "find_preferences_file",
    "is_model_folder",
    "json_schema",
    "migrate_file",
    "migrate_text",
    "read_toml_file",
    "refuse_model_folder",
    "write_preferences",
    "write_text",
]
