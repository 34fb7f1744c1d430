"""What comes out of `EmbedPrefsEmbeddings`, against the model itself and against the host's provider."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_huggingface import HuggingFaceEmbeddings

from embedprefs import (
    EmbedPrefsWarning,
    InputError,
    InvalidPreferenceError,
    OverlongTextError,
    PreferencesFileError,
    load_model,
    load_preferences,
)
from embedprefs.calibration import calibrate
from embedprefs.testing import tiny_modernbert_folder
from langchain_embedprefs import EmbedPrefsEmbeddings

TEXTS = ["red apple", "blue sky over a green tree", "", "red apple", "the sky is blue\nand the tree is green"]


def test_vectors_equal_the_models_to_the_bit(minilm, minilm_embeddings):
    """The same call gives the same bits, for documents and for a query."""
    assert np.array_equal(minilm_embeddings.embed_documents_array(TEXTS), minilm.encode_document(TEXTS))
    assert minilm_embeddings.embed_documents(TEXTS) == minilm.encode_document(TEXTS).tolist()
    assert minilm_embeddings.embed_query("red sky") == minilm.encode_query(["red sky"])[0].tolist()
    assert np.array_equal(minilm_embeddings.embed_queries_array(TEXTS), minilm.encode_query(TEXTS))


def test_documents_and_queries_get_their_own_prompts(minilm_embeddings, minilm_folder):
    """A query is embedded otherwise than the same text as a document, where the host's provider embeds both alike."""
    ours = np.array(minilm_embeddings.embed_query("red sky")) @ np.array(
        minilm_embeddings.embed_documents(["red sky"])[0]
    )
    assert ours < 0.99
    theirs = HuggingFaceEmbeddings(
        model_name=minilm_folder, model_kwargs={"prompts": {"query": "query: ", "document": "document: "}}
    )
    assert theirs.embed_query("red sky") == theirs.embed_documents(["red sky"])[0]
    told = HuggingFaceEmbeddings(
        model_name=minilm_folder,
        model_kwargs={"prompts": {"query": "query: ", "document": "document: "}},
        encode_kwargs={"prompt_name": "document"},
        query_encode_kwargs={"prompt_name": "query"},
    )
    assert np.allclose(told.embed_query("red sky"), minilm_embeddings.embed_query("red sky"), atol=1e-6)
    assert np.allclose(told.embed_documents(["red sky"]), minilm_embeddings.embed_documents(["red sky"]), atol=1e-6)


def test_a_document_prompt_alone_does_not_reach_queries(bert_folder):
    """Only the role that a prompt is written for gets it."""
    both = EmbedPrefsEmbeddings(model=bert_folder, overrides={"prompts.query": "", "prompts.document": "document: "})
    plain = load_model(bert_folder, overrides={"prompts.query": "", "prompts.document": ""})
    assert both.embed_query("red sky") == plain.encode_query(["red sky"])[0].tolist()
    assert both.embed_documents(["red sky"]) != plain.encode_document(["red sky"]).tolist()


def test_truncation_holds_for_documents_and_queries(bert_folder):
    """Both have the stated dimension, and the length 1 that the whole vector has."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder, overrides={"vectors.truncate_dim": 16})
    document, query = embeddings.embed_documents(["red sky"])[0], embeddings.embed_query("red sky")
    assert embeddings.dimension == len(document) == len(query) == 16
    assert np.linalg.norm(document) == pytest.approx(1.0, abs=1e-6)


def test_texts_are_not_rewritten(tmp_path):
    """Line breaks reach the model, which matters to a byte-level tokenizer; the host's provider makes them spaces."""
    folder = str(tiny_modernbert_folder(tmp_path / "model"))
    text = "def area(radius):\n    return radius\n"
    embeddings = EmbedPrefsEmbeddings(model=folder)
    model = embeddings.sentence_transformer
    assert embeddings.embed_documents([text]) == model.encode_document([text]).tolist()
    flattened = model.encode_document([text.replace("\n", " ")])[0]
    assert not np.allclose(embeddings.embed_documents_array([text])[0], flattened, atol=1e-4)


def test_python_floats_come_out_whatever_the_precision(static_folder, tmp_path):
    """int8 codes too are floats in lists: LangChain's contract."""
    file = tmp_path / "ranges.json"
    calibrate(load_model(static_folder), ["red", "green", "blue apple", "sky"]).save(file)
    embeddings = EmbedPrefsEmbeddings(
        model=static_folder, overrides={"vectors.precision": "int8", "vectors.calibration": str(file)}
    )
    vector = embeddings.embed_query("red apple")
    assert {type(value) for value in vector} == {float}
    assert all(value == round(value) for value in vector)


def test_packed_bits_are_refused(static_folder):
    """Vector stores would compare packed bits as if they were dimensions."""
    embeddings = EmbedPrefsEmbeddings(model=static_folder, overrides={"vectors.precision": "ubinary"})
    with pytest.raises(InvalidPreferenceError, match="packs eight dimensions"):
        embeddings.embed_query("red")


def test_one_text_where_a_list_is_due_is_an_error(static):
    """A text is iterable: the host's provider gives a vector for each letter."""
    with pytest.raises(InputError, match="embed_documents was given one text"):
        static.embed_documents("red sky")
    with pytest.raises(InputError, match="embed_documents"):
        static.embed_documents_array("red sky")
    with pytest.raises(InputError, match="a list, and no text"):
        static.embed_query(["red"])


