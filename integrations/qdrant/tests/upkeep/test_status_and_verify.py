"""A collection looked at, compared with its source, and mended."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import InputError
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
