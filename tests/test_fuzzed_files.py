"""Any preferences can be written and read back; any file at all is read, or refused in our own words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedprefs.errors import InvalidPreferenceError, PreferencesFileError, Problem
from embedprefs.files import migrate_text, write_preferences
from embedprefs.layers import RESERVED_VARIABLES, load_preferences
from embedprefs.preferences import SCHEMA_VERSION, FieldDeclaration, Preferences, every_field
from embedprefs.validation import nested, problems_in, put, validated

readable = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
file_settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


# --- Values that are allowed ---------------------------------------------------------------------------------------


def allowed_values(declaration: FieldDeclaration) -> st.SearchStrategy[Any]:
    """Values that a preference accepts, from its declaration."""
    given_values = [
        value for value in (declaration.default, declaration.example, *declaration.choices) if value is not None
    ]
    strategies = [st.sampled_from(given_values)] if given_values else []
    bounds = {
        word: float(number)
        for word, number in re.findall(r"(at least|more than|at most|less than) ([\d.]+)", declaration.allowed)
    }
    if not declaration.choices and re.match("a text(,|$)", declaration.allowed):
        strategies.append(readable)
    if "a whole number" in declaration.type:
        strategies.append(st.integers(int(bounds.get("at least", 1)), 10_000))
    if declaration.type == "a number":
        strategies.append(st.floats(max(bounds.get("at least", 0.25), 0.0), 0.75))
    if "true or false" in declaration.type:
        strategies.append(st.booleans())
    if declaration.key in ("model.kwargs", "model.config", "training.arguments", "tokenizer.kwargs"):
        strategies.append(
            st.dictionaries(
                st.sampled_from(["one", "two", "a b", 'quo"te', "x.y"]), st.integers() | readable, max_size=3
            )
        )
    return st.one_of(strategies)


FIELDS = {
    item.key: item
    for item in every_field()
    if item.key not in ("schema_version", "extends", "model.name") and "*" not in item.key
}


@st.composite
def stated_values(draw: st.DrawFn) -> dict[str, Any]:
    """Dotted key -> value for a random choice of preferences."""
    keys = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=14))
    values = {key: draw(allowed_values(FIELDS[key])) for key in keys}
    if "model.adapter.revision" in values:
        values.setdefault("model.adapter.name", "adapter")
    for name in draw(st.lists(st.sampled_from(["clustering", "code"]), unique=True)):
        values[f"prompts.{name}"] = draw(readable)
    if draw(st.booleans()):
        values["index.vectors.title.model.name"] = draw(readable)
        values["index.vectors.title.prompts.query"] = draw(readable)
    return {"model.name": draw(readable), **values}


def fresh(folder: Path) -> Path:
    path = folder / "embedprefs.toml"
    path.unlink(missing_ok=True)
    return path


@file_settings
@given(stated_values())
def test_written_preferences_read_back_equal(tmp_path: Path, values: dict[str, Any]) -> None:
    """Preferences -> file -> preferences, for every section and kind of value."""
    preferences = validated(nested(values))
    path = write_preferences(preferences, fresh(tmp_path))
    assert load_preferences(path, environment={}) == preferences
    assert load_preferences(path, environment={}).stated().keys() - {"schema_version"} == preferences.stated().keys()


LAYOUTS = [
    "",
    "# the file\n\n# about it\nschema_version = 1\n",
    '# top\n[model] # which\nname = "other" # it\n\n# compute notes\n[compute]\n#device = "auto"\n# the last word\n',
    'model.name = "other"  # dotted\ncompute.device = "cpu"\n',
    'model = { name = "other" }\ncompute = { device = "cpu", threads = 2 }\n',
    '[model]\nname = "other"\n[index]\nvectors.title.model.name = "x"\n[training.split]\ntest = 0.5\n',
    '[training.lora]\nr = 4\n[index.hnsw]\nm = 8\n[model]\r\nname = "other"\r\n',
]


@file_settings
@given(stated_values(), st.sampled_from(LAYOUTS), st.sampled_from(["embedprefs.toml", "pyproject.toml"]))
def test_any_preferences_can_be_written_over_any_layout(
    tmp_path: Path, values: dict[str, Any], layout: str, name: str
) -> None:
    """However the file's tables are written, it then states exactly the preferences; its comments are still there."""
    preferences = validated(nested(values))
    path = tmp_path / name
    text = layout
    if name == "pyproject.toml":
        text = re.sub(r"^(\[+)", r"\1tool.embedprefs.", layout, flags=re.MULTILINE)
        if not layout.startswith(("[", "#")) or "schema_version" in layout or layout.startswith("# the"):
            text = "[tool.embedprefs]\n" + text
        text = '[project]\nname = "kept" # project\n\n' + text
    path.write_bytes(text.encode())
    write_preferences(preferences, path, force=True)
    assert load_preferences(path, environment={}) == preferences
    written = path.read_bytes().decode()
    for comment in re.findall(r"# [a-z ]+", text):
        assert comment in written
    if name == "pyproject.toml":
        assert tomllib.loads(written)["project"] == {"name": "kept"}
    write_preferences(load_preferences(path, environment={}), path)
    assert path.read_bytes().decode() == written, "writing what a file already says must change nothing"


