"""Conversions on the disk: made once, whole or not at all, shared by processes, and never more than is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.kept import chain_of_conversion, converted_folder, weights_in_memory
from embedprefs.engine.openvino.store import ConversionStore, conversion_key
from embedprefs.errors import ResourceError

DESCRIPTION = Description("bert", ("mean",), 4, 4)


def write(folder: Path, size: int = 10) -> None:
    """Write what passes for a conversion."""
    (folder / "model.xml").write_text("<net/>", encoding="utf-8")
    (folder / "model.bin").write_bytes(bytes(size))
    DESCRIPTION.write(folder)


def age(store: ConversionStore, key: str, seconds: float) -> None:
    """Set the last use of a conversion back."""
    then = time.time() - seconds
    os.utime(store.folder / key / "used", (then, then))


def test_a_conversion_is_made_once(tmp_path):
    """The second time it is found, and nothing half-made is left."""
    store, made = ConversionStore(tmp_path), []
    assert store.find("one") is None

    def make(folder):
        made.append(folder)
        write(folder)

    first = store.get("one", make)
    assert store.get("one", make) == first == store.find("one")
    assert len(made) == 1
    assert Description.read(first) == DESCRIPTION
    assert not [path for path in store.folder.iterdir() if path.name.startswith("new-")]


def test_a_failed_conversion_leaves_nothing(tmp_path):
    """An error while converting is the caller's, and the next attempt begins anew."""
    store = ConversionStore(tmp_path)

    def fail(folder):
        write(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.get("one", fail)
    assert store.find("one") is None
    assert not [path for path in store.folder.iterdir() if path.is_dir()]
    assert store.get("one", write).is_dir()


def test_a_damaged_conversion_is_made_again(tmp_path):
    """What lacks a file or cannot be read is replaced."""
    store = ConversionStore(tmp_path)
    place = store.get("one", write)
    (place / "model.bin").unlink()
    assert store.find("one") is None
    assert (store.get("one", write) / "model.bin").is_file()
    (place / Description.FILE).write_text("{", encoding="utf-8")
    assert store.find("one") is None


def test_the_least_recently_used_leave_first(tmp_path):
    """Beyond the limit the oldest go; what another process may be reading and the newest one stay."""
    store = ConversionStore(tmp_path, size_limit=2500)
    for number, key in enumerate(("one", "two", "three")):
        store.get(key, lambda folder: write(folder, 1000))
        age(store, key, 10_000 - 1000 * number)
    assert store.find("one") is None  # "three" made room
    age(store, "two", 9000)
    assert store.find("two") is not None  # a use counts
    age(store, "three", 8000)
    store.get("four", lambda folder: write(folder, 2000))
    assert store.find("three") is None
    assert store.find("two") is not None  # used a moment ago
    assert store.find("four") is not None
    assert store.size() > store.size_limit


def test_what_a_killed_process_left_goes(tmp_path):
    """A half-made folder that nobody has touched for long is removed when the next conversion is made."""
    store = ConversionStore(tmp_path)
    store.get("one", write)
    left, fresh = store.folder / "new-left", store.folder / "new-fresh"
    left.mkdir()
    fresh.mkdir()
    os.utime(left, (time.time() - 1e5,) * 2)
    store.get("two", write)
    assert not left.exists()
    assert fresh.exists()  # another process may be at it


def test_clear_removes_everything(tmp_path):
    """After `clear` nothing is kept; an empty store can be cleared."""
    store = ConversionStore(tmp_path)
    store.clear()
    store.get("one", write)
    store.clear()
    assert store.find("one") is None
    assert store.size() == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """Where the cache folder is a file, the error says which, and what to do."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match="EMBEDPREFS_CACHE"):
        ConversionStore(tmp_path / "file").get("one", write)


def test_two_processes_make_one_conversion(tmp_path):
    """Processes that want the same conversion at the same time make it once, and all find it."""
    program = (
        "import sys, time; from pathlib import Path;"
        "from embedprefs.engine.openvino.store import ConversionStore;"
        "from embedprefs.engine.openvino.description import Description;\n"
        "def make(folder):\n"
        "    (Path(sys.argv[1]) / f'made-{time.monotonic_ns()}').touch(); time.sleep(0.5)\n"
        "    (folder / 'model.xml').touch(); (folder / 'model.bin').touch()\n"
        "    Description('bert', ('mean',), 4, 4).write(folder)\n"
        "print(ConversionStore(Path(sys.argv[1])).get('one', make))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    places = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert places == {str(ConversionStore(tmp_path).folder / "one")}
    assert len(list(tmp_path.glob("made-*"))) == 1


BASE = {"weights": "w", "chain": ["a", "b"], "versions": {"openvino": "1"}, "quantisation": None}


@pytest.mark.parametrize(
    "change", [{"weights": "x"}, {"chain": ["a"]}, {"versions": {"openvino": "2"}}, {"quantisation": "q"}]
)
def test_the_key_differs_where_the_conversion_would(change):
    """Weights, modules, versions and what int8 was measured on are in the name; the same values give the same name."""
    assert conversion_key(**BASE) == conversion_key(**BASE)
    assert conversion_key(**{**BASE, **change}) != conversion_key(**BASE)


def test_changed_weights_and_settings_are_converted_anew(tmp_path, tiny):
    """One changed number, another pooling or another configuration value makes another conversion; none does not."""
    import torch

    store = ConversionStore(tmp_path / "kept")
    model = tiny.model(tmp_path / "model", "bert")
    places = [converted_folder(model, store=store), converted_folder(model, store=store)]
    assert places[0] == places[1]
    before = weights_in_memory(model), chain_of_conversion(model)
    with torch.no_grad():
        model[0].auto_model.encoder.layer[0].output.dense.bias[3] += 1e-3
    places.append(converted_folder(model, store=store))
    assert weights_in_memory(model) != before[0]
    assert chain_of_conversion(model) == before[1]
    model[1].pooling_mode = "cls"
    places.append(converted_folder(model, store=store))
    model[0].auto_model.config.hidden_act = "relu"
    assert chain_of_conversion(model) != before[1]
    assert len(set(places)) == 3
