"""The plan: what a training would do, without weights and without torch where that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from embedprefs import Preferences, testing
from embedprefs.errors import InputError
from embedprefs.hardware import Accelerator, Hardware
from embedprefs.training import plan_training

MACHINE = Hardware(
    system="Linux",
    machine="x86_64",
    python_version="3.12",
    cpu_count=2,
    memory_total=2**34,
    memory_available=2**34,
    torch_version="2.13.0+cpu",
    packages={"torch": "2.13.0", "sentence-transformers": "6.2.0", "transformers": "5.23.0"},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(folder / "bert"),
        "modernbert": testing.tiny_modernbert_folder(folder / "modernbert"),
        "static": testing.static_model_folder(folder / "static"),
    }


def rows(documents=60, questions=4):
    """Questions on passages of documents."""
    return [
        {
            "question": f"what is said about number {number} of {document}?",
            "context": f"passage {document} speaks of {document} and nothing else {'word ' * (document % 7)}",
            "doc_id": f"d{document}",
            "page": document,
        }
        for document in range(documents)
        for number in range(questions)
    ]


@pytest.fixture
def planned(folders):
    """Plan with a tiny model: `planned(rows, "bert", training={...}, prompts={...})`."""

    def plan(data=None, model="bert", hardware=MACHINE, measure=False, **stated):
        values = {"model": {"name": str(folders[model])}, **stated}
        return plan_training(
            Preferences.model_validate(values), rows() if data is None else data, hardware=hardware, measure=measure
        )

    return plan


def codes(plan):
    return {finding.code for finding in plan.findings}


def test_a_plan_says_everything(planned):
    """Data, columns, parts, loss, batches, steps, metric, leakage, power, memory: as text and as JSON."""
    plan = planned(prompts={"query": "query: ", "document": ""})
    text = plan.to_text()
    for words in (
        "240 rows, an anchor and a positive each",
        'anchor = "question", positive = "context", document = "doc_id"; not trained on: page',
        "train 192 rows of 48 documents, development 24 rows of 6 documents, test 24 rows of 6 documents",
        'prompt "query: "',
        "MultipleNegativesRankingLoss: pairs",
        "sampler covering",
        "100.0% of the rows are seen, 0 lost, 0 with a right answer as a negative",
        "metric_for_best_model = eval_dev_cosine_ndcg@10",
        "leakage     test: none",
        "24 queries of 6 groups",
        "a bound from the configuration",
    ):
        assert words in text, words
    values = json.loads(json.dumps(plan.to_json()))
    assert values["batches"] == {
        "sampler": "covering",
        "asked": 24,
        "batches_per_epoch": 8,
        "largest": 24,
        "smallest": 24,
        "coverage": 1.0,
        "rows_lost": 0,
        "false_negatives": 0,
    }
    assert values["steps"] == 8 * values["arguments"]["num_train_epochs"]["value"]
    assert values["prompts"] == {"anchor": "query: "}
    assert not plan.has_errors


def test_the_metric_is_what_the_hosts_evaluator_reports(planned, folders):
    """Not its spelling in some guide: the name is compared with the keys of a real evaluation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    plan = planned(training={"metric": "ndcg@10"})
    model = SentenceTransformer(str(folders["bert"]), device="cpu")
    evaluator = InformationRetrievalEvaluator({"q": "a"}, {"d": "a", "e": "b"}, {"q": {"d"}}, name="dev")
    assert plan.metric in {f"eval_{name}" for name in evaluator(model)}
    assert plan.metric == f"eval_{evaluator.primary_metric}"


def test_scored_pairs_have_the_correlation_as_metric(planned, folders):
    """As the host names it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    data = [{"sentence1": f"left {n}", "sentence2": f"right {n}", "score": n / 60} for n in range(60)]
    plan = planned(data)
    evaluator = EmbeddingSimilarityEvaluator(["a", "b", "c"], ["a", "c", "d"], [1.0, 0.5, 0.1], name="dev")
    names = {f"eval_{name}" for name in evaluator(SentenceTransformer(str(folders["bert"]), device="cpu"))}
    assert plan.metric in names
    assert plan.loss.name == "CoSENTLoss"


def test_steps_are_those_of_the_hosts_trainer(planned, folders, tmp_path):
    """Epochs, batch size and accumulation as its own arithmetic has them."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    data = [{"sentence1": f"left {n}", "sentence2": f"right {n}", "score": n / 60} for n in range(60)]
    stated = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    plan = planned(data, "static", training={"arguments": stated})
    model = SentenceTransformer(str(folders["static"]), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), **stated, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, plan.train.dataset(plan.loss.columns), loss=CoSENTLoss(model)
    )
    assert trainer.train().global_step == plan.steps


