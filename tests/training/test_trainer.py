"""`build_trainer` gives the host's trainer what the preferences say, on real tiny models."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import losses
from transformers import TrainerCallback

from embedprefs.errors import InvalidPreferenceError, ResourceError
from embedprefs.layers import preferences_for_model
from embedprefs.testing import static_model_folder, tiny_bert_folder, tiny_modernbert_folder
from embedprefs.training import build_trainer, choose_loss, read_training_data
from embedprefs.training.host_loss import build_loss, halve_mini_batch
from embedprefs.training.host_trainer import is_out_of_memory
from embedprefs.training.parameters import MERGE_TOLERANCE, add_lora, freeze, has_adapter, merge_adapter, trained_share
from embedprefs.training.trainer import load_for_training

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def bert(tmp_path):
    return tiny_bert_folder(tmp_path / "bert", prompts={"query": "query: ", "document": "passage: "})


@pytest.fixture
def trainer_of(rows, tmp_path):
    """Build a trainer for the made-up questions."""

    def built(folder, data=None, **overrides):
        values = {"compute.device": "cpu", "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2}}
        preferences = preferences_for_model(str(folder), {**values, **overrides})
        data = read_training_data(rows if data is None else data)
        return build_trainer(preferences, data, output=tmp_path / "checkpoints")

    return built


def test_it_is_the_host_s_own_trainer_with_our_sampler_and_no_card_callback(trainer_of, bert):
    """Batches share no text, and no callback reads the data for a card."""
    trainer = trainer_of(bert)
    assert isinstance(trainer, SentenceTransformerTrainer)
    names = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert not any("ModelCard" in name or "Printer" in name for name in names)
    for batch in trainer.get_train_dataloader().batch_sampler:
        passages = [trainer.train_dataset[row]["positive"] for row in batch]
        assert len(set(passages)) == len(passages)


@pytest.mark.parametrize("kind", ["bert", "static"])
def test_the_tokens_of_a_step_are_counted_without_padding(trainer_of, bert, tmp_path, kind):
    """Also those of static vectors, whose texts lie end to end and have no mask."""
    pairs = [{"query": "red", "positive": "apple sky green"}, {"query": "blue sky", "positive": "tree"}]
    words = {word: [1.0, 0.5, 0.25] for pair in pairs for text in pair.values() for word in text.split()}
    folder = bert if kind == "bert" else static_model_folder(tmp_path / "static", words)
    trainer = trainer_of(folder, pairs, **{"training.arguments": {"per_device_train_batch_size": 2, "max_steps": 1}})
    trainer.train()
    prompts = {"query": "query: ", "positive": "passage: "} if kind == "bert" else {"query": "", "positive": ""}
    tokenizer = trainer.model.tokenizer
    encode = tokenizer.encode if kind == "bert" else lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    assert trainer.tokens_seen == sum(len(encode(prompts[role] + pair[role])) for pair in pairs for role in pair)


def test_prompts_stand_before_the_right_columns(trainer_of, bert):
    """What the model reads is the role's prompt and the text, as at serving."""
    trainer = trainer_of(bert)
    row = trainer.train_dataset[0]
    batch = trainer.data_collator([row])
    tokenizer = trainer.model.tokenizer
    assert tokenizer.decode(batch["anchor_input_ids"][0]).startswith("[CLS] query :")
    assert tokenizer.decode(batch["positive_input_ids"][0]).startswith("[CLS] passage :")
    assert trainer.args.prompts == {"anchor": "query: ", "positive": "passage: "}


def test_training_length_leaves_the_serving_length_alone(trainer_of, bert):
    """Training cuts at 7 tokens; the model still reads 64."""
    trainer = trainer_of(bert, **{"training.max_seq_length": 7})
    batch = trainer.data_collator([{"anchor": "one two three four five six", "positive": "a " * 50}])
    assert batch["anchor_input_ids"].shape[1] <= 7
    assert batch["positive_input_ids"].shape[1] == 7
    assert trainer.model.max_seq_length == 64
    assert trainer.model.settings_that_changed() == {}


def test_weights_are_float32_whatever_serves_them(bert):
    """bfloat16 weights lose small updates."""
    served = {"compute.device": "cpu", "compute.dtype": "bfloat16", "vectors.precision": "binary"}
    model = load_for_training(preferences_for_model(str(bert), served))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.resolved["vectors.precision"] == "binary"


