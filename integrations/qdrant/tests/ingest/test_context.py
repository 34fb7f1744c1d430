"""Chunks whose vectors are made of their whole documents (late chunking): `index.chunk_context = "document"`."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from embedprefs import InputError, InvalidPreferenceError, PreferenceMismatchError, load_model, load_preferences
from embedprefs.preferences import IndexPreferences
from embedprefs.testing import static_model_folder, tiny_bert_folder
from embedprefs_qdrant import Document, QdrantIngestor, adopt_collection, export_collection, open_store, pipeline
from embedprefs_qdrant.stores.points import Point

PROMPTS = {"query": "search: ", "document": "a text: "}
WORDS = ("river", "town", "snow", "winter", "mountain", "fire", "house", "morning", "apple", "tree", "sky", "fox")


def paragraphs(count, shift=0):
    """Paragraphs of nine words, each another one."""
    sentences = (" ".join(WORDS[(shift + at * (number + 1)) % 12] for at in range(9)) for number in range(count))
    return "\n\n".join(f"{sentence.capitalize()}." for sentence in sentences)


#: The first is read at once, the second in several windows, the third begins with front matter.
DOCUMENTS = [
    Document("short", paragraphs(3)),
    Document("long", paragraphs(14, shift=5)),
    Document("headed", f"---\nyear: 1\n---\n{paragraphs(4, shift=3)}", body_start=16, metadata={"year": 1}),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT that reads 64 tokens, with prompts."""
    return tiny_bert_folder(tmp_path_factory.mktemp("bert") / "model", prompts=PROMPTS)


@pytest.fixture(scope="module")
def model(bert):
    """The same, loaded."""
    return load_model(bert, overrides={"compute.device": "cpu", "compute.backend": "torch", "compute.threads": 1})


@pytest.fixture
def ingestor_of(model, tmp_path):
    """Makes ingestors; all of them are closed at the end."""
    made = []

    def make(store=":memory:", space=None, **index):
        settings = {"chunk_tokens": 12, "chunk_context": "document", **index}
        ingestor = QdrantIngestor(space or model, store, root=tmp_path, index=IndexPreferences(**settings))
        made.append(ingestor)
        return ingestor

    yield make
    for ingestor in reversed(made):
        ingestor.close()


def points(ingestor, source=None):
    """Points of a document by the chunk's place in it, or all of them by id."""
    found = ingestor.store.scroll(ingestor.collection.name, payload=True, vectors=True)
    if source is None:
        return {point.id: point for point in found}
    return {point.payload["index"]: point for point in found if point.payload["source"] == source}


def comparable(ingestor):
    """Everything that is stored, to the byte."""
    return {
        identity: (point.payload, {name: vector.tobytes() for name, vector in point.vectors.items()})
        for identity, point in points(ingestor).items()
    }


def assert_as_by_hand(ingestor, model, documents):
    """Every stored vector is the one that `embed_spans` gives for its place in the document."""
    for document in documents:
        own = points(ingestor, document.source)
        text = document.text[document.body_start :]
        spans = [
            (point.payload["start"] - document.body_start, point.payload["end"] - document.body_start)
            for point in own.values()
        ]
        expected = model.embed_spans(text, spans)
        stored = np.stack([point.vectors["dense"] for point in own.values()])
        np.testing.assert_allclose(stored, expected, atol=1e-6)
        assert [text[start:end] for start, end in spans] == [point.payload["text"] for point in own.values()]


def test_each_vector_is_that_of_embed_spans(ingestor_of, model, store):
    """For documents that are read at once, in windows, and behind front matter; none is that of the chunk alone."""
    ingestor = ingestor_of(store)
    report = ingestor.ingest(DOCUMENTS)
    assert (report.new, report.failed, report.embedded) == (3, {}, report.chunks)
    assert report.chunks > 12
    assert_as_by_hand(ingestor, model, DOCUMENTS)
    stored = list(points(ingestor).values())
    alone = model.encode_document([point.payload["text"] for point in stored])
    together = np.stack([point.vectors["dense"] for point in stored])
    assert np.abs(together - alone).max(axis=1).min() > 1e-4


