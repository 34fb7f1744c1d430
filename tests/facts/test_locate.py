"""Finding a model: folders, the hub's cache, revisions, and what is said where it is not found."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedprefs.errors import ModelFilesError, UnavailableError
from embedprefs.facts import read_facts
from embedprefs.facts.locate import hub_cache, hub_name, looks_like_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


class TestFolders:
    """A name that is a folder here."""

    def test_a_relative_folder_starts_at_the_base(self, bert_folder, tmp_path):
        """Relative names are relative to the folder given, or to the current one."""
        facts = read_facts("bert", base=tmp_path)
        assert (facts.folder, facts.source, facts.revision, facts.name) == (bert_folder, "folder", None, "bert")

    def test_an_existing_folder_wins_over_the_hub(self, bert_folder, tmp_path, cached_model):
        """As with the host, a folder of that name is taken although the cache has a model of that name."""
        cache = cached_model(bert_folder, "owner/name")
        (tmp_path / "owner").mkdir()
        (tmp_path / "bert").rename(tmp_path / "owner" / "name")
        assert read_facts("owner/name", base=tmp_path, cache_folder=cache).source == "folder"
        assert read_facts("owner/name", base=tmp_path / "owner", cache_folder=cache).source == "cache"

    @pytest.mark.parametrize("name", ["./absent", "../absent", "/absent/model", "~/absent", "a/b/c", "C:\\models\\x"])
    def test_an_absent_folder(self, name, tmp_path):
        """A name written as a path is never looked for on the hub."""
        with pytest.raises(ModelFilesError, match="does not exist") as caught:
            read_facts(name, base=tmp_path)
        assert caught.value.file is not None

    def test_a_folder_that_is_no_model(self, tmp_path):
        """The files that were looked for are named."""
        (tmp_path / "notes").mkdir()
        with pytest.raises(ModelFilesError, match=r"has none of modules.json, config.json, adapter_config.json"):
            read_facts("notes", base=tmp_path)

    def test_a_folder_above_the_model(self, bert_folder, tmp_path):
        """The model inside is suggested."""
        with pytest.raises(ModelFilesError, match=r"Did you mean its folder bert\?"):
            read_facts(str(tmp_path))

    def test_a_file(self, bert_folder):
        """A file is no model."""
        with pytest.raises(ModelFilesError, match="is a file"):
            read_facts(str(bert_folder / "config.json"))

    def test_a_name_that_is_nothing(self, tmp_path):
        """Neither a path nor a hub name."""
        with pytest.raises(ModelFilesError, match="neither a folder here"):
            read_facts("my model!", base=tmp_path)

    def test_a_snapshot_as_a_folder_knows_its_commit(self, bert_folder, cached_model):
        """A path into the hub's cache is a folder whose commit is in its name."""
        cache = cached_model(bert_folder, "owner/name")
        facts = read_facts(str(cache / "models--owner--name" / "snapshots" / COMMIT))
        assert (facts.source, facts.revision) == ("folder", COMMIT)


