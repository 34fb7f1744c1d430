"""Reading one file: what it says, on which line, and what is said of a file that cannot be read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError
from embedprefs.files import read_toml_file
from embedprefs.toml_text import TomlText, dotted, split_key

ODD_TOML = """\
# comment with [brackets] and key = value
top."dotted.part".'literal part' = 1  # trailing

[model]  # header comment
name = "a#b"
text = \"\"\"
[not.a.header]
not_a_key = 1
escaped \\\"\"\" quotes""\"\"\"
literal = '''
also = "not a key"'''
kwargs = { one = 1, inner = { two = [1, 2, { three = "}" }] }, "quoted key" = ']' }
list = [
  1, # comment ] in an array
  [2, 3],
  "x",
]

[ index . hnsw ]
m = 16
[[extra]]
first = 1979-05-27 07:32:00
[[extra]]
second = -inf
"""


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "embedprefs.toml"


def test_every_key_has_the_line_it_is_written_on(file: Path) -> None:
    """Dotted, quoted, inline, nested and multi-line forms each give the line of the key itself."""
    file.write_text(ODD_TOML)
    lines = read_toml_file(file).lines
    assert lines['top."dotted.part"."literal part"'] == 2
    assert lines["model"] == 4
    assert lines["model.name"] == 5
    assert lines["model.text"] == 6
    assert lines["model.literal"] == 10
    assert lines["model.kwargs.inner.two"] == 12
    assert lines['model.kwargs."quoted key"'] == 12
    assert lines["model.list"] == 13
    assert lines["index.hnsw"] == 19
    assert lines["index.hnsw.m"] == 20
    assert lines["extra"] == 21
    assert not {"not_a_key", "model.not_a_key", "also", "not.a.header"} & lines.keys()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_keys_found_are_the_keys_that_toml_has(file: Path, newline: str) -> None:
    """Places are found for exactly the keys that the TOML parser reads, whatever the line ends."""
    file.write_bytes(ODD_TOML.replace("\n", newline).encode())
    read = read_toml_file(file)
    wanted = {dotted(path) for path in leaves(read.values)}
    assert wanted <= read.lines.keys()
    assert read.lines["index.hnsw.m"] == 20


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=("Cs", "Cc"))),
        st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab.#= \"'é", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text('ab.#[]"', max_size=4), toml_values, max_size=4))
def test_places_agree_with_the_parser_on_any_document(values: dict[str, Any]) -> None:
    """For any document: every key gets a place, and the text at that place reads as the key's value."""
    text = tomlkit.dumps(values)
    parsed = tomllib.loads(text)
    places = TomlText.scan(text)
    assert {dotted(path) for path in leaves(parsed)} <= places.lines().keys()
    for entry in places.entries:
        if not any(header.array for header in places.headers):
            value = tomllib.loads("v = " + text[entry.value_start : entry.value_end])["v"]
            at: Any = parsed
            for part in entry.path:
                at = at[part] if isinstance(at, dict) else None
            if at is not None:
                assert repr(value) == repr(at)


@pytest.mark.parametrize("path", [("a",), ("a", "b.c"), ("a b", 'q"uote'), ("", "é")])
def test_a_dotted_key_reads_back_as_its_parts(path: tuple[str, ...]) -> None:
    assert split_key(dotted(path)) == path


@pytest.mark.parametrize("key", ["", ".", "a..b", "a = 1\nb", "a b", "a.", "[a]", "a = {b = 1}, c"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        split_key(key)


def test_pyproject_gives_the_table_with_its_lines(tmp_path: Path) -> None:
    """Keys are counted from [tool.embedprefs]; lines are the file's own."""
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n\n[tool.embedprefs.model]\nname = "m"\n')
    read = read_toml_file(project)
    assert read.values == {"model": {"name": "m"}}
    assert read.lines == {"model": 4, "model.name": 5}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", None, ["empty", "embedprefs init"]),
        (b"  \n\t\n", None, ["empty"]),
        (b"[model\nname = 1", 1, ["not TOML"]),
        (b'[model]\nname = "x"\nname = "y"', 3, ["not TOML"]),
        (b'[model]\nname = "x"\nrevision = \xff\xfe', 3, ["0xff", "UTF-8"]),
        (b'\xef\xbb\xbf[model]\nname = "x"', 1, ["byte order mark", "UTF-8"]),
        ('[model]\nname = "x"'.encode("utf-16"), 1, ["UTF-16"]),
        (b"a = " + b"[" * 5000 + b"]" * 5000, None, []),
        (b"a = " + b"9" * 5000, None, ["not TOML"]),
        (b"x = 1\n" * 300_000, None, ["larger than 1 MiB"]),
    ],
    ids=["empty", "blank", "no-toml", "key-twice", "not-utf-8", "bom", "utf-16", "deep", "huge-number", "large"],
)
def test_a_file_that_cannot_be_read_says_where_and_why(
    file: Path, content: bytes, line: int | None, words: list[str]
) -> None:
    file.write_bytes(content)
    with pytest.raises(PreferencesFileError) as caught:
        read_toml_file(file)
    assert caught.value.file == file
    assert str(file) in str(caught.value)
    if line is not None:
        assert caught.value.line == line
        assert f"{file}:{line}" in str(caught.value) or line == 1
    for word in words:
        assert word in str(caught.value)


def test_an_absent_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(PreferencesFileError, match="no such file"):
        read_toml_file(tmp_path / "absent.toml")
    with pytest.raises(PreferencesFileError, match="a folder, not a file"):
        read_toml_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_says_so(file: Path) -> None:
    file.write_text("[model]")
    file.chmod(0)
    with pytest.raises(PreferencesFileError, match="cannot be read"):
        read_toml_file(file)


def test_a_file_for_a_newer_version_asks_for_an_upgrade_and_nothing_else(file: Path) -> None:
    """What a newer version added is not reported as a mistake."""
    file.write_text("schema_version = 2\n[brand_new]\nkey = 1\n[model]\nname = 5\n")
    with pytest.raises(InvalidPreferenceError) as caught:
        read_toml_file(file)
    (problem,) = caught.value.problems
    assert problem.key == "schema_version"
    assert problem.line == 1
    assert "Upgrade embedprefs" in str(problem)
