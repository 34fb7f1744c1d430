"""Documents into a collection: incremental, exact, never half."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embedprefs import (
    EmbedPrefsWarning,
    InputError,
    InvalidPreferenceError,
    PreferenceMismatchError,
    load_model,
)
from embedprefs.preferences.index_limits import most_chunk_overlap
from embedprefs_qdrant import Document, QdrantIngestor
from embedprefs_qdrant.pipeline import GROUP_SIZE
from embedprefs_qdrant.spaces import ModelSpace


def test_every_chunk_is_stored_once_with_its_offsets(make_ingestor, corpus, store):
    """A chunk's text is the document between its offsets, and no id is there twice."""
    ingestor = make_ingestor(store)
    report = ingestor.ingest(str(corpus))
    points = list(ingestor.store.scroll(ingestor.collection.name))
    assert report.documents == 31
    assert report.new == 31
    assert len(points) == len({point.id for point in points}) == report.chunks > 100
    for point in points:
        text = (corpus / point.payload["source"]).read_text(encoding="utf-8")
        assert text[point.payload["start"] : point.payload["end"]] == point.payload["text"]


def test_an_unchanged_corpus_embeds_nothing(make_ingestor, corpus, store):
    """The second run reads, hashes and stops there."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    again = ingestor.ingest(str(corpus))
    assert (again.unchanged, again.embedded, again.chunks, again.deleted) == (31, 0, 0, 0)
    assert "unchanged" in again.summary()


def test_an_unchanged_corpus_does_not_load_the_model(model_folder, corpus, tmp_path):
    """Hashes are enough to see that nothing is to be done."""
    url = f"edge:{tmp_path / 'index'}"
    with QdrantIngestor(str(model_folder), url, root=corpus) as first:
        first.ingest(str(corpus))
        assert first.space.loaded
    with QdrantIngestor(str(model_folder), url, root=corpus) as second:
        assert second.ingest(str(corpus)).unchanged == 31
        assert not second.space.loaded


def test_edits_leave_what_a_fresh_run_would_make(make_ingestor, corpus, edit_corpus, contents, store):
    """Edited, shrunk, renamed, deleted and added files: the same points, payloads and vectors as from nothing."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    before = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.md")}
    edit_corpus(corpus)
    gone = before - {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.md")}
    report = ingestor.ingest(str(corpus), prune=True)
    fresh = make_ingestor(":memory:")
    fresh.ingest(str(corpus))
    assert contents(ingestor).keys() == contents(fresh).keys()
    mine, theirs = contents(ingestor), contents(fresh)
    assert all(mine[point][0] == theirs[point][0] for point in mine)
    assert report.changed == 3
    assert len(gone) == 2
    assert set(report.pruned) == gone
    assert report.reused > 0, "the renamed file's vectors are in the store already"


def test_one_edited_section_costs_its_own_chunks(make_ingestor, corpus, store):
    """The chunks of other sections keep their vectors; only their payloads are brought up to date."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    file = corpus / "part1" / "document013.md"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("## Section 2\n", "## Section 2\n\nBan kel.\n", 1), encoding="utf-8")
    report = ingestor.ingest(str(corpus))
    assert report.changed == 1
    assert 0 < report.embedded <= 3
    assert report.kept >= report.chunks - 3
    for point in ingestor.store.scroll(ingestor.collection.name):
        source = (corpus / point.payload["source"]).read_text(encoding="utf-8")
        assert source[point.payload["start"] : point.payload["end"]] == point.payload["text"]


def test_a_text_that_stands_twice_is_embedded_once(make_ingestor, corpus, store):
    """The twin file has points of its own and no vectors of its own."""
    report = make_ingestor(store).ingest(str(corpus))
    assert report.reused > 0
    assert report.embedded + report.reused == report.chunks


def test_files_that_are_gone_are_named_and_kept_unless_pruned(make_ingestor, corpus, store):
    """Deleting is asked for, never guessed."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    (corpus / "part2" / "document005.md").unlink()
    kept = ingestor.ingest(str(corpus))
    assert kept.absent == ["part2/document005.md"]
    assert kept.pruned == []
    assert "part2/document005.md" in kept.summary()
    pruned = ingestor.ingest(str(corpus), prune=True)
    assert pruned.pruned == ["part2/document005.md"]
    assert ingestor.ingest(str(corpus)).absent == []


def test_pruning_speaks_only_for_the_folder_that_was_given(make_ingestor, corpus, store):
    """Indexing one folder never removes what another one holds."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    report = ingestor.ingest(str(corpus / "part0"), prune=True)
    assert report.absent == report.pruned == []


def test_pruning_most_of_a_collection_needs_a_word(make_ingestor, corpus, store):
    """An empty mount must not empty the index."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    for file in list((corpus / "part0").iterdir()) + list((corpus / "part1").iterdir()):
        file.unlink()
    before = ingestor.store.count(ingestor.collection.name)
    with pytest.raises(InputError, match="Pruning would delete 21 of the 31 documents"):
        ingestor.ingest(str(corpus), prune=True)
    assert ingestor.store.count(ingestor.collection.name) == before
    assert len(ingestor.ingest(str(corpus), prune=True, allow_mass_deletion=True).pruned) == 21


def test_an_unreadable_file_is_named_and_never_pruned(make_ingestor, corpus, store):
    """What cannot be read this time is not gone."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    broken = corpus / "part1" / "document001.md"
    broken.write_bytes(b"# Latin\n\xe9t\xe9\n")
    report = ingestor.ingest(str(corpus), prune=True)
    assert list(report.failed) == ["part1/document001.md"]
    assert report.exit_code == 4
    assert report.pruned == []
    assert ingestor.status().documents == 31


def test_a_generator_is_read_once_and_whole(make_ingestor, store):
    """More documents than a group, from an iterator that can be read only once."""
    names = [f"note {number}" for number in range(GROUP_SIZE + 40)]
    ingestor = make_ingestor(store)
    report = ingestor.ingest((name, f"Ban kel {name}.") for name in names)
    assert report.documents == len(names)
    assert ingestor.status().documents == len(names)


def test_an_error_of_the_caller_s_iterable_reaches_the_caller(make_ingestor, store):
    """What was read before is stored; the error is not swallowed."""

    def notes():
        yield "a", "Ban kel."
        raise RuntimeError("the database went away")

    ingestor = make_ingestor(store)
    with pytest.raises(RuntimeError, match="the database went away"):
        ingestor.ingest(notes())
    assert ingestor.ingest([("a", "Ban kel.")]).failed == {}


def test_a_dry_run_says_what_would_be_done_and_stores_nothing(make_ingestor, corpus, store):
    """Same counts as the run itself, and no collection."""
    ingestor = make_ingestor(store)
    planned = ingestor.ingest(str(corpus), dry_run=True)
    assert not ingestor.collection.exists
    done = ingestor.ingest(str(corpus))
    assert (planned.new, planned.chunks) == (done.new, done.chunks)


def test_stopping_leaves_whole_batches_and_the_next_run_continues(make_ingestor, contents, store):
    """A stop ends the run after the group in hand, and nothing is embedded twice."""
    documents = [(f"note {number}", f"Ban kel note {number}.") for number in range(4 * GROUP_SIZE)]
    ingestor = make_ingestor(store)

    def stop_soon(step):
        if step.embedded:
            ingestor.stop()

    first = ingestor.ingest(documents, progress=stop_soon)
    assert first.interrupted
    assert first.exit_code == 130
    stored = len(contents(ingestor))
    assert 0 < stored < len(documents)
    second = ingestor.ingest(documents)
    assert not second.interrupted
    assert second.embedded + second.reused == len(documents) - stored
    assert len(contents(ingestor)) == len(documents)


def test_another_identity_is_refused_before_anything_is_embedded(make_ingestor, model_folder, corpus, tmp_path):
    """Both sides are shown, field by field, and the model is not even loaded."""
    url = f"edge:{tmp_path / 'index'}"
    first = make_ingestor(url)
    first.ingest(str(corpus))
    before = first.store.count("documents")
    first.close()
    other = ModelSpace(str(model_folder), overrides={"prompts.document": "document: "})
    with QdrantIngestor(other, url, root=corpus) as second:
        with pytest.raises(PreferenceMismatchError) as caught:
            second.ingest(str(corpus))
        with pytest.raises(PreferenceMismatchError):
            second.search("ban kel")
        assert not other.loaded
        assert second.store.count("documents") == before
        assert second.status().fits is False
    assert "document" in str(caught.value)
    assert "document: " in str(caught.value)


def test_a_collection_without_a_record_is_refused(make_ingestor, corpus, store):
    """Points that something else stored may be of any space."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    other = make_ingestor(store) if store == ":memory:" else ingestor
    if other is not ingestor:
        return
    layout = ingestor.store.describe("documents").layout
    ingestor.store.ensure("strangers", layout)
    points = list(ingestor.store.scroll("documents", vectors=True))[:3]
    from embedprefs_qdrant.stores import Point

    ingestor.store.upsert("strangers", [Point(point.id, point.vectors, point.payload) for point in points])
    ingestor.collection.name = "strangers"
    with pytest.raises(PreferenceMismatchError, match="no record of the preferences"):
        ingestor.ingest(str(corpus))


def test_the_canaries_are_not_the_user_s_texts(tmp_path, minilm_folder):
    """They are longer than some models read; a preference about over-long texts does not speak of them."""
    space = ModelSpace(str(minilm_folder), overrides={"tokenizer.on_overflow": "error", "compute.backend": "torch"})
    with QdrantIngestor(space, ":memory:", root=tmp_path) as ingestor:
        assert ingestor.ingest([("note", "A short text.")]).failed == {}
        assert ingestor.ingest([("note", "A short text."), ("other", "Another.")]).truncated == 0
        assert space.model.report.texts == 2


class DriftingSpace(ModelSpace):
    """The recorded model, but its vectors have moved, as after a changed library."""

    def embed_documents(self, texts):
        return super().embed_documents(texts) * np.where(np.arange(16) % 2, 1.0, 1.3).astype(np.float32)


def test_vectors_that_moved_are_caught_by_the_canaries(make_ingestor, model_folder, corpus, tmp_path):
    """Every recorded field agrees; the vectors do not."""
    url = f"edge:{tmp_path / 'index'}"
    first = make_ingestor(url)
    first.ingest(str(corpus))
    first.close()
    (corpus / "part0" / "new.md").write_text("Ban kel lim mos.", encoding="utf-8")
    with (
        QdrantIngestor(DriftingSpace(str(model_folder)), url, root=corpus) as second,
        pytest.raises(PreferenceMismatchError, match="canary"),
    ):
        second.ingest(str(corpus))


class BrokenSpace(ModelSpace):
    """A model that overflows on one text."""

    def embed_documents(self, texts):
        vectors = super().embed_documents(texts)
        for place, text in enumerate(texts):
            if "overflow" in text:
                vectors[place, 0] = np.nan
        return vectors


def test_a_vector_with_nan_fails_its_document_alone(model_folder, corpus, store):
    """The others are stored, the run says which one is missing."""
    (corpus / "part0" / "bad.md").write_text("Ban kel overflow.", encoding="utf-8")
    with QdrantIngestor(BrokenSpace(str(model_folder)), store, root=corpus) as ingestor:
        report = ingestor.ingest(str(corpus))
        assert list(report.failed) == ["part0/bad.md"]
        assert "NaN" in report.failed["part0/bad.md"]
        assert ingestor.status().documents == 31


def test_what_was_cut_otherwise_is_cut_again(make_ingestor, corpus, tmp_path):
    """Chunk sizes are no mismatch: they decide what is embedded again."""
    url = f"edge:{tmp_path / 'index'}"
    first = make_ingestor(url)
    first.ingest(str(corpus))
    first.close()
    second = make_ingestor(url, chunk_tokens=32)
    report = second.ingest(str(corpus))
    assert report.changed == 31
    fresh = make_ingestor(":memory:", chunk_tokens=32)
    fresh.ingest(str(corpus))
    assert second.store.count("documents") == fresh.store.count("documents")


def test_metadata_reaches_the_payload_and_a_change_of_it_embeds_nothing(make_ingestor, store):
    """The vector depends on the text alone."""
    ingestor = make_ingestor(store, metadata_fields={"year": "integer"})
    ingestor.ingest([Document("a", "Ban kel.", metadata={"year": 2020})])
    report = ingestor.ingest([Document("a", "Ban kel.", metadata={"year": 2021})])
    assert (report.changed, report.embedded) == (1, 0)
    [point] = ingestor.store.scroll("documents")
    assert point.payload["metadata"] == {"year": 2021}


def test_a_failing_progress_callback_ends_the_run_without_hanging(make_ingestor, store):
    """An error in the caller's thread stops the others."""
    documents = [(f"note {number}", f"Ban kel note {number}.") for number in range(4 * GROUP_SIZE)]
    ingestor = make_ingestor(store)

    def fail(_step):
        raise ValueError("the window was closed")

    with pytest.raises(ValueError, match="the window was closed"):
        ingestor.ingest(documents, progress=fail)
    names = {thread.name for thread in threading.enumerate()}
    assert "embedprefs-store" not in names
    assert ingestor.ingest(documents).failed == {}


def test_soft_differences_warn(make_ingestor, model_folder, corpus, tmp_path):
    """Another number format is said, not refused."""
    url = f"edge:{tmp_path / 'index'}"
    first = make_ingestor(url)
    first.ingest(str(corpus))
    first.close()
    with (
        QdrantIngestor(
            ModelSpace(str(model_folder), overrides={"compute.dtype": "bfloat16"}), url, root=corpus
        ) as second,
        pytest.warns(EmbedPrefsWarning, match="numerics"),
    ):
        second.ingest(str(corpus))


def test_kept_vectors_fill_a_second_collection(model_folder, make_ingestor, corpus, contents, tmp_path):
    """With `compute.cache` a corpus is embedded once, wherever it is stored; the canaries never come from it."""
    model = load_model(str(model_folder), overrides={"compute.cache": str(tmp_path / "cache")})
    first = make_ingestor(model=model)
    report = first.ingest(str(corpus))
    assert report.embedded > 100
    assert model.report.cached == 0
    computed = model.report.texts
    second = make_ingestor(model=model)
    again = second.ingest(str(corpus))
    assert again.embedded == again.cached == report.embedded
    assert report.cached == 0
    assert f"embedded {again.embedded} chunks ({again.cached} from the cache)" in again.summary()
    assert model.report.cached == report.embedded
    assert model.report.texts - computed == report.embedded, "the canaries are not the user's texts"
    mine, theirs = contents(first), contents(second)
    assert mine.keys() == theirs.keys()
    for point, (payload, vectors) in mine.items():
        assert payload == theirs[point][0]
        # The emulation scales vectors with numpy, whose sums depend on where an array lies in memory.
        np.testing.assert_allclose(
            np.frombuffer(vectors["dense"], np.float32), np.frombuffer(theirs[point][1]["dense"], np.float32), rtol=1e-6
        )


def test_sizes_that_cannot_be_used_leave_no_collection(make_ingestor, corpus):
    """They are refused before anything is made, by the bound that `check` keeps to."""
    ingestor = make_ingestor(chunk_tokens=64, chunk_overlap=most_chunk_overlap(64) + 1)
    with pytest.raises(InvalidPreferenceError, match=r"index\.chunk_overlap is 33"):
        ingestor.ingest(str(corpus))
    assert ingestor.store.collections() == []


def test_a_tenant_that_is_not_declared_is_a_keyword(make_ingestor, store):
    """A number among the tenants is found like any other name; `check` says no more than that."""
    ingestor = make_ingestor(store, tenant_field="customer")
    ingestor.ingest(
        [Document("a", "Ban kel.", metadata={"customer": 7}), Document("b", "Lim.", metadata={"customer": "acme"})]
    )
    assert [hit.source for hit in ingestor.search("ban", where="customer=7")] == ["a"]
    assert [hit.source for hit in ingestor.search("ban", where="customer=acme")] == ["b"]


def test_a_chunk_may_take_several_windows(model_folder, make_ingestor, corpus):
    """With `overflow = "window"` the model reads the whole of a longer chunk; without a stated size it stays within."""
    overrides = {"tokenizer.max_seq_length": 32, "tokenizer.overflow": "window", "tokenizer.window_overlap": 4}
    model = load_model(str(model_folder), overrides=overrides)
    assert make_ingestor(model=model, chunk_tokens=64).chunker.chunk_tokens == 64
    assert make_ingestor(model=model, chunk_tokens=None).chunker.chunk_tokens <= 32


def test_verify_compares_with_what_the_model_does_now(model_folder, make_ingestor, corpus, tmp_path):
    """Kept vectors would agree with themselves whatever became of the model."""
    model = load_model(str(model_folder), overrides={"compute.cache": str(tmp_path / "cache")})
    ingestor = make_ingestor(model=model)
    ingestor.ingest(str(corpus))
    computed = model.report.texts
    report = ingestor.verify(str(corpus), sample=16)
    assert (report.sampled, report.deviating) == (16, {})
    assert model.report.texts - computed == 16
    assert model.report.cached == 0


def test_what_the_store_lost_is_stored_again(make_ingestor, corpus, contents, store):
    """The store is asked what it holds, not a ledger: points that vanished, and a collection that did."""
    ingestor = make_ingestor(store)
    ingestor.ingest(str(corpus))
    before = contents(ingestor)
    ingestor.store.delete("documents", ids=list(before)[:7])
    assert 0 < ingestor.ingest(str(corpus)).changed <= 7
    assert contents(ingestor).keys() == before.keys()
    ingestor.store.drop("documents")
    assert ingestor.ingest(str(corpus)).new == 31
    assert {point: row[0] for point, row in contents(ingestor).items()} == {
        point: row[0] for point, row in before.items()
    }
