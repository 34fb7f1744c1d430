"""A cross-encoder that orders hits again, and token vectors that the engine rescores by MaxSim."""

from __future__ import annotations

import pytest

from embedprefs import PreferenceMismatchError, load_preferences
from embedprefs.testing import tiny_bert_folder
from embedprefs_qdrant import QdrantIngestor

# The static model knows the first word of each alone, so that no two passages are equally near.
TEXTS = {
    "cats": "Ban: the cat sleeps all day on the warm mat.",
    "stars": "Kem: a star burns hydrogen for a billion years.",
    "bread": "Lil: bread needs flour, water, salt and time.",
    "trains": "Mor: the night train leaves the town at ten.",
}


@pytest.fixture(scope="module")
def token_model(tmp_path_factory):
    """A tiny multi-vector encoder with random weights, saved."""
    from sentence_transformers import MultiVectorEncoder

    folder = tmp_path_factory.mktemp("late")
    model = MultiVectorEncoder(str(tiny_bert_folder(folder / "bert")))
    model.save_pretrained(str(folder / "encoder"))
    return folder / "encoder"


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """A tiny cross-encoder with random weights, saved."""
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("cross")
    model = CrossEncoder(str(tiny_bert_folder(folder / "bert")), num_labels=1)
    model.save_pretrained(str(folder / "encoder"))
    return folder / "encoder"


@pytest.fixture(params=[":memory:", "edge"])
def open_with(request, tmp_path, model_folder):
    """Opens an ingestor with a [rerank] table."""
    opened = []

    def make(rerank, **index):
        file = tmp_path / "embedprefs.toml"
        rows = "".join(f"{key} = {value}\n" for key, value in index.items())
        file.write_text(f'[model]\nname = "{model_folder}"\n[index]\n{rows}\n[rerank]\n{rerank}\n')
        store = request.param if request.param == ":memory:" else f"edge:{tmp_path / 'index'}"
        if store == ":memory:" and opened:
            store = opened[0].store
        ingestor = QdrantIngestor(load_preferences(file), store)
        opened.append(ingestor)
        return ingestor

    yield make
    for ingestor in reversed(opened):
        ingestor.close()


def test_token_vectors_order_hits_by_maxsim(open_with, token_model):
    """The score of a hit is that of the model's own MaxSim over query and passage."""
    ingestor = open_with(f'name = "{token_model}"\nkind = "multi_vector"\nhits = 4')
    ingestor.ingest(list(TEXTS.items()))
    assert "late_interaction" in ingestor.status().vectors
    query = "ban, the cat on the mat"
    hits = ingestor.search(query, limit=4)
    model = ingestor.late._load()
    wanted = model.similarity(model.encode_query([query]), model.encode_document(list(TEXTS.values())))[0]
    best = sorted(zip(wanted.tolist(), TEXTS, strict=True), reverse=True)
    assert [hit.source for hit in hits] == [name for _, name in best]
    # float16 token vectors: three decimal digits
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in best], rel=5e-3)


def test_token_vectors_after_a_hybrid_first_stage(open_with, token_model):
    """Fusion chooses the candidates, MaxSim orders them."""
    ingestor = open_with(f'name = "{token_model}"\nkind = "multi_vector"\nhits = 4', hybrid="true")
    ingestor.ingest(list(TEXTS.items()))
    with_tokens = ingestor.search("night train", limit=4)
    without = ingestor.search("night train", limit=4, rerank=False)
    assert {hit.source for hit in with_tokens} <= set(TEXTS)
    assert without[0].source == "trains"
    assert [hit.score for hit in with_tokens] == sorted((hit.score for hit in with_tokens), reverse=True)


def test_token_vectors_of_another_model_are_refused(open_with, token_model, tmp_path):
    """By the content of the weights, not by the name."""
    from sentence_transformers import MultiVectorEncoder

    first = open_with(f'name = "{token_model}"\nkind = "multi_vector"')
    first.ingest(list(TEXTS.items()))
    if first.store.url.startswith("edge"):
        first.close()
    other = MultiVectorEncoder(str(tiny_bert_folder(tmp_path / "bert")))
    other.save_pretrained(str(tmp_path / "other"))
    second = open_with(f'name = "{tmp_path / "other"}"\nkind = "multi_vector"')
    with pytest.raises(PreferenceMismatchError, match="token vectors"):
        second.search("cat")


def test_a_cross_encoder_orders_the_first_hits_again(open_with, cross_encoder):
    """Its scores replace the store's."""
    from sentence_transformers import CrossEncoder

    ingestor = open_with(f'name = "{cross_encoder}"\nhits = 3')
    ingestor.ingest(list(TEXTS.items()))
    query = "ban, the cat on the mat"
    first = ingestor.search(query, limit=4, rerank=False)
    hits = ingestor.search(query, limit=3)
    assert {hit.id for hit in hits} == {hit.id for hit in first[:3]}
    assert len(ingestor.search(query, limit=4)) == 4, "who asks for more than [rerank] hits gets them"
    scores = CrossEncoder(str(cross_encoder)).predict([(query, hit.text) for hit in hits])
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
