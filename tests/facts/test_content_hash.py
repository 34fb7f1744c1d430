"""Hashes depend on content alone, are remembered safely, and survive what the host rewrites."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from embedprefs.errors import ModelFilesError, UnavailableError
from embedprefs.facts import content_hash, read_facts
from embedprefs.facts.content_hash import canonical_tokenizer, file_hash, tokenizer_hash, weights_hash


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestWeights:
    """The hash of a model's weights."""

    def test_one_file_is_hashed_as_the_hub_does(self, bert_folder):
        """A model of one weights file has that file's sha256."""
        assert weights_hash(read_facts(str(bert_folder))) == sha256(bert_folder / "model.safetensors")

    def test_the_place_does_not_count(self, bert_folder, copy_of, cached_model):
        """The same files in another folder and in the hub's cache have the same hash."""
        expected = weights_hash(read_facts(str(bert_folder)))
        assert weights_hash(read_facts(str(copy_of(bert_folder)))) == expected
        cache = cached_model(bert_folder, "owner/name")
        assert weights_hash(read_facts("owner/name", cache_folder=cache)) == expected

    def test_other_weights_have_another_hash(self, bert_folder):
        """One changed byte is enough."""
        before = weights_hash(read_facts(str(bert_folder)))
        path = bert_folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert weights_hash(read_facts(str(bert_folder))) != before

    def test_the_cache_is_not_read(self, bert_folder, cached_model):
        """In the hub's cache the blob's name is the hash: the blob itself is not opened."""
        cache = cached_model(bert_folder, "owner/name")
        facts = read_facts("owner/name", cache_folder=cache)
        blob = (facts.folder / "model.safetensors").resolve()
        blob.write_bytes(b"")
        assert weights_hash(facts) == blob.name

    def test_a_dense_module_counts(self, bert_folder, tmp_path, load_host):
        """Weights of every module of the chain count, and their folder's name does not."""
        from sentence_transformers.sentence_transformer.modules import Dense

        model = load_host(bert_folder)
        model.append(Dense(32, 12))
        model.save(str(tmp_path / "dense"))
        facts = read_facts(str(tmp_path / "dense"))
        dense = facts.modules[-1].path
        before = weights_hash(facts)
        assert before != sha256(tmp_path / "dense" / "model.safetensors")
        shutil.move(tmp_path / "dense" / dense, tmp_path / "dense" / "renamed")
        modules = json.loads((tmp_path / "dense" / "modules.json").read_text())
        modules[-1]["path"] = "renamed"
        (tmp_path / "dense" / "modules.json").write_text(json.dumps(modules))
        assert weights_hash(read_facts(str(tmp_path / "dense"))) == before
        (tmp_path / "dense" / "renamed" / "model.safetensors").write_bytes(b"other")
        assert weights_hash(read_facts(str(tmp_path / "dense"))) != before

    def test_no_weights(self, bert_folder):
        """A model without weights has no hash."""
        (bert_folder / "model.safetensors").unlink()
        with pytest.raises(ModelFilesError, match="has no weights"):
            weights_hash(read_facts(str(bert_folder)))

    def test_weights_that_are_nowhere(self, bert_folder):
        """A file that vanished since is named."""
        facts = read_facts(str(bert_folder))
        (bert_folder / "model.safetensors").unlink()
        with pytest.raises(UnavailableError, match=r"model\.safetensors"):
            weights_hash(facts)


class TestRemembering:
    """Hashes of large files are remembered."""

    @pytest.fixture
    def remembered(self, tmp_path, monkeypatch):
        """A file that is large enough, old enough, and where its hash is kept."""
        monkeypatch.setattr(content_hash, "_WORTH_REMEMBERING", 10)
        path = tmp_path / "weights"
        path.write_bytes(b"x" * 100)
        old = time.time() - 100
        os.utime(path, (old, old))
        return path, tmp_path / "kept"

    def entries(self, folder):
        return list(folder.glob("*")) if folder.exists() else []

    def test_a_hash_is_kept_and_used(self, remembered):
        """The second time the content is not read: what was kept is returned."""
        path, kept = remembered
        expected = sha256(path)
        assert file_hash(path, cache_folder=kept) == expected
        entry = self.entries(kept)[0]
        value = json.loads(entry.read_text())
        entry.write_text(json.dumps({**value, "sha256": "f" * 64}))
        assert file_hash(path, cache_folder=kept) == "f" * 64
        assert file_hash(path, cache_folder=kept, remember=False) == expected

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"file": {}, "sha256": "x"}', '{"sha256": 1}'])
    def test_a_damaged_entry_is_hashed_anew(self, remembered, content):
        """Whatever stands in the cache, the hash is right."""
        path, kept = remembered
        expected = file_hash(path, cache_folder=kept)
        self.entries(kept)[0].write_text(content)
        assert file_hash(path, cache_folder=kept) == expected
        assert json.loads(self.entries(kept)[0].read_text())["sha256"] == expected

    def test_a_changed_file_is_hashed_anew(self, remembered):
        """Another time or size is another file."""
        path, kept = remembered
        before = file_hash(path, cache_folder=kept)
        path.write_bytes(b"y" * 100)
        os.utime(path, (time.time() - 50, time.time() - 50))
        assert file_hash(path, cache_folder=kept) == sha256(path) != before

    def test_a_fresh_file_is_not_remembered(self, remembered):
        """A file written a moment ago may be written again within the clock's granularity."""
        path, kept = remembered
        path.write_bytes(b"z" * 100)
        assert file_hash(path, cache_folder=kept) == sha256(path)
        assert self.entries(kept) == []

    def test_a_small_file_is_not_remembered(self, remembered, monkeypatch):
        """Hashing it takes no time, and an empty home stays empty."""
        path, kept = remembered
        monkeypatch.setattr(content_hash, "_WORTH_REMEMBERING", 1000)
        file_hash(path, cache_folder=kept)
        assert not kept.exists()

    def test_a_cache_that_cannot_be_written(self, remembered):
        """Where nothing can be kept, the hash is still returned."""
        path, kept = remembered
        kept.write_text("a file where the folder should be")
        assert file_hash(path, cache_folder=kept) == sha256(path)

    def test_processes_side_by_side(self, remembered):
        """Several processes that hash at once all get the right hash and leave one whole entry."""
        path, kept = remembered
        code = (
            "import sys; from pathlib import Path; from embedprefs.facts import content_hash as c; "
            "c._WORTH_REMEMBERING = 10; print(c.file_hash(sys.argv[1], cache_folder=Path(sys.argv[2])))"
        )
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(path), str(kept)], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        assert {process.communicate(timeout=60)[0].strip() for process in running} == {sha256(path)}
        assert len(self.entries(kept)) == 1

    def test_an_absent_file(self, tmp_path):
        """It is named."""
        with pytest.raises(ModelFilesError, match="cannot be read"):
            file_hash(tmp_path / "absent")


