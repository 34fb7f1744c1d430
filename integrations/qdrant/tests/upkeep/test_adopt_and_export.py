"""Collections that something else filled, and copies to another store."""

from __future__ import annotations

import uuid

import pytest

from embedprefs import InputError, PreferenceMismatchError
from embedprefs_qdrant import adopt_collection, export_collection, open_store
from embedprefs_qdrant.stores import CollectionLayout, Point, VectorLayout

TEXTS = [f"Ban kel number {number} lim mos." for number in range(12)]


@pytest.fixture
def foreign(make_ingestor, loaded_model):
    """A collection as another library leaves it: an unnamed vector, the text in `page_content`, no record."""

    def make(vectors=None):
        ingestor = make_ingestor(":memory:")
        rows = loaded_model.encode_document(TEXTS) if vectors is None else vectors
        ingestor.store.ensure("documents", CollectionLayout(vectors={"": VectorLayout(size=16)}))
        ingestor.store.upsert(
            "documents",
            [
                Point(str(uuid.uuid5(uuid.NAMESPACE_URL, text)), {"": row}, {"page_content": text})
                for text, row in zip(TEXTS, rows, strict=True)
            ],
        )
        return ingestor

    return make


def test_a_collection_that_agrees_is_adopted_and_searched(foreign):
    """After the sample agrees, the record is there and a search works under the collection's own names."""
    ingestor = foreign()
    with pytest.raises(PreferenceMismatchError, match="embedprefs adopt"):
        ingestor.search("ban")
    report = adopt_collection(ingestor, sample=8)
    assert report.agrees
    assert report.recorded
    assert (report.vector, report.text_field, report.sampled) == ("", "page_content", 8)
    assert report.median_cosine == pytest.approx(1.0, abs=1e-4)
    hit = ingestor.search(TEXTS[5], limit=1)[0]
    assert hit.text in TEXTS
    assert hit.score == pytest.approx(1.0, abs=1e-4)


def test_a_collection_of_another_space_is_not_adopted(foreign, loaded_model):
    """The cosines are shown and nothing is written."""
    import numpy as np

    ingestor = foreign(np.roll(loaded_model.encode_document(TEXTS), 1, axis=1))
    report = adopt_collection(ingestor)
    assert not report.agrees
    assert not report.recorded
    assert report.median_cosine < 0.99
    with pytest.raises(PreferenceMismatchError):
        ingestor.search("ban")


def test_a_collection_of_another_dimension_is_refused(make_ingestor):
    """Before anything is embedded."""
    ingestor = make_ingestor(":memory:")
    ingestor.store.ensure("documents", CollectionLayout(vectors={"": VectorLayout(size=8)}))
    with pytest.raises(InputError, match="have 8 dimensions"):
        adopt_collection(ingestor)


def test_text_that_cannot_be_found_is_an_error_that_lists_the_fields(foreign):
    """And names the option that says where it is."""
    ingestor = foreign()
    ingestor.store.set_payload(
        "documents", {"passage": "x"}, ids=[point.id for point in ingestor.store.scroll("documents")], replace=True
    )
    with pytest.raises(InputError, match="passage"):
        adopt_collection(ingestor)


def test_an_exported_collection_is_the_same_and_knows_its_preferences(make_ingestor, corpus, contents, tmp_path):
    """From the embedded engine to another store: points, vectors, payloads, record; running again copies nothing."""
    ingestor = make_ingestor(f"edge:{tmp_path / 'index'}")
    ingestor.ingest(str(corpus))
    with open_store(f"local:{tmp_path / 'copy'}") as target:
        report = export_collection(ingestor.store, "documents", target)
        assert report.verified == report.points == report.copied
        again = export_collection(ingestor.store, "documents", target)
        assert (again.copied, again.verified) == (0, report.points)
        copied = make_ingestor(target)
        mine, theirs = contents(ingestor), contents(copied)
        assert mine.keys() == theirs.keys()
        assert all(mine[point][0] == theirs[point][0] for point in mine)
        assert copied.verify(str(corpus), sample=50).is_good
        assert copied.status().fits is True
        assert copied.ingest(str(corpus)).unchanged == 31
        assert copied.search("ban kel", limit=1)[0].id == ingestor.search("ban kel", limit=1)[0].id


def test_an_export_does_not_overwrite_another_collection(make_ingestor, corpus, tmp_path):
    """Collections are told apart by the uuid in their records."""
    first = make_ingestor(f"edge:{tmp_path / 'one'}")
    first.ingest(str(corpus))
    second = make_ingestor(f"edge:{tmp_path / 'two'}")
    second.ingest(str(corpus))
    with pytest.raises(PreferenceMismatchError, match="no copy of this one"):
        export_collection(first.store, "documents", second.store)
