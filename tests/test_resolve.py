"""What preferences become for a model on a machine, and why."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedprefs.errors import ModelFilesError
from embedprefs.facts import ModelFacts, TokenizerFacts, read_facts
from embedprefs.hardware import Accelerator, Hardware
from embedprefs.known_models import find_known_model
from embedprefs.preferences import Kind, Layer, Origin, Preferences, every_field
from embedprefs.resolve import resolve
from embedprefs.resolve.backends import BACKENDS
from embedprefs.resolve.memory import parse_memory_size, readable_size
from embedprefs.testing import published_modernbert_embed_folder, static_model_folder

GIB = 1024**3
CPU = Hardware(
    cpu_count=4,
    memory_total=16 * GIB,
    memory_available=10 * GIB,
    torch_version="2.13.0+cpu",
    packages={"torch": "2.13.0", "sentence-transformers": "6.2.0", "transformers": "5.23.0"},
)
H200 = Accelerator("cuda", 0, "NVIDIA H200", memory_total=140 * GIB, memory_free=130 * GIB, compute_capability=(9, 0))
T4 = Accelerator("cuda", 0, "Tesla T4", memory_total=15 * GIB, memory_free=14 * GIB, compute_capability=(7, 5))
TOKENIZER = TokenizerFacts(
    config={},
    size=100,
    largest_id=99,
    model_max_length=256,
    padding_side="right",
    truncation_side="right",
    special_tokens={"pad_token": "[PAD]"},
    special_ids={"pad_token": 0},
    byte_level=False,
    specials_per_text=2,
)
FACTS = ModelFacts(
    name="someone/model",
    folder=None,
    revision="0123456789012345678901234567890123456789",
    source="hub",
    files=(),
    config={"model_type": "bert", "hidden_size": 32},
    sentence_transformers_config={},
    sentence_bert_config={},
    modules=(),
    tokenizer=TOKENIZER,
    tensors={},
    model_type="bert",
    max_seq_length=256,
    embedding_dimension=32,
    pooling_mode="mean",
    normalizes=True,
)


def gpu(*accelerators):
    return dataclasses.replace(CPU, accelerators=accelerators, torch_version="2.13.0", torch_cuda_version="12.8")


def resolved(facts=FACTS, hardware=CPU, **sections):
    return resolve(Preferences.model_validate({"model": {"name": facts.name}, **sections}), facts, hardware)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """Keep the machine's own settings out."""
    for name in ("LOCAL_RANK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------------- completeness


@pytest.mark.parametrize("facts", [FACTS, dataclasses.replace(FACTS, is_static=True, tokenizer=None)])
@pytest.mark.parametrize("hardware", [CPU, gpu(H200), Hardware()])
def test_every_identity_and_compute_preference_is_resolved(facts, hardware):
    """Nothing that decides about vectors is left open, and each value has a sentence that says why."""
    answer = resolved(facts, hardware)
    for declared in every_field():
        if declared.kind not in (Kind.IDENTITY, Kind.COMPUTE) or declared.key.startswith("index.vectors."):
            continue
        choice = answer.choice(declared.key)
        assert choice.value != "auto", declared.key
        assert choice.reason.endswith("."), declared.key


def test_an_undeclared_key_is_a_key_error():
    """A typo is no silent None."""
    answer = resolved()
    with pytest.raises(KeyError):
        answer["compute.devise"]
    with pytest.raises(KeyError):
        answer.effective("compute.devise")
    assert answer.effective("index.collection") == "documents"


def test_to_json_holds_value_origin_and_reason():
    """`show --resolved` prints what is here."""
    rows = json.loads(json.dumps(resolved(compute={"device": "cpu"}).to_json()))
    assert rows["compute.device"] == {"value": "cpu", "origin": "explicit", "reason": "Stated."}
    assert next(iter(rows)) == "model.name"


def test_the_origin_of_a_stated_value_is_where_it_was_written():
    """A value keeps the file and line it came from."""
    origin = Origin(Layer.PROJECT_FILE, "embedprefs.toml", 7)
    preferences = Preferences.model_validate({"model": {"name": "m"}, "vectors": {"truncate_dim": 16}})
    answer = resolve(preferences.with_origins({"vectors.truncate_dim": origin}, None), FACTS, CPU)
    assert answer.choice("vectors.truncate_dim").origin == origin
    assert answer.choice("vectors.normalize").origin.layer is Layer.MODEL_FILES


def test_resolve_imports_neither_torch_nor_transformers(tmp_path):
    """`check` and `show` answer without the host."""
    folder = static_model_folder(tmp_path / "static")
    program = (
        "import sys\n"
        "from embedprefs.preferences import Preferences\n"
        "from embedprefs.resolve import resolve\n"
        "from embedprefs.record import fingerprint\n"
        "from embedprefs.arguments import load_arguments\n"
        f"answer = resolve(Preferences.model_validate({{'model': {{'name': {str(folder)!r}}}}}))\n"
        "load_arguments(answer)\n"
        "assert len(fingerprint(answer)) == 64\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


# ------------------------------------------------------------------------------------------------------ identity


def test_a_statement_wins_over_saved_preferences_and_these_over_the_models_files():
    """Identity is taken from the strongest layer that states it."""
    facts = dataclasses.replace(FACTS, prompts={"query": "own: ", "document": "own: "})
    saved = dataclasses.replace(facts, saved_preferences={"preferences": {"prompts": {"query": "saved: "}}})
    assert resolved(facts)["prompts.query"] == "own: "
    assert resolved(saved)["prompts.query"] == "saved: "
    assert resolved(saved)["prompts.document"] == "own: "
    answer = resolved(saved, prompts={"query": "stated: "})
    assert answer["prompts.query"] == "stated: "
    assert answer.prompts == {"query": "stated: ", "document": "own: "}


def test_prompts_come_from_the_known_model_table_where_the_files_have_none(tmp_path):
    """modernbert-embed-large publishes no prompts and needs both."""
    answer = resolved(read_facts(str(published_modernbert_embed_folder(tmp_path / "flagship"))))
    assert answer["prompts.query"] == "search_query: "
    assert answer["prompts.document"] == "search_document: "
    assert answer.choice("prompts.query").origin.layer is Layer.KNOWN_MODEL
    assert answer["tokenizer.max_seq_length"] == 8192


@pytest.mark.parametrize(
    ("base_models", "own", "expected"),
    [
        (("intfloat/e5-base-v2",), {}, ("query: ", "passage: ")),  # wrong without: they are inherited
        (("intfloat/e5-base-v2",), {"query": "own: "}, ("own: ", "")),  # what it says about itself is complete
        (("someone/unknown", "intfloat/e5-base-v2"), {}, ("", "")),  # too far away
        (("BAAI/bge-base-en-v1.5",), {}, ("", "")),  # only recommended, and mostly left out in fine-tuning
    ],
)
def test_a_fine_tune_inherits_the_prompts_its_base_cannot_do_without(base_models, own, expected):
    """A model made from a known one is treated like it only where that is safe."""
    answer = resolved(dataclasses.replace(FACTS, base_models=base_models, prompts=own))
    assert (answer["prompts.query"], answer["prompts.document"]) == expected


def test_an_empty_stated_prompt_means_none():
    """ "" in a preferences file is a decision, even against the known-model table."""
    facts = dataclasses.replace(FACTS, name="lightonai/modernbert-embed-large")
    assert find_known_model(facts) is not None
    answer = resolved(facts, prompts={"query": "", "document": ""})
    assert answer.prompts["query"] == answer.prompts["document"] == ""


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_a_document_prompt_under_another_name_is_used(name):
    """The host never applies a prompt named passage or corpus."""
    answer = resolved(dataclasses.replace(FACTS, prompts={"query": "q: ", name: "d: "}))
    assert answer["prompts.document"] == "d: "
    assert name in answer.choice("prompts.document").reason


def test_a_model_with_a_query_prompt_alone_has_no_document_prompt():
    """Asymmetric models without a document prompt are common; nothing is made up for them."""
    answer = resolved(dataclasses.replace(FACTS, prompts={"query": "q: "}))
    assert (answer["prompts.query"], answer["prompts.document"]) == ("q: ", "")


def test_further_named_prompts_are_kept():
    """Names of the user's and of the model's are both there."""
    facts = dataclasses.replace(FACTS, prompts={"clustering": "c: "})
    assert resolved(facts, prompts={"topic": "t: "}).prompts == {
        "query": "",
        "document": "",
        "clustering": "c: ",
        "topic": "t: ",
    }


@pytest.mark.parametrize(
    ("normalizes", "stated", "truncate_dim", "effective"),
    [
        (True, None, None, True),
        (True, False, None, True),  # the module runs whatever is stated
        (True, None, 16, True),
        (True, False, 16, False),
        (False, None, None, False),
        (False, None, 16, False),
        (False, True, None, True),
        (False, True, 16, True),
    ],
)
def test_normalize_is_what_the_vectors_are(normalizes, stated, truncate_dim, effective):
    """Truncated vectors of a normalising model are normalised again, unless the user says no."""
    vectors = {"normalize": stated, "truncate_dim": truncate_dim}
    vectors = {name: value for name, value in vectors.items() if value is not None}
    answer = resolved(dataclasses.replace(FACTS, normalizes=normalizes), vectors=vectors)
    assert answer["vectors.normalize"] is effective
    assert answer.embedding_dimension == (truncate_dim or 32)


def test_truncation_to_the_full_length_is_none():
    """Nothing is cut, so nothing is recorded."""
    answer = resolved(vectors={"truncate_dim": 32})
    assert answer["vectors.truncate_dim"] is None
    assert answer.embedding_dimension == 32


@pytest.mark.parametrize(
    ("own", "stated", "effective"), [(None, None, "cosine"), ("dot", None, "dot"), ("dot", "euclidean", "euclidean")]
)
def test_similarity(own, stated, effective):
    """Stated, else the model's own, else the host's default."""
    sections = {"vectors": {"similarity_fn_name": stated}} if stated else {}
    answer = resolved(dataclasses.replace(FACTS, similarity_fn_name=own), **sections)
    assert answer["vectors.similarity_fn_name"] == effective


def test_the_revision_of_the_files_that_were_read_is_pinned():
    """What was checked is what will be loaded."""
    assert resolved()["model.revision"] == FACTS.revision
    assert resolved(model={"name": "m", "revision": "main"})["model.revision"] == "main"
    folder = dataclasses.replace(FACTS, source="folder", folder=Path("model"), revision=None)
    assert resolved(folder)["model.revision"] is None


def test_saved_preferences_say_nothing_about_access():
    """A file that came with a model cannot make its code trusted, nor choose a device."""
    saved = {
        "model": {"trust_remote_code": True},
        "compute": {"device": "cuda:3"},
        "tokenizer": {"on_overflow": "error"},
    }
    answer = resolved(dataclasses.replace(FACTS, saved_preferences={"preferences": saved}))
    assert answer["model.trust_remote_code"] is False
    assert answer["compute.device"] == "cpu"
    assert answer["tokenizer.on_overflow"] == "count"


def test_saved_preferences_that_are_not_allowed_are_refused():
    """A damaged file of a model is named, and the value that is wrong."""
    facts = dataclasses.replace(FACTS, saved_preferences={"preferences": {"vectors": {"truncate_dim": "many"}}})
    with pytest.raises(ModelFilesError, match=r"config_embedprefs.json.*vectors.truncate_dim"):
        resolved(facts)


def test_a_calibration_file_is_found_beside_what_names_it(tmp_path):
    """Relative to the preferences file, or to the folder of a saved model."""
    preferences = Preferences.model_validate({"model": {"name": "m"}, "vectors": {"calibration": "ranges.json"}})
    stated = resolve(preferences.with_origins({}, tmp_path / "embedprefs.toml"), FACTS, CPU)
    assert stated.calibration_file == tmp_path / "ranges.json"
    saved = {"preferences": {"vectors": {"calibration": "ranges.json"}}}
    facts = dataclasses.replace(FACTS, folder=tmp_path / "model", source="folder", saved_preferences=saved)
    assert resolved(facts).calibration_file == tmp_path / "model" / "ranges.json"
    assert resolved().calibration_file is None


# ------------------------------------------------------------------------------------------------------- compute


def test_device_auto():
    """The first visible GPU that torch can use, else the CPU."""
    assert resolved()["compute.device"] == "cpu"
    assert resolved(hardware=gpu(H200, T4))["compute.device"] == "cuda:0"
    mac = dataclasses.replace(CPU, accelerators=(Accelerator("mps", 0, "Apple M4"),))
    assert resolved(hardware=mac)["compute.device"] == "mps"
    without_cuda = dataclasses.replace(gpu(H200), torch_version="2.13.0+cpu", torch_cuda_version=None)
    choice = resolved(hardware=without_cuda).choice("compute.device")
    assert choice.value == "cpu"
    assert "NVIDIA H200" in choice.reason


def test_each_process_of_a_distributed_run_has_its_own_gpu(monkeypatch):
    """LOCAL_RANK, as torchrun sets it, chooses the GPU."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    machine = gpu(H200, dataclasses.replace(H200, index=1))
    assert resolved(hardware=machine)["compute.device"] == "cuda:1"
    assert resolved(hardware=machine, compute={"device": "cuda"})["compute.device"] == "cuda:1"
    assert resolved(hardware=gpu(H200))["compute.device"] == "cuda:1"  # kept, so that a check can refuse it
    assert resolved()["compute.device"] == "cpu"


def test_a_stated_device_is_never_replaced():
    """A GPU that is not there is reported by a check, not silently swapped for the CPU."""
    assert resolved(compute={"device": "cuda:3"})["compute.device"] == "cuda:3"


def test_a_list_of_devices_has_one_worker_each():
    """Every device gets a process."""
    answer = resolved(hardware=gpu(H200), compute={"device": ["cuda:0", "cpu"]})
    assert answer.devices == ("cuda:0", "cpu")
    assert answer["compute.workers"] == 2


@pytest.mark.parametrize(
    ("hardware", "exactness", "dtype"),
    [
        (CPU, "close", "float32"),
        (dataclasses.replace(CPU, native_bfloat16=True), "close", "float32"),
        (dataclasses.replace(CPU, native_bfloat16=True), "fast", "bfloat16"),
        (CPU, "fast", "float32"),
        (gpu(H200), "exact", "float32"),
        (gpu(H200), "close", "bfloat16"),
        (gpu(T4), "close", "float32"),
        (gpu(T4), "fast", "float16"),
    ],
)
def test_dtype_auto(hardware, exactness, dtype):
    """As fast as the exactness allows; never float16 on a CPU."""
    assert resolved(hardware=hardware, compute={"exactness": exactness})["compute.dtype"] == dtype


def test_autocast_keeps_float32_weights():
    """Mixed precision lowers operations, not weights."""
    assert resolved(hardware=gpu(H200), compute={"autocast": True})["compute.dtype"] == "float32"


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({"model_type": "modernbert"}, "local"),
        ({"model_type": "bert"}, "sdpa"),
        ({"model_type": "mpnet"}, "eager"),
        ({"model_type": None}, "eager"),
        ({"is_static": True}, None),
    ],
)
def test_attention_auto(changes, attention):
    """sdpa only where the architecture is known to support it: asking another one for it fails at load."""
    assert resolved(dataclasses.replace(FACTS, **changes))["compute.attention"] == attention


def test_attention_auto_names_architectures_that_the_host_supports():
    """Every model type of the table really declares sdpa, in the transformers that the table was made of or newer."""
    import transformers

    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 23):
        pytest.skip(f"transformers {transformers.__version__} supports sdpa for fewer architectures")
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    from embedprefs.resolve.compute import SDPA_MODEL_TYPES

    for model_type in ("bert", "modernbert", "roberta", "distilbert", "xlm-roberta", "qwen3", "nomic_bert"):
        assert model_type in SDPA_MODEL_TYPES
    for model_type in SDPA_MODEL_TYPES & set(MODEL_MAPPING_NAMES):
        name = MODEL_MAPPING_NAMES[model_type]
        classes = [name] if isinstance(name, str) else list(name)
        assert any(getattr(transformers, item)._supports_sdpa for item in classes), model_type


def test_backend_auto_is_torch_where_nothing_else_is_installed():
    """The reason names what would be faster."""
    assert resolved()["compute.backend"] == "torch"
    assert 'pip install "embedprefs[openvino]"' in resolved().choice("compute.backend").reason
    assert resolved(compute={"backend": "openvino"})["compute.backend"] == "openvino"


def test_a_backend_says_what_it_lacks_and_the_extra_that_brings_it():
    """Either build of ONNX Runtime will do."""
    onnx = next(backend for backend in BACKENDS if backend.name == "onnx")
    assert onnx.missing(CPU) == ("onnxruntime",)
    assert onnx.command == 'pip install "embedprefs[onnx]"'
    assert onnx.available(dataclasses.replace(CPU, packages={"onnxruntime-gpu": "1.23.0"}))
    assert {backend.name for backend in BACKENDS} == {"torch", "openvino", "onnx"}
    torch = next(backend for backend in BACKENDS if backend.name == "torch")
    assert torch.available(CPU)
    assert torch.missing(Hardware(packages={"transformers": "5.23.0"})) == ("torch", "sentence-transformers")


#: A proved architecture of a size that repays the conversion, and a machine that has OpenVINO.
LARGE_BERT = dataclasses.replace(FACTS, model_type="bert", pooling_mode="mean", parameter_count=22_000_000)
WITH_OPENVINO = dataclasses.replace(CPU, packages={**CPU.packages, "openvino": "2026.4.1"})


def test_backend_auto_is_openvino_for_a_proved_architecture_on_a_processor():
    """Its number format follows from the instruction sets and from the exactness."""
    answer = resolved(LARGE_BERT, WITH_OPENVINO)
    assert (answer["compute.backend"], answer["compute.dtype"]) == ("openvino", "float32")
    native = dataclasses.replace(WITH_OPENVINO, native_bfloat16=True)
    assert resolved(LARGE_BERT, native)["compute.dtype"] == "bfloat16"
    slower = dataclasses.replace(native, instruction_sets=frozenset({"avx512_bf16"}), processor_vendor="GenuineIntel")
    assert resolved(LARGE_BERT, slower)["compute.dtype"] == "float32"
    assert resolved(LARGE_BERT, slower, compute={"dtype": "bfloat16"})["compute.dtype"] == "bfloat16"
    assert resolved(LARGE_BERT, slower, compute={"backend": "torch", "exactness": "fast"})["compute.dtype"] == "float32"
    assert resolved(LARGE_BERT, native, compute={"exactness": "exact"})["compute.dtype"] == "float32"
    assert resolved(LARGE_BERT, native, compute={"dtype": "float32"})["compute.dtype"] == "float32"


def test_backend_auto_is_torch_where_memory_does_not_hold_a_converted_copy_too():
    """OpenVINO's copy stands beside torch's float32 weights: 6 bytes a parameter in bfloat16, 8 in float32."""
    native = dataclasses.replace(WITH_OPENVINO, native_bfloat16=True)
    for machine, dtype, enough in ((native, "auto", 132_000_000), (native, "float32", 176_000_000)):
        compute = {"dtype": dtype}
        fits = resolved(LARGE_BERT, machine, compute={**compute, "memory_limit": f"{enough // 1000}KB"})
        small = resolved(LARGE_BERT, machine, compute={**compute, "memory_limit": f"{enough // 1000 - 1}KB"})
        assert (fits["compute.backend"], small["compute.backend"]) == ("openvino", "torch")
        assert "83.9 MiB in float32 for torch and" in small.choice("compute.backend").reason
    stated = resolved(LARGE_BERT, native, compute={"backend": "openvino", "memory_limit": "1MB"})
    assert stated["compute.backend"] == "openvino"


@pytest.mark.parametrize(
    ("facts", "compute", "reason"),
    [
        ({"parameter_count": 100_000}, {}, "small"),
        ({"model_type": "qwen3"}, {}, "qwen3"),
        ({"pooling_mode": "unheard-of"}, {}, "pooling"),
        ({"is_static": True}, {}, "static"),
        ({"custom_code": ("modeling_own.py",)}, {}, "modeling_own.py"),
        ({}, {"device": "cuda:0"}, "cuda:0"),
        ({}, {"autocast": True}, "autocast"),
        ({}, {"compile": True}, "compile"),
        ({}, {"dtype": "float16"}, "float16"),
        ({}, {"attention": "flash_attention_2"}, "flash_attention_2"),
    ],
)
def test_backend_auto_keeps_to_torch_what_no_test_has_proved(facts, compute, reason):
    """And says what keeps it there."""
    choice = resolved(dataclasses.replace(LARGE_BERT, **facts), WITH_OPENVINO, compute=compute).choice(
        "compute.backend"
    )
    assert choice.value == "torch"
    assert reason in choice.reason


def test_vectors_are_kept_where_a_preference_says(monkeypatch, tmp_path):
    """Nowhere by default; true is the folder of this user, or the one the environment names; a path is the file's."""
    assert resolved()["compute.cache"] is False
    assert resolved()["compute.cache_size"] == 2 * GIB
    assert resolved().choice("compute.cache_size").reason == "Nothing states it, and the default is 2GiB."
    stated = resolved(compute={"cache_size": "500MB"}).choice("compute.cache_size")
    assert (stated.value, stated.reason) == (500_000_000, "Stated as 500MB.")
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    named = resolved(compute={"cache": True}).choice("compute.cache")
    assert named.value == str(tmp_path / "embeddings")
    assert "EMBEDPREFS_CACHE" in named.reason
    monkeypatch.delenv("EMBEDPREFS_CACHE")
    own = resolved(compute={"cache": True})["compute.cache"]
    assert Path(own).is_absolute()
    assert own.endswith("embeddings")
    assert resolved(compute={"cache": str(tmp_path / "here")})["compute.cache"] == str(tmp_path / "here")
    file = tmp_path / "project" / "embedprefs.toml"
    preferences = Preferences.model_validate({"model": {"name": FACTS.name}, "compute": {"cache": "kept"}})
    beside = resolve(preferences.with_origins({}, file), FACTS, CPU)
    assert beside["compute.cache"] == str(tmp_path / "project" / "kept")


def test_threads_and_workers(monkeypatch):
    """Every processor the process may use, shared by its workers; OMP_NUM_THREADS is obeyed."""
    assert resolved()["compute.threads"] == 4
    assert resolved(compute={"workers": 2})["compute.threads"] == 2
    assert resolved(compute={"threads": 3})["compute.threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resolved()["compute.threads"] == 1


@pytest.mark.parametrize(
    ("hardware", "stated", "size"),
    [
        (CPU, "auto", 8 * GIB),
        (CPU, "50%", 8 * GIB),
        (CPU, "8GiB", 8 * GIB),
        (dataclasses.replace(CPU, cgroup_memory_limit=4 * GIB), "50%", 2 * GIB),
        (gpu(H200), "auto", 117 * GIB),
        (gpu(H200), "50%", 70 * GIB),
        (Hardware(), "auto", None),
        (Hardware(), "50%", None),
        (Hardware(), 12345, 12345),
    ],
)
def test_memory_limit(hardware, stated, size):
    """Bytes of what the device has; a share is of its whole memory, "auto" is of what is free."""
    assert resolved(hardware=hardware, compute={"memory_limit": stated})["compute.memory_limit"] == size


def test_batches_on_a_cpu_are_small():
    """Small batches win on a CPU; a text that is longer than the budget is a batch of its own."""
    answer = resolved()
    assert (answer["compute.max_batch_size"], answer["compute.batch_tokens"]) == (64, 1024)
    long = resolved(dataclasses.replace(FACTS, max_seq_length=8192))
    assert long["compute.batch_tokens"] == 1024


def test_batches_on_a_gpu_fit_its_memory(tmp_path):
    """The less memory is free, the smaller the batch."""
    facts = read_facts(str(published_modernbert_embed_folder(tmp_path / "flagship")))
    large = resolved(facts, gpu(H200))["compute.batch_tokens"]
    small = resolved(facts, gpu(H200), compute={"memory_limit": "64MiB"})["compute.batch_tokens"]
    assert large == 65536
    assert small == facts.max_seq_length


# --------------------------------------------------------------------------------------------- sizes of memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * GIB), ("500MB", 500_000_000), ("1.5 GiB", 3 * GIB // 2), ("75%", 750), (42, 42), ("2KB", 2000)],
)
def test_sizes_of_memory(text, size):
    """GiB counts in 1024s, GB in 1000s, % of the total."""
    assert parse_memory_size(text, 1000) == size


@pytest.mark.parametrize("text", ["", "8", "GiB", "8GiBs", "-1GiB", "8 kilobytes"])
def test_a_text_that_is_no_size_is_refused(text):
    """The message shows what is allowed."""
    with pytest.raises(ValueError, match="8GiB"):
        parse_memory_size(text, None)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_readable_size_is_within_a_few_percent(size):
    """What `show` prints can be read back."""
    text = readable_size(size)
    number, unit = text.split()
    factor = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": GIB}[unit]
    assert abs(float(number) * factor - size) <= 0.06 * max(size, 1)
