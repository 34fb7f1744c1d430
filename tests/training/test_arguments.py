"""Training arguments follow from preferences, data, loss and machine; nothing is loaded for it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from embedprefs.errors import InvalidPreferenceError
from embedprefs.facts import read_facts
from embedprefs.hardware import Accelerator, Hardware
from embedprefs.layers import preferences_for_model
from embedprefs.resolve import resolve
from embedprefs.training.arguments import best_metric_name, choose_arguments, prompts_by_column

CACHED = "CachedMultipleNegativesRankingLoss"
PLAIN = "MultipleNegativesRankingLoss"
METRIC = "eval_dev_cosine_ndcg@10"
CPU = Hardware(system="Linux", machine="x86_64", cpu_count=2, memory_total=8 * 2**30, torch_version="2.13.0")
GPU = dataclasses.replace(
    CPU,
    torch_cuda_version="13.0",
    accelerators=(Accelerator("cuda", 0, "H200", 140 * 2**30, 139 * 2**30, (9, 0)),),
)


@pytest.fixture
def choose(modernbert):
    facts = read_facts(str(modernbert))

    def chosen(arguments=None, *, hardware=CPU, rows=6_000, loss=CACHED, metric=METRIC, **values):
        overrides = {name.replace("__", "."): value for name, value in values.items()}
        if arguments is not None:
            overrides["training.arguments"] = arguments
        preferences = preferences_for_model(str(modernbert), overrides)
        resolved = resolve(preferences, facts, hardware)
        return choose_arguments(preferences, resolved, rows=rows, loss=loss, output=Path("runs/first"), metric=metric)

    return chosen


def test_what_the_user_states_goes_to_the_host_as_it_is(choose):
    """Stated values win over every choice, and say where they were stated."""
    stated = {"learning_rate": 3e-6, "per_device_train_batch_size": 24, "report_to": ["tensorboard"], "seed": 7}
    found = choose(stated)
    assert {name: found[name] for name in stated} == stated
    assert all(found.choices[name].stated for name in stated)
    assert not found.choices["warmup_steps"].stated


def test_every_choice_is_an_argument_that_the_host_has_today(choose):
    """No name is stale, and each has a reason."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    found = choose(training__activation_checkpointing="on")
    known = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)}
    assert set(found.values) <= known
    assert all(choice.reason for choice in found.choices.values())
    SentenceTransformerTrainingArguments(**{**found.values, "output_dir": "unused"})


def test_nothing_is_reported_to_anybody_unless_asked_for(choose):
    """Tracking is off by default."""
    assert choose()["report_to"] == "none"


def test_evaluations_and_checkpoints_go_together(choose):
    """Whichever of the two is stated, the other one follows, so that the best checkpoint exists."""
    by_default = choose()
    assert by_default["eval_steps"] == by_default["save_steps"] == 0.2
    assert by_default["load_best_model_at_end"] is True
    assert by_default["metric_for_best_model"] == METRIC
    assert choose({"eval_steps": 50})["save_steps"] == 50
    assert choose({"save_steps": 70})["eval_steps"] == 70
    by_epoch = choose({"eval_strategy": "epoch"})
    assert by_epoch["save_strategy"] == "epoch"


def test_without_a_development_set_nothing_is_evaluated_and_the_last_weights_are_the_result(choose):
    """No metric, no best checkpoint; asking for one is refused."""
    found = choose(metric=None)
    assert found["eval_strategy"] == "no"
    assert found["load_best_model_at_end"] is False
    with pytest.raises(InvalidPreferenceError, match="no development set"):
        choose({"load_best_model_at_end": True}, metric=None)


@pytest.mark.parametrize("loss", [PLAIN, CACHED, "GISTEmbedLoss"])
def test_gradient_accumulation_is_refused_where_it_adds_no_negatives(choose, loss):
    """The refusal names the cached loss with the same meaning, with the sizes to write."""
    with pytest.raises(InvalidPreferenceError, match="takes its negatives from the batch") as raised:
        choose({"gradient_accumulation_steps": 4, "per_device_train_batch_size": 32}, loss=loss)
    fix = raised.value.problems[0].fix
    assert f'loss = "{loss if loss.startswith("Cached") else "Cached" + loss}"' in fix
    assert "per_device_train_batch_size = 128" in fix
    assert "mini_batch_size = 32" in fix


def test_gradient_accumulation_is_kept_where_it_means_what_people_think(choose):
    """A loss that compares nothing within the batch may accumulate."""
    found = choose({"gradient_accumulation_steps": 4}, loss="CoSENTLoss")
    assert found["gradient_accumulation_steps"] == 4
    assert found.steps == 94  # 188 batches of 32 an epoch, 47 steps of 4 batches, 2 epochs


