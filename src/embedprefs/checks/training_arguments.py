"""The names of the host's training arguments, and what became of older ones.

The table is that of `SentenceTransformerTrainingArguments` in sentence-transformers 6.2 with transformers 5.23, so
that a name can be judged without importing either; a test compares it with the installed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from embedprefs.checks.training_losses import HOST_LOSSES

__all__ = [
    "CHOICES",
    "DEPRECATED",
    "HOST_VERSIONS",
    "IN_BATCH_NEGATIVES_LOSSES",
    "LOSSES",
    "NO_EFFECT",
    "STALE",
    "TRAINING_ARGUMENTS",
    "HostArgument",
    "argument_key",
    "strategies",
]

#: The versions whose arguments the table lists.
HOST_VERSIONS = {"sentence-transformers": "6.2.0", "transformers": "5.23.0"}


@dataclass(frozen=True)
class HostArgument:
    """One training argument of the host."""

    kinds: str
    """Types it takes, by Python's names, joined by ` | `; "object" where a file cannot hold it."""
    default: Any
    """The host's default; () for an empty list or table."""

    def accepts(self, value: Any) -> bool:
        """Return whether a value of a preferences file has one of the types; a whole number is also a number."""
        kinds = set(self.kinds.split(" | "))
        if isinstance(value, bool):
            return "bool" in kinds
        if isinstance(value, int):
            return bool({"int", "float"} & kinds)
        return type(value).__name__ in kinds


