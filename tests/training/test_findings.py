"""Every training setting that the host accepts and then ignores, or that breaks later, is a finding of the plan.

One case for each row of the table of such settings; those that cannot be known before training are prevented by the
run itself, and tested there.
"""

from __future__ import annotations

import json

import pytest

from embedprefs import Preferences, testing
from embedprefs.checks.table import TRAINING_RULES
from embedprefs.hardware import Hardware
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


def pairs(count=240, shared=1, **more):
    """Questions; `shared` of them have one passage."""
    return [
        {"anchor": f"what about number {n}?", "positive": f"number {n // shared} is described by passage {n // shared}"}
        | {name: value(n) for name, value in more.items()}
        for n in range(count)
    ]


SCORED = [{"sentence1": f"left {n}", "sentence2": f"right {n}", "score": n / 240} for n in range(240)]
MNRL = "MultipleNegativesRankingLoss"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": testing.tiny_bert_folder(folder / "bert"),
        "static": testing.static_model_folder(folder / "static"),
    }


@pytest.fixture
def planned(folders):
    def plan(data=None, model="bert", **training):
        values = {"model": {"name": str(folders[model])}, "training": training}
        hardware = MACHINE
        return plan_training(
            Preferences.model_validate(values), pairs() if data is None else data, hardware=hardware, measure=False
        )

    return plan


def arguments(**values):
    return {"arguments": values}