class TestCache:
    """The hub's cache, without the hub."""

    @pytest.mark.parametrize("revision", [None, "main", COMMIT, COMMIT[:10]])
    def test_revisions(self, bert_folder, cached_model, revision):
        """A branch, a commit and its beginning all lead to the snapshot."""
        cache = cached_model(bert_folder, "owner/name")
        facts = read_facts("owner/name", cache_folder=cache, revision=revision, local_files_only=True)
        assert (facts.source, facts.revision) == ("cache", COMMIT)
        assert facts.problems == ()
        assert facts.embedding_dimension == 32

    def test_two_revisions(self, bert_folder, modernbert_folder, cached_model):
        """Each revision has files of its own."""
        cache = cached_model(bert_folder, "owner/name")
        cached_model(modernbert_folder, "owner/name", commit=OTHER, reference="v2")
        assert read_facts("owner/name", cache_folder=cache).model_type == "bert"
        assert read_facts("owner/name", cache_folder=cache, revision="v2").model_type == "modernbert"

    def test_a_name_without_owner(self, bert_folder, cached_model):
        """It is one of sentence-transformers' own, as for the host."""
        cache = cached_model(bert_folder, "sentence-transformers/all-tiny")
        assert read_facts("all-tiny", cache_folder=cache).source == "cache"

    def test_the_environment_names_the_cache(self, bert_folder, cached_model, monkeypatch):
        """SENTENCE_TRANSFORMERS_HOME stands in for a cache folder, and a stated folder wins."""
        cache = cached_model(bert_folder, "owner/name")
        monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(cache))
        assert read_facts("owner/name").source == "cache"
        assert hub_cache(None) == cache
        assert hub_cache("elsewhere") == Path("elsewhere")

    def test_without_either_it_is_the_hubs_own(self, monkeypatch):
        """huggingface_hub decides, by HF_HUB_CACHE, HF_HOME or its default."""
        from huggingface_hub import constants

        monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
        assert hub_cache(None) == Path(constants.HF_HUB_CACHE)

    def test_content_hashes_come_from_the_blobs(self, bert_folder, cached_model):
        """Large files' blobs are named by their sha256, small ones' are not."""
        facts = read_facts("owner/name", cache_folder=cached_model(bert_folder, "owner/name"))
        assert set(facts.content_hashes) == {"model.safetensors"}

    def test_a_cut_off_download(self, bert_folder, cached_model):
        """Offline, a snapshot without weights is described with what is lacking."""
        (bert_folder / "model.safetensors").unlink()
        facts = read_facts("owner/name", cache_folder=cached_model(bert_folder, "owner/name"), local_files_only=True)
        assert any("holds no weights" in problem for problem in facts.problems)


class TestUnavailable:
    """What is said where a model is nowhere."""

    def test_offline(self, tmp_path):
        """Folder, cache and the reason for not asking the hub are named."""
        with pytest.raises(UnavailableError) as caught:
            read_facts("owner/absent", cache_folder=tmp_path, base=tmp_path)
        message = str(caught.value)
        assert str(tmp_path / "owner/absent") in message
        assert f"cache {tmp_path}" in message
        assert "HF_HUB_OFFLINE is set" in message
        assert "hf download owner/absent" in message

    def test_local_files_only(self, tmp_path):
        """The preference that forbids the hub is named."""
        with pytest.raises(UnavailableError, match=r"model\.local_files_only is on"):
            read_facts("owner/absent", cache_folder=tmp_path, local_files_only=True)

    def test_an_unknown_revision(self, bert_folder, cached_model):
        """The revision is named."""
        cache = cached_model(bert_folder, "owner/name")
        with pytest.raises(UnavailableError, match="owner/name at revision v9 "):
            read_facts("owner/name", cache_folder=cache, revision="v9")

    def test_a_revision_that_stayed_when_the_name_changed(self, bert_folder, cached_model):
        """It is said that the revision may be another model's, and at which this one is here."""
        cache = cached_model(bert_folder, "owner/name")
        with pytest.raises(UnavailableError) as caught:
            read_facts("owner/name", cache_folder=cache, revision=OTHER)
        message = str(caught.value)
        assert "if model.name was changed, remove model.revision or write one of owner/name" in message
        assert f"holds this model at {COMMIT}" in message
        assert f"hf download owner/name --revision {OTHER}" in message

    def test_without_a_revision_none_is_spoken_of(self, tmp_path):
        """The hint is for those who stated one."""
        with pytest.raises(UnavailableError) as caught:
            read_facts("owner/absent", cache_folder=tmp_path)
        assert "model.revision" not in str(caught.value)


def test_names_without_owner_are_the_hosts():
    """The host's list of models without an owner is known, and every other name gets the host's."""
    from sentence_transformers.util.misc import ORIGINAL_TRANSFORMER_MODELS

    assert [name for name in ORIGINAL_TRANSFORMER_MODELS if hub_name(name) != name] == []
    assert hub_name("all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    assert hub_name("bert-base-uncased-mine") == "sentence-transformers/bert-base-uncased-mine"
    assert hub_name("owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./a", True),
        ("..", True),
        ("~/a", True),
        ("/a", True),
        ("a\\b", True),
        ("a/b/c", True),
        ("a/b", False),
        ("a", False),
    ],
)
def test_what_is_written_as_a_path(name, expected):
    """More than one slash is a path, as for the host."""
    assert looks_like_folder(name) is expected