# --- Anything at all -----------------------------------------------------------------------------------------------

keys = st.one_of(
    st.sampled_from(sorted({part for item in every_field() for part in item.key.split(".") if part != "*"})),
    st.sampled_from(["batch_size", "torch_dtype", "token", "passage", "modle", "hidden_size", "name", "a.b", ""]),
    st.text(max_size=6),
)
scalars = st.one_of(
    st.none().map(lambda _: "auto"),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "cpu", "float16", "fp16", "base.toml", "hf_abcdefghijklmnopqrstuvwxyz", "1", "true", "embedprefs.toml"]
    ),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.integers(min_value=10**400, max_value=10**401),
)
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    ),
    max_size=6,
)


def assert_reads_or_refuses(path: Path) -> None:
    """Only our own errors, each problem with its key, its file and, where the key is written, its line."""
    preferences: Preferences | None = None
    problems: tuple[Problem, ...] = ()
    try:
        preferences = load_preferences(path, environment={})
    except PreferencesFileError as error:
        message = str(error)
    except InvalidPreferenceError as error:
        message, problems = str(error), error.problems
    if preferences is not None:
        hash(preferences)
    else:
        assert str(path) in message
        seen = set()
        for problem in problems:
            assert problem.key
            assert problem.key.split(".")[-1].strip('"') in problem.message or "extends" in problem.message
            assert problem.source == str(path)
            assert "hf_abcdefghijklmnopqrstuvwxyz" not in str(problem)
            assert "hf_abcdefghijklmnopqrstuvwxyz" not in repr(problem)
            assert (problem.key, problem.line) not in seen, "one problem for each key"
            seen.add((problem.key, problem.line))
            if problem.key != "model.name":
                assert problem.line is not None


def random_tree(tmp_path: Path, values: dict[str, Any]) -> None:
    path = fresh(tmp_path)
    path.write_text("# any\n" + tomlkit.dumps(values), encoding="utf-8")
    assert_reads_or_refuses(path)


def mutated_file(tmp_path: Path, values: dict[str, Any], cuts: list[tuple[int, int, str]]) -> None:
    path = write_preferences(validated(nested(values)), fresh(tmp_path))
    text = path.read_text(encoding="utf-8")
    for start, length, inserted in cuts:
        at = start % (len(text) + 1)
        text = text[:at] + inserted + text[at + length :]
    path.write_text(text, encoding="utf-8")
    assert_reads_or_refuses(path)


def misplaced_value(tmp_path: Path, key: str, value: Any) -> None:
    tree: dict[str, Any] = {"model": {"name": "m"}}
    put(tree, tuple(key.split(".")), value)
    random_tree(tmp_path, tree)


cuts = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 6), st.text("[]{}=.,\"'#\n\\x1 é", max_size=3)),
    min_size=1,
    max_size=3,
)
a_key = st.sampled_from(sorted(FIELDS))


