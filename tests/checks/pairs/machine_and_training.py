"""Rule -> a situation in which it fires, and one near it in which it does not: machine, index and training.

A situation holds what differs from a plain tiny BERT on a plain machine; see `Situation` in conftest.py.
"""

from embedprefs.hardware import Accelerator

GPU = Accelerator("cuda", 0, "NVIDIA H200", 140 * 2**30, 139 * 2**30, (9, 0))
WITH_GPU = {
    "accelerators": (GPU,),
    "all_accelerators": (GPU,),
    "torch_version": "2.13.0+cu130",
    "torch_cuda_version": "13.0",
    "driver_version": "580.65.06",
    "driver_cuda_version": "13.0",
}
FLASH = {**WITH_GPU, "packages": {"flash-attn": "2.8.3", "torch": "2.13.0", "transformers": "5.23.0"}}

INT8 = {
    "packages": {
        "torch": "2.13.0",
        "sentence-transformers": "6.2.0",
        "transformers": "5.23.0",
        "openvino": "2026.4.1",
        "nncf": "3.4.0",
    }
}


def arguments(**values):
    """Preferences with arguments for the host's trainer."""
    return {"stated": {"training.arguments": values}}


PAIRS = {
    # --- machine
    "device-not-available": (
        {"stated": {"compute.device": "cuda:3"}, "hardware": WITH_GPU},
        {"stated": {"compute.device": "cuda:0"}, "hardware": WITH_GPU},
    ),
    "device-twice": (
        {"stated": {"compute.device": ["cuda:0", "cuda:0"]}},
        {"stated": {"compute.device": ["cuda:0", "cuda:1"]}},
    ),
    "cuda-devices-hidden": (
        {"hardware": {"all_accelerators": (GPU,), "cuda_visible_devices": "7"}},
        {"hardware": {**WITH_GPU, "cuda_visible_devices": "0"}},
    ),
    "cuda-driver-too-old": (
        {"hardware": {**WITH_GPU, "driver_version": "550.54", "driver_cuda_version": "12.4"}},
        {"hardware": WITH_GPU},
    ),
    "torch-without-cuda": (
        {"hardware": {**WITH_GPU, "torch_version": "2.13.0+cpu", "torch_cuda_version": None}},
        {"hardware": WITH_GPU},
    ),
    "float16-on-cpu": (
        {"stated": {"compute.dtype": "float16", "compute.device": "cpu"}},
        {"stated": {"compute.dtype": "float16"}, "hardware": WITH_GPU},
    ),
    "bfloat16-not-native": (
        {"stated": {"compute.dtype": "bfloat16"}, "hardware": {"native_bfloat16": False}},
        {"stated": {"compute.dtype": "bfloat16"}, "hardware": {"native_bfloat16": True}},
    ),
    "precision-contradicts-exactness": (
        {"stated": {"compute.dtype": "bfloat16", "compute.exactness": "exact"}},
        {"stated": {"compute.dtype": "bfloat16", "compute.exactness": "close"}},
    ),
    "half-precision-moves-vectors": (
        {"stated": {"compute.dtype": "bfloat16"}},
        {"stated": {"compute.dtype": "float32"}},
    ),
    "autocast-without-effect": (
        {"stated": {"compute.autocast": True, "compute.dtype": "bfloat16"}},
        {"stated": {"compute.autocast": True, "compute.dtype": "float32"}},
    ),
    "threads-exceed-processors": (
        {"stated": {"compute.threads": 4, "compute.workers": 2}},
        {"stated": {"compute.threads": 2, "compute.workers": 2}},
    ),
    "memory-limit-too-large": (
        {"stated": {"compute.memory_limit": "512GiB"}},
        {"stated": {"compute.memory_limit": "8GiB"}},
    ),
    # --- backend and attention
    "backend-not-available": (
        {"stated": {"compute.backend": "onnx"}},
        {"stated": {"compute.backend": "torch"}},
    ),
    "backend-not-proved": (
        {"stated": {"compute.backend": "openvino"}, "model": "static"},
        {"stated": {"compute.backend": "openvino"}, "model": "bert"},
    ),
    "int8-weights-not-available": (
        {"stated": {"compute.weights": "int8", "compute.exactness": "fast"}},
        {"stated": {"compute.weights": "int8", "compute.exactness": "fast"}, "hardware": INT8},
    ),
    "onnx-provider": (
        {
            "stated": {"compute.backend": "onnx", "compute.device": "cuda:0"},
            "hardware": {**WITH_GPU, "packages": {"onnxruntime": "1.32.0"}},
        },
        {
            "stated": {"compute.backend": "onnx", "compute.device": "cuda:0"},
            "hardware": {**WITH_GPU, "packages": {"onnxruntime-gpu": "1.32.0"}},
        },
    ),
    "onnx-file-missing": (
        {"stated": {"model.onnx_file": "onnx/model_int9.onnx"}, "facts": {"onnx_files": ("onnx/model.onnx",)}},
        {"stated": {"model.onnx_file": "onnx/model.onnx"}, "facts": {"onnx_files": ("onnx/model.onnx",)}},
    ),
    "attention-not-available": (
        {"stated": {"compute.attention": "flash_attention_2"}, "hardware": WITH_GPU},
        {"stated": {"compute.attention": "flash_attention_2"}, "hardware": FLASH},
    ),
    # --- index
    "chunk-too-long": ({"stated": {"index.chunk_tokens": 65}}, {"stated": {"index.chunk_tokens": 62}}),
    "chunk-overlap-too-large": (
        {"stated": {"index.chunk_tokens": 32, "index.chunk_overlap": 17}},
        {"stated": {"index.chunk_tokens": 32, "index.chunk_overlap": 16}},
    ),
    "template-without-text": (
        {"stated": {"index.template": "{title}"}},
        {"stated": {"index.template": "{title}\n{text}"}},
    ),
    "chunk-context-not-possible": (
        {"stated": {"index.chunk_context": "document"}, "facts": {"pooling_mode": "cls"}},
        {"stated": {"index.chunk_context": "document"}, "facts": {"pooling_mode": "mean"}},
    ),
    "chunk-context-contradicted": (
        {"stated": {"index.chunk_context": "document", "index.template": "{headings}\n{text}"}},
        {"stated": {"index.chunk_context": "document", "index.template": "{text}"}},
    ),
    "chunk-context-too-narrow": (
        {"stated": {"index.chunk_context": "document", "index.chunk_tokens": 32}},
        {"stated": {"index.chunk_context": "document", "index.chunk_tokens": 31}},
    ),
    "two-stage-dims-too-large": ({"stated": {"index.two_stage_dims": 32}}, {"stated": {"index.two_stage_dims": 16}}),
    "tenant-field-undeclared": (
        {"stated": {"index.tenant_field": "customer"}},
        {"stated": {"index.tenant_field": "customer", "index.metadata_fields": {"customer": "keyword"}}},
    ),
    "tenant-field-type": (
        {"stated": {"index.tenant_field": "customer", "index.metadata_fields": {"customer": "integer"}}},
        {
            "stated": {
                "index.tenant_field": "customer",
                "index.metadata_fields": {"customer": "uuid", "year": "integer"},
            }
        },
    ),
    "store-address": (
        {"stated": {"index.store": "postgres://localhost"}},
        {"stated": {"index.store": "grpc://localhost:6334"}},
    ),
    "precision-not-for-a-collection": (
        {"stated": {"vectors.precision": "binary", "index.collection": "notes"}},
        {"stated": {"vectors.precision": "binary"}},
    ),
    "vector-name-taken": (
        {"stated": {"index.vectors": {"sparse": {"model": {"name": "a/b"}}}}},
        {"stated": {"index.vectors": {"second": {"model": {"name": "a/b"}}}}},
    ),
    # --- training
    "training-argument-unknown": (arguments(learning_rat=2e-5), arguments(learning_rate=2e-5)),
    "training-argument-renamed": (arguments(evaluation_strategy="steps"), arguments(eval_strategy="steps")),
    "training-argument-deprecated": (arguments(warmup_ratio=0.1), arguments(warmup_steps=0.1)),
    "training-argument-without-effect": (
        arguments(train_sampling_strategy="group_by_length"),
        arguments(train_sampling_strategy="random"),
    ),
    "training-argument-type": (arguments(learning_rate="2e-5"), arguments(learning_rate=1)),
    "training-remove-unused-columns": (arguments(remove_unused_columns=True), arguments(remove_unused_columns=False)),
    "training-prompts-covered": (
        arguments(prompts={"query": "search_query: "}),
        {"stated": {"prompts.query": "search_query: "}},
    ),
    "training-half-precision": (
        {"stated": {"training.arguments": {"fp16": True}, "compute.device": "cpu"}},
        {"stated": {"training.arguments": {"fp16": True}}, "hardware": WITH_GPU},
    ),
    "training-best-model": (
        arguments(load_best_model_at_end=True, eval_strategy="no"),
        arguments(load_best_model_at_end=True, eval_strategy="steps", eval_steps=50, save_steps=100),
    ),
    "training-metric-unknown": (
        arguments(metric_for_best_model="accuracy"),
        arguments(metric_for_best_model="eval_dev_cosine_ndcg@10"),
    ),
    "training-gradient-accumulation": (
        {
            "stated": {
                "training.loss": "MultipleNegativesRankingLoss",
                "training.arguments": {"gradient_accumulation_steps": 8},
            }
        },
        {"stated": {"training.loss": "CoSENTLoss", "training.arguments": {"gradient_accumulation_steps": 8}}},
    ),
    "training-duplicates-lost": (arguments(batch_sampler="no_duplicates"), arguments(batch_sampler="batch_sampler")),
    "training-loader-workers": (
        arguments(dataloader_prefetch_factor=2),
        arguments(dataloader_prefetch_factor=2, dataloader_num_workers=1),
    ),
    "training-loss-unknown": (
        {"stated": {"training.loss": "MultipleNegativeRankingLoss"}},
        {"stated": {"training.loss": "MultipleNegativesRankingLoss"}},
    ),
    "training-matryoshka-dims": (
        {"stated": {"training.matryoshka_dims": [64, 32]}},
        {"stated": {"training.matryoshka_dims": [32, 16]}},
    ),
    "training-pool-too-small": (
        {"stated": {"training.negatives.count": 8, "training.negatives.range_max": 4}},
        {"stated": {"training.negatives.count": 4, "training.negatives.range_max": 100}},
    ),
}
