"""Collections that something else filled, and copies to another store."""

from __future__ import annotations

import uuid
import warnings

import pytest

from embedprefs import EmbedPrefsWarning, InputError, PreferenceMismatchError
from embedprefs_qdrant import adopt_collection, export_collection, open_store
from embedprefs_qdrant.stores import CollectionLayout, Point, VectorLayout

TEXTS = [f"Ban kel number {number} lim mos." for number in range(12)]


@pytest.fixture
def foreign(make_ingestor, loaded_model):
    """A collection as another library leaves it: an unnamed vector, the text in `page_content`, no record."""

    def make(vectors=None, name="", distance="cosine", **index):
        ingestor = make_ingestor(":memory:", **index)
        rows = loaded_model.encode_document(TEXTS) if vectors is None else vectors
        ingestor.store.ensure("documents", CollectionLayout(vectors={name: VectorLayout(16, distance)}))
        ingestor.store.upsert(
            "documents",
            [
                Point(str(uuid.uuid5(uuid.NAMESPACE_URL, text)), {name: row}, {"page_content": text})
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


@pytest.mark.parametrize("name", ["", "dense", "theirs"])
def test_an_adopted_collection_is_filled_further_and_searched_as_one(foreign, name):
    """Old points keep their text where it is, new ones have it where ours is; both are found with it."""
    ingestor = foreign(name=name)
    assert adopt_collection(ingestor).recorded
    report = ingestor.ingest([("ours", "Sat til kep.")])
    assert (report.new, report.failed) == (1, {})
    assert ingestor.search("sat til kep", limit=1)[0].text == "Sat til kep."
    assert ingestor.search(TEXTS[3], limit=1)[0].text in TEXTS
    assert {hit.text for hit in ingestor.search("ban", limit=20)} == {*TEXTS, "Sat til kep."}
    assert len(ingestor.search("ban", limit=5, per_document=1)) == 5
    assert ingestor.ingest([("ours", "Sat til kep.")]).unchanged == 1
    verified = ingestor.verify([("ours", "Sat til kep.")])
    assert (verified.foreign, verified.deviating, verified.missing) == (len(TEXTS), {}, {})


def test_an_adopted_collection_gets_further_vectors_when_it_is_filled(foreign):
    """The record speaks of the compared vector alone; nothing is claimed of others."""
    ingestor = foreign(name="dense", hybrid=True, two_stage_dims=8)
    adopt_collection(ingestor)
    assert set(ingestor.collection.read()["vectors"]) == {"dense"}
    assert not {"sparse", "two_stage_dims"} & set(ingestor.collection.read())
    with pytest.raises(PreferenceMismatchError, match="adds them"):
        ingestor.search("ban")
    ingestor.ingest([("ours", "Sat til kep.")])
    assert ingestor.search("sat til", limit=1)[0].source == "ours"


@pytest.fixture
def with_headings(make_ingestor, loaded_model):
    """A collection whose vectors were made of a heading and the text, as `index.template` may ask."""

    def make(payload):
        ingestor = make_ingestor(":memory:", template="{headings}\n{text}")
        rows = loaded_model.encode_document([f"Sat til > Kep\n{text}" for text in TEXTS])
        ingestor.store.ensure("documents", CollectionLayout(vectors={"": VectorLayout(16)}))
        points = [
            Point(str(uuid.uuid5(uuid.NAMESPACE_URL, text)), {"": row}, {"text": text, **payload})
            for text, row in zip(TEXTS, rows, strict=True)
        ]
        ingestor.store.upsert("documents", points)
        return ingestor

    return make


@pytest.mark.parametrize(
    "payload",
    [
        {"headings": ["Sat til", "Kep"]},
        {"headings": "Sat til > Kep"},
        {"metadata": {"headings": ["Sat til", "Kep"]}},
    ],
)
def test_the_template_makes_the_texts_that_are_compared(with_headings, payload):
    """The record holds the template, so the comparison has to: with the headings, wherever the payload keeps them."""
    report = adopt_collection(with_headings(payload))
    assert report.agrees
    assert report.least_cosine == pytest.approx(1.0, abs=1e-4)
    assert (report.template, report.absent_fields) == ("{headings}\n{text}", ())


def test_a_field_of_the_template_that_no_point_has_is_named(with_headings):
    """Without their headings the vectors are others, and the report says what was left empty."""
    report = adopt_collection(with_headings({}))
    assert report.absent_fields == ("headings",)
    assert not report.agrees


def test_adopting_twice_needs_a_word(foreign):
    """A record is not replaced by mistake."""
    ingestor = foreign()
    adopt_collection(ingestor)
    with pytest.raises(PreferenceMismatchError, match="carries a record already"):
        adopt_collection(ingestor)
    assert adopt_collection(ingestor, force=True).recorded


def test_a_collection_of_another_similarity_is_refused(foreign):
    """Its scores would mean something else than the record says."""
    with pytest.raises(InputError, match="similarity_fn_name"):
        adopt_collection(foreign(distance="dot"))


def test_an_empty_collection_needs_no_adoption(make_ingestor):
    """There is nothing to compare, whether the field is named or not."""
    ingestor = make_ingestor(":memory:")
    ingestor.store.ensure("documents", CollectionLayout(vectors={"": VectorLayout(size=16)}))
    for field in (None, "text"):
        with pytest.raises(InputError, match="nothing to compare"):
            adopt_collection(ingestor, text_field=field)


def test_a_field_that_holds_no_text_is_an_error(foreign):
    """Instead of vectors of nothing that agree with none."""
    with pytest.raises(InputError, match="'body' holds no text in 12 of 12"):
        adopt_collection(foreign(), text_field="body")


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


@pytest.mark.parametrize("on_disk", [None, True])
def test_an_export_warns_of_what_was_asked_for_alone(make_ingestor, corpus, tmp_path, on_disk):
    """The embedded engine keeps payloads on disk by itself; the emulation cannot, and nobody asked for it."""
    ingestor = make_ingestor(f"edge:{tmp_path / 'source'}", **({} if on_disk is None else {"on_disk": on_disk}))
    ingestor.ingest(corpus)
    with warnings.catch_warnings(record=True) as caught, open_store(f"local:{tmp_path / 'target'}") as target:
        warnings.simplefilter("always")
        export_collection(ingestor.store, "documents", target)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, EmbedPrefsWarning)]
    assert [("on_disk_payload" in message, "vectors.dense.on_disk" in message) for message in said] == (
        [] if on_disk is None else [(True, True)]
    )