#: What is set -> the finding, and words of it.
SETTINGS = {
    "auto_find_batch_size": (
        None,
        arguments(auto_find_batch_size=True),
        "training-argument-without-effect",
        "same batch",
    ),
    "train_sampling_strategy": (
        None,
        arguments(train_sampling_strategy="group_by_length"),
        "training-argument-without-effect",
        "batch_sampler",
    ),
    "dataloader_in_order": (
        None,
        arguments(dataloader_in_order=False),
        "training-argument-without-effect",
        "not passed on",
    ),
    "dataloader_multiprocessing_context": (
        None,
        arguments(dataloader_multiprocessing_context="spawn"),
        "training-argument-without-effect",
        "not passed on",
    ),
    "label_smoothing_factor": (
        None,
        arguments(label_smoothing_factor=0.1),
        "training-argument-without-effect",
        "smooths no labels",
    ),
    "include_for_metrics": (
        None,
        arguments(include_for_metrics=["loss"]),
        "training-argument-without-effect",
        "evaluators",
    ),
    "batch_eval_metrics": (None, arguments(batch_eval_metrics=True), "training-argument-without-effect", "evaluators"),
    "compute_metrics": (None, arguments(compute_metrics="f1"), "training-argument-renamed", "no argument"),
    "remove_unused_columns": (
        None,
        arguments(remove_unused_columns=True),
        "training-remove-unused-columns",
        "drops no column",
    ),
    "a column of identifiers": (pairs(doc=str), {}, "training-columns-left-out", "Not trained on: doc"),
    "prompts by role": (
        None,
        arguments(prompts={"query": "q: ", "document": "d: "}),
        "training-prompts-covered",
        "among the columns",
    ),
    "prompts that are not saved": (
        None,
        arguments(prompts={"anchor": "q: "}),
        "training-prompts-covered",
        "among the columns",
    ),
    "labels that the loss ignores": (
        pairs(negative=lambda n: f"another {n}", score=lambda n: n / 240),
        {},
        "training-label-ignored",
        "score of the data is not used",
    ),
    "labels with a loss for pairs": (SCORED, {"loss": MNRL}, "training-loss-unfit", "pairs with a score"),
    "evaluations of one name": (None, {"matryoshka_dims": [32, 16, 16]}, "training-matryoshka-dims", "twice"),
    "a metric that nobody reports": (
        None,
        arguments(metric_for_best_model="eval_baseline_128_cosine_ndcg@10"),
        "training-refused",
        "eval_dev_cosine_ndcg@10",
    ),
    "accuracy": (None, arguments(metric_for_best_model="accuracy"), "training-metric-unknown", "No evaluation"),
    "rows that no_duplicates loses": (
        pairs(600, shared=100),
        arguments(batch_sampler="no_duplicates", per_device_train_batch_size=16),
        "training-rows-lost",
        "are not seen in an epoch",
    ),
    "texts in the model card": (None, {"model_card_texts": True}, "training-card-shows-texts", "README.md"),
    "layers around a cached loss": (
        None,
        {"loss": "AdaptiveLayerLoss", "loss_parameters": {"loss": "CachedMultipleNegativesRankingLoss"}},
        "training-loss-unknown",
        "fails in the first step",
    ),
    "CoSENT without labels": (None, {"loss": "CoSENTLoss"}, "training-loss-unfit", "pairs with a score"),
    "triplets from pairs": (None, {"loss": "TripletLoss"}, "training-loss-unfit", "takes triplets"),
    "negatives beside negatives": (
        pairs(negative=lambda n: f"another {n}"),
        {"negatives": {"count": 2}},
        "training-pairs-needed",
        "have negatives already",
    ),
    "an optimizer whose package is missing": (
        None,
        arguments(optim="lomo"),
        "training-refused",
        "lomo-optim, which is not installed",
    ),
    "a tracker whose package is missing": (
        None,
        arguments(report_to=["none", "dvclive"]),
        "training-refused",
        "dvclive, which is not installed",
    ),
    "uploading": (None, arguments(push_to_hub=True), "training-refused", "set by the run itself"),
    "evaluating at the start": (None, arguments(eval_on_start=True), "training-refused", "set by the run itself"),
    "kernels for other models": (
        None,
        arguments(use_liger_kernel=True),
        "training-argument-without-effect",
        "models of transformers alone",
    ),
    "noise on embeddings": (
        None,
        arguments(neftune_noise_alpha=5.0),
        "training-argument-without-effect",
        "fails in the beginning",
    ),
    "the worst checkpoint": (None, arguments(greater_is_better=False), "training-best-model", "the worst"),
    "columns in each other's place": (
        [{"anchor": row["positive"], "positive": row["anchor"]} for row in pairs(shared=2)],
        {},
        "training-columns-swapped",
        "look like passages",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_ignored_or_breaks_is_found(planned, name):
    """Before any weights are read, with what to do."""
    data, training, code, words = SETTINGS[name]
    found = [finding for finding in planned(data, **training).findings if finding.code == code]
    assert found, name
    assert any(words in finding.message for finding in found), [finding.message for finding in found]
    assert all(finding.fix for finding in found)


#: Rule over data -> what it fires on, and what it is silent about: (rows, training).
PAIRS_OF_SITUATIONS = {
    "training-loss-unfit": ((None, {"loss": "CoSENTLoss"}), (SCORED, {"loss": "CoSENTLoss"})),
    "training-refused": (
        (None, arguments(gradient_accumulation_steps=4)),
        (SCORED, arguments(gradient_accumulation_steps=4)),
    ),
    "training-label-ignored": (
        (pairs(negative=lambda n: f"n{n}", score=float), {"loss": MNRL}),
        (pairs(negative=lambda n: f"n{n}"), {"loss": MNRL}),
    ),
    "training-columns-left-out": ((pairs(page=int), {}), (None, {})),
    "training-columns-swapped": (
        ([{"anchor": row["positive"], "positive": row["anchor"]} for row in pairs()], {}),
        (None, {}),
    ),
    "training-rows-lost": (
        (pairs(600, shared=100), arguments(batch_sampler="no_duplicates", per_device_train_batch_size=16)),
        (pairs(600, shared=100), arguments(per_device_train_batch_size=16)),
    ),
    "training-false-negatives": (
        (pairs(shared=6), arguments(batch_sampler="batch_sampler")),
        (pairs(shared=6), {}),
    ),
    "training-batches-small": (
        (pairs(600, shared=60), arguments(per_device_train_batch_size=64)),
        (pairs(600, shared=60), arguments(per_device_train_batch_size=8)),
    ),
    "training-leakage": (
        (
            [{"anchor": "what is it?", "positive": f"number {n} is a passage of its own, {n}"} for n in range(240)],
            {},
        ),
        (None, {}),
    ),
    "training-evaluation-small": ((None, {}), (pairs(2400), {})),
    "training-texts-cut": ((None, {"max_seq_length": 4}), (None, {"max_seq_length": 60})),
    "training-few-steps": ((None, arguments(max_steps=3)), (None, arguments(max_steps=30))),
    "training-rows-rejected": (([*pairs(), {"anchor": "", "positive": "x"}], {}), (None, {})),
    "training-pairs-needed": ((SCORED, {"negatives": {"count": 2}}), (None, {"negatives": {"count": 2}})),
    "training-teacher-unused": (
        (None, {"distill_from": "larger", "loss": MNRL}),
        (None, {"distill_from": "larger", "loss": "EmbedDistillLoss"}),
    ),
    "training-metric-unused": ((SCORED, {"metric": "mrr@10"}), (None, {"metric": "mrr@10"})),
}


@pytest.mark.parametrize("code", PAIRS_OF_SITUATIONS)
def test_a_rule_over_data_fires_where_it_should_and_is_silent_beside_it(planned, code):
    """Two plans that differ in one thing."""
    fires, silent = PAIRS_OF_SITUATIONS[code]
    assert code in {finding.code for finding in planned(fires[0], **fires[1]).findings}
    assert code not in {finding.code for finding in planned(silent[0], **silent[1]).findings}


def test_memory_that_does_not_suffice_is_found(folders):
    """Of the machine as it is described."""
    from dataclasses import replace

    preferences = Preferences.model_validate({"model": {"name": str(folders["bert"])}})
    codes = [
        {
            finding.code
            for finding in plan_training(
                preferences, pairs(), hardware=replace(MACHINE, memory_available=free), measure=False
            ).findings
        }
        for free in (2**20, 2**34)
    ]
    assert "training-memory" in codes[0]
    assert "training-memory" not in codes[1]


def test_every_rule_over_data_is_tested():
    """None can be added without its two situations."""
    assert {rule.code for rule in TRAINING_RULES} == {*PAIRS_OF_SITUATIONS, "training-memory"}


def test_ignored_codes_are_left_out_but_errors_stay(folders):
    """`[checks] ignore` silences warnings and notes alone."""
    values = {
        "model": {"name": str(folders["bert"])},
        "training": {"loss": "CoSENTLoss"},
        "checks": {"ignore": ["training-columns-left-out", "training-loss-unfit"]},
    }
    plan = plan_training(Preferences.model_validate(values), pairs(page=int), hardware=MACHINE, measure=False)
    codes = {finding.code for finding in plan.findings}
    assert "training-columns-left-out" not in codes
    assert "training-loss-unfit" in codes
    assert plan.has_errors


def test_a_token_in_the_file_is_found_and_not_shown(planned):
    """Neither in the text nor in the JSON of a plan."""
    plan = planned(**arguments(hub_token="hf_secret"))
    assert "training-token-in-file" in {finding.code for finding in plan.findings}
    assert "hf_secret" not in plan.to_text() + json.dumps(plan.to_json())


def test_what_the_checks_say_already_is_not_said_twice(planned):
    """One field, one error."""
    plan = planned(**arguments(metric_for_best_model="accuracy"))
    fields = [finding.field for finding in plan.findings if finding.severity == "error"]
    assert fields.count("training.arguments.metric_for_best_model") == 1
    assert plan.arguments is not None
