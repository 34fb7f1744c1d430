"""`evaluate` on real (static) models: the host's figures, groups, duplicates, and honest notes."""

from __future__ import annotations

import numpy as np
import pytest

from embedprefs.calibration import calibrate
from embedprefs.errors import InputError
from embedprefs.evaluation import RetrievalTask, evaluate, evaluate_rankings, load_evaluation

COLOURS = {"1": "red", "2": "green", "3": "blue"}


def test_the_figures_are_those_of_the_hosts_evaluator(model, static_folder, little):
    """The host's own evaluator on the plain host's model; MAP apart, which it divides by min(k, relevant)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    qrels = {query: dict.fromkeys(documents, 1) for query, documents in little.qrels.items()}
    corpus = {key: value["text"] for key, value in little.corpus.items()}
    host = InformationRetrievalEvaluator(
        little.queries, corpus, {query: set(documents) for query, documents in qrels.items()}, name="little"
    )(SentenceTransformer(str(static_folder), device="cpu"))
    ours = evaluate(model, corpus, little.queries, qrels, resamples=100)
    for name in ("ndcg@10", "mrr@10", "recall@10", "map@100"):
        assert ours[name] == pytest.approx(host[f"little_cosine_{name}"], abs=1e-6), name


def test_files_and_mappings_give_the_same(model, little, folder):
    from_files = evaluate(model, folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")
    from_mappings = evaluate(model, little.corpus, little.queries, little.qrels)
    assert from_files == from_mappings
    assert from_files.data.digest == from_mappings.data.digest


def test_the_corpus_is_never_held_as_a_whole(model, little, monkeypatch):
    """Documents are embedded a chunk at a time, each once, and the hits do not depend on the chunks."""
    whole = evaluate(model, little.corpus, little.queries, little.qrels)
    sizes = []
    encode = type(model).encode_document

    def counting(self, texts, *arguments, **named):
        sizes.append(len(texts))
        return encode(self, texts, *arguments, **named)

    monkeypatch.setattr(type(model), "encode_document", counting)
    monkeypatch.setattr("embedprefs.evaluation.vectors._chunk_sizes", lambda _model: (7, 1_000_000))
    assert evaluate(model, little.corpus, little.queries, little.qrels) == whole
    assert max(sizes) == 7
    assert sum(sizes) == len(little.corpus)


def test_queries_of_one_source_are_resampled_together(model, little):
    by_source = evaluate(model, little.corpus, little.queries, little.qrels)
    assert (by_source.data.grouped_by, by_source.data.groups) == ("source", 30)
    assert {query.group for query in by_source.queries} == {f"s{number}" for number in range(30)}
    plain = {key: value["text"] for key, value in little.corpus.items()}
    by_passage = evaluate(model, plain, little.queries, little.qrels)
    assert (by_passage.data.grouped_by, by_passage.data.groups) == ("relevant document", 90)
    by_query = evaluate(model, little.corpus, little.queries, little.qrels, group_by="query")
    assert (by_query.data.grouped_by, by_query.data.groups) == ("query", 180)
    assert by_source["ndcg@10"] == by_passage["ndcg@10"] == by_query["ndcg@10"]
    with pytest.raises(InputError, match='no field "book"'):
        evaluate(model, little.corpus, little.queries, little.qrels, group_by="book")


def test_a_title_that_several_passages_share_is_their_source(model):
    corpus = {name: {"title": "Colours", "text": name} for name in ("red", "green")} | {
        "blue": {"title": "Other", "text": "blue"}
    }
    qrels = {"q1": {"red": 1}, "q2": {"green": 1}, "q3": {"blue": 1}}
    found = evaluate(model, corpus, dict.fromkeys(qrels, "red"), qrels)
    assert (found.data.grouped_by, found.data.groups) == ("title", 2)


def test_the_source_of_a_query_is_the_one_with_most_of_the_relevance(model):
    corpus = {name: {"text": name, "metadata": {"source": name[0]}} for name in ("a1", "a2", "b1", "b2")}
    qrels = {"q1": {"a1": 1, "b1": 1, "b2": 1}, "q2": {"a2": 3, "b1": 1}, "q3": {"b1": 1}}
    found = evaluate(model, corpus, dict.fromkeys(qrels, "red"), qrels)
    assert [query.group for query in found.queries] == ["b", "a", "b"]


def test_documents_with_one_text_count_as_one(model):
    """Unjudged copies of the right answer would otherwise count as wrong answers."""
    corpus = {"1": "red", "9": "red", "2": "green", "3": "blue"}
    qrels = {"q": {"1": 1}}
    merged = evaluate(model, corpus, {"q": "red"}, qrels, metrics=["mrr@10"])
    assert merged["mrr@10"] == 1.0
    assert [hit.id for hit in merged.queries[0].hits][:1] == ["1"]
    assert any("1 document with the text of another" in note for note in merged.notes)
    kept = evaluate(model, corpus, {"q": "red"}, qrels, metrics=["mrr@10"], duplicates="keep")
    assert kept["mrr@10"] == 0.5
    of_the_copy = evaluate(model, corpus, {"q": "red"}, {"q": {"9": 2, "1": 1}}, metrics=["recall@1"])
    assert of_the_copy.queries[0].hits[0].grade == 2
    assert of_the_copy["recall@1"] == 1.0


def test_a_query_that_is_a_document_does_not_find_itself(model):
    """Only where id and text agree: a number that both happen to have is no reason."""
    corpus = {"1": "red", "2": "red green", "3": "blue"}
    found = evaluate(model, corpus, {"1": "red", "3": "green"}, {"1": {"2": 1}, "3": {"2": 1}})
    assert [hit.id for hit in found.queries[0].hits] == ["2", "3"]
    assert "3" in [hit.id for hit in found.queries[1].hits]


def test_what_has_to_be_known_is_said(model):
    corpus, queries = {**COLOURS, "4": " "}, {"q1": "red", "q2": "blue", "q3": "pink"}
    found = evaluate(model, corpus, queries, {"q1": {"1": 1}, "q2": {"3": 0}})
    notes = "\n".join(found.notes)
    assert "1 query without judgements left out" in notes
    assert "1 query without a relevant document" in notes
    assert "1 document without text" in notes
    assert "rest on 2 groups only" in notes
    assert found["mrr@10"] == 0.5


def test_one_value_for_all_queries_gives_no_interval(model):
    """Three right answers of three say little about other queries; a resample of them would claim certainty."""
    qrels = {"a": {"1": 1}, "b": {"2": 1}, "c": {"3": 1}}
    found = evaluate(model, COLOURS, {"a": "red", "b": "green", "c": "blue"}, qrels)
    assert found["mrr@10"] == 1.0
    assert found.metrics["mrr@10"].interval is None
    assert found.metrics["mrr@10"].detectable_difference(0.5) is None
    assert any("mrr@10" in note and "no interval" in note for note in found.notes)


@pytest.mark.parametrize(
    ("qrels", "expected"),
    [
        ({"q1": {"1": 1}, "q9": {"1": 1}}, 'query "q9" is not among the queries'),
        ({"q1": {"7": 1, "8": 0}}, 'document "7", relevant to query "q1", is not in corpus'),
    ],
)
def test_judgements_that_do_not_fit_are_refused(model, qrels, expected):
    with pytest.raises(InputError) as caught:
        evaluate(model, COLOURS, {"q1": "red"}, qrels)
    assert expected in str(caught.value)
    assert '"8"' not in str(caught.value)


def test_judgements_that_do_not_fit_are_named_by_line(model, folder):
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q0-0-0\tgone\t1\n")
    with pytest.raises(InputError, match=r"qrels\.tsv:182: document \"gone\""):
        evaluate(model, folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")


def test_missing_documents_can_be_counted_as_not_found(model):
    found = evaluate(
        model, COLOURS, {"q1": "red"}, {"q1": {"1": 1, "7": 1}}, metrics=["recall@3"], missing_documents="count"
    )
    assert found["recall@3"] == 0.5
    assert any("1 relevant document not in the corpus" in note for note in found.notes)


def test_an_id_that_stands_there_twice_is_refused(model, folder):
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join([*lines, lines[2]]) + "\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl:91: the id .* stands there already \(line 3\)"):
        RetrievalTask.read(folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")


@pytest.mark.parametrize("options", [{"relevance_level": 0}, {"resamples": 5}, {"keep_hits": -1}])
def test_settings_out_of_range_are_refused(model, options):
    with pytest.raises(InputError, match="Allowed: a whole number from"):
        evaluate(model, COLOURS, {"q": "red"}, {"q": {"1": 1}}, **options)


def test_progress_counts_queries_and_documents(model, little):
    seen = []
    evaluate(
        model, little.corpus, little.queries, little.qrels, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (270, 270)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("precision", ["binary", "ubinary", "int8", "uint8"])
def test_stored_forms_are_evaluated_as_they_are_compared(load, model, little, tmp_path, precision):
    """int8 keeps nearly all of the float quality here; sixteen bits keep part of it; chance is far below both."""
    overrides = {"vectors__precision": precision}
    if precision in ("int8", "uint8"):
        calibrate(model, [document["text"] for document in little.corpus.values()]).save(tmp_path / "ranges.json")
        overrides["vectors__calibration"] = str(tmp_path / "ranges.json")
    full = evaluate(model, little.corpus, little.queries, little.qrels)
    found = evaluate(load(**overrides), little.corpus, little.queries, little.qrels)
    assert found.model.precision == precision
    assert found.model.similarity == ("hamming" if "binary" in precision else "cosine")
    assert 0.3 * full["ndcg@10"] < found["ndcg@10"] < 1.1 * full["ndcg@10"]
    if precision == "int8":
        assert found["ndcg@10"] == pytest.approx(full["ndcg@10"], abs=0.05)


def test_the_models_similarity_decides(load):
    """The order is that of the host's `similarity`, another one for each."""
    corpus = {str(number): f"w{number}" for number in range(1, 60)}
    hits = {}
    for name in ("cosine", "dot", "euclidean"):
        model = load(vectors__similarity_fn_name=name)
        found = evaluate(model, corpus, {"q": "w0"}, {"q": {"1": 1}})
        vectors = model.encode_document(list(corpus.values()))
        expected = model.similarity(model.encode_query(["w0"]), vectors).numpy()[0]
        hits[name] = [hit.id for hit in found.queries[0].hits]
        assert hits[name] == [str(at + 1) for at in np.argsort(-expected)[:10]]
    assert len({tuple(ids) for ids in hits.values()}) == 3