@file_settings
@given(trees)
def test_a_random_tree_is_read_or_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    random_tree(tmp_path, values)


@file_settings
@given(stated_values(), cuts)
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, values: dict[str, Any], cuts: list[tuple[int, int, str]]
) -> None:
    mutated_file(tmp_path, values, cuts)


@file_settings
@given(a_key, scalars | st.lists(scalars, max_size=2) | st.dictionaries(keys, scalars, max_size=2))
def test_a_value_of_any_type_under_any_key_is_read_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    misplaced_value(tmp_path, key, value)


names = st.lists(keys, min_size=1, max_size=4)


@file_settings
@given(
    st.dictionaries(names.map(lambda parts: "EMBEDPREFS_" + "__".join(parts).upper()), st.text(max_size=8), max_size=4)
)
def test_random_variables_are_obeyed_or_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    """No variable is passed over: each is either stated afterwards or named in a problem."""
    path = fresh(tmp_path)
    path.write_text("[model]\nname = 'm'\n", encoding="utf-8")
    environment = {name: text for name, text in environment.items() if name not in RESERVED_VARIABLES}
    try:
        preferences = load_preferences(path, environment=environment)
    except InvalidPreferenceError as error:
        message = str(error)
        assert any(variable in message for variable in environment)
    else:
        sources = {origin.source for origin in preferences.origins.values()}
        assert sources >= {f"environment variable {variable}" for variable in environment}


@file_settings
@given(st.dictionaries(names.map(".".join) | keys, st.none() | scalars | trees, max_size=4))
def test_random_overrides_are_obeyed_or_refused(tmp_path: Path, overrides: dict[str, Any]) -> None:
    path = fresh(tmp_path)
    path.write_text("[model]\nname = 'm'\n", encoding="utf-8")
    try:
        preferences = load_preferences(path, environment={}, overrides=overrides)
    except InvalidPreferenceError as error:
        problems = error.problems
        assert all(problem.source in ("overrides", str(path)) for problem in problems)
    else:
        assert isinstance(preferences, Preferences)


@file_settings
@given(st.binary(max_size=60))
def test_random_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = fresh(tmp_path)
    path.write_bytes(content)
    assert_reads_or_refuses(path)


@file_settings
@given(trees)
def test_bringing_a_random_tree_up_to_date_never_makes_it_worse(values: dict[str, Any]) -> None:
    """The text stays TOML, loses no value, and a second run changes nothing more."""
    text = tomlkit.dumps(values)
    version = values.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        with pytest.raises(InvalidPreferenceError, match="newer"):
            migrate_text(text)
        return
    migrated, _ = migrate_text(text)
    before, after = tomllib.loads(text), tomllib.loads(migrated)
    assert count_of_values(after) >= count_of_values(before)
    assert len(problems_in(after)) <= len(problems_in(before))
    assert migrate_text(migrated)[0] == migrated


def count_of_values(values: Any) -> int:
    return sum(map(count_of_values, values.values())) if isinstance(values, dict) else 1


many = settings(file_settings, max_examples=3000)


@pytest.mark.slow
@many
@given(trees)
def test_thousands_of_random_trees(tmp_path: Path, values: dict[str, Any]) -> None:
    random_tree(tmp_path, values)


@pytest.mark.slow
@many
@given(stated_values(), cuts)
def test_thousands_of_damaged_files(tmp_path: Path, values: dict[str, Any], cuts: list[tuple[int, int, str]]) -> None:
    mutated_file(tmp_path, values, cuts)


@pytest.mark.slow
@many
@given(a_key, scalars | st.lists(scalars, max_size=2) | st.dictionaries(keys, scalars, max_size=2))
def test_thousands_of_misplaced_values(tmp_path: Path, key: str, value: Any) -> None:
    misplaced_value(tmp_path, key, value)


@pytest.mark.slow
@many
@given(st.binary(max_size=200))
def test_thousands_of_random_bytes(tmp_path: Path, content: bytes) -> None:
    path = fresh(tmp_path)
    path.write_bytes(content)
    assert_reads_or_refuses(path)
