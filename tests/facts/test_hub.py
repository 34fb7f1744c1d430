"""Facts of a model on the hub: small files and headers alone are fetched, and every refusal is explained.

huggingface_hub reads its address when it is imported, so each test runs the reader in a process of its own against a
server on this machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedprefs.facts import read_facts
from embedprefs.facts.content_hash import tokenizer_hash, weights_hash

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecretsecretsecret"
READ = """
import json, sys
from embedprefs.errors import EmbedPrefsError
from embedprefs.facts import read_facts
from embedprefs.facts.content_hash import tokenizer_hash, weights_hash
try:
    facts = read_facts(sys.argv[1], revision=sys.argv[2] or None, cache_folder=sys.argv[3])
except EmbedPrefsError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
else:
    print(json.dumps({
        "source": facts.source, "revision": facts.revision, "folder": facts.folder and str(facts.folder),
        "embedding_dimension": facts.embedding_dimension, "tensors": len(facts.tensors),
        "missing": facts.missing_tensors, "problems": facts.problems,
        "max_seq_length": facts.max_seq_length, "parameters": facts.parameter_count,
        "weights_hash": weights_hash(facts), "tokenizer_hash": tokenizer_hash(facts),
        "torch": sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)),
    }))
"""


def server_of(root: Path):
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.serve(root)


@pytest.fixture
def hub(tmp_path, bert_folder):
    """Run the reader against a hub that serves the tiny BERT as owner/name."""
    server, asked = server_of(bert_folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def read(name: str, revision: str = "", address: str | None = None) -> dict:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": address or f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
        }
        arguments = [sys.executable, "-c", READ, name, revision, str(tmp_path / "cache")]
        result = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert TOKEN not in result.stdout + result.stderr
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    read.asked = asked
    yield read
    server.shutdown()
    thread.join()
    server.server_close()


def test_facts_equal_those_of_the_folder(hub, bert_folder):
    """What is read from the hub is what the folder says, hashes included, and no weights are fetched."""
    found = hub("owner/name")
    local = read_facts(str(bert_folder))
    assert found["source"] == "hub"
    assert found["revision"] == COMMIT
    assert found["folder"] is None
    assert found["embedding_dimension"] == local.embedding_dimension
    assert found["tensors"] == len(local.tensors)
    assert found["parameters"] == local.parameter_count
    assert found["max_seq_length"] == local.max_seq_length
    assert (found["missing"], found["problems"], found["torch"]) == ([], [], [])
    assert found["weights_hash"] == weights_hash(local)
    assert found["tokenizer_hash"] == tokenizer_hash(local)
    ranges = [span for method, path, span in hub.asked if path.endswith("/model.safetensors")]
    assert ranges, hub.asked
    assert all(span is not None for span in ranges)


def test_a_commit(hub):
    """A commit is asked for by its name."""
    assert hub("owner/name", COMMIT)["revision"] == COMMIT


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("owner/gated", "", "is gated on the hub"),
        ("owner/private", "", "or it is private"),
        ("owner/absent", "", "The hub has no model owner/absent"),
        ("owner/name", "v9", "no revision 'v9'"),
    ],
)
def test_refusals(hub, name, revision, said):
    """Each says what was asked for and what to do, and never the token."""
    found = hub(name, revision)
    assert found["error"] == "UnavailableError"
    assert said in found["message"]
    assert "\n  " in found["message"]


def test_a_hub_that_does_not_answer(hub):
    """An unreachable hub is said to be one."""
    found = hub("owner/name", address="http://127.0.0.1:1")
    assert found["error"] == "UnavailableError"
    assert "the hub cannot be reached" in found["message"]
