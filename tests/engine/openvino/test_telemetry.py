"""openvino and nncf run without their telemetry: nothing is sent, started or written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import pytest

from embedprefs.engine.openvino import telemetry
from embedprefs.engine.openvino.telemetry import import_openvino, without_telemetry
from embedprefs.errors import MissingExtraError

#: Converts, quantises and runs a small model, and says what the interpreter was asked to do meanwhile.
_PROGRAM = """
import json, sys
seen = []
WATCHED = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system", "os.exec", "os.spawn")
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(WATCHED) else None)

import importlib.util
from pathlib import Path
import numpy as np

folder, kept, int8 = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
from embedprefs.engine.openvino.backend import OpenVINOBackend
from embedprefs.engine.openvino.telemetry import import_openvino
import_openvino()
at_import = list(seen)

from sentence_transformers import SentenceTransformer
from embedprefs.engine.openvino.kept import COMPILED, converted_folder, quantised_folder
from embedprefs.engine.openvino.store import ConversionStore
from embedprefs.engine.tokenising import TextTokenizer

model = SentenceTransformer(str(folder), device="cpu")
seen.clear()  # what torch and transformers do while they load is their own
store = ConversionStore(kept)
place = converted_folder(model, store=store)
ids = np.array([[5, 6, 7, 8]])
vectors = OpenVINOBackend(place, threads=1, compiled_cache=place / COMPILED).vectors(ids, np.ones_like(ids))
if int8:
    tokenizer = TextTokenizer.from_file(folder / "tokenizer.json", limit=32)
    quantised_folder(model, tokenizer=tokenizer, texts=["a b c", "d e"], store=store)
print(json.dumps({
    "at_import": at_import,
    "seen": seen,
    "telemetry": sorted(name for name in sys.modules if name.startswith("openvino_telemetry")),
    "shape": list(vectors.shape),
}))
"""


def test_fresh_process_sends_starts_and_writes_nothing(tmp_path):
    """Converting, quantising and running in a new process looks up no host, starts no process and leaves home empty."""
    from importlib.util import find_spec

    from embedprefs.testing import tiny_bert_folder

    folder = tiny_bert_folder(tmp_path / "model")
    home = tmp_path / "home"
    home.mkdir()
    # Where a variable says so, openvino's telemetry is off by itself; here nothing may help.
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("XDG_")}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(tmp_path / "kept"), str(find_spec("nncf") is not None)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)  # nothing else was printed
    assert found["at_import"] == []
    assert found["seen"] == []
    assert found["telemetry"] == []
    assert found["shape"] == [1, 32]
    assert [str(path) for path in home.rglob("*")] == []


def test_loaded_telemetry_is_held_still(monkeypatch):
    """Where the program itself has loaded openvino-telemetry, it reports nothing meanwhile, and is as before after."""
    reported = []

    class Telemetry:
        def send_event(self, *arguments):
            reported.append(arguments)

    module = types.ModuleType("openvino_telemetry")
    module.Telemetry = Telemetry
    monkeypatch.setitem(sys.modules, "openvino_telemetry", module)
    with without_telemetry():
        sys.modules["openvino_telemetry"].Telemetry().send_event("ovc", "conversion")
    assert reported == []
    Telemetry().send_event("mine")
    assert reported == [("mine",)]


def test_absent_telemetry_can_be_imported_by_others_afterwards():
    """The block on importing it ends with the call, nested or not."""
    before = sys.modules.get("openvino_telemetry", "absent")
    if before == "absent":
        with without_telemetry(), without_telemetry(), pytest.raises(ImportError):
            import openvino_telemetry  # noqa: F401
    assert sys.modules.get("openvino_telemetry", "absent") == before


def test_missing_package_names_the_extra(monkeypatch):
    """Without openvino the error says what to install."""
    monkeypatch.setattr(telemetry.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "embedprefs\[openvino\]"'):
        import_openvino()
