"""Find, read, write and bring up to date one preferences file.

Names are imported when they are first used: whoever only asks for a folder loads no pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

if TYPE_CHECKING:
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

_HOMES = {
    "FILE_NAME": "finding",
    "SCHEMA_ID": "schema",
    "Change": "migration",
    "ReadFile": "reading",
    "commented_file": "commented",
    "find_preferences_file": "finding",
    "is_model_folder": "reading",
    "json_schema": "schema",
    "migrate_file": "migration",
    "migrate_text": "migration",
    "read_toml_file": "reading",
    "refuse_model_folder": "reading",
    "write_preferences": "writing",
    "write_text": "writing",
}


__getattr__ = lazy_names(__name__, _HOMES)
