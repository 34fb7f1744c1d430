"""The table: what every preference becomes at every call site."""

from __future__ import annotations

from collections.abc import Mapping

from embedprefs.arguments.placement import CallSite, Placement
from embedprefs.preferences import FieldDeclaration, every_field

__all__ = ["PLACEMENTS"]

LOAD, QUERY, DOCUMENT = CallSite.LOAD, CallSite.ENCODE_QUERY, CallSite.ENCODE_DOCUMENT
PROCESSES, TRAIN, STORE, SAVE = CallSite.MULTI_PROCESS, CallSite.TRAIN, CallSite.STORE, CallSite.SAVE
_ENCODING = (QUERY, DOCUMENT, PROCESSES)


def _everywhere(argument: str) -> dict[CallSite, str]:
    """Return a placement at every site that computes vectors."""
    return dict.fromkeys(_ENCODING, argument)


_SAVED = "config_embedprefs.json"
_HOST_CONFIG = "config_sentence_transformers.json"

#: Key -> call site -> what it becomes there.
_BECOMES: Mapping[str, Mapping[CallSite, str]] = {
    "model.name": {LOAD: "model_name_or_path"},
    "model.revision": {LOAD: "revision"},
    "model.adapter.name": {LOAD: "model.load_adapter", SAVE: "adapter_model.safetensors"},
    "model.adapter.revision": {LOAD: "model.load_adapter(revision=)"},
    "model.trust_remote_code": {LOAD: "trust_remote_code"},
    "model.local_files_only": {LOAD: "local_files_only"},
    "model.cache_folder": {LOAD: "cache_folder"},
    "model.from_scratch": {LOAD: "AutoModel.from_config"},
    "model.allow_pickle": {LOAD: "model_kwargs.use_safetensors"},
    "model.pooling": {LOAD: "modules", SAVE: "modules.json"},
    "model.onnx_file": {LOAD: "engine"},
    "model.kwargs": {LOAD: "model_kwargs"},
    "model.config": {LOAD: "config_kwargs", SAVE: "config.json"},
    "tokenizer.max_seq_length": {
        LOAD: "processor_kwargs.model_max_length",
        TRAIN: "model.max_seq_length",
        SAVE: "tokenizer_config.json",
    },
    "tokenizer.padding_side": {LOAD: "processor_kwargs.padding_side", SAVE: "tokenizer_config.json"},
    "tokenizer.truncation_side": {LOAD: "processor_kwargs.truncation_side", SAVE: "tokenizer_config.json"},
    "tokenizer.special_tokens": {LOAD: "processor_kwargs", SAVE: "tokenizer_config.json"},
    "tokenizer.overflow": {**_everywhere("inputs"), SAVE: _SAVED},
    "tokenizer.window_overlap": {**_everywhere("inputs"), SAVE: _SAVED},
    "tokenizer.window_pooling": {**_everywhere("result"), SAVE: _SAVED},
    "tokenizer.on_overflow": _everywhere("model.report"),
    "tokenizer.kwargs": {LOAD: "processor_kwargs", SAVE: "tokenizer_config.json"},
    "prompts.query": {LOAD: "prompts", QUERY: "prompt", PROCESSES: "prompt", TRAIN: "args.prompts", SAVE: _HOST_CONFIG},
    "prompts.document": {
        LOAD: "prompts",
        DOCUMENT: "prompt",
        PROCESSES: "prompt",
        TRAIN: "args.prompts",
        SAVE: _HOST_CONFIG,
    },
    "prompts.task": {**_everywhere("task"), SAVE: _SAVED},
    "vectors.normalize": {**_everywhere("normalize_embeddings"), SAVE: _SAVED},
    "vectors.truncate_dim": {
        LOAD: "truncate_dim",
        **_everywhere("truncate_dim"),
        STORE: "vectors_config.size",
        SAVE: _HOST_CONFIG,
    },
    "vectors.similarity_fn_name": {LOAD: "similarity_fn_name", STORE: "vectors_config.distance", SAVE: _HOST_CONFIG},
    "vectors.precision": {**_everywhere("precision"), STORE: "vectors_config.datatype", SAVE: _SAVED},
    "vectors.calibration": {**_everywhere("result"), SAVE: "calibration_embedprefs.json"},
    "compute.device": {LOAD: "device", PROCESSES: "device"},
    "compute.dtype": {LOAD: "model_kwargs.dtype"},
    "compute.autocast": _everywhere("torch.autocast"),
    "compute.weights": {LOAD: "engine"},
    "compute.backend": {LOAD: "engine"},
    "compute.attention": {LOAD: "model_kwargs.attn_implementation"},
    "compute.batch_tokens": _everywhere("batch_size"),
    "compute.max_batch_size": _everywhere("batch_size"),
    "compute.compile": {LOAD: "model.compile"},
    "compute.threads": {LOAD: "torch.set_num_threads"},
    "compute.workers": {PROCESSES: "device"},
    "compute.memory_limit": {LOAD: "torch.cuda.set_per_process_memory_fraction"},
    "compute.cache": _everywhere("result"),
    "compute.cache_size": _everywhere("result"),
    "training.data": {TRAIN: "train_dataset"},
    "training.columns": {TRAIN: "train_dataset"},
    "training.evaluation_data": {TRAIN: "evaluator"},
    "training.evaluation_split": {TRAIN: "evaluator"},
    "training.guard_data": {TRAIN: "evaluator"},
    "training.metric": {TRAIN: "args.metric_for_best_model"},
    "training.loss": {TRAIN: "loss"},
    "training.loss_parameters": {TRAIN: "loss"},
    "training.split.development": {TRAIN: "eval_dataset"},
    "training.split.test": {TRAIN: "evaluator"},
    "training.split.document_column": {TRAIN: "train_dataset"},
    "training.split.near_duplicates": {TRAIN: "train_dataset"},
    "training.split.seed": {TRAIN: "train_dataset"},
    "training.negatives.count": {TRAIN: "mine_hard_negatives(num_negatives=)"},
    "training.negatives.relative_margin": {TRAIN: "mine_hard_negatives(relative_margin=)"},
    "training.negatives.range_min": {TRAIN: "mine_hard_negatives(range_min=)"},
    "training.negatives.range_max": {TRAIN: "mine_hard_negatives(range_max=)"},
    "training.matryoshka_dims": {TRAIN: "MatryoshkaLoss(matryoshka_dims=)"},
    "training.lora.r": {TRAIN: "LoraConfig(r=)"},
    "training.lora.lora_alpha": {TRAIN: "LoraConfig(lora_alpha=)"},
    "training.lora.lora_dropout": {TRAIN: "LoraConfig(lora_dropout=)"},
    "training.lora.target_modules": {TRAIN: "LoraConfig(target_modules=)"},
    "training.lora.merge": {TRAIN: "model"},
    "training.max_seq_length": {TRAIN: "model.max_seq_length"},
    "training.freeze": {TRAIN: "parameter.requires_grad"},
    "training.distill_from": {TRAIN: "loss"},
    "training.activation_checkpointing": {TRAIN: "args.gradient_checkpointing"},
    "training.early_stopping.patience": {TRAIN: "EarlyStoppingCallback(early_stopping_patience=)"},
    "training.early_stopping.threshold": {TRAIN: "EarlyStoppingCallback(early_stopping_threshold=)"},
    "training.resume": {TRAIN: "trainer.train(resume_from_checkpoint=)"},
    "training.model_card_texts": {TRAIN: "model.model_card_data"},
    "training.margin": {TRAIN: "verdict"},
    "training.arguments": {TRAIN: "args"},
    "index.store": {STORE: "location"},
    "index.collection": {STORE: "collection_name"},
    "index.root": {STORE: "payload.source"},
    "index.include": {STORE: "documents"},
    "index.exclude": {STORE: "documents"},
    "index.chunk_tokens": {STORE: "chunks"},
    "index.chunk_overlap": {STORE: "chunks"},
    "index.chunk_context": {STORE: "embedded text"},
    "index.template": {STORE: "embedded text"},
    "index.metadata_fields": {STORE: "payload_schema"},
    "index.tenant_field": {STORE: "payload_schema"},
    "index.two_stage_dims": {STORE: "prefetch"},
    "index.hybrid": {STORE: "sparse_vectors_config"},
    "index.quantization": {STORE: "quantization_config"},
    "index.hnsw.m": {STORE: "hnsw_config.m"},
    "index.hnsw.ef_construct": {STORE: "hnsw_config.ef_construct"},
    "index.hnsw.ef": {STORE: "search_params.hnsw_ef"},
    "index.hnsw.exact": {STORE: "search_params.exact"},
    "index.on_disk": {STORE: "vectors_config.on_disk"},
    "sparse.name": {STORE: "sparse_vectors_config"},
    "sparse.revision": {STORE: "sparse_vectors_config"},
    "sparse.language": {STORE: "sparse_vectors_config"},
    "sparse.k": {STORE: "sparse_vectors_config"},
    "sparse.b": {STORE: "sparse_vectors_config"},
    "sparse.average_words": {STORE: "sparse_vectors_config"},
    "rerank.name": {STORE: "search"},
    "rerank.revision": {STORE: "search"},
    "rerank.kind": {STORE: "search"},
    "rerank.hits": {STORE: "search"},
}

