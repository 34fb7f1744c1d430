"""What the package offers, and what naming it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import langchain_embedprefs


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_every_public_name_is_there():
    """`__all__` and what can be imported agree."""
    for name in langchain_embedprefs.__all__:
        assert getattr(langchain_embedprefs, name) is not None
    assert dir(langchain_embedprefs) == sorted(langchain_embedprefs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'EmbedPrefs'"):
        langchain_embedprefs.EmbedPrefs  # noqa: B018


def test_making_embeddings_loads_no_torch(bert_folder):
    """Preferences are read and checked, the dimension is known; the model comes with the first vector."""
    code = (
        "import sys; from langchain_embedprefs import EmbedPrefsEmbeddings;"
        f"embeddings = EmbedPrefsEmbeddings(model={bert_folder!r}); assert embeddings.dimension == 32;"
        "print(*(name for name in ('torch', 'transformers', 'sentence_transformers', 'qdrant_client') "
        "if name in sys.modules))"
    )
    assert run(code) == []


def test_naming_the_package_loads_nothing():
    """Not even LangChain."""
    assert (
        run("import sys, langchain_embedprefs; print(*(n for n in ('langchain_core', 'torch') if n in sys.modules))")
        == []
    )