def test_no_weights_and_no_torch_are_needed(folders, tmp_path):
    """Weights that cannot be read do not matter; a plan that measures nothing imports neither torch nor datasets."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows()), encoding="utf-8")
    code = (
        "import sys; from embedprefs import Preferences; from embedprefs.training import plan_training\n"
        f"p = Preferences.model_validate({{'model': {{'name': {str(folders['bert'])!r}}}}})\n"
        f"print(plan_training(p, {str(data)!r}, measure=False).steps)\n"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines() == ["24", "[]"]


def test_the_tensors_contents_are_not_read(folders, tmp_path):
    """The header alone: with the numbers replaced by nonsense the plan is the same."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders["bert"], copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = b"\xff" * (len(content) - start)
    weights.write_bytes(content)
    plans = [
        plan_training(
            Preferences.model_validate({"model": {"name": str(path)}}), rows(), hardware=MACHINE, measure=True
        )
        for path in (folders["bert"], copy)
    ]
    first, second = (plan.to_json() for plan in plans)
    for values in (first, second):
        values.pop("model")
        values.pop("time")  # the machine's rate at that moment
        values["findings"] = [finding["code"] for finding in values["findings"]]
    assert first == second
    assert "measured on torch's meta device" in first["memory"]["how"]


def test_the_time_follows_from_tokens_and_rate(planned):
    """What the rate rests on is said; a GPU that is not known has none."""
    measured = planned(measure=True).time
    assert measured.seconds == pytest.approx(measured.operations / measured.rate)
    assert "GFLOP/s" in measured.assumption
    longer = planned(rows(60, 8), measure=False).time
    assert longer.tokens > planned(measure=False).time.tokens

    def on(name):
        gpu = Accelerator("cuda", 0, name, 140 * 2**30, 139 * 2**30, (9, 0))
        machine = {"accelerators": (gpu,), "all_accelerators": (gpu,), "torch_version": "2.13.0+cu130"}
        from dataclasses import replace

        return planned(hardware=replace(MACHINE, **machine, torch_cuda_version="13.0")).time

    assert "published peak" in on("NVIDIA H200").assumption
    assert on("Unheard of 1").seconds is None


def test_cached_losses_and_checkpointing_cost_time_and_save_memory(planned):
    """Both compute activations twice."""
    plain = planned(training={"loss": "MultipleNegativesRankingLoss"})
    parts = planned(training={"loss": "CachedMultipleNegativesRankingLoss", "loss_parameters": {"mini_batch_size": 4}})
    again = planned(training={"loss": "MultipleNegativesRankingLoss", "activation_checkpointing": "on"})
    assert parts.memory.activations < plain.memory.activations
    assert again.memory.activations < plain.memory.activations
    assert again.time.operations == pytest.approx(plain.time.operations * 4 / 3)


def test_activations_are_computed_again_where_keeping_them_would_take_too_much(planned):
    """Left to the run, checkpointing is part of the plan: its memory, its time, and the reason; no error is left."""
    from dataclasses import replace

    words = [{**row, "context": f"{row['context']} {'word ' * 50}"} for row in rows(600, 1)]

    def plan(available, choice="auto"):
        hardware = replace(MACHINE, memory_available=available)
        training = {"activation_checkpointing": choice, "arguments": {"per_device_train_batch_size": 64}}
        return planned(words, hardware=hardware, training=training)

    roomy, kept = plan(2**34), plan(2**34, "off").memory.total
    again = plan(2**34, "on").memory.total
    assert "activation_checkpointing" not in roomy.arguments.choices
    assert again < kept / 1.5
    narrow = plan(int(kept / 1.4))
    choice = narrow.arguments.choices["activation_checkpointing"]
    assert choice.value is True
    assert "GiB free" in choice.reason
    assert narrow.memory.total == again
    assert narrow.time.operations > roomy.time.operations
    assert "training-memory" not in codes(narrow)
    assert "training-memory" in codes(plan(int(kept / 1.4), "off"))


@pytest.mark.parametrize("model", ["bert", "modernbert"])
@pytest.mark.parametrize(
    "training",
    [{}, {"lora": {"r": 4}}, {"lora": {"r": 2, "target_modules": ["chosen below"]}}, {"freeze": ["*embed*"]}],
)
def test_what_is_trained_is_known_from_the_headers(planned, folders, model, training):
    """The count is that of the model in the run, adapters and frozen layers included."""
    from embedprefs.training.parameters import add_lora, freeze, trained_share
    from embedprefs.training.trainer import load_for_training

    if "target_modules" in training.get("lora", {}):
        training = {"lora": {"r": 2, "target_modules": ["Wqkv" if model == "modernbert" else "query"]}}
    plan = planned(model=model, training=training)
    preferences = Preferences.model_validate({"model": {"name": str(folders[model])}, "training": training})
    loaded = load_for_training(preferences)
    if preferences.training.lora is not None:
        add_lora(loaded, preferences.training.lora)
    freeze(loaded, preferences.training.freeze)
    assert plan.trained_parameters == trained_share(loaded)[0]