#: Reasons that the rules below would not give well.
_REASONS: Mapping[tuple[str, CallSite], str] = {
    ("model.name", SAVE): "A saved model is known by its content; its name would be wrong after a copy.",
    ("model.trust_remote_code", SAVE): "No file of a model may say that its code is trusted.",
    ("model.adapter.name", TRAIN): "Training adds an adapter of its own: training.lora.",
    ("prompts.query", DOCUMENT): "Documents get the document prompt.",
    ("prompts.document", QUERY): "Queries get the query prompt.",
    ("vectors.normalize", TRAIN): "The loss compares vectors by its own similarity.",
    ("vectors.truncate_dim", TRAIN): "Training shapes all dimensions; training.matryoshka_dims says which prefixes.",
    (
        "compute.dtype",
        TRAIN,
    ): "Weights are trained in float32; training.arguments.bf16 lowers the precision around them.",
    (
        "compute.device",
        TRAIN,
    ): "The host's trainer takes every visible device; CUDA_VISIBLE_DEVICES or torchrun choose.",
    ("compute.max_batch_size", TRAIN): "The batch is part of the training objective: training.arguments.",
    ("compute.batch_tokens", TRAIN): "The batch is part of the training objective: training.arguments.",
    ("compute.cache", TRAIN): "Training changes the weights, so that no kept vector is theirs.",
    ("compute.cache_size", TRAIN): "Training changes the weights, so that no kept vector is theirs.",
    ("compute.cache", STORE): "Texts are looked up where they are embedded; the store gets the vectors.",
    ("compute.cache_size", STORE): "Texts are looked up where they are embedded; the store gets the vectors.",
    ("tokenizer.max_seq_length", STORE): "Chunks are cut by index.chunk_tokens.",
    ("prompts.query", STORE): "Prompts are put before texts when vectors are computed; the store never sees them.",
    ("prompts.document", STORE): "Prompts are put before texts when vectors are computed; the store never sees them.",
}

