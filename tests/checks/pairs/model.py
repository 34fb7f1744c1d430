"""Rule -> a situation in which it fires, and one near it in which it does not: rules about the model.

A situation holds what differs from a plain tiny BERT on a plain machine; see `Situation` in conftest.py.
"""

from embedprefs.errors import ModelFilesError
from embedprefs.facts import ModuleFacts

COMMIT = "8b4c685d3b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b"
HUB = {"source": "hub", "revision": COMMIT, "name": "someone/model"}


def known(name, **changes):
    """Facts of a model of the hub that the table of known models has."""
    return {"name": name, "base_models": (), **changes}


DENSE = (
    ModuleFacts(0, "0", "", "sentence_transformers.models.Transformer", {}),
    ModuleFacts(1, "1", "1_Pooling", "sentence_transformers.models.Pooling", {"pooling_mode": "mean"}),
    ModuleFacts(2, "2", "2_Dense", "sentence_transformers.models.Dense", {"in_features": 32, "out_features": 16}),
)
WRONG_DENSE = (
    *DENSE[:2],
    ModuleFacts(2, "2", "2_Dense", "sentence_transformers.models.Dense", {"in_features": 768, "out_features": 16}),
)

PAIRS = {
    # --- the check itself
    "model-not-readable": (
        {"problem": ModelFilesError("The model folder models/none does not exist.", model="models/none")},
        {},
    ),
    "ignored-code-unknown": (
        {"stated": {"checks.ignore": ["prompt-mising"]}},
        {"stated": {"checks.ignore": ["prompts-missing"]}},
    ),
    "ignored-code-stays": (
        {"stated": {"checks.ignore": ["prompts-missing"]}},
        {"stated": {"checks.ignore": ["revision-not-pinned"]}},
    ),
    # --- access
    "revision-not-pinned": (
        {"stated": {"model.revision": "main"}, "facts": HUB},
        {"stated": {"model.revision": COMMIT}, "facts": HUB},
    ),
    "revision-without-effect": (
        {"stated": {"model.revision": "v2"}},
        {"stated": {"model.revision": "v2"}, "facts": HUB},
    ),
    "trust-remote-code": (
        {"stated": {"model.trust_remote_code": True}},
        {"stated": {"model.trust_remote_code": False}},
    ),
    "custom-code-refused": (
        {"facts": {"custom_code": ("my_module.MyPooling",)}},
        {"facts": {"custom_code": ("my_module.MyPooling",)}, "stated": {"model.trust_remote_code": True}},
    ),
    "keyword-refused": (
        {"stated": {"model.kwargs": {"torch_dtype": "float16"}}},
        {"stated": {"model.kwargs": {"variant": "fp16"}}},
    ),
    "model-kwargs-unknown": (
        {"stated": {"model.kwargs": {"hidden_dropout_prob": 0.0}}},
        {"stated": {"model.kwargs": {"subfolder": "onnx"}}},
    ),
    "secret-in-file": (
        {"stated": {"training.arguments": {"hub_token": "hf_abcdefghijklmnopqrst"}}},
        {"stated": {"training.arguments": {"hub_model_id": "someone/model"}}},
    ),
    "cached-files-only": (
        {"stated": {"model.local_files_only": True}, "facts": {**HUB, "source": "cache"}},
        {"stated": {"model.local_files_only": True}},
    ),
    # --- weights
    "model-files-damaged": (
        {"facts": {"problems": ("model.safetensors is 12 bytes shorter than its header says.",)}},
        {},
    ),
    "tensors-missing": (
        {"facts": {"missing_tensors": ("encoder.layer.2.output.dense.weight",)}},
        {"facts": {"missing_tensors": ("x",)}, "stated": {"model.from_scratch": True}},
    ),
    "tensors-unexpected": (
        {"facts": {"unexpected_tensors": ("encoder.layer.2.output.dense.weight",)}},
        {"facts": {"unexpected_tensors": ()}},
    ),
    "tensors-mismatched": (
        {"facts": {"mismatched_tensors": ("embeddings.word_embeddings.weight: (40, 32), (50, 32)",)}},
        {"facts": {"mismatched_tensors": ("x",), "tensors_verified": False}},
    ),
    "tensors-verified-at-load": (
        {"facts": {"tensors_verified": False, "model_type": "some_new_type"}},
        {"facts": {"tensors_verified": False}, "model": "static"},
    ),
    "pickle-checkpoint": (
        {"facts": {"weight_files": (), "pickle_files": ("pytorch_model.bin",)}},
        {"facts": {"pickle_files": ("pytorch_model.bin",)}},
    ),
    "weights-missing": (
        {"facts": {"weight_files": ()}},
        {"facts": {"weight_files": (), "onnx_files": ("onnx/model.onnx",)}},
    ),
    "checkpoint-half-precision": (
        {"facts": {"config_dtype": "float16", "weights_dtype": "float16"}},
        {"facts": {"config_dtype": "float32", "weights_dtype": "float32"}},
    ),
    "random-weights": ({"stated": {"model.from_scratch": True}}, {"stated": {"model.from_scratch": False}}),
    "memory-exceeded": (
        {"stated": {"compute.memory_limit": "500MB"}, "facts": {"parameter_count": 394_781_696}},
        {"stated": {"compute.memory_limit": "2GiB"}, "facts": {"parameter_count": 394_781_696}},
    ),
    # --- configuration
    "config-override-without-effect": (
        {"stated": {"model.config": {"global_rope_theta": 5e5}}, "model": "modernbert"},
        {"stated": {"model.config": {"attention_dropout": 0.1}}, "model": "modernbert"},
    ),
    "config-override-architecture": (
        {"stated": {"model.config": {"num_attention_heads": 2}}},
        {"stated": {"model.config": {"num_attention_heads": 2}, "model.from_scratch": True}},
    ),
    # --- modules
    "modules-missing": ({"model": "bare"}, {"model": "bert"}),
    "pooling-overridden": ({"stated": {"model.pooling": "cls"}}, {"stated": {"model.pooling": "cls"}, "model": "bare"}),
    "pooling-differs": (
        {"facts": known("BAAI/bge-base-en-v1.5", pooling_mode="mean")},
        {"facts": known("BAAI/bge-base-en-v1.5", pooling_mode="cls")},
    ),
    "pooling-dimension-differs": ({"facts": {"pooling_dimension": 100}}, {"facts": {"pooling_dimension": 32}}),
    "normalize-missing": (
        {"facts": known("lightonai/modernbert-embed-large"), "model": "unnormalized"},
        {"facts": known("lightonai/modernbert-embed-large"), "model": "flagship"},
    ),
    "dense-dimension-differs": ({"facts": {"modules": WRONG_DENSE}}, {"facts": {"modules": DENSE}}),
    # --- tokenizer
    "max-seq-length-too-long": (
        {"stated": {"tokenizer.max_seq_length": 129}},
        {"stated": {"tokenizer.max_seq_length": 128}},
    ),
    "max-seq-length-too-short": (
        {"stated": {"tokenizer.max_seq_length": 2}},
        {"stated": {"tokenizer.max_seq_length": 32}},
    ),
    "max-seq-length-unlimited": (
        {"facts": {"max_seq_length": None}},
        {"facts": {"max_seq_length": None}, "model": "static"},
    ),
    "padding-side-left": (
        {"stated": {"tokenizer.padding_side": "left"}},
        {"stated": {"tokenizer.padding_side": "left"}, "model": "modernbert"},
    ),
    "truncation-side-left": (
        {"stated": {"tokenizer.truncation_side": "left"}},
        {"stated": {"tokenizer.truncation_side": "right"}},
    ),
    "tokenizer-kwargs-unknown": (
        {"stated": {"tokenizer.kwargs": {"model_max_lenght": 64}}},
        {"stated": {"tokenizer.kwargs": {"strip_accents": True}}},
    ),
    "tokenizer-larger-than-embedding": (
        {"facts": {"tokenizer.largest_id": 30_000}},
        {"facts": {"tokenizer.largest_id": 5}},
    ),
    "special-tokens-differ": (
        {"facts": {"config.pad_token_id": 7}, "model": "roberta"},
        {"facts": {"config.pad_token_id": 1}, "model": "roberta"},
    ),
    "special-token-unknown": (
        {"stated": {"tokenizer.special_tokens": {"pad_token": "<my-padding>"}}},
        {"stated": {"tokenizer.special_tokens": {"pad_token": "[PAD]"}}},
    ),
    "window-overlap-too-large": (
        {"stated": {"tokenizer.overflow": "window", "tokenizer.window_overlap": 62}},
        {"stated": {"tokenizer.overflow": "window", "tokenizer.window_overlap": 61}},
    ),
    # --- prompts
    "prompts-missing": (
        {"stated": {"prompts.query": ""}, "facts": known("lightonai/modernbert-embed-large")},
        {"facts": known("lightonai/modernbert-embed-large")},
    ),
    "prompts-inherited": (
        {"model": "flagship"},
        {"model": "flagship", "stated": {"prompts.query": "", "prompts.document": ""}},
    ),
    "prompts-differ": (
        {"stated": {"prompts.query": "question: "}, "facts": known("intfloat/e5-base-v2")},
        {"stated": {"prompts.query": "query: "}, "facts": known("intfloat/e5-base-v2")},
    ),
    "prompts-not-stated": ({}, {"stated": {"prompts.query": "", "prompts.document": ""}}),
    "prompt-name-unused": (
        {"stated": {"prompts.search_query": "search_query: "}},
        {"stated": {"prompts.search_query": "search_query: ", "prompts.query": "search_query: "}},
    ),
    "prompt-name-near-miss": (
        {"stated": {"prompts.qeury": "search_query: "}},
        {"stated": {"prompts.clustering": "cluster: ", "prompts.search_query": "search_query: "}},
    ),
    "model-prompt-name-unused": (
        {"facts": {"prompts": {"search_query": "search_query: "}}},
        {"facts": {"prompts": {"query": "search_query: ", "passage": "search_document: "}}},
    ),
    "default-prompt-not-applied": (
        {"facts": {"prompts": {"retrieval": "Retrieve: "}, "default_prompt_name": "retrieval"}},
        {
            "facts": {"prompts": {"retrieval": "Retrieve: "}, "default_prompt_name": "retrieval"},
            "stated": {"prompts.query": "Retrieve: ", "prompts.document": ""},
        },
    ),
    "prompt-without-space": (
        {"stated": {"prompts.query": "search_query:"}, "model": "modernbert"},
        {"stated": {"prompts.query": "search_query:"}, "model": "bert"},
    ),
    "prompt-repeated": (
        {"stated": {"prompts.document": "search_document: ", "index.template": "search_document: {text}"}},
        {"stated": {"prompts.document": "search_document: ", "index.template": "{title}: {text}"}},
    ),
    "prompt-too-long": (
        {"stated": {"prompts.query": "one two three four five six", "tokenizer.max_seq_length": 8}},
        {"stated": {"prompts.query": "one two three four five six", "tokenizer.max_seq_length": 64}},
    ),
    "task-unknown": (
        {"stated": {"prompts.task": "retrieval"}},
        {"stated": {"prompts.task": "retrieval"}, "facts": {"prompts": {"retrieval": "Retrieve: "}}},
    ),
    # --- vectors
    "truncate-dim-too-large": ({"stated": {"vectors.truncate_dim": 33}}, {"stated": {"vectors.truncate_dim": 32}}),
    "truncate-dim-not-trained": (
        {"stated": {"vectors.truncate_dim": 16}, "model": "flagship"},
        {"stated": {"vectors.truncate_dim": 16, "training.matryoshka_dims": [64, 16]}, "model": "flagship"},
    ),
    "truncate-without-normalize": (
        {
            "stated": {
                "vectors.truncate_dim": 16,
                "vectors.normalize": False,
                "vectors.similarity_fn_name": "dot",
            }
        },
        {"stated": {"vectors.truncate_dim": 16, "vectors.similarity_fn_name": "dot"}},
    ),
    "normalize-without-effect": (
        {"stated": {"vectors.normalize": False}},
        {"stated": {"vectors.normalize": False}, "model": "unnormalized"},
    ),
    "dot-on-unnormalized": (
        {"stated": {"vectors.similarity_fn_name": "dot"}, "model": "unnormalized"},
        {"stated": {"vectors.similarity_fn_name": "dot"}, "model": "bert"},
    ),
    "similarity-differs": (
        {"stated": {"vectors.similarity_fn_name": "manhattan"}, "facts": {"similarity_fn_name": "cosine"}},
        {"stated": {"vectors.similarity_fn_name": "euclidean"}, "facts": {"similarity_fn_name": "cosine"}},
    ),
    "calibration-missing": (
        {"stated": {"vectors.precision": "int8"}},
        {"stated": {"vectors.precision": "int8", "vectors.calibration": "ranges.json"}},
    ),
    "calibration-unusable": (
        {"stated": {"vectors.precision": "int8", "vectors.calibration": "no-such-file.json"}},
        {"stated": {"vectors.precision": "binary", "vectors.calibration": "no-such-file.json"}},
    ),
    "calibration-without-effect": (
        {"stated": {"vectors.calibration": "ranges.json"}},
        {"stated": {"vectors.calibration": "ranges.json", "vectors.precision": "uint8"}},
    ),
    "binary-dimensions": (
        {"stated": {"vectors.precision": "ubinary", "vectors.truncate_dim": 30}},
        {"stated": {"vectors.precision": "ubinary", "vectors.truncate_dim": 24}},
    ),
}
