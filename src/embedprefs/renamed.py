"""Names that other tools and older guides use, and what each is called in a preferences file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ARCHITECTURE_FIELDS", "RENAMED_KEYS", "TRAINING_ARGUMENTS", "renamed_key"]

#: Last part of a key as others spell it -> the dotted key here. Used wherever the key itself is not declared.
RENAMED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        # [model]: arguments of SentenceTransformer, from_pretrained and LangChain's wrappers
        "model_name_or_path": "model.name",
        "pretrained_model_name_or_path": "model.name",
        "name_or_path": "model.name",
        "model_name": "model.name",
        "model_id": "model.name",
        "commit": "model.revision",
        "commit_hash": "model.revision",
        "cache_dir": "model.cache_folder",
        "local_only": "model.local_files_only",
        "pooling_mode": "model.pooling",
        "pooling_strategy": "model.pooling",
        "model_kwargs": "model.kwargs",
        "config_kwargs": "model.config",
        "peft_model": "model.adapter",
        # [tokenizer]
        "model_max_length": "tokenizer.max_seq_length",
        "max_length": "tokenizer.max_seq_length",
        "max_sequence_length": "tokenizer.max_seq_length",
        "sequence_length": "tokenizer.max_seq_length",
        "tokenizer_kwargs": "tokenizer.kwargs",
        "processor_kwargs": "tokenizer.kwargs",
        "init_kwargs": "tokenizer.kwargs",
        "stride": "tokenizer.window_overlap",
        # [prompts]
        "query_prompt": "prompts.query",
        "query_instruction": "prompts.query",
        "query_prefix": "prompts.query",
        "search_query": "prompts.query",
        "document_prompt": "prompts.document",
        "document_prefix": "prompts.document",
        "embed_instruction": "prompts.document",
        "search_document": "prompts.document",
        "passage": "prompts.document",
        "corpus": "prompts.document",
        # [vectors]
        "normalize_embeddings": "vectors.normalize",
        "normalise": "vectors.normalize",
        "matryoshka_dim": "vectors.truncate_dim",
        "dimensions": "vectors.truncate_dim",
        "output_dimension": "vectors.truncate_dim",
        "truncate_dimension": "vectors.truncate_dim",
        "similarity": "vectors.similarity_fn_name",
        "similarity_function": "vectors.similarity_fn_name",
        "distance": "vectors.similarity_fn_name",
        "quantization_ranges": "vectors.calibration",
        # [compute]
        "torch_dtype": "compute.dtype",
        "batch_size": "compute.max_batch_size",
        "attn_implementation": "compute.attention",
        "attention_implementation": "compute.attention",
        "fp16": "compute.dtype",
        "bf16": "compute.dtype",
        "mixed_precision": "compute.autocast",
        "use_amp": "compute.autocast",
        "gpu": "compute.device",
        "gpus": "compute.device",
        "gpu_id": "compute.device",
        "devices": "compute.device",
        "target_devices": "compute.device",
        "cuda_visible_devices": "compute.device",
        "num_threads": "compute.threads",
        "num_workers": "compute.workers",
        "num_processes": "compute.workers",
        "max_memory": "compute.memory_limit",
        "gpu_memory_utilization": "compute.memory_limit",
        "torch_compile": "compute.compile",
        # [index]
        "chunk_size": "index.chunk_tokens",
        "collection_name": "index.collection",
        "url": "index.store",
        # [checks]
        "ignored": "checks.ignore",
    }
)

#: Fields of config.json that fix the shape or the meaning of the weights.
ARCHITECTURE_FIELDS = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "type_vocab_size",
        "vocab_size",
        "initializer_range",
        "layer_norm_eps",
        "norm_eps",
        "hidden_act",
        "hidden_activation",
        "position_embedding_type",
        "local_attention",
        "global_attn_every_n_layers",
        "global_rope_theta",
        "local_rope_theta",
        "rope_theta",
        "layer_types",
        "rope_parameters",
        "is_decoder",
    }
)

#: Arguments of the host's trainer that are often written one table too high -> their name today.
TRAINING_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "learning_rate": "learning_rate",
        "num_train_epochs": "num_train_epochs",
        "epochs": "num_train_epochs",
        "num_epochs": "num_train_epochs",
        "per_device_train_batch_size": "per_device_train_batch_size",
        "train_batch_size": "per_device_train_batch_size",
        "warmup_steps": "warmup_steps",
        "warmup_ratio": "warmup_steps",
        "weight_decay": "weight_decay",
        "lr_scheduler_type": "lr_scheduler_type",
        "eval_strategy": "eval_strategy",
        "evaluation_strategy": "eval_strategy",
        "eval_steps": "eval_steps",
        "save_strategy": "save_strategy",
        "save_steps": "save_steps",
        "save_total_limit": "save_total_limit",
        "output_dir": "output_dir",
        "metric_for_best_model": "metric_for_best_model",
        "load_best_model_at_end": "load_best_model_at_end",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "fp16": "fp16",
        "bf16": "bf16",
        "batch_sampler": "batch_sampler",
        "report_to": "report_to",
        "run_name": "run_name",
        "project": "project",
        "seed": "seed",
    }
)

#: Keys whose new place depends on the table they stand in.
_BY_FULL_KEY: Mapping[str, str] = MappingProxyType(
    {
        "training.gradient_checkpointing": "training.activation_checkpointing",
        "training.max_length": "training.max_seq_length",
        "training.hard_negatives": "training.negatives.count",
        "training.num_negatives": "training.negatives.count",
        "training.dataset": "training.data",
        "training.train_data": "training.data",
        "training.loss_kwargs": "training.loss_parameters",
        "training.batch_size": "training.arguments.per_device_train_batch_size",
        "rerank.model": "rerank.name",
        "rerank.top_k": "rerank.hits",
        "rerank.top_n": "rerank.hits",
        "sparse.model": "sparse.name",
        "model.dtype": "compute.dtype",
        "model.device": "compute.device",
        "model.backend": "compute.backend",
        "model.max_seq_length": "tokenizer.max_seq_length",
        "model.truncate_dim": "vectors.truncate_dim",
        "vectors.dtype": "vectors.precision",
        "vectors.dim": "vectors.truncate_dim",
    }
)


def renamed_key(key: str) -> str | None:
    """Return what a dotted key that is not declared is called here; None where no other name is known.

    >>> renamed_key("model.model_name_or_path")
    'model.name'
    """
    if key in _BY_FULL_KEY:
        return _BY_FULL_KEY[key]
    section, _, name = key.rpartition(".")
    if section == "training" and name in TRAINING_ARGUMENTS:
        return f"training.arguments.{TRAINING_ARGUMENTS[name]}"
    return RENAMED_KEYS.get(name)
