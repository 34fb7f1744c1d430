"""Importing embedprefs, and everything that works without a model, loads no heavy package."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sentence_transformers", "tokenizers", "safetensors", "datasets", "scipy", "sklearn")

#: Code -> packages that it may load nevertheless.
LIGHT = {
    "import embedprefs": (),
    "import embedprefs.cli.main; embedprefs.cli.main.create_app()": (),
    "from embedprefs import Preferences, load_preferences, write_preferences": (),
    "from embedprefs import check, resolve, fingerprint, Record": (),
    "from embedprefs.hardware import detect_hardware; detect_hardware()": (),
    "from embedprefs import Encoder, load_encoder": (),
    "from embedprefs.serving import automatic_encoder, find_artefact": (),
    "import embedprefs.embedding, embedprefs.arguments, embedprefs.facts": (),
}


def loaded_after(code):
    """Return the names of the modules that a fresh process has after running code."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout))


@pytest.mark.parametrize("code", LIGHT)
def test_nothing_heavy_is_imported(code):
    assert {name for name in loaded_after(code) if name.partition(".")[0] in HEAVY} == set()


def test_importing_the_package_imports_none_of_its_dependencies():
    """Not even pydantic: `import embedprefs` costs the names alone."""
    loaded = loaded_after("import embedprefs")
    dependencies = {"pydantic", "tomlkit", "typer", "rich", "huggingface_hub", "numpy", "platformdirs"}
    assert not dependencies & loaded
    assert {name for name in loaded if name.startswith("embedprefs")} == {
        "embedprefs",
        "embedprefs.lazy_names",
    }


def test_the_command_lines_help_imports_no_pydantic():
    """Each command imports what it needs inside its function."""
    loaded = loaded_after("import embedprefs.cli.main; embedprefs.cli.main.create_app()")
    assert not {"pydantic", "tomlkit", "huggingface_hub", "numpy"} & loaded