def test_a_document_is_read_once_however_many_chunks_it_has(ingestor_of, model, monkeypatch):
    """Groups of chunks end between documents."""
    monkeypatch.setattr(pipeline, "GROUP_SIZE", 2)
    ingestor = ingestor_of()
    with model.collect_report() as report:
        ingestor.ingest(DOCUMENTS)
    assert (report.calls, report.texts, report.windowed) == (3, 3, 1)
    assert_as_by_hand(ingestor, model, DOCUMENTS)


def test_an_edit_embeds_the_chunks_of_its_document_and_no_others(ingestor_of, model, store):
    """Wherever it is: the other chunks keep their ids, and get the vectors of what the document says now."""
    ingestor = ingestor_of(store)
    ingestor.ingest(DOCUMENTS)
    before, untouched = points(ingestor, "short"), comparable(ingestor)
    edited = Document("short", DOCUMENTS[0].text.replace("Town", "Sky", 1) + "\n\nThe fox.")
    plan = ingestor.ingest([edited, *DOCUMENTS[1:]], dry_run=True)
    report = ingestor.ingest([edited, *DOCUMENTS[1:]])
    now = points(ingestor, "short")
    assert (report.changed, report.unchanged) == (1, 2)
    assert report.embedded == report.chunks == plan.embedded == len(now)
    assert_as_by_hand(ingestor, model, [edited, *DOCUMENTS[1:]])
    same = {point.id for point in before.values()} & {point.id for point in now.values()}
    assert same, "a chunk that was not edited keeps its id"
    old = {point.id: point.vectors["dense"] for point in before.values()}
    for point in now.values():
        if point.id in same:
            assert np.abs(old[point.id] - point.vectors["dense"]).max() > 1e-5
    others = {identity: value for identity, value in untouched.items() if value[0]["source"] != "short"}
    assert {identity: comparable(ingestor)[identity] for identity in others} == others


def test_front_matter_is_not_read(ingestor_of):
    """A changed year changes payloads and offsets, and no vector."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    text = DOCUMENTS[2].text.replace("year: 1", "year: 2024")
    report = ingestor.ingest([Document("headed", text, body_start=19, metadata={"year": 2024})])
    assert (report.changed, report.embedded, report.deleted) == (1, 0, 0)
    stored = points(ingestor, "headed")
    assert all(point.payload["metadata"] == {"year": 2024} for point in stored.values())
    assert all(
        text[point.payload["start"] : point.payload["end"]] == point.payload["text"] for point in stored.values()
    )


def test_a_second_run_embeds_nothing_and_loads_no_model(ingestor_of, bert):
    """What decides is in the store."""
    first = ingestor_of(space=str(bert))
    first.ingest(DOCUMENTS)
    second = ingestor_of(first.store, space=str(bert))
    report = second.ingest(DOCUMENTS)
    assert (report.unchanged, report.embedded, report.stored) == (3, 0, 0)
    assert not second.space.loaded


def test_equal_chunks_are_shared_by_equal_documents_alone(ingestor_of, model):
    """The same words in another document have another vector; those of a copy are taken from the store."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS[:1])
    text = DOCUMENTS[0].text
    copy, other = Document("copy", text), Document("other", f"{text}\n\nIt was a cold winter.")
    copied = ingestor.ingest([copy])
    assert (copied.embedded, copied.reused) == (0, copied.chunks)
    extended = ingestor.ingest([other])
    assert (extended.embedded, extended.reused) == (extended.chunks, 0)
    assert_as_by_hand(ingestor, model, [DOCUMENTS[0], copy, other])


@pytest.mark.parametrize("goes_on", ["with the edit", "without it"])
def test_a_document_of_two_states_is_finished_by_the_next_run(ingestor_of, model, store, goes_on):
    """As a kill between two requests leaves it: some points of the new state in place of the old ones."""
    old, new = DOCUMENTS[0], Document("short", f"{DOCUMENTS[0].text}\n\nThe fox.")
    target = {"with the edit": new, "without it": old}[goes_on]
    undisturbed, killed = ingestor_of(), ingestor_of(store)
    undisturbed.ingest([target])
    killed.ingest([old])
    elsewhere = ingestor_of()
    elsewhere.ingest([new])
    before = points(killed)
    written = [point for identity, point in points(elsewhere).items() if identity in before][:2]
    assert len(written) == 2
    killed.store.upsert("documents", [Point(point.id, point.vectors, point.payload) for point in written])
    assert killed.status().incomplete == ("short",)
    report = killed.ingest([target])
    assert report.changed == 1
    assert report.embedded == (report.chunks - 2 if target is new else 2)
    assert points(killed).keys() == points(undisturbed).keys()
    assert_as_by_hand(killed, model, [target])
    assert killed.ingest([target]).unchanged == 1
    assert killed.verify([target]).is_good


