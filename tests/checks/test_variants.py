"""What rules say in their other situations: milder findings, further causes, and what they advise."""

from __future__ import annotations

import pytest

from embedprefs.checks import RULES
from embedprefs.facts import ModuleFacts
from embedprefs.hardware import Accelerator

GPU = Accelerator("cuda", 0, "NVIDIA H200", 140 * 2**30, 139 * 2**30, (9, 0))
OLD_GPU = Accelerator("cuda", 0, "Tesla T4", 15 * 2**30, 14 * 2**30, (7, 5))
CUDA = {"torch_version": "2.13.0+cu130", "torch_cuda_version": "13.0"}
FLASH = {"packages": {"flash-attn": "2.8.3"}}
HUB = {"source": "hub", "name": "someone/model"}


def arguments(**values):
    return {"training.arguments": values}


#: (code, situation, severity, words of the message, words of the fix)
VARIANTS = [
    (
        "revision-not-pinned",
        {"facts": {**HUB, "revision": "a" * 40}},
        "warning",
        "No revision is stated",
        f'revision = "{"a" * 40}"',
    ),
    (
        "custom-code-refused",
        {
            "facts": {
                "config.auto_map": {"AutoModel": "modeling.X"},
                "tensors_verified": False,
                "custom_code": ("modeling.py",),
            }
        },
        "warning",
        "names model code of its own",
        "trust_remote_code = true",
    ),
    (
        "trust-remote-code",
        {"stated": {"model.trust_remote_code": True}, "facts": {"custom_code": ("modeling.py",)}},
        "warning",
        "It brings modeling.py.",
        "pin model.revision",
    ),
    (
        "keyword-refused",
        {"stated": {"model.kwargs": {"ignore_mismatched_sizes": True}}},
        "error",
        "not allowed",
        "replaced by random ones",
    ),
    (
        "keyword-refused",
        {"stated": {"tokenizer.kwargs": {"model_max_length": 64}}},
        "error",
        "which a preference stands for",
        "tokenizer.max_seq_length",
    ),
    (
        "model-kwargs-unknown",
        {"stated": {"model.kwargs": {"attn_implementatoin": "sdpa"}}},
        "error",
        'no "attn_implementatoin"',
        "compute.attention",
    ),
    (
        "model-kwargs-unknown",
        {"stated": {"model.kwargs": {"hidden_act": "relu"}}},
        "error",
        'no "hidden_act"',
        "under [model.config]",
    ),
    (
        "pickle-checkpoint",
        {
            "stated": {"model.allow_pickle": True},
            "facts": {"weight_files": (), "pickle_files": ("pytorch_model.bin",)},
        },
        "warning",
        "reading it can run code",
        "safetensors",
    ),
    (
        "config-override-without-effect",
        {"stated": {"model.config": {"attention_dropuot": 0.1}}, "model": "modernbert"},
        "error",
        "no such field",
        "attention_dropout",
    ),
    (
        "config-override-without-effect",
        {"stated": {"model.config": {"torch_dtype": "float16"}}},
        "error",
        "preference of its own",
        "compute.dtype",
    ),
    (
        "modules-missing",
        {"model": "bare", "stated": {"model.pooling": "mean"}},
        "note",
        "pooled by mean",
        "trained that way",
    ),
    ("pooling-overridden", {"stated": {"model.pooling": "mean"}}, "note", "already", "Remove pooling"),
    (
        "normalize-missing",
        {
            "stated": {"vectors.normalize": False},
            "facts": {"name": "lightonai/modernbert-embed-large", "normalizes": False},
        },
        "warning",
        "vectors.normalize is false",
        "normalize = true",
    ),
    (
        "max-seq-length-too-long",
        {"stated": {"tokenizer.max_seq_length": 1024}, "model": "modernbert"},
        "warning",
        "was not trained for longer texts",
        "max_seq_length = 512",
    ),
    (
        "max-seq-length-too-long",
        {"stated": {"training.max_seq_length": 512}},
        "error",
        "cannot be read",
        "max_seq_length = 128",
    ),
    (
        "max-seq-length-too-short",
        {"stated": {"tokenizer.max_seq_length": 8}},
        "warning",
        "cut after 6",
        "larger max_seq_length",
    ),
    (
        "padding-side-left",
        {"facts": {"tokenizer.padding_side": "left"}},
        "warning",
        "depend on its neighbours",
        'padding_side = "right"',
    ),
    (
        "truncation-side-left",
        {"stated": {"prompts.query": "q: "}, "facts": {"tokenizer.truncation_side": "left"}},
        "warning",
        "with it the query prompt. The model's own files say so.",
        'truncation_side = "right"',
    ),
    (
        "special-tokens-differ",
        {"facts": {"config.pad_token_id": 7}},
        "warning",
        "config.json says 7",
        "own tokenizer files",
    ),
    (
        "special-token-unknown",
        {"stated": {"tokenizer.special_tokens": {"pad_token": "[SEP]"}}},
        "warning",
        'trained with "[PAD]"',
        "Leave it out",
    ),
    (
        "tokenizer-kwargs-unknown",
        {"stated": {"tokenizer.kwargs": {"do_lower_cas": True}}},
        "error",
        "no effect",
        "do_lower_case",
    ),
    (
        "prompts-missing",
        {"stated": {"prompts.query": ""}, "model": "flagship"},
        "warning",
        "trained with",
        'query = "search_query: "',
    ),
    (
        "prompts-differ",
        {"stated": {"prompts.query": "search_query:"}, "model": "flagship"},
        "warning",
        "the space at the end alone",
        'query = "search_query: "',
    ),
    (
        "prompt-repeated",
        {"stated": {"prompts.query": "query: query: "}},
        "error",
        "says the same twice",
        'query = "query: "',
    ),
    (
        "prompt-too-long",
        {"stated": {"prompts.query": "one two three four five six", "tokenizer.max_seq_length": 12}},
        "warning",
        "at most 4 of the text",
        "Raise tokenizer.max_seq_length",
    ),
    ("truncate-dim-too-large", {"facts": {"truncate_dim": 0}}, "error", "own file keeps 0", "above 0"),
    (
        "truncate-dim-not-trained",
        {"stated": {"vectors.truncate_dim": 16}},
        "warning",
        "Nothing says",
        "measure what the cut costs",
    ),
    (
        "truncate-dim-not-trained",
        {
            "stated": {"vectors.truncate_dim": 200},
            "facts": {"name": "lightonai/modernbert-embed-large", "embedding_dimension": 1024},
        },
        "warning",
        "trained for 1024, 256",
        "truncate_dim = 256",
    ),
    (
        "device-not-available",
        {"stated": {"compute.device": "cuda"}, "hardware": {}},
        "error",
        "built without CUDA",
        "auto",
    ),
    (
        "device-not-available",
        {
            "stated": {"compute.device": "cuda:1"},
            "hardware": {**CUDA, "accelerators": (GPU,), "cuda_visible_devices": "0"},
        },
        "error",
        'CUDA_VISIBLE_DEVICES is "0"',
        "cuda:0",
    ),
    (
        "cuda-driver-too-old",
        {
            "stated": {"compute.device": "cuda:0"},
            "hardware": {**CUDA, "accelerators": (GPU,), "driver_version": "550.54", "driver_cuda_version": "12.4"},
        },
        "error",
        "built for CUDA 13.0",
        "embedprefs doctor",
    ),
    (
        "bfloat16-not-native",
        {
            "stated": {"compute.dtype": "bfloat16"},
            "hardware": {**CUDA, "accelerators": (OLD_GPU,)},
        },
        "warning",
        "Tesla T4",
        'dtype = "auto"',
    ),
    (
        "bfloat16-not-native",
        {
            "stated": {"compute.dtype": "bfloat16"},
            "hardware": {"instruction_sets": frozenset({"avx512_bf16"}), "processor_vendor": "GenuineIntel"},
        },
        "warning",
        "more slowly than float32",
        'dtype = "auto"',
    ),
    (
        "precision-contradicts-exactness",
        {"stated": {"compute.exactness": "exact", "compute.autocast": True}},
        "error",
        "Mixed precision",
        "autocast = false",
    ),
    (
        "precision-contradicts-exactness",
        {"stated": {"compute.exactness": "exact", "compute.weights": "int8"}},
        "error",
        "quantised",
        'weights = "full"',
    ),
    (
        "precision-contradicts-exactness",
        {"stated": {"compute.weights": "int8"}},
        "error",
        "0.9995",
        'exactness = "fast"',
    ),
    (
        "int8-weights-not-available",
        {
            "stated": {"compute.weights": "int8", "compute.exactness": "fast", "compute.backend": "torch"},
            "hardware": {"packages": {"openvino": "2026.4.1", "nncf": "3.4.0"}},
        },
        "error",
        "the backend is torch",
        'weights = "full"',
    ),
    (
        "memory-exceeded",
        {
            "stated": {"compute.backend": "openvino", "compute.dtype": "bfloat16", "compute.memory_limit": "1GiB"},
            "facts": {"parameter_count": 200_000_000},
            "hardware": {"packages": {"openvino": "2026.4.1"}},
        },
        "error",
        "0.75 GiB in float32 for torch and 0.37 GiB in bfloat16 in the copy that openvino runs",
        'backend = "torch"',
    ),
    (
        "int8-weights-not-available",
        {"stated": {"compute.weights": "int8", "compute.exactness": "fast"}},
        "error",
        "openvino and nncf, not installed here",
        'pip install "embedprefs[int8]"',
    ),
    (
        "backend-not-available",
        {"stated": {"compute.backend": "openvino"}},
        "error",
        "openvino, not installed here",
        'pip install "embedprefs[openvino]"',
    ),
    (
        "backend-not-available",
        {"stated": {"compute.backend": "torch"}, "hardware": {"packages": {"torch": "2.13.0"}}},
        "error",
        "sentence-transformers",
        'pip install "embedprefs[sentence-transformers]"',
    ),
    (
        "onnx-file-missing",
        {"stated": {"compute.backend": "onnx"}},
        "error",
        "publishes no ONNX file",
        'backend = "auto"',
    ),
    (
        "attention-not-available",
        {"stated": {"compute.attention": "local"}},
        "error",
        "models with local layers (modernbert), and this one is of type bert",
        'attention = "auto"',
    ),
    (
        "attention-not-available",
        {
            "stated": {"compute.attention": "varlen", "compute.device": "cuda:0"},
            "hardware": {**CUDA, "accelerators": (GPU,)},
        },
        "error",
        '"varlen" does not run this model here: torch 2.13.0+cu130 has no torch.nn.attention.varlen',
        'attention = "auto"',
    ),
    (
        "attention-not-available",
        {"stated": {"compute.attention": "flash_attention_2"}},
        "error",
        "the device is cpu",
        'attention = "auto"',
    ),
    (
        "attention-not-available",
        {
            "stated": {"compute.attention": "flash_attention_2", "compute.dtype": "float16"},
            "hardware": {**CUDA, **FLASH, "accelerators": (OLD_GPU,)},
        },
        "error",
        "Tesla T4 is older",
        'attention = "auto"',
    ),
    (
        "attention-not-available",
        {
            "stated": {"compute.attention": "flash_attention_2", "compute.dtype": "float32"},
            "hardware": {**CUDA, **FLASH, "accelerators": (GPU,)},
        },
        "error",
        "half precision only",
        'dtype = "bfloat16"',
    ),
    (
        "attention-not-available",
        {
            "stated": {"compute.attention": "flash_attention_2"},
            "hardware": {**CUDA, "accelerators": (GPU,), "packages": {"kernels": "0.10"}},
        },
        "error",
        "download compiled code",
        "pip install flash-attn",
    ),
    (
        "chunk-too-long",
        {"stated": {"index.chunk_tokens": 64}},
        "error",
        "reads 64",
        "chunk_tokens = 55",
    ),
    # The chunks are as long as the model lets them be.
    ("chunk-overlap-too-large", {"stated": {"index.chunk_overlap": 32}}, "error", "0 to 31", "chunk_overlap = 7"),
    (
        "chunk-context-not-possible",
        {"stated": {"index.chunk_context": "document"}, "model": "static"},
        "error",
        "a static model looks up each token by itself",
        'chunk_context = "chunk"',
    ),
    (
        "chunk-context-contradicted",
        {"stated": {"index.chunk_context": "document", "index.vectors.small.model.name": "someone/small"}},
        "error",
        "names small",
        "a collection of its own",
    ),
    # Left out, a chunk is as long as the model reads.
    ("chunk-context-too-narrow", {"stated": {"index.chunk_context": "document"}}, "warning", "62 tokens", "= 15"),
    (
        "window-overlap-too-large",
        {"stated": {"index.chunk_context": "document", "tokenizer.window_overlap": 62}},
        "error",
        "one window holds 62",
        "window_overlap = 7",
    ),
    (
        "template-without-text",
        {"stated": {"index.template": "{text} {author}"}},
        "error",
        "names {author}",
        "{source}",
    ),
    ("template-without-text", {"stated": {"index.template": "{text"}}, "error", "is no template", "{text}"),
    ("template-without-text", {"stated": {"index.template": "{text!r}"}}, "error", "formats {text}", "Write {text}"),
    (
        "prompt-name-near-miss",
        {"stated": {"prompts.clasification": "x "}, "facts": {"prompts": {"classification": "y "}}},
        "warning",
        '"clasification" is kept',
        "Did you mean classification?",
    ),
    ("store-address", {"stated": {"index.store": "ege:index"}}, "error", "no known kind", "Did you mean edge:"),
    ("store-address", {"stated": {"index.store": "edge:"}}, "error", "names no folder", "edge:./index"),
    ("store-address", {"stated": {"index.store": "https://x:secret@h"}}, "error", "carries more", "QDRANT_API_KEY"),
    (
        "precision-not-for-a-collection",
        {"stated": {"index.vectors": {"second": {"model": {"name": "a/b"}, "vectors": {"precision": "ubinary"}}}}},
        "error",
        '"ubinary" packs eight',
        'quantization = "binary"',
    ),
    (
        "training-argument-unknown",
        {"stated": arguments(evaluation_stratgy="steps")},
        "error",
        'has no "evaluation_stratgy"',
        "eval_strategy",
    ),
    (
        "training-argument-type",
        {"stated": arguments(eval_strategy="step")},
        "error",
        'eval_strategy is "step"',
        'Did you mean "steps"?',
    ),
    ("training-argument-type", {"stated": arguments(bf16="yes")}, "error", 'bf16 is "yes"', "bool"),
    (
        "training-half-precision",
        {"stated": arguments(fp16=True, bf16=True)},
        "error",
        "both on",
        "Remove fp16",
    ),
    (
        "training-best-model",
        {"stated": arguments(eval_strategy="epoch", save_strategy="steps")},
        "error",
        'saved by "steps"',
        'save_strategy = "epoch"',
    ),
    (
        "training-best-model",
        {"stated": arguments(load_best_model_at_end=True, eval_strategy="steps", eval_steps=40, save_steps=100)},
        "error",
        "every 100 steps",
        "save_steps = 80",
    ),
    (
        "training-best-model",
        {"stated": {**arguments(lr_scheduler_type="greedy"), "training.split.development": 0.0}},
        "error",
        "looks at evaluations",
        'eval_strategy = "steps"',
    ),
    (
        "training-metric-unknown",
        {"stated": {**arguments(metric_for_best_model="loss"), "training.split.development": 0.0}},
        "error",
        "split.development is 0",
        "cosine_ndcg@10",
    ),
    (
        "training-gradient-accumulation",
        {"stated": arguments(gradient_accumulation_steps=4)},
        "warning",
        "chosen for pairs",
        "CachedMultipleNegativesRankingLoss",
    ),
    (
        "training-loss-unknown",
        {
            "stated": {
                "training.loss": "Matryoshka2dLoss",
                "training.loss_parameters": {"loss": "CachedMultipleNegativesRankingLoss"},
            }
        },
        "error",
        "fails in the first step",
        'loss = "MultipleNegativesRankingLoss"',
    ),
    ("training-matryoshka-dims", {"stated": {"training.matryoshka_dims": [16, 8]}}, "warning", "full 32", "Add 32"),
    (
        "training-matryoshka-dims",
        {"stated": {"training.matryoshka_dims": [32, 8], "vectors.truncate_dim": 16}},
        "warning",
        "truncate_dim is 16",
        "Add 16",
    ),
]