TRAINING_ARGUMENTS: Mapping[str, HostArgument] = MappingProxyType(
    {
        "output_dir": HostArgument("str", None),
        "per_device_train_batch_size": HostArgument("int", 8),
        "num_train_epochs": HostArgument("float", 3.0),
        "max_steps": HostArgument("int", -1),
        "learning_rate": HostArgument("float", 5e-05),
        "lr_scheduler_type": HostArgument("str", "linear"),
        "lr_scheduler_kwargs": HostArgument("str | dict", None),
        "warmup_steps": HostArgument("float", 0),
        "optim": HostArgument("str", "adamw_torch_fused"),
        "optim_args": HostArgument("str", None),
        "weight_decay": HostArgument("float", 0.0),
        "adam_beta1": HostArgument("float", 0.9),
        "adam_beta2": HostArgument("float", 0.999),
        "adam_epsilon": HostArgument("float", 1e-08),
        "optim_target_modules": HostArgument("str | list", None),
        "gradient_accumulation_steps": HostArgument("int", 1),
        "average_tokens_across_devices": HostArgument("bool", True),
        "max_grad_norm": HostArgument("float", 1.0),
        "label_smoothing_factor": HostArgument("float", 0.0),
        "bf16": HostArgument("bool", False),
        "fp16": HostArgument("bool", False),
        "bf16_full_eval": HostArgument("bool", False),
        "fp16_full_eval": HostArgument("bool", False),
        "tf32": HostArgument("bool", None),
        "activation_checkpointing": HostArgument("bool", None),
        "activation_checkpointing_kwargs": HostArgument("str | dict", None),
        "gradient_checkpointing": HostArgument("bool", None),
        "gradient_checkpointing_kwargs": HostArgument("str | dict", None),
        "torch_compile": HostArgument("bool", False),
        "torch_compile_backend": HostArgument("str", None),
        "torch_compile_mode": HostArgument("str", None),
        "use_liger_kernel": HostArgument("bool", False),
        "liger_kernel_config": HostArgument("dict", None),
        "use_cache": HostArgument("bool", False),
        "neftune_noise_alpha": HostArgument("float", None),
        "torch_empty_cache_steps": HostArgument("int", None),
        "auto_find_batch_size": HostArgument("bool", False),
        "logging_strategy": HostArgument("str", "steps"),
        "logging_steps": HostArgument("float", 500),
        "logging_first_step": HostArgument("bool", False),
        "log_on_each_node": HostArgument("bool", True),
        "logging_nan_inf_filter": HostArgument("bool", True),
        "include_num_input_tokens_seen": HostArgument("bool | str", "no"),
        "log_level": HostArgument("str", "passive"),
        "log_level_replica": HostArgument("str", "warning"),
        "disable_tqdm": HostArgument("bool", None),
        "report_to": HostArgument("str | list", "none"),
        "run_name": HostArgument("str", None),
        "project": HostArgument("str", "huggingface"),
        "trackio_space_id": HostArgument("str", None),
        "trackio_bucket_id": HostArgument("str", None),
        "trackio_static_space_id": HostArgument("bool | str", None),
        "eval_strategy": HostArgument("str", "no"),
        "eval_steps": HostArgument("float", None),
        "eval_delay": HostArgument("float", 0),
        "per_device_eval_batch_size": HostArgument("int", 8),
        "prediction_loss_only": HostArgument("bool", False),
        "eval_on_start": HostArgument("bool", False),
        "eval_do_concat_batches": HostArgument("bool", True),
        "eval_use_gather_object": HostArgument("bool", False),
        "eval_accumulation_steps": HostArgument("int", None),
        "include_for_metrics": HostArgument("list", ()),
        "batch_eval_metrics": HostArgument("bool", False),
        "save_only_model": HostArgument("bool", False),
        "save_strategy": HostArgument("str", "steps"),
        "save_steps": HostArgument("float", 500),
        "save_on_each_node": HostArgument("bool", False),
        "save_total_limit": HostArgument("int", None),
        "enable_jit_checkpoint": HostArgument("bool", False),
        "push_to_hub": HostArgument("bool", False),
        "hub_token": HostArgument("str", None),
        "hub_private_repo": HostArgument("bool", None),
        "hub_model_id": HostArgument("str", None),
        "hub_strategy": HostArgument("str", "every_save"),
        "hub_always_push": HostArgument("bool", False),
        "hub_revision": HostArgument("str", None),
        "load_best_model_at_end": HostArgument("bool", False),
        "metric_for_best_model": HostArgument("str", None),
        "greater_is_better": HostArgument("bool", None),
        "ignore_data_skip": HostArgument("bool", False),
        "restore_callback_states_from_checkpoint": HostArgument("bool", False),
        "full_determinism": HostArgument("bool", False),
        "seed": HostArgument("int", 42),
        "data_seed": HostArgument("int", None),
        "use_cpu": HostArgument("bool", False),
        "accelerator_config": HostArgument("str | dict", None),
        "parallelism_config": HostArgument("object", None),
        "dataloader_drop_last": HostArgument("bool", False),
        "dataloader_num_workers": HostArgument("int", 0),
        "dataloader_pin_memory": HostArgument("bool", True),
        "dataloader_persistent_workers": HostArgument("bool", False),
        "dataloader_prefetch_factor": HostArgument("int", None),
        "dataloader_multiprocessing_context": HostArgument("str", None),
        "dataloader_in_order": HostArgument("bool", True),
        "remove_unused_columns": HostArgument("bool", True),
        "label_names": HostArgument("list", None),
        "train_sampling_strategy": HostArgument("str", "random"),
        "length_column_name": HostArgument("str", "length"),
        "ddp_find_unused_parameters": HostArgument("bool", None),
        "ddp_bucket_cap_mb": HostArgument("int", None),
        "ddp_broadcast_buffers": HostArgument("bool", None),
        "ddp_static_graph": HostArgument("bool", None),
        "ddp_backend": HostArgument("str", None),
        "ddp_timeout": HostArgument("int", 1800),
        "fsdp": HostArgument("str", None),
        "fsdp_config": HostArgument("str | dict", None),
        "deepspeed": HostArgument("str | dict", None),
        "debug": HostArgument("str | list", ""),
        "skip_memory_metrics": HostArgument("bool", True),
        "do_train": HostArgument("bool", False),
        "do_eval": HostArgument("bool", False),
        "do_predict": HostArgument("bool", False),
        "resume_from_checkpoint": HostArgument("str", None),
        "local_rank": HostArgument("int", -1),
        "prompts": HostArgument("str | dict", None),
        "batch_sampler": HostArgument("str", "batch_sampler"),
        "multi_dataset_batch_sampler": HostArgument("str", "proportional"),
        "router_mapping": HostArgument("str | dict", ()),
        "learning_rate_mapping": HostArgument("str | dict", ()),
        "warmup_ratio": HostArgument("float", None),
    }
)

