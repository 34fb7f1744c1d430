"""Every kind of vector a collection can have, each with its own identity, and collections that get one later."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError, InvalidPreferenceError, PreferenceMismatchError, load_preferences
from embedprefs.calibration import calibrate
from embedprefs.preferences import IndexPreferences
from embedprefs.testing import static_model_folder, tiny_bert_folder
from embedprefs_qdrant import QdrantIngestor
from embedprefs_qdrant.spaces import ModelSpace

WORDS = ("lim", "mos", "rut", "sat", "tin", "bal", "ker", "lis")
NOTES = [(f"note {number}", f"Ban kel {word}") for number, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def second_model(tmp_path_factory):
    """Another static model, of 8 dimensions, that knows words the first does not."""
    words = {word: [float(place == number) for place in range(8)] for number, word in enumerate(("ban", "kel", "zeta"))}
    return static_model_folder(tmp_path_factory.mktemp("second") / "model", words)


@pytest.fixture
def open_with(tmp_path, model_folder, store):
    """Opens ingestors over one store, with preferences written as a file."""
    opened = []

    def make(index="", further="", model=model_folder):
        file = tmp_path / "embedprefs.toml"
        file.write_text(f'[model]\nname = "{model}"\n{further}\n[index]\n{index}\n', encoding="utf-8")
        shared = opened[0].store if opened else store
        ingestor = QdrantIngestor(load_preferences(file), shared)
        opened.append(ingestor)
        return ingestor

    yield make
    for ingestor in reversed(opened):
        ingestor.close()


def points(ingestor):
    return {point.payload["source"]: point for point in ingestor.store.scroll("documents", vectors=True)}


def test_each_named_vector_has_a_model_an_identity_and_canaries_of_its_own(open_with, second_model):
    """And is searched by its name, with its own model."""
    ingestor = open_with(f'[index.vectors.small.model]\nname = "{second_model}"')
    ingestor.ingest([*NOTES, ("zeta", "Zeta")])
    entries = ingestor.collection.read()["vectors"]
    assert entries["dense"]["identity"]["fingerprint"] != entries["small"]["identity"]["fingerprint"]
    assert entries["dense"]["canaries"]["shape"][1] == 16
    assert entries["small"]["canaries"]["shape"][1] == 8
    assert ingestor.status().vectors["small"] == "8 dimensions, cosine"
    assert {len(point.vectors["small"]) for point in points(ingestor).values()} == {8}
    assert ingestor.search("zeta", limit=1, vector="small")[0].source == "zeta"
    assert ingestor.search("zeta", limit=1, vector="small")[0].score == pytest.approx(1.0, abs=1e-5)
    assert ingestor.verify([*NOTES, ("zeta", "Zeta")], sample=9).is_good


def test_another_identity_of_one_named_vector_is_refused(open_with, second_model):
    """The main one agrees; that is not enough."""
    setting = f'[index.vectors.small.model]\nname = "{second_model}"\n'
    open_with(setting).ingest(NOTES)
    other = open_with(setting + '[index.vectors.small.prompts]\ndocument = "zeta "')
    with pytest.raises(PreferenceMismatchError, match="zeta"):
        other.ingest(NOTES)
    assert not other.space.loaded


def test_searching_one_vector_loads_no_other_model(open_with, second_model):
    """A service that needs the small one alone stays small."""
    setting = f'[index.vectors.small.model]\nname = "{second_model}"\n'
    open_with(setting).ingest(NOTES)
    second = open_with(setting)
    second.search("ban", vector="small")
    assert second.collection.spaces["small"].loaded
    assert not second.space.loaded


def test_a_named_vector_cannot_be_called_like_one_of_the_collections_own(open_with, second_model):
    """It would take its place without a word."""
    with pytest.raises(InvalidPreferenceError, match="'dense'"):
        open_with(f'[index.vectors.dense.model]\nname = "{second_model}"')


def test_chunks_are_no_longer_than_every_model_reads(tmp_path, open_with):
    """The second model reads 24 tokens, the first any number."""
    short = tiny_bert_folder(tmp_path / "bert", max_seq_length=24)
    ingestor = open_with(f'[index.vectors.short.model]\nname = "{short}"')
    report = ingestor.ingest([("a", " ".join(["ban"] * 100))])
    assert ingestor.chunker.max_seq_length == 24
    assert report.chunks > 4


def test_a_vector_added_later_reaches_every_point_and_embeds_nothing_else(open_with, second_model):
    """Unchanged documents get it, their other vectors are kept."""
    first = open_with()
    first.ingest(NOTES)
    before = {source: point.vectors["dense"] for source, point in points(first).items()}
    second = open_with(f'[index.vectors.small.model]\nname = "{second_model}"')
    report = second.ingest(NOTES)
    assert (report.changed, report.unchanged) == (8, 0)
    assert not second.space.loaded
    now = points(second)
    assert all("small" in point.vectors for point in now.values())
    for source, point in now.items():
        np.testing.assert_allclose(point.vectors["dense"], before[source], rtol=1e-6)
    assert second.ingest(NOTES).unchanged == 8
    assert second.verify(NOTES).is_good


def test_hybrid_search_can_be_turned_on_later(open_with):
    """A search before the next run is told so; after it every chunk has its sparse vector."""
    open_with().ingest([*NOTES, ("the one", "Ban kel xylophone.")])
    second = open_with("hybrid = true")
    with pytest.raises(PreferenceMismatchError, match="index documents, which adds them"):
        second.search("xylophone")
    assert second.ingest([*NOTES, ("the one", "Ban kel xylophone.")]).changed == 9
    assert not second.space.loaded
    assert second.search("xylophone", limit=1)[0].source == "the one"


def test_the_short_vectors_of_a_first_stage_can_be_added_later(open_with):
    """They are cut from what is stored: the model is not loaded."""
    open_with().ingest(NOTES)
    second = open_with("two_stage_dims = 8")
    second.ingest(NOTES)
    assert not second.space.loaded
    for point in points(second).values():
        short = point.vectors["dense"][:8]
        np.testing.assert_allclose(point.vectors["dense_first"], short / np.linalg.norm(short), atol=1e-6)
    third = open_with("two_stage_dims = 12")
    with pytest.raises(PreferenceMismatchError, match="two_stage_dims is 12"):
        third.ingest(NOTES)


def test_a_vector_that_is_no_longer_made_is_said_and_made_up_for(open_with):
    """Chunks stored meanwhile lack it; the next run with it fills them."""
    open_with("hybrid = true").ingest(NOTES)
    without = open_with()
    with pytest.warns(EmbedPrefsWarning, match="has the vectors sparse"):
        report = without.ingest([*NOTES, ("new", "Ban xylophone.")])
    assert (report.unchanged, report.new) == (8, 1)
    assert "sparse" not in points(without)["new"].vectors
    again = open_with("hybrid = true")
    assert again.verify([*NOTES, ("new", "Ban xylophone.")], sample=0).incomplete == {"new": 1}
    assert again.ingest([*NOTES, ("new", "Ban xylophone.")]).changed == 1
    assert "sparse" in points(again)["new"].vectors


def test_a_text_of_stop_words_alone_is_whole_without_a_sparse_vector(open_with):
    """There is nothing to store for it, and nothing to do again."""
    ingestor = open_with("hybrid = true")
    ingestor.ingest([("stop", "the and of"), *NOTES])
    assert "sparse" not in points(ingestor)["stop"].vectors
    report = ingestor.ingest([("stop", "the and of"), ("copy", "the and of"), *NOTES])
    assert (report.unchanged, report.embedded, report.reused) == (9, 0, 1)
    assert ingestor.search("the and of", limit=3) != []


def test_points_of_another_identity_are_found_and_made_anew(open_with, model_folder):
    """As after a record that was replaced: each point says what its vectors were made under."""
    ingestor = open_with()
    ingestor.ingest(NOTES)
    victim = next(iter(ingestor.store.scroll("documents")))
    ingestor.store.set_payload("documents", {"vectors": {"dense": "0123456789ab"}}, ids=[victim.id])
    source = victim.payload["source"]
    assert ingestor.verify(NOTES, sample=0).incomplete == {source: 1}
    report = ingestor.ingest(NOTES)
    assert (report.changed, report.embedded, report.unchanged) == (1, 1, 7)
    assert ingestor.verify(NOTES).is_good


def test_the_template_given_beside_a_loaded_model_is_part_of_the_identity(loaded_model):
    """Otherwise vectors with and without headings would count as comparable."""
    with QdrantIngestor(loaded_model, ":memory:", index=IndexPreferences(template="{title}\n{text}")) as first:
        first.ingest(NOTES)
        with (
            QdrantIngestor(loaded_model, first.store, index=IndexPreferences()) as second,
            pytest.raises(PreferenceMismatchError, match="template"),
        ):
            second.search("ban")


def test_a_template_with_headings_is_embedded_and_verified(make_ingestor, store):
    """The payload holds the chunk as it stands, the vector knows its headings."""
    text = "# Sat\n\n## Lim\n\n" + "ban kel " * 30 + "\n\n## Mos\n\n" + "ban kel " * 30
    ingestor = make_ingestor(store, template="{headings}\n{text}", chunk_tokens=40)
    from embedprefs_qdrant import Document

    documents = [Document("a", text, format="markdown")]
    ingestor.ingest(documents)
    found = {point.payload["headings"][-1]: point for point in ingestor.store.scroll("documents", vectors=True)}
    made = ingestor.space.embed_documents(["Sat > Mos\n" + found["Mos"].payload["text"]])[0]
    assert float(made @ found["Mos"].vectors["dense"]) == pytest.approx(1.0, abs=1e-5)
    assert ingestor.verify(documents, sample=10).is_good


def test_truncated_vectors_with_a_first_stage(open_with):
    """12 of 16 dimensions are stored, 8 of them search first."""
    ingestor = open_with("two_stage_dims = 8", "[vectors]\ntruncate_dim = 12")
    ingestor.ingest(NOTES)
    sizes = {name: len(vector) for name, vector in points(ingestor)["note 0"].vectors.items()}
    assert sizes == {"dense": 12, "dense_first": 8}
    vector = ingestor.space.embed_queries(["ban kel lim"])[0]
    stored = points(ingestor)
    best = sorted((-float(p.vectors["dense"] @ vector / np.linalg.norm(vector)), s) for s, p in stored.items())
    hits = ingestor.search("ban kel lim", limit=3)
    assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in best[:3]], abs=1e-5)


def test_a_first_stage_as_long_as_the_vector_is_refused(open_with):
    """Before anything is embedded."""
    ingestor = open_with("two_stage_dims = 12", "[vectors]\ntruncate_dim = 12")
    with pytest.raises(InvalidPreferenceError, match="fewer than 12"):
        ingestor.ingest(NOTES)


def test_uint8_vectors_from_calibration_to_search(open_with, loaded_model, tmp_path):
    """Codes from 0 to 255, stored as bytes by the engine, reused and verified."""
    texts = [text for _, text in NOTES] * 8
    calibrate(loaded_model, texts).save(tmp_path / "ranges.json")
    ingestor = open_with(further='[vectors]\nprecision = "uint8"\ncalibration = "ranges.json"')
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ingestor.ingest(NOTES)
    assert ingestor.store.describe("documents").layout.vectors["dense"].datatype == "uint8"
    if ingestor.store.url.startswith("edge"):
        codes = points(ingestor)["note 0"].vectors["dense"]
        assert (codes == np.rint(codes)).all()
        assert codes.max() > 100
    else:
        assert any("datatype" in str(item.message) for item in warned)
    report = ingestor.ingest([*NOTES, ("copy of 0", NOTES[0][1])])
    assert (report.unchanged, report.new) == (8, 1)
    assert report.failed == {}
    assert ingestor.search(NOTES[3][1], limit=1)[0].score == pytest.approx(1.0, abs=1e-4)
    assert ingestor.search(NOTES[3][1], limit=1)[0].source == "note 3"
    assert ingestor.verify([*NOTES, ("copy of 0", NOTES[0][1])], sample=9).is_good


def test_packed_bits_are_refused_with_what_to_write_instead(open_with):
    """Qdrant would compare the packed bytes as dimensions."""
    ingestor = open_with(further='[vectors]\nprecision = "ubinary"')
    with pytest.raises((InvalidPreferenceError, InputError), match="quantization"):
        ingestor.ingest(NOTES)


def test_overrides_of_a_finished_space_are_refused(model_folder):
    """They could not take effect."""
    with pytest.raises(InputError, match="could not take effect"):
        QdrantIngestor(ModelSpace(str(model_folder)), ":memory:", overrides={"vectors.truncate_dim": 8})
