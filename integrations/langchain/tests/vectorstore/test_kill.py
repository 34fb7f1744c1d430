"""A process that is killed while it adds documents."""

from __future__ import annotations

import subprocess
import sys

from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_embedprefs import EmbedPrefsVectorStore

TEXTS = [f"text {number}" for number in range(2000)]

CHILD = """
import sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_embedprefs import EmbedPrefsVectorStore

store = EmbedPrefsVectorStore(DeterministicFakeEmbedding(size=8), sys.argv[1], "notes")
texts = [f"text {number}" for number in range(2000)]
for start in range(0, len(texts), 10):
    store.add_texts(texts[start : start + 10], ids=texts[start : start + 10])
    print(start + 10, flush=True)
"""


def test_what_was_acknowledged_is_there_and_a_rerun_adds_the_rest(tmp_path, monkeypatch):
    """Nothing is lost, nothing is half there, nothing is embedded twice."""
    url = f"edge:{tmp_path / 'index'}"
    command = [sys.executable, "-c", CHILD, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        acknowledged = next((int(line) for line in child.stdout if int(line) >= 100), 0)
        child.kill()
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    assert 100 <= acknowledged < len(TEXTS)

    embedded = []
    original = DeterministicFakeEmbedding.embed_documents

    def counted(self, texts):
        embedded.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(DeterministicFakeEmbedding, "embed_documents", counted)
    with EmbedPrefsVectorStore(DeterministicFakeEmbedding(size=8), url, "notes") as store:
        present = {document.id: document for document in store.get_by_ids(TEXTS)}
        assert set(TEXTS[:acknowledged]) <= set(present)
        assert all(document.page_content == identifier for identifier, document in present.items())
        store.add_texts(TEXTS, ids=TEXTS)
        assert store.store.count("notes") == len(TEXTS)
    assert [text for text in embedded if text in TEXTS] == [text for text in TEXTS if text not in present]