def test_an_export_does_not_overwrite_another_collection(make_ingestor, corpus, tmp_path):
    """Collections are told apart by the uuid in their records."""
    first = make_ingestor(f"edge:{tmp_path / 'one'}")
    first.ingest(str(corpus))
    second = make_ingestor(f"edge:{tmp_path / 'two'}")
    second.ingest(str(corpus))
    with pytest.raises(PreferenceMismatchError, match="no copy of this one"):
        export_collection(first.store, "documents", second.store)


def test_an_export_does_not_give_strangers_a_record(make_ingestor, corpus, tmp_path):
    """Points without a record may be of any space: writing ours beside them would call them ours."""
    first = make_ingestor(f"edge:{tmp_path / 'one'}")
    first.ingest(str(corpus))
    with open_store(":memory:") as target:
        target.ensure("documents", first.store.describe("documents").layout)
        point = next(first.store.scroll("documents", vectors=True))
        target.upsert("documents", [Point(point.id, point.vectors, {"from": "elsewhere"})])
        with pytest.raises(PreferenceMismatchError, match="1 point and no record"):
            export_collection(first.store, "documents", target)
        assert target.read_record("documents") is None
        assert export_collection(first.store, "documents", target, target_name="copy").surplus == 0


def test_an_export_onto_itself_is_refused(make_ingestor, corpus, tmp_path):
    """Also by an alias."""
    ingestor = make_ingestor(f"edge:{tmp_path / 'one'}")
    ingestor.ingest(str(corpus))
    ingestor.store.switch("current", "documents")
    for name, there in (("documents", None), ("current", "documents"), ("documents", "current")):
        with pytest.raises(InputError, match="onto itself"):
            export_collection(ingestor.store, name, ingestor.store, target_name=there)
    assert export_collection(ingestor.store, "current", ingestor.store, target_name="copy").verified > 100


def test_points_that_only_the_copy_has_are_counted_and_left(make_ingestor, corpus, tmp_path):
    """What was removed from the source since the last export is not removed there."""
    ingestor = make_ingestor(f"edge:{tmp_path / 'one'}")
    ingestor.ingest(str(corpus))
    with open_store(":memory:") as target:
        before = export_collection(ingestor.store, "documents", target)
        (corpus / "part0" / "document003.md").unlink()
        removed = ingestor.ingest(str(corpus), prune=True).deleted
        after = export_collection(ingestor.store, "documents", target)
        assert (after.copied, after.surplus, after.verified) == (0, removed, before.points)


def test_an_export_to_a_failing_server_is_complete(make_ingestor, corpus, wire, faults, fake_time, tmp_path):
    """Answers lost after applying, errors and refusals for now."""
    from embedprefs_qdrant.stores import RetryPolicy

    ingestor = make_ingestor(f"edge:{tmp_path / 'one'}")
    ingestor.ingest(str(corpus))
    with open_store(wire.url, retry=RetryPolicy(attempts=4), clock=fake_time.clock()) as target:
        ways = (faults.Fault(after=faults.reset), faults.Fault(before=faults.status(503)))
        wire.fail(*ways, *(faults.Fault(before=faults.status(429), method=method) for method in ("PUT", "POST")))
        report = export_collection(ingestor.store, "documents", target)
        assert report.verified == report.points == report.copied
        assert target.read_record("documents") == ingestor.store.read_record("documents")