def test_rankings_of_a_search_engine_are_measured_alike(model, little):
    """What the model found, handed in as rankings, gives the same figures; a query without hits counts as 0."""
    ours = evaluate(model, little.corpus, little.queries, little.qrels, metrics=["ndcg@10", "mrr@10"])
    rankings = {query.id: [(hit.id, hit.score) for hit in query.hits] for query in ours.queries}
    theirs = evaluate_rankings(
        rankings, little.qrels, queries=little.queries, corpus=little.corpus, metrics=["ndcg@10", "mrr@10"]
    )
    assert theirs.metrics == ours.metrics
    first = next(iter(rankings))
    rankings[first] = []
    assert evaluate_rankings(rankings, little.qrels).queries[0].values["ndcg@10"] == 0.0


@pytest.mark.parametrize(("ranking", "expected"), [([("d", 1.0), ("d", 0.5)], "twice"), ([("d", float("nan"))], "NaN")])
def test_rankings_that_are_none_are_refused(ranking, expected):
    with pytest.raises(InputError, match=expected):
        evaluate_rankings({"q": ranking}, {"q": {"d": 1}})


def test_the_text_says_model_data_interval_and_what_can_be_shown(model, little):
    found = evaluate(model, little.corpus, little.queries, little.qrels)
    text = found.to_text()
    assert f"fingerprint {model.fingerprint[:12]}" in text
    assert "90 documents, 180 queries, 180 judgements, resampled by 30 groups (source)" in text
    interval = found.metrics["ndcg@10"].interval
    assert f"ndcg@10     {found['ndcg@10']:.4f}  [{interval.low:.4f}, {interval.high:.4f}]" in text
    assert "a comparison shows from" in text