def test_the_run_s_own_arguments_are_refused_all_at_once(choose):
    """Folder, prompts and resuming belong to the run; each says where else it is stated."""
    stated = {"output_dir": "elsewhere", "prompts": {"query": "q: "}, "resume_from_checkpoint": "checkpoint-3"}
    with pytest.raises(InvalidPreferenceError) as raised:
        choose(stated)
    assert {problem.key for problem in raised.value.problems} == {f"training.arguments.{name}" for name in stated}


def test_another_metric_than_the_one_computed_is_refused_before_any_step(choose):
    """The host would raise a KeyError after the first evaluation."""
    with pytest.raises(InvalidPreferenceError, match=METRIC):
        choose({"metric_for_best_model": "eval_ndcg@10"})
    assert choose({"metric_for_best_model": METRIC.removeprefix("eval_")})


def test_bfloat16_is_used_where_it_pays_and_weights_stay_float32(choose):
    """Autocast where the hardware multiplies bfloat16; compute.dtype is about serving and changes nothing."""
    matrix_unit = dataclasses.replace(
        CPU, instruction_sets=frozenset({"amx_bf16", "avx512_bf16"}), native_bfloat16=True
    )
    without_amx = dataclasses.replace(
        matrix_unit, instruction_sets=frozenset({"avx512_bf16"}), processor_vendor="GenuineIntel"
    )
    assert choose()["bf16"] is False
    assert choose(hardware=without_amx)["bf16"] is False
    assert choose(hardware=matrix_unit)["bf16"] is True
    assert choose(hardware=GPU, compute__device="cuda")["bf16"] is True
    assert choose({"fp16": True}, hardware=GPU, compute__device="cuda")["bf16"] is False
    served_in_half = choose(hardware=GPU, compute__device="cuda", compute__dtype="bfloat16")
    assert served_in_half["bf16_full_eval"] is False


def test_lora_and_small_models_take_larger_steps(choose):
    """The learning rate follows from what is trained."""
    assert choose()["learning_rate"] == pytest.approx(5e-5)
    assert choose(training__lora={"r": 8})["learning_rate"] == pytest.approx(2e-4)
    assert choose(rows=300)["learning_rate"] == pytest.approx(2.5e-5)


def test_batches_of_a_contrastive_loss_are_larger_and_small_data_still_has_steps(choose):
    """The other rows of a batch are the negatives; an eighth of little data is a batch."""
    assert choose()["per_device_train_batch_size"] == 64
    assert choose(hardware=GPU, compute__device="cuda")["per_device_train_batch_size"] == 128
    assert choose(loss="CoSENTLoss")["per_device_train_batch_size"] == 32
    assert choose(rows=200)["per_device_train_batch_size"] == 25
    assert choose(rows=9)["per_device_train_batch_size"] == 9


def test_steps_are_counted_before_anything_is_loaded(choose):
    """Epochs and batches, or what max_steps says."""
    assert choose({"num_train_epochs": 3, "per_device_train_batch_size": 64}).steps == 94 * 3
    assert choose({"max_steps": 12}).steps == 12


def test_prompts_are_keyed_by_column_and_given_by_role():
    """The host ignores keys that are no columns, so that the names of roles would be no prompt at all."""
    roles = {"anchor": "query", "positive": "document", "negative_1": "document", "label": "label"}
    found = prompts_by_column(roles, {"query": "q: ", "document": "d: "})
    assert found == {"anchor": "q: ", "positive": "d: ", "negative_1": "d: "}
    assert prompts_by_column(roles, {"query": "q: ", "document": ""}) == {"anchor": "q: "}


def test_the_metric_has_the_name_that_the_host_s_evaluator_would_give_it():
    """The names are those of the host's InformationRetrievalEvaluator and EmbeddingSimilarityEvaluator."""
    assert best_metric_name("ndcg@10", "cosine") == METRIC
    assert best_metric_name("ndcg@10", "dot", scored_pairs=True) == "eval_dev_spearman_dot"


def test_labelled_texts_are_sampled_by_label(choose):
    """A triplet loss over a batch needs several rows of each label."""
    assert choose(loss="BatchHardTripletLoss")["batch_sampler"] == "group_by_label"


def test_choosing_imports_neither_torch_nor_the_host():
    """A plan needs the arguments, and no weights."""
    code = (
        "import sys, embedprefs.training, embedprefs.training.arguments;"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"
