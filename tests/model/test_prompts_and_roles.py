"""Each role gets its prompt, the flagship as published included."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs import PreferenceMismatchError

TEXT = "what is a vector"


def read_ids(model, call):
    """Return the tokens that one call reads."""
    seen = []
    hook = model[0].register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]["input_ids"]))
    try:
        call()
    finally:
        hook.remove()
    return seen[0][0].tolist()


def test_the_flagship_as_published_gets_the_prompts_it_needs(ours, host):
    """The published files hold no prompts: the host embeds queries and documents alike, here they differ."""
    model, plain = ours("flagship"), host("flagship")
    assert model.prompts == {"query": "search_query: ", "document": "search_document: "}
    query = read_ids(model, lambda: model.encode_query(TEXT))
    document = read_ids(model, lambda: model.encode_document(TEXT))
    neither = read_ids(model, lambda: model.encode(TEXT))
    assert query == plain.tokenizer(f"search_query: {TEXT}")["input_ids"]
    assert document == plain.tokenizer(f"search_document: {TEXT}")["input_ids"]
    assert neither == plain.tokenizer(TEXT)["input_ids"]
    assert np.array_equal(plain.encode_query(TEXT), plain.encode_document(TEXT))
    assert model.encode_query(TEXT) == pytest.approx(plain.encode(TEXT, prompt="search_query: "), abs=1e-6)


def test_the_flagship_reads_8192_tokens(ours):
    model = ours("flagship")
    assert (model.max_seq_length, model.get_embedding_dimension(), model.similarity_fn_name) == (8192, 64, "cosine")
    with model.collect_report() as report:
        vector = model.encode_document("river " * 8300)
    assert report.overlong[0].tokens > 8192
    assert report.tokens == 8192
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_flagships_dead_settings_do_nothing(tmp_path, texts):
    """Keys that its config.json still carries change no vector, whatever they say."""
    import json

    from embedprefs import load_model, testing

    vectors = []
    for number, dead in enumerate(
        ({}, {"layer_norm_eps": 0.1, "position_embedding_type": "rope", "reference_compile": True})
    ):
        folder = testing.published_modernbert_embed_folder(tmp_path / str(number))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **dead}), encoding="utf-8")
        with pytest.warns():
            vectors.append(load_model(folder, overrides={"compute.device": "cpu"}).encode_query(texts))
    assert np.array_equal(vectors[0], vectors[1])


def test_256_dimensions_of_the_flagship_have_length_one(load):
    model = load("flagship", vectors__truncate_dim=32)
    whole = load("flagship").encode_query(TEXT)[:32]
    assert model.encode_query(TEXT) == pytest.approx(whole / np.linalg.norm(whole), abs=1e-6)
    assert model.get_embedding_dimension() == 32


def test_a_prompt_of_the_call_wins(load, host):
    model = load("bert", prompts__query="query: ", prompts__title="title: ")
    plain = host("bert")
    assert model.encode_query(TEXT) == pytest.approx(plain.encode(f"query: {TEXT}"), abs=1e-6)
    assert model.encode_query(TEXT, prompt="other: ") == pytest.approx(plain.encode(f"other: {TEXT}"), abs=1e-6)
    assert model.encode_query(TEXT, prompt="") == pytest.approx(plain.encode(TEXT), abs=1e-6)
    assert model.encode_query(TEXT, "title") == pytest.approx(plain.encode(f"title: {TEXT}"), abs=1e-6)
    assert model.encode_query(TEXT, None, None) == pytest.approx(plain.encode(f"query: {TEXT}"), abs=1e-6)
    assert model.encode(TEXT, prompt_name="title") == pytest.approx(plain.encode(f"title: {TEXT}"), abs=1e-6)
    with pytest.raises(ValueError, match="nonsense"):
        model.encode(TEXT, prompt_name="nonsense")


def test_a_documents_prompt_under_another_name_is_applied(tmp_path):
    """The host finds its own empty "document" first, and never applies "passage"."""
    from embedprefs import load_model, testing

    folder = testing.tiny_bert_folder(tmp_path, prompts={"query": "query: ", "passage": "passage: "})
    model = load_model(folder, overrides={"compute.device": "cpu"})
    expected = read_ids(model, lambda: model.encode(f"passage: {TEXT}"))
    assert read_ids(model, lambda: model.encode_document(TEXT)) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda prompts: prompts.update(query=""),
        lambda prompts: prompts.pop("query"),
        lambda prompts: prompts.clear(),
        lambda prompts: prompts.setdefault("new", ""),
        lambda prompts: prompts.__delitem__("query"),
        lambda prompts: prompts.__ior__({"query": ""}),
    ],
)
def test_prompts_cannot_be_changed_in_place(change, load):
    model = load("bert", prompts__query="query: ")
    with pytest.raises(PreferenceMismatchError, match="prompts"):
        change(model.prompts)
    assert model.prompts["query"] == "query: "


def test_setting_the_prompts_that_are_there_is_allowed(load):
    """Evaluation tools set what they have just read."""
    model = load("bert", prompts__query="query: ")
    model.prompts = dict(model.prompts)
    assert model.prompts == {"query": "query: ", "document": ""}


def test_the_hosts_evaluator_uses_the_prompts(load, folders, tmp_path):
    """Retrieval evaluation calls `encode_query` and `encode_document`: scores are those of the host with prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    model = load("modernbert", prompts__query="search_query: ", prompts__document="search_document: ")
    plain = SentenceTransformer(
        str(folders["modernbert"]), device="cpu", prompts={"query": "search_query: ", "document": "search_document: "}
    )
    words = ["river", "town", "snow", "warm fire", "old book", "green tree"]
    evaluator = InformationRetrievalEvaluator(
        {str(at): word for at, word in enumerate(words)},
        {str(at): f"the {word} in the house" for at, word in enumerate(words)},
        {str(at): {str(at)} for at in range(len(words))},
        accuracy_at_k=[1], precision_recall_at_k=[1], mrr_at_k=[3], ndcg_at_k=[3], map_at_k=[3], write_csv=False,
    )  # fmt: skip
    assert evaluator(model) == pytest.approx(evaluator(plain), abs=1e-6)


def test_normalisation_and_similarity_of_the_preferences_hold(tmp_path, texts):
    from embedprefs import load_model, testing

    folder = testing.static_model_folder(tmp_path)
    overrides = {"vectors.normalize": True, "vectors.similarity_fn_name": "dot", "compute.device": "cpu"}
    model = load_model(folder, overrides=overrides)
    assert np.linalg.norm(model.encode(["red apple", "sky"]), axis=1) == pytest.approx(1, abs=1e-6)
    assert model.encode("apple", normalize_embeddings=False).tolist() == [3, 0, 0, 4, 0, 0, 0, 0]
    assert float(model.similarity(model.encode("red"), model.encode("apple"))) == pytest.approx(0.6, abs=1e-6)
    assert model.encode("apple", truncate_dim=1).tolist() == [1]
