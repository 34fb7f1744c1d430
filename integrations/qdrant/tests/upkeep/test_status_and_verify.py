"""A collection looked at, compared with its source, and mended."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError
from embedprefs_qdrant import QdrantIngestor
from embedprefs_qdrant.spaces import ModelSpace
from embedprefs_qdrant.stores import Point


@pytest.fixture(params=[":memory:", "edge"])
def filled(request, tmp_path, make_ingestor, corpus):
    """An ingestor over a filled collection."""
    ingestor = make_ingestor(request.param if request.param == ":memory:" else f"edge:{tmp_path / 'index'}")
    ingestor.ingest(str(corpus))
    return ingestor


def rows(ingestor):
    return list(ingestor.store.scroll("documents", vectors=True))


def test_status_says_what_is_in_it_and_whether_the_preferences_fit(filled):
    """Counts, vectors, identity, since when."""
    status = filled.status()
    assert (status.documents, status.points) == (31, len(rows(filled)))
    assert status.vectors["dense"] == "16 dimensions, cosine"
    assert status.fits is True
    assert status.incomplete == ()
    assert status.fingerprint == filled.space.record.fingerprint
    assert status.created_at is not None


def test_status_names_a_document_of_which_a_part_is_missing(filled):
    """What a killed run leaves is seen."""
    victim = next(point for point in rows(filled) if point.payload["source"] == "part1/document013.md")
    filled.store.delete("documents", ids=[victim.id])
    assert filled.status().incomplete == ("part1/document013.md",)


def test_status_of_a_missing_collection_is_an_error(make_ingestor):
    """With the names of those that exist."""
    with pytest.raises(InputError, match="There are: none yet"):
        make_ingestor(":memory:").status()


def test_store_and_source_agree_after_an_ingest(filled, corpus):
    """Nothing to complain about."""
    report = filled.verify(str(corpus), sample=20)
    assert report.is_good
    assert report.sampled == 20


def test_every_kind_of_damage_is_found_and_repaired(filled, corpus, contents):
    """Missing, stale, outdated, deviating: each named, and after the repair the store is as it was."""
    before = contents(filled)
    points = {point.payload["source"]: point for point in rows(filled)}
    lost, doubled, edited, moved = (points[f"part1/document0{number}.md"] for number in ("01", "04", "07", "10"))
    filled.store.delete("documents", ids=[lost.id])
    stale = Point("00000000-0000-4000-8000-000000000001", doubled.vectors, doubled.payload)
    filled.store.upsert("documents", [stale])
    filled.store.set_payload("documents", {"end": 1}, ids=[edited.id])
    wrong = {"dense": np.roll(moved.vectors["dense"], 3)}
    filled.store.upsert("documents", [Point(moved.id, wrong, moved.payload)])

    report = filled.verify(str(corpus), sample=len(before) + 1)
    assert report.missing == {"part1/document001.md": 1}
    assert report.stale == {"part1/document004.md": 1}
    assert report.outdated == {"part1/document007.md": 1}
    assert list(report.deviating) == [moved.id]
    assert not report.is_good

    repaired = filled.verify(str(corpus), sample=len(before) + 1, repair=True)
    assert repaired.repaired
    assert filled.verify(str(corpus), sample=len(before)).is_good
    now = contents(filled)
    assert now.keys() == before.keys()
    assert all(now[point][0] == before[point][0] for point in now)


def test_points_of_another_writer_are_counted_and_left_alone(filled, corpus):
    """A repair deletes nothing that it did not write."""
    vector = rows(filled)[0].vectors
    filled.store.upsert("documents", [Point("00000000-0000-4000-8000-000000000002", vector, {"from": "elsewhere"})])
    report = filled.verify(str(corpus), sample=0, repair=True)
    assert report.foreign == 1
    assert filled.store.existing("documents", ["00000000-0000-4000-8000-000000000002"])


def test_documents_that_are_gone_are_named(filled, corpus):
    """Absent is not stale: only a prune removes it."""
    (corpus / "part2" / "document002.md").unlink()
    assert filled.verify(str(corpus), sample=0).absent == ["part2/document002.md"]


def test_a_repair_touches_only_the_documents_it_can_read_again(filled, corpus):
    """A deviating vector of another document is not deleted: nobody would embed it again."""
    victim = next(point for point in rows(filled) if point.payload["source"] == "part1/document013.md")
    wrong = {"dense": np.roll(victim.vectors["dense"], 3)}
    filled.store.upsert("documents", [Point(victim.id, wrong, victim.payload)])
    count = filled.store.count("documents")
    report = filled.verify(str(corpus / "part0"), sample=1000, repair=True)
    assert report.deviating == {}
    assert filled.store.count("documents") == count
    assert filled.verify(str(corpus / "part1"), sample=1000, repair=True).repaired
    assert filled.verify(str(corpus), sample=1000).is_good


def test_a_repair_refuses_documents_that_can_be_read_only_once(filled):
    """The second reading would find nothing, and everything would seem gone."""
    with pytest.raises(InputError, match="paths or a list"):
        filled.verify(iter([("a", "Ban kel.")]), repair=True)
    assert filled.verify(iter([("a", "Ban kel.")])).missing == {"a": 1}


class SilentSpace(ModelSpace):
    """A model that has no vector for marks alone."""

    def embed_documents(self, texts):
        known = np.array([[any(letter.isalpha() for letter in text)] for text in texts])
        return np.where(known, super().embed_documents(texts), np.float32(0))


def test_vectors_of_zeros_agree_with_themselves(model_folder, store):
    """A static model gives them to texts without words; that is no damage."""
    notes = [("a", "… — …"), ("b", "Ban kel.")]
    with QdrantIngestor(SilentSpace(str(model_folder)), store) as ingestor:
        with pytest.warns(EmbedPrefsWarning, match="no direction"):
            ingestor.ingest(notes)
        report = ingestor.verify(notes)
        assert (report.is_good, report.sampled) == (True, 2)


def test_an_unreadable_source_is_named_and_none_of_its_rows_counted_as_gone(filled, corpus):
    """What cannot be compared is not said to be wrong."""
    (corpus / "part1" / "document001.md").write_bytes(b"\xff\xfe\xfa")
    report = filled.verify(str(corpus), sample=0)
    assert list(report.unreadable) == ["part1/document001.md"]
    assert report.absent == []
    assert report.is_good


def test_a_collection_between_creation_and_record_is_finished(make_ingestor, corpus, store):
    """Killed after the collection was made: it is empty and carries no record."""
    ingestor = make_ingestor(store)
    ingestor.store.ensure("documents", ingestor.collection.layout)
    assert ingestor.status().fits is None
    assert ingestor.search("ban") == []
    assert ingestor.ingest(str(corpus)).new == 31
    assert ingestor.status().fits is True


def test_a_collection_between_record_and_first_point_is_finished(make_ingestor, corpus, store):
    """Killed after the record was written."""
    ingestor = make_ingestor(store)
    ingestor.collection.open(create=True)
    assert ingestor.search("ban") == []
    assert ingestor.ingest(str(corpus)).new == 31


def test_an_alias_is_as_good_as_a_name(make_ingestor, corpus, store, loaded_model):
    """Indexing, searching, looking and verifying through it."""
    first = make_ingestor(store)
    first.ingest(str(corpus))
    first.store.switch("current", "documents")
    with QdrantIngestor(loaded_model, first.store, collection="current", root=corpus, index=first.index) as second:
        assert second.ingest(str(corpus)).unchanged == 31
        (corpus / "part1" / "new.md").write_text("Ban kel lim.", encoding="utf-8")
        assert second.ingest(str(corpus)).new == 1
        assert second.search("ban", limit=1)
        assert second.status().collection == "documents"
        assert second.verify(str(corpus)).is_good
    assert first.status().documents == 32


def test_graphs_are_built_by_the_embedded_engine_in_a_process_of_its_own(make_ingestor, tmp_path, corpus):
    """A small collection is scanned: nothing is built, and everything is found as before."""
    ingestor = make_ingestor(f"edge:{tmp_path / 'index'}")
    ingestor.ingest(str(corpus))
    before = [hit.id for hit in ingestor.search("ban kel", limit=5)]
    phases = []
    ingestor.optimize(progress=lambda step: phases.append(step.phase))
    assert (phases[0], phases[-1]) == ("optimizing", "done")
    assert [hit.id for hit in ingestor.search("ban kel", limit=5)] == before
    assert ingestor.ingest(str(corpus)).unchanged == 31