class TestTokenizer:
    """The hash of what makes tokens."""

    @pytest.mark.parametrize(
        "kind", ["minilm_folder", "bert_folder", "roberta_folder", "modernbert_folder", "static_folder"]
    )
    def test_it_survives_saving(self, kind, request, tmp_path, load_host):
        """The host rewrites every tokenizer file on saving; the tokens stay the same and so does the hash."""
        folder = request.getfixturevalue(kind)
        model = load_host(folder)
        model.encode(["some text", "another one that is longer"])
        if model.tokenizer is not None and hasattr(model.tokenizer, "padding_side"):
            model.max_seq_length = 20
        model.save(str(tmp_path / "saved"))
        saved = read_facts(str(tmp_path / "saved"))
        assert tokenizer_hash(saved) == tokenizer_hash(read_facts(str(folder)))

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("tokenizer_config.json", {"model_max_length": 7}),
            ("tokenizer_config.json", {"padding_side": "left", "truncation_side": "left"}),
            ("tokenizer_config.json", {"name_or_path": "/somewhere/else"}),
            ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}),
            (
                "tokenizer.json",
                {"padding": None, "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0}},
            ),
            ("tokenizer.json", {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}),
        ],
    )
    def test_what_changes_no_token_does_not_count(self, bert_folder, edit_json, file, change):
        """Limits, sides, paths and decoding are left out."""
        before = tokenizer_hash(read_facts(str(bert_folder)))
        edit_json(bert_folder / file, **change)
        assert tokenizer_hash(read_facts(str(bert_folder))) == before

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("tokenizer_config.json", {"do_lower_case": False}),
            ("tokenizer_config.json", {"cls_token": "[SEP]"}),
            ("tokenizer_config.json", {"additional_special_tokens": ["<extra>"]}),
            ("tokenizer.json", {"normalizer": None, "version": None}),
            ("tokenizer.json", {"post_processor": None}),
            ("sentence_bert_config.json", {"do_lower_case": True}),
        ],
    )
    def test_what_changes_tokens_counts(self, bert_folder, edit_json, file, change):
        """Normalisation, special tokens and the host's own lowering are part of the hash."""
        before = tokenizer_hash(read_facts(str(bert_folder)))
        edit_json(bert_folder / file, **change)
        assert tokenizer_hash(read_facts(str(bert_folder))) != before

    def test_one_word_more(self, bert_folder):
        """Another vocabulary is another tokenizer."""
        before = tokenizer_hash(read_facts(str(bert_folder)))
        path = bert_folder / "tokenizer.json"
        values = json.loads(path.read_text())
        values["model"]["vocab"]["unheard"] = len(values["model"]["vocab"])
        path.write_text(json.dumps(values))
        assert tokenizer_hash(read_facts(str(bert_folder))) != before

    def test_merges_as_texts_and_as_pairs(self):
        """Older files write "a b", newer ones ["a", "b"]."""
        old = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}
        new = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]], "fuse_unk": False, "dropout": None}}
        assert canonical_tokenizer(old) == canonical_tokenizer(new)

    def test_older_metaspace(self):
        """`add_prefix_space` became `prepend_scheme`."""
        old = {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "add_prefix_space": True}}
        new = {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}}
        never = {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True}}
        assert canonical_tokenizer(old) == canonical_tokenizer(new) != canonical_tokenizer(never)

    def test_older_vocabulary_files(self, tmp_path, bert_folder):
        """Without tokenizer.json the vocabulary's file counts."""
        (bert_folder / "tokenizer.json").unlink()
        (bert_folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
        before = tokenizer_hash(read_facts(str(bert_folder)))
        (bert_folder / "vocab.txt").write_text("[PAD]\n[UNK]\nx\n")
        after = read_facts(str(bert_folder))
        assert tokenizer_hash(after) != before
        assert after.tokenizer.size == 3

    def test_a_damaged_tokenizer(self, bert_folder):
        """No hash is made up for a file that cannot be read."""
        facts = read_facts(str(bert_folder))
        (bert_folder / "tokenizer.json").write_text("{")
        with pytest.raises(ModelFilesError, match=r"tokenizer\.json cannot be read"):
            tokenizer_hash(facts)
