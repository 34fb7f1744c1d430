"""The public names are those the design promises, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types

import pytest

import embedprefs

#: What other people's code relies on. Adding a name is a decision; taking one away breaks someone.
PROMISED = {
    *("Preferences", "load_preferences", "write_preferences"),
    *("check", "Finding", "resolve", "Resolved"),
    *("load_model", "PreferredSentenceTransformer"),
    *("load_encoder", "Encoder"),
    *("fingerprint", "Record"),
    *("EmbedPrefsError", "PreferencesFileError", "InvalidPreferenceError", "PreferenceMismatchError"),
    *("MissingExtraError", "EmbedPrefsWarning"),
}
#: Further errors, so that everything raised can be caught by name.
FURTHER = {
    *("CheckFailedError", "InputError", "ModelFilesError", "OverlongTextError", "PartialResultError", "Problem"),
    *("ResourceError", "UnavailableError", "__version__"),
}


def test_the_public_names_are_those_promised():
    assert set(embedprefs.__all__) == PROMISED | FURTHER
    assert embedprefs.__all__ == sorted(embedprefs.__all__)


@pytest.mark.parametrize("name", embedprefs.__all__)
def test_every_public_name_can_be_imported(name):
    value = getattr(embedprefs, name)
    assert value is not None
    if name != "__version__":
        assert value.__name__ == name
        assert value.__doc__


@pytest.mark.parametrize("first", ["import embedprefs.resolve", "from embedprefs.record import Record", ""])
def test_a_module_of_the_same_name_does_not_hide_a_public_name(first):
    """There is a function `resolve` and a module of that name; whichever comes first, users get the function."""
    then = "from embedprefs import resolve\nimport embedprefs.resolve\nprint(resolve.__module__, callable(resolve))"
    code = f"{first}\n{then}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["embedprefs.resolve", "True"]


def test_dir_shows_the_public_names_alone():
    assert dir(embedprefs) == sorted(embedprefs.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_modle"):
        _ = embedprefs.load_modle


MODULES = sorted(module.name for module in pkgutil.walk_packages(embedprefs.__path__, "embedprefs."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_exports_what_it_names_and_nothing_private(name):
    """`from module import *` gives what `__all__` says: defined, public, no module that was only imported."""
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert not exported.startswith("_") or exported == "__version__"
        assert not isinstance(getattr(module, exported), types.ModuleType)