_SECTION_REASONS: Mapping[str, str] = {
    "": "It says how the preferences file itself is read.",
    "model": "The model is loaded by then.",
    "tokenizer": "The tokenizer has it since the model was loaded.",
    "prompts": "The role that is embedded decides which prompt is used.",
    "vectors": "It concerns finished vectors.",
    "compute": "It concerns how a loaded model is run on this machine.",
    "training": "It concerns fine-tuning alone.",
    "index": "It concerns documents and their collection alone.",
    "sparse": "It concerns the sparse side of a collection alone.",
    "rerank": "It concerns the order of hits alone.",
    "checks": "It says which findings are reported.",
}

_SITE_REASONS: Mapping[CallSite, str] = {
    STORE: "The record kept with the collection covers it; the store itself has no such setting.",
    SAVE: "It describes this machine or this run, and would be wrong elsewhere.",
    TRAIN: "The trainer gets the loaded model, which has it.",
}

#: Sections whose fields do not describe the model, so that a site's own reason would be beside the point.
_OTHER_SECTIONS = frozenset({"", "training", "index", "sparse", "rerank", "checks"})


def _named_vector_key(key: str) -> str | None:
    """Return the key whose meaning a named vector's field has: `index.vectors.*.prompts.query` -> `prompts.query`."""
    prefix = "index.vectors.*."
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def _placement(declared: FieldDeclaration, site: CallSite) -> Placement:
    key = _named_vector_key(declared.key) or declared.key
    becomes = _BECOMES.get(key, {})
    if site in becomes:
        return Placement(becomes=becomes[site])
    if (key, site) in _REASONS:
        return Placement(reason=_REASONS[key, site])
    section = key.partition(".")[0] if "." in key else ""
    if section not in _OTHER_SECTIONS and site in _SITE_REASONS:
        return Placement(reason=_SITE_REASONS[site])
    if section not in _OTHER_SECTIONS and LOAD in becomes:
        return Placement(reason=f"It takes effect when the model is loaded: {becomes[LOAD]}.")
    if section not in _OTHER_SECTIONS and site is LOAD and becomes:
        return Placement(reason="It takes effect when texts are embedded.")
    return Placement(reason=_SECTION_REASONS[section])


#: (dotted key, call site) -> what the preference becomes there, or why it does not apply. Every declared preference
#: stands here for every call site.
PLACEMENTS: Mapping[tuple[str, CallSite], Placement] = {
    (declared.key, site): _placement(declared, site) for declared in every_field() for site in CallSite
}