def test_what_can_be_shown_shrinks_with_the_correlation(model, little):
    result = evaluate(model, little.corpus, little.queries, little.qrels).metrics["ndcg@10"]
    assert 0 < result.detectable_difference(0.9) < result.detectable_difference(0.5)
    assert result.detectable_difference(1.0) == 0.0
    assert result.interval.low < result.value < result.interval.high


def test_a_model_that_was_changed_is_evaluated_without_a_fingerprint(static_folder, little):
    """A model in training is no longer what was loaded: the figures are there, the name of the vectors is not."""
    import torch

    from embedprefs import load_model

    model = load_model(static_folder)
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    found = evaluate(model, little.corpus, little.queries, little.qrels, resamples=100)
    assert found.model.fingerprint is None
    assert any("No fingerprint: The weights are no longer" in note for note in found.notes)


def test_the_plain_hosts_model_can_be_evaluated(static_folder, model, little):
    from sentence_transformers import SentenceTransformer

    host = SentenceTransformer(str(static_folder), device="cpu")
    found = evaluate(host, little.corpus, little.queries, little.qrels)
    assert found.metrics == evaluate(model, little.corpus, little.queries, little.qrels).metrics
    assert found.model.name == "SentenceTransformer"


def test_a_saved_evaluation_is_read_back_equal(model, little, tmp_path):
    found = evaluate(model, little.corpus, little.queries, little.qrels)
    found.save(tmp_path / "saved.jsonl")
    assert load_evaluation(tmp_path / "saved.jsonl") == found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: lines[:-1], "179 of 180"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"ndcg@10": 0.0', '"ndcg@10": 0.5')], "other figures"),
        (lambda lines: [lines[0].replace('"metrics"', '"figures"'), *lines[1:]], "KeyError"),
        (lambda lines: [lines[0].replace('evaluation": 1', 'evaluation": 9'), *lines[1:]], "version 9"),
        (lambda lines: lines[1:], "is no saved evaluation"),
        (lambda lines: [*lines, "{"], ":182: not JSON"),
    ],
)
def test_a_saved_evaluation_that_was_damaged_is_refused(model, little, tmp_path, change, expected):
    path = tmp_path / "saved.jsonl"
    queries = {**little.queries, "q29-2-1": "pink"}
    evaluate(model, little.corpus, queries, little.qrels, resamples=100).save(path)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError) as caught:
        load_evaluation(path)
    assert expected in str(caught.value)
