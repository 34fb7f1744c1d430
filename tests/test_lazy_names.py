"""Names that a package imports when they are first used."""

from __future__ import annotations

import sys

import pytest

from embedprefs.lazy_names import lazy_names


def test_a_name_is_imported_when_it_is_used_and_kept(monkeypatch, tmp_path):
    """Its module is not imported before, and asked for once."""
    package = tmp_path / "lazily_made"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from embedprefs.lazy_names import lazy_names\n__getattr__ = lazy_names(__name__, {'Thing': 'things'})\n"
    )
    (package / "things.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lazily_made

    assert "lazily_made.things" not in sys.modules
    assert lazily_made.Thing is sys.modules["lazily_made.things"].Thing
    assert vars(lazily_made)["Thing"] is lazily_made.Thing
    for name in ("lazily_made", "lazily_made.things"):
        monkeypatch.delitem(sys.modules, name)


def test_a_name_without_a_home_is_an_attribute_error_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'embedprefs' has no attribute 'nothing'"):
        lazy_names("embedprefs", {})("nothing")
