"""Settings that guides tell people to change, and where each is found here.

Half of these settings are stale today, and some never did what they are said to do. Each is covered by a preference,
by a rule that speaks where it is tried, or by a command. `sample` holds preferences on which the rule must fire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HOST_SETTINGS", "HostSetting", "find_host_setting"]


@dataclass(frozen=True)
class HostSetting:
    """One setting, by the name under which guides have it."""

    name: str
    group: str
    """model, tokenizer, inference, hardware or training."""
    explanation: str
    """What it does today, and what to do instead."""
    preference: str | None = None
    """Dotted key of the preference that covers it."""
    rule: str | None = None
    """Code of the rule that fires where it is tried."""
    sample: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value: preferences on which that rule fires."""
    command: str | None = None
    """The command that answers it."""
    aliases: tuple[str, ...] = ()
    """Other names of it."""


def _override(name: str, value: Any, rule: str, explanation: str) -> HostSetting:
    return HostSetting(name, "model", explanation, "model.config", rule, {"model.config": {name: value}})


_ARCHITECTURE = "config-override-architecture"
_NO_EFFECT = "config-override-without-effect"
_UNTRAINED = "To build an untrained model of another shape, write from_scratch = true under [model]."


def _stale(name: str, value: Any, explanation: str) -> HostSetting:
    return HostSetting(
        name,
        "training",
        explanation,
        "training.arguments",
        "training-argument-renamed",
        {"training.arguments": {name: value}},
    )