@pytest.mark.parametrize(
    ("code", "situation_values", "severity", "message", "fix"),
    VARIANTS,
    ids=[f"{variant[0]}-{number}" for number, variant in enumerate(VARIANTS)],
)
def test_a_rule_says(code, situation_values, severity, message, fix, ask):
    """Severity, what was found, what to do."""
    findings = ask(RULES[code], **situation_values)
    assert [finding for finding in findings if finding.severity == severity and message in finding.message], findings
    assert any(fix in finding.fix for finding in findings), findings


#: (code, situation): nothing is said.
SILENT = [
    # An instruction is meant to be adapted, so another one is no mistake.
    (
        "prompts-differ",
        {"stated": {"prompts.query": "Instruct: mine\nQuery: "}, "facts": {"name": "Qwen/Qwen3-Embedding-0.6B"}},
    ),
    # Devices that only torch can list are verified at load.
    ("device-not-available", {"stated": {"compute.device": "xpu:0"}}),
    # With ROCm the same names are used, and no GPU is listed without torch.
    ("device-not-available", {"stated": {"compute.device": "cuda:0"}, "hardware": {"torch_hip_version": "6.4"}}),
    # A prompt that the model's own file has may be called as it likes.
    ("prompt-name-near-miss", {"stated": {"prompts.Query2": "x "}, "facts": {"prompts": {"Query2": "y "}}}),
    # Windows read the whole text.
    ("chunk-too-long", {"stated": {"index.chunk_tokens": 512, "tokenizer.overflow": "window"}}),
    # Model types that transformers has itself need no code of the model.
    (
        "custom-code-refused",
        {"facts": {"config.auto_map": {"AutoModel": "modeling.X"}, "custom_code": ("modeling.py",)}},
    ),
    # A dense layer that follows two poolings gets both.
    (
        "dense-dimension-differs",
        {
            "facts": {
                "pooling_mode": "mean+max",
                "modules": (ModuleFacts(0, "0", "2_Dense", "x.Dense", {"in_features": 64, "out_features": 8}),),
            }
        },
    ),
    # Trained for every length between two.
    (
        "similarity-differs",
        {"stated": {"vectors.similarity_fn_name": "dot"}, "facts": {"similarity_fn_name": "cosine"}},
    ),
    ("task-unknown", {"stated": {"prompts.task": "retrieval"}, "facts": {"custom_code": ("modeling.py",)}}),
    ("normalize-without-effect", {"stated": {"vectors.normalize": False, "vectors.truncate_dim": 8}}),
]


@pytest.mark.parametrize(
    ("code", "situation_values"), SILENT, ids=[f"{code}-{n}" for n, (code, _) in enumerate(SILENT)]
)
def test_a_rule_is_silent_where_it_could_be_mistaken(code, situation_values, ask):
    """A finding that is wrong costs more trust than a missing one."""
    assert ask(RULES[code], **situation_values) == []