def test_frozen_parameters_stay_and_the_others_move(trainer_of, bert):
    """Patterns name parameters; a step changes only those that are left."""
    trainer = trainer_of(bert, **{"training.freeze": ["*embeddings*", "*encoder.layer.0.*"]})
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not [name for name in moved if "embeddings" in name or "layer.0." in name]


def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_name(bert):
    """Every pattern is judged before anything is frozen."""
    model = load_for_training(preferences_for_model(str(bert), {"compute.device": "cpu"}))
    with pytest.raises(InvalidPreferenceError, match="no parameter is called") as raised:
        freeze(model, ["*embedings*", "*nothing*"])
    assert len(raised.value.problems) == 2
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InvalidPreferenceError, match="no parameter to train"):
        freeze(model, ["*"])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (tiny_bert_folder, {"query", "key", "value", "dense"}),
        (tiny_modernbert_folder, {"Wqkv", "Wo", "Wi"}),
    ],
)
def test_lora_fits_the_architecture_and_merges_into_an_ordinary_model(make, names, tmp_path):
    """Trained matrices added to the weights give the adapter's vectors, and the saved model needs no peft."""
    folder = make(tmp_path / "base")
    preferences = preferences_for_model(str(folder), {"compute.device": "cpu", "training.lora": {"r": 4}})
    model = load_for_training(preferences)
    base = model.encode(["some words"])
    layers = add_lora(model, preferences.training.lora)
    assert {name.rsplit(".", 1)[-1] for name in layers} == names
    trained, parameters = trained_share(model)
    assert 0 < trained < parameters / 3
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    adapted = model.encode(["some words"])
    assert np.abs(adapted - base).max() > 1e-3
    assert merge_adapter(model) <= MERGE_TOLERANCE
    assert not has_adapter(model)
    np.testing.assert_allclose(model.encode(["some words"]), adapted, atol=MERGE_TOLERANCE)
    model.save_pretrained(str(tmp_path / "merged"), create_model_card=False)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_lora_names_the_layers_that_there_are(bert):
    """A target of another architecture is refused with what this one has."""
    wrong = {"compute.device": "cpu", "training.lora": {"target_modules": ["Wqkv", "query"]}}
    preferences = preferences_for_model(str(bert), wrong)
    with pytest.raises(InvalidPreferenceError, match='no linear layer "Wqkv"') as raised:
        add_lora(load_for_training(preferences), preferences.training.lora)
    assert "query" in raised.value.problems[0].allowed


def test_activation_checkpointing_changes_memory_and_not_the_loss(trainer_of, modernbert):
    """The same two steps give the same losses with it and without; no deprecation is left to the user."""
    found = []
    for choice in ("off", "on"):
        trainer = trainer_of(
            modernbert,
            **{
                "training.activation_checkpointing": choice,
                "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1},
            },
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(found[0]) == 2
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_matryoshka_is_laid_around_the_loss(trainer_of, bert):
    """The stated lengths are trained beside the full one."""
    loss = trainer_of(bert, **{"training.matryoshka_dims": [32, 8]}).loss
    assert isinstance(loss, losses.MatryoshkaLoss)
    assert list(loss.matryoshka_dims) == [32, 8]


def test_names_in_loss_parameters_become_the_host_s_objects(rows, bert):
    """A file can only name a function."""
    stated = {
        "compute.device": "cpu",
        "training.loss": "MultipleNegativesRankingLoss",
        "training.loss_parameters": {"similarity_fct": "dot_score", "scale": 1.0},
    }
    preferences = preferences_for_model(str(bert), stated)
    choice = choose_loss(read_training_data(rows), preferences)
    loss = build_loss(load_for_training(preferences), choice)
    assert loss.similarity_fct.__name__ == "dot_score"
    assert loss.scale == 1.0


class _OutOfMemoryAbove(losses.CachedMultipleNegativesRankingLoss):
    """Fails as torch does while its mini-batches are larger than this machine is said to hold."""

    most = 2

    def forward(self, *arguments, **named):
        if self.mini_batch_size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(*arguments, **named)


def test_out_of_memory_shrinks_the_mini_batch_and_not_the_batch(trainer_of, bert):
    """A cached loss has the same value in smaller parts: the run goes on where it was."""
    trainer = trainer_of(bert)
    trainer.loss = _OutOfMemoryAbove(trainer.model, mini_batch_size=8)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.loss.mini_batch_size == 2
    sizes = [entry["mini_batch_size"] for entry in trainer.state.log_history if "mini_batch_size" in entry]
    assert sizes == [4.0, 2.0]


def test_out_of_memory_that_nothing_helps_says_what_to_change(trainer_of, bert):
    """The error names batch size, length, checkpointing and LoRA, and that checkpoints are kept."""
    trainer = trainer_of(bert)
    trainer.loss = _OutOfMemoryAbove(trainer.model, mini_batch_size=2)
    trainer.loss.most = 0
    with pytest.raises(ResourceError, match="per_device_train_batch_size") as raised:
        trainer.train()
    assert "Checkpoints that were saved are kept." in str(raised.value)


def test_what_counts_as_out_of_memory():
    """torch has an exception for GPUs and words for processors; other errors are none."""
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_only_cached_losses_can_be_computed_in_smaller_parts(bert):
    """A plain loss has no mini-batches."""
    model = load_for_training(preferences_for_model(str(bert), {"compute.device": "cpu"}))
    assert halve_mini_batch(losses.MultipleNegativesRankingLoss(model)) is None
    assert halve_mini_batch(losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=5)) == 2


