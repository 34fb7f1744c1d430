"""Facts and hardware are found without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = ("torch", "transformers", "sentence_transformers", "safetensors", "tokenizers", "huggingface_hub", "numpy")
CODE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} was imported")

sys.meta_path.insert(0, Refuse())
{body}
"""


def run(body: str, blocked=BLOCKED) -> str:
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(blocked=set(blocked), body=body)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_loads_nothing_heavy():
    """Neither package loads torch, transformers, the host, or the hub's client."""
    run("import embedprefs.facts, embedprefs.hardware, embedprefs.facts.memory, embedprefs.facts.content_hash")


def test_reading_a_folder_loads_nothing_heavy(modernbert_folder):
    """Facts, hashes and the memory estimate of a folder need none of them, and no client of the hub."""
    body = f"""
from embedprefs.facts import read_facts
from embedprefs.facts.content_hash import tokenizer_hash, weights_hash
from embedprefs.facts.memory import estimate_memory
facts = read_facts({str(modernbert_folder)!r})
weights_hash(facts), tokenizer_hash(facts)
estimate_memory(facts, dtype="float32", batch_tokens=10, max_length=10, attention="sdpa")
print(facts.embedding_dimension)
"""
    assert run(body).strip() == "32"


@pytest.mark.parametrize("call", ["detect_hardware()", "diagnose(detect_hardware())"])
def test_describing_the_machine_loads_nothing_heavy(call):
    """torch's version and build are found without torch, and versions without importing the packages."""
    assert run(f"from embedprefs.hardware import detect_hardware, diagnose\nprint(bool({call}))").strip() == "True"