async def test_wrong_inputs_are_errors_in_async_calls_too(static):
    """The check is the same, and comes before anything waits."""
    with pytest.raises(InputError, match="one text"):
        await static.aembed_documents("red sky")
    with pytest.raises(InputError, match="None, and no text"):
        await static.aembed_query(None)


@pytest.mark.parametrize(("inputs", "message"), [([None], "Input 0 is None"), (["red", 3], "Input 1 is a int")])
def test_what_is_no_text_is_named(static, inputs, message):
    """The first such input is named by its place."""
    with pytest.raises(InputError, match=message):
        static.embed_documents(inputs)


async def test_no_texts_give_no_vectors_and_load_nothing(bert_folder):
    """An empty list comes back as one, of the right shape where it is an array."""
    embeddings = EmbedPrefsEmbeddings(model=bert_folder)
    assert embeddings.embed_documents([]) == []
    assert await embeddings.aembed_documents([]) == []
    assert embeddings.embed_documents_array([]).shape == (0, 32)
    assert not embeddings.loaded


def test_truncated_texts_are_counted(bert):
    """A text longer than the model reads shows in the report."""
    before = bert.report.truncated
    bert.embed_documents(["red", "sky " * 200])
    assert bert.report.truncated == before + 1


def test_truncation_warns_or_fails_as_the_preferences_say(bert_folder):
    """`on_overflow` decides."""
    warned = EmbedPrefsEmbeddings(model=bert_folder, overrides={"tokenizer.on_overflow": "warn"})
    with pytest.warns(EmbedPrefsWarning, match="longer than the 64 tokens"):
        warned.embed_documents(["sky " * 200])
    refused = EmbedPrefsEmbeddings(model=bert_folder, overrides={"tokenizer.on_overflow": "error"})
    with pytest.raises(OverlongTextError) as caught:
        refused.embed_documents(["red", "sky " * 200])
    assert caught.value.positions == (1,)


def test_it_is_a_langchain_embedding_that_cannot_be_changed(static):
    """Assignments that could take no effect are refused, instead of being accepted and ignored."""
    assert isinstance(static, Embeddings)
    with pytest.raises(ValueError, match="frozen"):
        static.model = "another"


def test_arguments_of_the_hosts_provider_are_refused_with_the_preference_that_replaces_them():
    """All of them at once."""
    with pytest.raises(InvalidPreferenceError) as caught:
        EmbedPrefsEmbeddings(
            model_name="x", encode_kwargs={"normalize_embeddings": True}, multi_process=True, overide={}
        )
    text = str(caught.value)
    assert [problem.key for problem in caught.value.problems] == [
        "model_name",
        "encode_kwargs",
        "multi_process",
        "overide",
    ]
    assert "vectors.normalize" in text
    assert "Did you mean overrides?" in text


def test_wrong_preferences_are_found_at_construction(bert_folder, tmp_path):
    """A wrong key, a missing file and a contradiction are errors before any model is loaded."""
    with pytest.raises(InvalidPreferenceError, match=r"compute\.devise"):
        EmbedPrefsEmbeddings(model=bert_folder, overrides={"compute.devise": "cpu"})
    with pytest.raises(PreferencesFileError):
        EmbedPrefsEmbeddings(preferences=tmp_path / "absent.toml")
    with pytest.raises(InvalidPreferenceError, match="Both model and preferences"):
        EmbedPrefsEmbeddings(model=bert_folder, preferences="embedprefs.toml")
    with pytest.raises(InvalidPreferenceError, match="could not take effect"):
        EmbedPrefsEmbeddings(preferences={"model.name": bert_folder}, overrides={"compute.device": "cpu"})


def test_a_plain_sentence_transformer_is_refused(bert_folder):
    """It has no preferences to obey."""
    from sentence_transformers import SentenceTransformer

    with pytest.raises(InvalidPreferenceError, match="model is a SentenceTransformer"):
        EmbedPrefsEmbeddings(model=SentenceTransformer(bert_folder))


def test_every_way_to_name_the_model_gives_the_same_vectors(bert_folder, tmp_path, monkeypatch):
    """Name, file, preferences, mapping, loaded model, and the project's own file."""
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{bert_folder}"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ways = [
        {"model": bert_folder},
        {"preferences": file},
        {"preferences": load_preferences(file)},
        {"preferences": {"model": {"name": bert_folder}}},
        {"preferences": {"model.name": bert_folder}},
        {"model": load_model(bert_folder)},
        {},
    ]
    vectors = [EmbedPrefsEmbeddings(**way).embed_query("red sky") for way in ways]
    assert all(vector == vectors[0] for vector in vectors)


def test_report_and_record_are_those_of_the_model(bert):
    """The fingerprint is known before the model is loaded, and does not change by loading it."""
    before = bert.fingerprint
    assert not bert.loaded
    assert bert.sentence_transformer.fingerprint == before == bert.fingerprint
    assert bert.record.identity["query_prompt"] == "query: "


def test_no_warning_is_raised_in_ordinary_use(minilm_embeddings):
    """Nothing to be told, nothing said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minilm_embeddings.embed_documents(["red sky"])
        minilm_embeddings.embed_query("red sky")