@pytest.mark.parametrize(("made", "asked"), [("chunk", "document"), ("document", "chunk")])
def test_a_collection_made_the_other_way_is_refused(ingestor_of, made, asked):
    """Before anything is embedded or searched, with both sides shown."""
    first = ingestor_of(chunk_context=made)
    first.ingest(DOCUMENTS)
    second = ingestor_of(first.store, chunk_context=asked)
    assert second.space.record.fingerprint != first.collection.read()["vectors"]["dense"]["identity"]["fingerprint"]
    for call in (lambda: second.ingest(DOCUMENTS), lambda: second.search("river")):
        with pytest.raises(PreferenceMismatchError) as error:
            call()
        assert any(
            line.split() == ["chunk_context", f'"{made}"', f'"{asked}"'] for line in str(error.value).splitlines()
        )
        assert error.value.differences == ("chunk_context",)
    assert second.status().fits is False


def test_the_identity_of_chunks_read_alone_is_what_it_was(ingestor_of):
    """A collection from before there was a choice is served as ever."""
    assert "chunk_context" not in ingestor_of(chunk_context="chunk").space.record.identity


def test_the_overlap_of_windows_is_part_of_the_identity(ingestor_of, bert):
    """A longer one gives a long document's tokens other neighbours."""
    first = ingestor_of()
    first.ingest(DOCUMENTS)
    other = load_model(bert, overrides={"tokenizer.window_overlap": 40, "compute.device": "cpu"})
    with pytest.raises(PreferenceMismatchError, match=r"context_window_overlap\s+32\s+40"):
        ingestor_of(first.store, space=other).ingest(DOCUMENTS)


def test_canaries_are_read_in_one_document(ingestor_of, model):
    """A model that pools parts of texts otherwise is found by them, and so is a changed vector."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    record = ingestor.collection.read()
    alone = ingestor_of(chunk_context="chunk")
    alone.ingest(DOCUMENTS)
    record["vectors"]["dense"]["canaries"] = alone.collection.read()["vectors"]["dense"]["canaries"]
    ingestor.store.write_record("documents", record)
    again = ingestor_of(ingestor.store)
    with pytest.raises(PreferenceMismatchError, match="other vectors"):
        again.ingest([*DOCUMENTS, Document("new", "the river")])


def test_verify_reads_documents_again(ingestor_of):
    """Store and source agree; a vector of another state, and one that was damaged, are found and mended."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    chunks = len(points(ingestor))
    report = ingestor.verify(DOCUMENTS, sample=chunks)
    assert report.is_good
    assert report.sampled == chunks
    assert ingestor.verify(DOCUMENTS, sample=4).sampled == 4

    edited = [Document("short", f"{DOCUMENTS[0].text}\n\nThe fox."), *DOCUMENTS[1:]]
    changed = ingestor.verify(edited, sample=chunks)
    assert sum(each.get("short", 0) for each in (changed.missing, changed.outdated)) >= 3
    assert changed.incomplete == {}
    assert changed.deviating == {}

    victim = points(ingestor, "long")[3]
    vector = np.roll(victim.vectors["dense"], 1)
    ingestor.store.upsert("documents", [Point(victim.id, {"dense": vector}, victim.payload)])
    found = ingestor.verify(DOCUMENTS, sample=chunks)
    assert list(found.deviating) == [str(victim.id)]
    assert ingestor.verify(DOCUMENTS, sample=chunks, repair=True).repaired
    assert ingestor.verify(DOCUMENTS, sample=chunks).is_good


def test_a_chunk_without_a_token_fails_its_document_by_name(ingestor_of, store):
    """The tokenizer drops what cannot be seen: such a chunk has no place in its document. The others are stored."""
    unseen = Document("unseen", f"\u200b\n\n# River\n\n{paragraphs(3)}", format="markdown")
    ingestor = ingestor_of(store)
    report = ingestor.ingest([DOCUMENTS[0], unseen, DOCUMENTS[1]])
    assert list(report.failed) == ["unseen"]
    assert "cannot be embedded in its document" in report.failed["unseen"]
    assert "holds no token" in report.failed["unseen"]
    assert report.exit_code == 4
    assert {point.payload["source"] for point in points(ingestor).values()} == {"short", "long"}
    again = ingestor.ingest([DOCUMENTS[0], unseen, DOCUMENTS[1]])
    assert (again.unchanged, again.embedded, list(again.failed)) == (2, 0, ["unseen"])