def test_a_loss_that_is_no_number_ends_the_run(trainer_of, bert):
    """The host would go on for hours and filter it from the log."""
    trainer = trainer_of(
        bert,
        **{
            "training.arguments": {
                "per_device_train_batch_size": 8,
                "max_steps": 30,
                "learning_rate": 1e30,
                "max_grad_norm": 0.0,
                "logging_steps": 1,
                "warmup_steps": 0,
            }
        },
    )
    with pytest.raises(InvalidPreferenceError, match="learning_rate"):
        trainer.train()


@pytest.mark.parametrize(
    ("loss", "negatives"),
    [(None, False), ("MSELoss", False), ("MarginMSELoss", True), ("DistillKLDivLoss", True)],
)
def test_a_smaller_model_learns_from_a_larger_one(loss, negatives, rows, tmp_path, trainer_of):
    """Vectors, or scores, of the larger model are the labels; its own prompts are used, and it is asked once."""
    same = loss == "MSELoss"
    teacher = tiny_bert_folder(tmp_path / "teacher", hidden_size=32 if same else 48, seed=9)
    student = tiny_bert_folder(tmp_path / "student", num_hidden_layers=1)
    data = [{**row, "negative": rows[-1 - at]["positive"]} for at, row in enumerate(rows)] if negatives else rows
    data = [row for row in data if row.get("negative") != row["positive"]]
    stated = {"training.distill_from": str(teacher)}
    if loss is not None:
        stated["training.loss"] = loss
    trainer = trainer_of(student, data, **stated)
    assert type(trainer.loss).__name__ == (loss or "EmbedDistillLoss")
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_what_a_loss_trains_beside_the_model_is_part_of_a_checkpoint(trainer_of, tmp_path):
    """The projection to a longer teacher's vectors continues too; the host saves the model alone."""
    teacher = tiny_bert_folder(tmp_path / "teacher", hidden_size=48, seed=9)
    student = tiny_bert_folder(tmp_path / "student", num_hidden_layers=1)
    stated = {
        "training.distill_from": str(teacher),
        "training.split": {"development": 0.0},
        "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2, "save_steps": 2},
    }
    trained = trainer_of(student, **stated)
    trained.train()
    expected = {name: tensor.clone() for name, tensor in trained.loss.state_dict().items() if "projection" in name}
    assert expected
    fresh = trainer_of(student, **stated)
    fresh.load_weights(tmp_path / "checkpoints" / "checkpoint-2")
    found = fresh.loss.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_best_checkpoint_that_cannot_be_loaded_is_an_error(trainer_of, bert, tmp_path):
    """The host logs it and returns the last weights as if they were the best; so it would where weights are missing."""
    from safetensors.torch import load_file, save_file

    from embedprefs.errors import ModelFilesError

    def absent(folder):
        shutil.rmtree(folder)

    def cut_off(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-64])

    def with_a_tensor_missing(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["encoder.layer.0.output.dense.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    trainer = trainer_of(bert, **{"training.arguments": {"per_device_train_batch_size": 8, "max_steps": 1}})
    trainer.train()
    saved = tmp_path / "checkpoints" / "checkpoint-1"
    before = copy.deepcopy(trainer.model.state_dict())
    for number, damage in enumerate((absent, cut_off, with_a_tensor_missing)):
        folder = shutil.copytree(saved, tmp_path / f"checkpoint-9{number}")
        damage(folder)
        trainer.state.best_model_checkpoint = str(folder)
        with pytest.raises(ModelFilesError, match=f"checkpoint-9{number}: the best checkpoint cannot be loaded"):
            trainer._load_best_model()
        assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items()), damage
    trainer.state.best_model_checkpoint = str(saved)
    trainer._load_best_model()


def test_a_run_whose_best_checkpoint_is_damaged_ends_with_an_error(rows, bert, tmp_path):
    """At the end of training, where the host would only write a line into its log."""
    from embedprefs.errors import ModelFilesError
    from embedprefs.training.evaluation_sets import set_from_rows

    data = read_training_data(rows[:24])

    class Damage(TrainerCallback):
        def on_step_end(self, args, state, control, **_named):
            if state.global_step == 3 and state.best_model_checkpoint:
                (Path(state.best_model_checkpoint) / "model.safetensors").write_bytes(b"no weights")
            return control

    stated = {
        "compute.device": "cpu",
        "training.arguments": {
            "per_device_train_batch_size": 8,
            "max_steps": 3,
            "eval_steps": 1,
            "save_steps": 1,
            # Nothing is learnt after the first step, so that the first checkpoint stays the best.
            "lr_scheduler_type": "constant",
            "learning_rate": 1e-30,
        },
    }
    development = set_from_rows(data, data, name="development", metric="ndcg@10")
    trainer = build_trainer(
        preferences_for_model(str(bert), stated),
        data,
        output=tmp_path / "checkpoints",
        development=development,
        callbacks=[Damage()],
    )
    with pytest.raises(ModelFilesError, match="checkpoint-1: the best checkpoint cannot be loaded"):
        trainer.train()


def test_a_checkpoint_is_not_needed_where_none_is_asked_for(rows, bert, tmp_path):
    """With save_strategy = "no" a run trains and is evaluated; the last weights are the result."""
    stated = {"per_device_train_batch_size": 8, "max_steps": 2, "save_strategy": "no"}
    trainer = build_trainer(
        preferences_for_model(str(bert), {"compute.device": "cpu", "training.arguments": stated}),
        rows,
        output=tmp_path / "checkpoints",
    )
    trainer.train()
    assert trainer.args.load_best_model_at_end is False
    assert any(name.startswith("eval_dev_") for entry in trainer.state.log_history for name in entry)
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_the_seed_of_the_data_changes_the_batches_alone(trainer_of, bert):
    """`data_seed` is obeyed by the sampler of embedprefs too, and by the plan."""

    def batches(**stated):
        trainer = trainer_of(
            bert, **{"training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2, **stated}}
        )
        return [list(batch) for batch in trainer.get_train_dataloader().batch_sampler]

    assert batches() == batches(data_seed=42)
    assert batches() != batches(data_seed=7)
    assert batches(data_seed=7) == batches(seed=7, data_seed=7)


def test_a_schedule_that_follows_the_metric_knows_that_more_is_better(rows, bert, tmp_path):
    """The host's default takes less for better, and would lower the rate while the metric rises."""
    stated = {"per_device_train_batch_size": 8, "max_steps": 2, "lr_scheduler_type": "reduce_lr_on_plateau"}
    preferences = preferences_for_model(str(bert), {"compute.device": "cpu", "training.arguments": stated})
    trainer = build_trainer(preferences, rows, output=tmp_path / "checkpoints")
    trainer.train()
    assert trainer.lr_scheduler.mode == "max"


def test_early_stopping_counts_what_happened_before_an_interruption():
    """A run that continues stops where an undisturbed one would: the counter is read from the log."""
    from types import SimpleNamespace

    from embedprefs.training.callbacks import ResumableEarlyStopping

    metric = "eval_dev_cosine_ndcg@10"
    stopping = ResumableEarlyStopping(3, 0.0)
    arguments = SimpleNamespace(metric_for_best_model=metric, eval_strategy="steps", load_best_model_at_end=True)
    log = [{metric: value} for value in (0.5, 0.6, 0.55, 0.58)]
    stopping.on_train_begin(arguments, SimpleNamespace(log_history=log), None)
    assert stopping.early_stopping_patience_counter == 2