#: Names that are gone -> what to write instead.
STALE: Mapping[str, str] = MappingProxyType(
    {
        "evaluation_strategy": 'It is called eval_strategy today: write eval_strategy = "steps".',
        "logging_dir": "It is gone: set the environment variable TENSORBOARD_LOGGING_DIR.",
        "no_cuda": "It is gone: write use_cpu = true.",
        "use_mps_device": "It is gone: the GPU of a Mac is used by itself; use_cpu = true prevents that.",
        "save_safetensors": "It is gone: weights are always saved as safetensors.",
        "overwrite_output_dir": "It is gone: use an output_dir that does not exist yet.",
        "group_by_length": "It is gone, and its successor has no effect on embedding models: remove it.",
        "fp16_backend": "It is gone: fp16 and bf16 use torch's own mixed precision.",
        "half_precision_backend": "It is gone: fp16 and bf16 use torch's own mixed precision.",
        "fp16_opt_level": "It is gone together with apex: write bf16 = true or fp16 = true.",
        "include_inputs_for_metrics": "It is gone, and no metrics are computed from inputs: remove it.",
        "include_tokens_per_second": "It is gone; tokens a second are reported by embedprefs.",
        "tokenizer": "It is no argument: the model brings its tokenizer. See [tokenizer].",
        "push_to_hub_model_id": "It is called hub_model_id today.",
        "push_to_hub_organization": "It is gone: write the organisation into hub_model_id.",
        "push_to_hub_token": "It is gone: set the environment variable HF_TOKEN.",
        "jit_mode_eval": "It is gone: remove it.",
        "use_ipex": "It is gone: remove it.",
        "torchdynamo": "It is called torch_compile_backend today, beside torch_compile = true.",
        "past_index": "It is gone: remove it.",
        "mp_parameters": "It is gone: remove it.",
        "ray_scope": "It is gone: remove it.",
        "sharded_ddp": "It is gone: use fsdp.",
        "per_gpu_train_batch_size": "It is called per_device_train_batch_size today.",
        "per_gpu_eval_batch_size": "It is called per_device_eval_batch_size today.",
        "adafactor": 'It is a value today: write optim = "adafactor".',
        "compute_metrics": "It is no argument, and sentence-transformers never calls it: metrics come from evaluators.",
        "train_batch_size": "It is called per_device_train_batch_size.",
        "eval_batch_size": "It is called per_device_eval_batch_size.",
        "batch_size": "It is called per_device_train_batch_size.",
        "epochs": "It is called num_train_epochs.",
        "num_epochs": "It is called num_train_epochs.",
        "lr": "It is called learning_rate.",
        "scheduler": "It is called lr_scheduler_type.",
        "optimizer": "It is called optim.",
        "optimizer_class": "It is called optim.",
        "optimizer_params": "Write adam_beta1, adam_beta2, adam_epsilon, weight_decay, or optim_args.",
        "output_path": "It is called output_dir.",
        "evaluation_steps": "It is called eval_steps.",
        "checkpoint_save_steps": "It is called save_steps.",
        "checkpoint_path": "It is called output_dir.",
        "checkpoint_save_total_limit": "It is called save_total_limit.",
        "save_best_model": "It is called load_best_model_at_end.",
        "use_amp": "Write bf16 = true, or fp16 = true on a GPU without bfloat16.",
        "max_seq_length": "It is no training argument: write training.max_seq_length.",
        "gradient_checkpointing_ratio": "There is no such argument: see training.activation_checkpointing.",
        "early_stopping_patience": "It is no argument: write training.early_stopping.patience.",
        "early_stopping_threshold": "It is no argument: write training.early_stopping.threshold.",
    }
)

#: Names that still work and will not for long -> what to write instead.
DEPRECATED: Mapping[str, str] = MappingProxyType(
    {
        "gradient_checkpointing": 'Write activation_checkpointing = "on" under [training].',
        "gradient_checkpointing_kwargs": 'Write activation_checkpointing = "on" under [training].',
        "activation_checkpointing": 'Write activation_checkpointing = "on" under [training].',
        "warmup_ratio": "Write warmup_steps: a value below 1 is a share of all steps.",
    }
)

#: Accepted by the host and then not used with embedding models -> why. Found by running each of them.
NO_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "auto_find_batch_size": "After running out of memory the same batch size is tried again, until the run fails "
        "with the message that no executable batch size was found.",
        "train_sampling_strategy": "The data loader is built by sentence-transformers, which samples by batch_sampler.",
        "length_column_name": "It is for sampling by length, which embedding models do not use.",
        "dataloader_in_order": "It is not passed on to the data loader.",
        "dataloader_multiprocessing_context": "It is not passed on to the data loader.",
        "label_smoothing_factor": "The loss is one of sentence-transformers' own, which smooths no labels.",
        "include_for_metrics": "No metrics are computed from predictions: they come from evaluators.",
        "batch_eval_metrics": "No metrics are computed from predictions: they come from evaluators.",
        "eval_do_concat_batches": "No predictions are collected: metrics come from evaluators.",
        "do_train": "It is for scripts of transformers; training is started by a command here.",
        "do_eval": "It is for scripts of transformers; eval_strategy says when a run evaluates.",
        "per_device_eval_batch_size": "It is for the loss on evaluation data, and development is judged by a ranking.",
        "eval_accumulation_steps": "No predictions are collected: metrics come from evaluators.",
        "eval_use_gather_object": "No predictions are collected: metrics come from evaluators.",
        "prediction_loss_only": "sentence-transformers sets it by itself.",
        "bf16_full_eval": "Evaluations in the course of training keep the precision of training.",
        "fp16_full_eval": "Evaluations in the course of training keep the precision of training.",
        "ddp_broadcast_buffers": "sentence-transformers sets it by itself.",
        "average_tokens_across_devices": "Losses of embedding models are means over rows, not over tokens.",
        "label_names": "The column of labels is found by its role: training.columns.",
        "use_cache": "It is for models that generate text.",
        "use_liger_kernel": "Its kernels are laid into models of transformers alone, and this one lies within another.",
        "liger_kernel_config": "See use_liger_kernel.",
        "neftune_noise_alpha": "The host looks for the table of embeddings where there is none, and fails in the "
        "beginning.",
        "include_num_input_tokens_seen": "It looks for inputs of one text; the run counts its tokens itself.",
        "log_level": "The host's own remarks are kept off the screen; --debug shows what is logged.",
        "log_level_replica": "The host's own remarks are kept off the screen; --debug shows what is logged.",
        "hub_model_id": "The run uploads nothing.",
        "hub_strategy": "The run uploads nothing.",
        "hub_private_repo": "The run uploads nothing.",
        "hub_always_push": "The run uploads nothing.",
        "hub_revision": "The run uploads nothing.",
        "multi_dataset_batch_sampler": "There is one data set.",
        "do_predict": "It is for scripts of transformers; nothing is predicted here.",
    }
)