def test_sparse_and_short_vectors_stand_beside(ingestor_of, model):
    """Words are counted in the chunk alone; turned on later, no document is read again."""
    first = ingestor_of()
    first.ingest(DOCUMENTS)
    second = ingestor_of(first.store, hybrid=True, two_stage_dims=8)
    with model.collect_report() as report:
        second.ingest(DOCUMENTS)
    assert report.texts == 0
    assert_as_by_hand(second, model, DOCUMENTS)
    for point in points(second).values():
        assert {"dense", "dense_first", "sparse"} == point.vectors.keys()
        expected = second.sparse.embed_documents([point.payload["text"]])[0]
        np.testing.assert_array_equal(sorted(point.vectors["sparse"].indices), sorted(expected.indices))
    assert second.search("river town", limit=3)


def test_a_query_finds_what_stands_in_context(ingestor_of, model):
    """Hits are ranked by the stored vectors, with the query prompt."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    query = model.encode_query("a cold morning")
    scores = {identity: float(point.vectors["dense"] @ query) for identity, point in points(ingestor).items()}
    hits = ingestor.search("a cold morning", limit=3)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:3], abs=1e-5)


def test_a_copy_elsewhere_keeps_what_it_is(ingestor_of, tmp_path):
    """The record goes along: the copy is continued with these preferences, and refused with others."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    with open_store(f"edge:{tmp_path / 'copy'}") as target:
        assert export_collection(ingestor.store, "documents", target).copied == len(points(ingestor))
        copy = ingestor_of(target)
        assert copy.ingest(DOCUMENTS).unchanged == 3
        assert copy.verify(DOCUMENTS).is_good
        with pytest.raises(PreferenceMismatchError):
            ingestor_of(target, chunk_context="chunk").search("river")


def test_a_collection_made_elsewhere_cannot_be_adopted(ingestor_of):
    """Its points do not hold the documents."""
    ingestor = ingestor_of()
    ingestor.ingest(DOCUMENTS)
    with pytest.raises(InputError, match="do not hold the documents"):
        adopt_collection(ingestor_of(ingestor.store), force=True)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"template": "{headings}\n{text}"}, "puts something around each chunk"),
        ({"vectors": {"small": {"model": {"name": "someone/small"}}}}, "names small"),
    ],
)
def test_what_cannot_go_with_it_is_refused(ingestor_of, index, said):
    """When the ingestor is made: nothing is opened."""
    with pytest.raises(InvalidPreferenceError, match=said):
        ingestor_of(**index)


@pytest.mark.parametrize("kind", ["static", "first token"])
def test_a_model_that_does_not_average_tokens_is_refused(ingestor_of, tmp_path, kind):
    """Before a collection is made, and without its weights; `check` finds it too."""
    folder = (
        static_model_folder(tmp_path / "model")
        if kind == "static"
        else tiny_bert_folder(tmp_path / "model", pooling="cls")
    )
    ingestor = ingestor_of(space=str(folder))
    with pytest.raises(InvalidPreferenceError, match="static model" if kind == "static" else 'pooling is "cls"'):
        ingestor.ingest(DOCUMENTS)
    assert not ingestor.space.loaded
    assert not ingestor.collection.exists


def test_the_file_says_it(bert, tmp_path):
    """`[index]` of a preferences file is obeyed, recorded and compared."""
    shutil.copytree(bert, tmp_path / "model")
    file = tmp_path / "embedprefs.toml"
    file.write_text(
        '[model]\nname = "./model"\n[index]\nchunk_tokens = 12\nchunk_context = "document"\nstore = ":memory:"\n'
    )
    with QdrantIngestor(load_preferences(file)) as ingestor:
        assert ingestor.ingest(DOCUMENTS).new == 3
        assert ingestor.status().identity["chunk_context"] == "document"
        assert ingestor.search("river", limit=1)
        assert_as_by_hand(ingestor, ingestor.space.model, DOCUMENTS)
