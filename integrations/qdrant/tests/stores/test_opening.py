"""Addresses of stores: which are understood, and what the others are told."""

import gc
import subprocess
import sys
import warnings

import pytest

from embedprefs.errors import InputError, ResourceError
from embedprefs_qdrant.stores import ClientStore, EdgeStore, UploadError, open_store


def test_each_address_opens_its_kind_of_store(tmp_path):
    with (
        open_store(f"edge:{tmp_path}/a") as edge,
        open_store(f"local:{tmp_path}/b") as local,
        open_store(":memory:") as memory,
    ):
        assert isinstance(edge, EdgeStore)
        assert isinstance(local, ClientStore)
        assert [store.capabilities.engine for store in (edge, local, memory)] == ["edge", "local", "local"]
        assert [store.capabilities.persistent for store in (edge, local, memory)] == [True, True, False]
        assert edge.url == f"edge:{tmp_path}/a"
        assert "quantization" in memory.capabilities.ignored
        assert not edge.capabilities.ignored


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("index", r"For a folder, write edge:index"),
        ("./some/index", r"write edge:\./some/index"),
        ("ege:index", r"Did you mean edge:"),
        ("htp://host", r"Did you mean http:"),
        ("postgres://host", r"Allowed: edge:PATH, http"),
        ("", r"an empty string"),
        ("edge:", r"Write edge:\./index"),
        ("edge://index", r"Write edge:index"),
        ("http://", r"names no server"),
        ("http://host:99999", r"no valid port"),
        ("grpc://host:6334/path", r"has no path"),
    ],
)
def test_an_address_that_is_not_understood_is_answered_with_those_that_are(target, told):
    with pytest.raises(InputError, match=told):
        open_store(target)


@pytest.mark.parametrize(
    "target", ["https://user:hunter2@host", "https://hunter2@host", "https://host/?api_key=hunter2"]
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(target):
    with pytest.raises(InputError, match="QDRANT_API_KEY") as caught:
        open_store(target)
    assert "hunter2" not in str(caught.value)


def test_a_secret_in_an_address_of_unknown_kind_is_not_repeated():
    with pytest.raises(InputError) as caught:
        open_store("qdrant://user:hunter2@host?key=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", ["edge", "local"])
def test_a_folder_is_made_only_if_it_may_be(tmp_path, kind):
    with pytest.raises(InputError, match="no such folder"):
        open_store(f"{kind}:{tmp_path}/absent", create=False)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", ["edge", "local"])
def test_a_file_is_no_folder(tmp_path, kind):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="needs a folder"):
        open_store(f"{kind}:{tmp_path}/file")


def test_a_second_client_of_a_local_folder_is_told_why_and_what_to_do(tmp_path):
    with open_store(f"local:{tmp_path}"), pytest.raises(ResourceError, match=r"(?s)one client at a time.*http://HOST"):
        open_store(f"local:{tmp_path}")
    open_store(f"local:{tmp_path}").close()


def test_a_refused_second_client_leaves_no_file_open(tmp_path, layout, points):
    """Neither its lock file nor a database, which Python would warn of when they are collected."""
    with open_store(f"local:{tmp_path}") as first, warnings.catch_warnings(record=True) as caught:
        first.ensure("docs", layout)
        first.upsert("docs", points)
        warnings.simplefilter("always")
        with pytest.raises(ResourceError):
            open_store(f"local:{tmp_path}")
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_disk_that_fails_under_the_emulation_is_reported_with_the_points(tmp_path, layout, points):
    """SQLite's own errors become errors of the store, as those of a server do."""
    with open_store(f"local:{tmp_path}") as store:
        store.ensure("docs", layout)
        database = store._call.client._client.collections["docs"].storage.storage
        database.execute("PRAGMA query_only = ON")
        with pytest.raises(UploadError, match=r"(?s)60 points could not be stored.*readonly") as caught:
            store.upsert("docs", points)
        assert set(caught.value.failed_ids) == {point.id for point in points}
        database.execute("PRAGMA query_only = OFF")
        assert store.upsert("docs", points).points == 60


def test_a_ready_client_is_used_and_stays_open(tmp_path, layout, points, wire):
    from qdrant_client import QdrantClient

    for client, url in (
        (QdrantClient(location=":memory:"), ":memory:"),
        (QdrantClient(path=str(tmp_path / "p")), f"local:{tmp_path / 'p'}"),
        (QdrantClient(url=wire.url, check_compatibility=False), wire.url),
    ):
        with open_store(client) as store:
            store.ensure("docs", layout)
            store.upsert("docs", points)
            assert store.url == url
        assert client.count("docs").count == 60
        client.close()


def test_anything_else_is_no_store():
    with pytest.raises(InputError, match="cannot be made of a dict"):
        open_store({"url": "x"})


def test_importing_the_stores_imports_neither_client_nor_engine():
    heavy = ("qdrant_client", "qdrant_edge", "grpc", "httpx", "torch")
    code = f"import sys, embedprefs_qdrant.stores; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