#: Argument -> the values it takes, where these are a closed list.
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "eval_strategy": ("no", "steps", "epoch"),
        "logging_strategy": ("no", "steps", "epoch"),
        "save_strategy": ("no", "steps", "epoch", "best"),
        "batch_sampler": ("batch_sampler", "no_duplicates", "no_duplicates_hashed", "group_by_label"),
        "multi_dataset_batch_sampler": ("round_robin", "proportional"),
        "optim": (
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_torch_xla",
            "adamw_torch_npu_fused",
            "adafactor",
            "adamw_anyprecision",
            "adamw_torch_4bit",
            "adamw_torch_8bit",
            "ademamix",
            "sgd",
            "adagrad",
            "adamw_bnb_8bit",
            "adamw_8bit",
            "ademamix_8bit",
            "lion_8bit",
            "lion_32bit",
            "paged_adamw_32bit",
            "paged_adamw_8bit",
            "paged_ademamix_32bit",
            "paged_ademamix_8bit",
            "paged_lion_32bit",
            "paged_lion_8bit",
            "rmsprop",
            "rmsprop_bnb",
            "rmsprop_bnb_8bit",
            "rmsprop_bnb_32bit",
            "galore_adamw",
            "galore_adamw_8bit",
            "galore_adafactor",
            "galore_adamw_layerwise",
            "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise",
            "lomo",
            "adalomo",
            "grokadamw",
            "schedule_free_radam",
            "schedule_free_adamw",
            "schedule_free_sgd",
            "apollo_adamw",
            "apollo_adamw_layerwise",
            "stable_adamw",
        ),
        "report_to": (
            "none",
            "all",
            "azure_ml",
            "comet_ml",
            "mlflow",
            "neptune",
            "tensorboard",
            "trackio",
            "wandb",
            "codecarbon",
            "clearml",
            "dagshub",
            "flyte",
            "dvclive",
            "swanlab",
            "kubeflow",
        ),
        "hub_strategy": ("end", "every_save", "checkpoint", "all_checkpoints"),
        "lr_scheduler_type": (
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "reduce_lr_on_plateau",
            "cosine_with_min_lr",
            "cosine_warmup_with_min_lr",
            "warmup_stable_decay",
            "greedy",
        ),
    }
)

#: Losses of the host, by class name.
LOSSES = tuple(HOST_LOSSES)

#: Losses whose negatives are the other rows of the batch.
IN_BATCH_NEGATIVES_LOSSES = frozenset(loss.name for loss in HOST_LOSSES.values() if loss.in_batch_negatives)


def argument_key(name: str) -> str:
    """Return the preferences' key of an argument."""
    return f"training.arguments.{name}"


def strategies(arguments: Mapping[str, Any], *, has_development: bool) -> tuple[str, str]:
    """Return when a run evaluates and when it saves: "no", "steps", "epoch" or, for saving alone, "best".

    A run evaluates wherever there is a development part, and saves when it evaluates; where only one of the two is
    stated, the other follows.

    Args:
        arguments: `[training.arguments]`.
        has_development: Whether there is a development part.
    """
    evaluation, saving = arguments.get("eval_strategy"), arguments.get("save_strategy")
    if evaluation is None:
        evaluation = (saving if saving in ("steps", "epoch") else "steps") if has_development else "no"
    if saving is None:
        saving = evaluation if evaluation != "no" else "steps"
    return str(evaluation), str(saving)