HOST_SETTINGS: tuple[HostSetting, ...] = (
    # --- model
    _override(
        "hidden_size",
        512,
        _ARCHITECTURE,
        "The length of the model's inner vectors, fixed by its weights. For shorter embeddings write "
        f"vectors.truncate_dim. {_UNTRAINED}",
    ),
    _override(
        "intermediate_size",
        4096,
        _ARCHITECTURE,
        f"The width of the feed-forward layers, fixed by the weights. {_UNTRAINED}",
    ),
    _override(
        "num_hidden_layers",
        12,
        _ARCHITECTURE,
        "The number of layers, fixed by the weights: fewer leave trained layers out, more add random ones. "
        f"{_UNTRAINED}",
    ),
    _override(
        "num_attention_heads",
        8,
        _ARCHITECTURE,
        "The number of heads, fixed by training. Another number keeps all shapes and gives other vectors without any "
        f"message. {_UNTRAINED}",
    ),
    _override(
        "max_position_embeddings",
        16384,
        _NO_EFFECT,
        "The number of positions the model was trained for. To read less of each text write tokenizer.max_seq_length; "
        "more cannot be had by changing this field.",
    ),
    _override(
        "type_vocab_size",
        2,
        _NO_EFFECT,
        "The number of segment kinds of BERT. ModernBERT has no segments; the field is dropped without a message.",
    ),
    _override(
        "initializer_range",
        0.05,
        _ARCHITECTURE,
        "The spread of random weights before training. Trained weights are not affected by it.",
    ),
    _override(
        "layer_norm_eps",
        1e-12,
        _NO_EFFECT,
        "A small number in the normalisation of BERT. ModernBERT calls it norm_eps; both are fixed by training.",
    ),
    _override(
        "position_embedding_type",
        "rope",
        _NO_EFFECT,
        "A choice of older models. ModernBERT always uses rotary positions; the field does nothing.",
    ),
    _override(
        "global_rope_theta",
        500000.0,
        _NO_EFFECT,
        "The base of ModernBERT's rotary positions in older versions; as an override it vanishes. The field of today "
        "is rope_parameters.",
    ),
    _override(
        "global_attn_every_n_layers",
        1,
        _NO_EFFECT,
        "Which of ModernBERT's layers see the whole text, in older versions. The field of today is layer_types, and "
        "fixed by training.",
    ),
    HostSetting(
        "gradient_checkpointing",
        "model",
        "Computing activations again in the backward pass, to save memory. It has no effect on the configuration and "
        "only concerns training: write training.activation_checkpointing.",
        "training.activation_checkpointing",
        _NO_EFFECT,
        {"model.config": {"gradient_checkpointing": True}},
        aliases=("gradient_checkpointing_enable", "activation_checkpointing"),
    ),
    HostSetting(
        "AutoModel.from_config",
        "model",
        "Guides say that it loads the model with a changed configuration. It builds a new model with random weights. "
        "To change a setting that keeps the weights' meaning write it under [model.config]; for an untrained model "
        "write model.from_scratch.",
        "model.from_scratch",
        "random-weights",
        {"model.from_scratch": True},
        aliases=("from_config",),
    ),
    # --- tokenizer
    HostSetting(
        "model_max_length",
        "tokenizer",
        "The most tokens of a text the tokenizer keeps. It is the same value as max_seq_length of "
        "sentence-transformers: write tokenizer.max_seq_length.",
        "tokenizer.max_seq_length",
        "keyword-refused",
        {"tokenizer.kwargs": {"model_max_length": 512}},
        aliases=("max_length", "tokenizer.model_max_length"),
    ),
    HostSetting(
        "padding_side",
        "tokenizer",
        'On which side short texts are filled up. Models with learned positions need "right".',
        "tokenizer.padding_side",
        "keyword-refused",
        {"tokenizer.kwargs": {"padding_side": "left"}},
    ),
    HostSetting(
        "truncation_side",
        "tokenizer",
        "On which side over-long texts are cut. On the left, the prompt is what goes first.",
        "tokenizer.truncation_side",
        "truncation-side-left",
        {"tokenizer.truncation_side": "left"},
    ),
    HostSetting(
        "special_tokens",
        "tokenizer",
        "Tokens with a meaning of their own. The model was trained with its own; another one is reported.",
        "tokenizer.special_tokens",
        "special-token-unknown",
        {"tokenizer.special_tokens": {"pad_token": "<my-padding>"}},
        aliases=("additional_special_tokens", "add_special_tokens", "special_tokens_map"),
    ),
    HostSetting(
        "init_kwargs",
        "tokenizer",
        "A record of how a tokenizer was made. Changing it changes nothing: a tokenizer with "
        'init_kwargs["model_max_length"] = 7 still returns 13 tokens. Write the preferences under [tokenizer].',
        "tokenizer.kwargs",
        "keyword-refused",
        {"tokenizer.kwargs": {"init_kwargs": {"model_max_length": 7}}},
        aliases=("tokenizer.init_kwargs",),
    ),
    # --- inference
    HostSetting(
        "batch_size",
        "inference",
        "How many texts are computed at once. It has no influence on the vectors beyond rounding. compute.batch_tokens "
        "limits a batch by its tokens, which is what takes memory; compute.max_batch_size by its texts.",
        "compute.max_batch_size",
        aliases=("per_device_eval_batch_size", "encode(batch_size)"),
    ),
    HostSetting(
        "sequence_length",
        "inference",
        "How much of a text is read, in tokens. Longer texts are cut: tokenizer.on_overflow says whether that is "
        "counted, warned of or refused.",
        "tokenizer.max_seq_length",
        "max-seq-length-too-long",
        {"tokenizer.max_seq_length": 1_000_000},
        aliases=("max_seq_length", "seq_length", "max_sequence_length"),
    ),
    HostSetting(
        "fp16",
        "inference",
        'Weights and activations of two bytes, with three digits. Write compute.dtype = "float16"; on a processor it '
        "is slower than float32.",
        "compute.dtype",
        "float16-on-cpu",
        {"compute.dtype": "float16", "compute.device": "cpu"},
        aliases=("half", "float16", "model.half", "torch_dtype"),
    ),
    HostSetting(
        "bf16",
        "inference",
        'Two bytes with the range of float32. Write compute.dtype = "bfloat16"; "auto" takes it where the hardware '
        "computes it and compute.exactness allows it.",
        "compute.dtype",
        "precision-contradicts-exactness",
        {"compute.dtype": "bfloat16", "compute.exactness": "exact"},
        aliases=("bfloat16",),
    ),
    HostSetting(
        "autocast",
        "inference",
        "Mixed precision: float32 weights, and lower precision operation by operation. `torch.cuda.amp.autocast` and "
        "`GradScaler` are deprecated, and the latter is for training only.",
        "compute.autocast",
        "autocast-without-effect",
        {"compute.autocast": True, "compute.dtype": "bfloat16"},
        aliases=("mixed_precision", "torch.cuda.amp", "GradScaler", "amp"),
    ),
    HostSetting(
        "device",
        "inference",
        "Where the model runs. A device that is not there is an error, never a silent change to the processor.",
        "compute.device",
        "device-not-available",
        {"compute.device": "cuda:63"},
        aliases=("to(device)", "model.to"),
    ),
    # --- hardware
    HostSetting(
        "device_ids",
        "hardware",
        'One GPU is chosen by compute.device = "cuda:1", several by a list, one process each: '
        'compute.device = ["cuda:0", "cuda:1"]. `DataParallel` is not used.',
        "compute.device",
        "device-twice",
        {"compute.device": ["cpu", "cpu"]},
        aliases=("gpu_ids", "DataParallel", "target_devices", "device_map", "n_gpu"),
    ),
    HostSetting(
        "CUDA_VISIBLE_DEVICES",
        "hardware",
        "Which GPUs a process sees. It is read once, when CUDA starts: set it before Python starts. compute.device "
        "counts the visible ones from 0. embedprefs doctor shows what it hides.",
        "compute.device",
        command="embedprefs doctor",
    ),
    HostSetting(
        "cuda_version",
        "hardware",
        "torch brings the CUDA version it was built for; the driver must support it. embedprefs doctor compares both "
        "and names the command that installs a fitting torch.",
        "compute.device",
        command="embedprefs doctor",
        aliases=("nvidia_driver", "torch.version.cuda", "driver_version", "cuda"),
    ),
    HostSetting(
        "set_per_process_memory_fraction",
        "hardware",
        'The most memory embedding may take, on a GPU and on a processor: compute.memory_limit = "8GiB" or "75%". '
        "Batches are made so that they fit, and a model whose weights do not fit is refused before it is read.",
        "compute.memory_limit",
        "memory-exceeded",
        {"compute.memory_limit": 1},
        aliases=("memory_limit", "max_memory", "memory_fraction", "gpu_memory_utilization"),
    ),
    HostSetting(
        "torch.distributed",
        "hardware",
        "Embedding with several devices needs no distributed set-up: a list as compute.device starts one process each, "
        "compute.workers several on a processor. Under torchrun each process takes its own GPU (LOCAL_RANK).",
        "compute.workers",
        "device-twice",
        {"compute.device": ["cuda:0", "cuda:0"]},
        aliases=("distributed", "torchrun", "local_rank", "DistributedDataParallel", "start_multi_process_pool"),
    ),
    # --- training
    _stale("evaluation_strategy", "steps", "It is called eval_strategy since transformers 4.46."),
    _stale("logging_dir", "logs", "It is gone: set the environment variable TENSORBOARD_LOGGING_DIR."),
    _stale("no_cuda", True, "It is gone: write use_cpu = true."),
    _stale(
        "compute_metrics",
        "accuracy",
        "sentence-transformers never calls it. Metrics come from evaluators on queries, documents and judgements.",
    ),
    HostSetting(
        "warmup_steps",
        "training",
        "Steps over which the learning rate rises. A number below 1 is a share of all steps; the older warmup_ratio is "
        "an alias that is only used where warmup_steps is 0.",
        "training.arguments",
        "training-argument-deprecated",
        {"training.arguments": {"warmup_ratio": 0.1}},
        aliases=("warmup_ratio",),
    ),
    HostSetting(
        "metric_for_best_model",
        "training",
        "The metric that chooses the best checkpoint. There is no accuracy for embeddings: names are such as "
        "eval_dev_cosine_ndcg@10. A wrong one fails at the first evaluation, when the time until then is spent.",
        "training.arguments",
        "training-metric-unknown",
        {"training.arguments": {"metric_for_best_model": "accuracy"}},
    ),
    HostSetting(
        "auto_find_batch_size",
        "training",
        "With sentence-transformers it retries the same batch size until the run fails. Use a cached loss with a small "
        "mini_batch_size instead.",
        "training.arguments",
        "training-argument-without-effect",
        {"training.arguments": {"auto_find_batch_size": True}},
    ),
    HostSetting(
        "gradient_accumulation_steps",
        "training",
        "It adds no negatives to a loss that takes them from the batch, so it is no substitute for a large batch.",
        "training.loss",
        "training-gradient-accumulation",
        {
            "training.loss": "MultipleNegativesRankingLoss",
            "training.arguments": {"gradient_accumulation_steps": 8},
        },
    ),
)


def find_host_setting(name: str) -> HostSetting | None:
    """Return the setting a name stands for, whatever is written before its last dot; None where none does."""
    wanted = name.casefold()
    for setting in HOST_SETTINGS:
        if wanted in {known.casefold() for known in (setting.name, *setting.aliases)}:
            return setting
    last = wanted.rpartition(".")[2]
    return find_host_setting(last) if last and last != wanted else None