@pytest.mark.parametrize(
    ("data", "training", "loss"),
    [
        ([{"text": f"text number {n}", "label": n % 3} for n in range(90)], {}, "BatchHardSoftMarginTripletLoss"),
        ([{"text": f"text number {n}"} for n in range(90)], {"distill_from": "larger"}, "EmbedDistillLoss"),
        (
            [{"anchor": f"q {n}", "positive": f"p {n}", "negatives": [f"n {n}", f"m {n}"]} for n in range(90)],
            {},
            "MultipleNegativesRankingLoss",
        ),
    ],
)
def test_every_kind_of_data_can_be_planned(planned, data, training, loss):
    """Classes, texts for a teacher, and tuples; each with steps and an estimate."""
    plan = planned(data, training=training)
    assert plan.loss.name == loss
    assert plan.steps > 0
    assert plan.batches.epoch.coverage == 1.0
    assert plan.memory.total > 0
    assert json.loads(json.dumps(plan.to_json()))["data"]["rows"] == 90


def test_negatives_that_will_be_mined_are_counted(planned):
    """They are texts to compute, as long as the positives."""
    plain, mined = planned(), planned(training={"negatives": {"count": 3}})
    assert "3 will be mined for each pair" in mined.to_text()
    assert mined.time.tokens > 1.8 * plain.time.tokens
    assert mined.memory.activations > plain.memory.activations


def test_low_rank_adaptation_trains_a_share(planned):
    """Gradients and moments are those of the added matrices."""
    whole, added = planned(model="modernbert"), planned(model="modernbert", training={"lora": {"r": 2}})
    assert 0 < added.trained_parameters < whole.trained_parameters / 2
    assert added.memory.optimizer == 8 * added.trained_parameters
    assert added.memory.checkpoint < whole.memory.checkpoint


def test_frozen_layers_are_not_trained(planned):
    """By the names that the run uses."""
    assert planned(training={"freeze": ["*embeddings*"]}).trained_parameters < planned().trained_parameters


def test_the_training_length_is_apart_from_serving(planned):
    """Texts are cut where training says; more than serving reads is no use."""
    plan = planned(tokenizer={"max_seq_length": 64}, training={"max_seq_length": 8})
    assert plan.length == 8
    assert all(int(known.tokens.max()) <= 8 for known in plan.lengths.values())
    assert "training-texts-cut" in codes(plan)
    assert planned(tokenizer={"max_seq_length": 16}, training={"max_seq_length": 64}).length == 16


def test_lengths_are_those_of_the_models_tokenizer(planned, folders):
    """Prompt and special tokens included."""
    from transformers import AutoTokenizer

    plan = planned(prompts={"query": "query: ", "document": ""})
    tokenizer = AutoTokenizer.from_pretrained(str(folders["bert"]))
    expected = [len(tokenizer("query: " + row["anchor"])["input_ids"]) for row in plan.train.rows]
    assert plan.lengths["anchor"].tokens.tolist() == expected


def test_evaluation_data_of_its_own_is_the_test(planned, tmp_path):
    """No test part is taken from the rows; its power and leakage are those of its queries."""
    folder = tmp_path / "beir"
    folder.mkdir()
    passages = [{"_id": f"d{n}", "text": f"other passage number {n} with words of its own"} for n in range(50)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, passages)), encoding="utf-8")
    queries = [{"_id": f"q{n}", "text": f"asked {n}"} for n in range(50)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    (folder / "qrels.tsv").write_text("\n".join(f"q{n}\td{n}\t1" for n in range(50)), encoding="utf-8")
    plan = planned(training={"evaluation_data": str(folder)})
    assert plan.prepared.splits.test is None
    assert plan.power["test"].queries == 50
    low, high = plan.power["test"].detectable
    assert low == pytest.approx(high)
    assert not plan.leakage["test"].found


def test_nothing_to_train_on_is_an_error(folders):
    """With where to name it."""
    with pytest.raises(InputError, match=r"training\.data"):
        plan_training(Preferences.model_validate({"model": {"name": str(folders["bert"])}}), hardware=MACHINE)


def test_data_is_found_beside_the_preferences(folders, tmp_path):
    """A relative path starts at the file's folder."""
    from embedprefs import load_preferences

    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows()), encoding="utf-8")
    file = tmp_path / "embedprefs.toml"
    file.write_text(f'[model]\nname = "{folders["bert"]}"\n[training]\ndata = "pairs.jsonl"\n', encoding="utf-8")
    assert len(plan_training(load_preferences(file), hardware=MACHINE, measure=False).train) == 192


def test_the_real_plan_takes_seconds_of_data(planned, test_data):
    """5,081 questions: full coverage, no leakage, and the articles kept apart."""
    folder = test_data / "squadshifts-wiki"
    plan = planned(
        folder, training={"evaluation_data": str(folder), "evaluation_split": "test"}, tokenizer={"max_seq_length": 64}
    )
    assert (plan.batches.epoch.coverage, plan.batches.false_negatives) == (1.0, 0)
    assert plan.prepared.splits.unit == "document"
    assert not any(found.found for found in plan.leakage.values())
    assert plan.power["test"].queries == 2684
