"""The memory estimate beside what is really alive while a model runs, and beside what a process really takes."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref

import pytest

from embedprefs import testing
from embedprefs.errors import InvalidPreferenceError
from embedprefs.facts import ModelFacts, read_facts
from embedprefs.facts.memory import LIBRARIES_BYTES, estimate_memory, fits, weights_held
from embedprefs.hardware import Accelerator, Hardware

GIBIBYTE = 1024**3


def living_bytes(model, texts: int, length: int) -> int:
    """Run one batch and return the most bytes of tensors, weights left out, that were alive at once."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        """Counts the storages that operations make, until they are freed."""

        def __init__(self):
            super().__init__()
            self.alive = {}
            self.most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key = storage._cdata
                    if key not in weights and key not in self.alive:
                        self.alive[key] = storage.nbytes()
                        weakref.finalize(storage, self.alive.pop, key, None)
            self.most = max(self.most, sum(self.alive.values()))
            return result

    transformer = model[0].auto_model
    weights = {parameter.untyped_storage()._cdata for parameter in transformer.parameters()}
    ids = torch.full((texts, length), 5)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    with torch.no_grad(), Counting() as counting:
        model({"input_ids": ids, "attention_mask": mask})
    return counting.most


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("texts", "length"), [(16, 32), (2, 250)])
@pytest.mark.parametrize("kind", ["minilm_folder", "wide_modernbert"])
def test_living_tensors_are_those_estimated(kind, request, load_host, texts, length, dtype, attention):
    """For BERT and ModernBERT the estimate is within a sixth of the tensors that are really alive."""
    folder = request.getfixturevalue(kind)
    model = load_host(folder, model_kwargs={"dtype": dtype, "attn_implementation": attention})
    estimate = estimate_memory(
        read_facts(str(folder)), dtype=dtype, batch_tokens=texts * length, max_length=length, attention=attention
    )
    measured = living_bytes(model, texts, length)
    assert measured * 5 / 6 <= estimate.activation_bytes <= measured * 7 / 6


@pytest.fixture(scope="module")
def wide_modernbert(tmp_path_factory):
    """A ModernBERT wide enough that its activations outweigh everything small."""
    from transformers import ModernBertConfig, ModernBertModel

    folder = testing.tiny_modernbert_folder(tmp_path_factory.mktemp("wide") / "model")
    tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = ModernBertConfig(
        vocab_size=tokens,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    ModernBertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"embedding_dimension": 256, "pooling_mode": "mean"}))
    return folder


MEASURE = """
import json, re, sys

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

from sentence_transformers import SentenceTransformer
import torch
torch.set_num_threads(1)
libraries = status("VmRSS")
model = SentenceTransformer(sys.argv[1], device="cpu", model_kwargs={"dtype": "float32"})
model.encode("a first text")
for parameter in model.parameters():
    parameter.sum()
loaded = status("VmRSS")
ids = torch.full((int(sys.argv[2]), int(sys.argv[3])), 5)
mask = torch.ones_like(ids)
mask[0, -2:] = 0
open("/proc/self/clear_refs", "w").write("5")
with torch.no_grad():
    model({"input_ids": ids, "attention_mask": mask})
print(json.dumps({"libraries": libraries, "loaded": loaded, "peak": status("VmHWM")}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from Linux's /proc")
def test_a_process_takes_what_was_estimated(minilm_folder):
    """A process that embeds one large batch with the real model takes the estimate, give or take its allocator.

    At least nine tenths of the estimate, and at most half as much again: the tensors here are above 32 MiB each, which
    the C library gives back at once.
    """
    texts, length = 128, 256
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(minilm_folder), str(texts), str(length)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    measured = json.loads(result.stdout.splitlines()[-1])
    estimate = estimate_memory(
        read_facts(str(minilm_folder)),
        dtype="float32",
        batch_tokens=texts * length,
        max_length=length,
        attention="sdpa",
    )
    activations = measured["peak"] - measured["loaded"]
    weights = measured["loaded"] - measured["libraries"]
    assert estimate.activation_bytes * 0.9 <= activations <= estimate.activation_bytes * 1.5
    assert estimate.weights_bytes * 0.9 <= weights <= estimate.weights_bytes * 1.7
    assert measured["libraries"] <= LIBRARIES_BYTES


@pytest.fixture
def large(tmp_path):
    return read_facts(str(testing.modernbert_large_folder(tmp_path / "large")))


def test_the_flagships_weights(large):
    """395 million parameters are 1.58 GB in float32 and half of that in bfloat16."""
    full = estimate_memory(large, dtype="float32", batch_tokens=8192, max_length=8192, attention="local")
    half = estimate_memory(large, dtype="bfloat16", batch_tokens=8192, max_length=8192, attention="local")
    assert full.weights_bytes == 1_579_126_784
    assert half.weights_bytes == full.weights_bytes // 2
    assert full.total_bytes == full.weights_bytes + full.activation_bytes
    assert "394.8 million parameters in float32" in full.explanation


def test_a_converted_copy_stands_beside_the_float32_weights(large):
    """Of the flagship: 1.47 GiB in float32 for torch, and what OpenVINO computes with."""
    count = large.parameter_count
    assert weights_held(large, dtype="bfloat16")[0] == 2 * count
    assert weights_held(large, dtype="bfloat16", backend="openvino")[0] == 6 * count
    assert weights_held(large, dtype="float32", backend="openvino")[0] == 8 * count
    held, words = weights_held(large, dtype="bfloat16", backend="openvino", weights="int8")
    assert held == 5 * count
    assert "1.47 GiB in float32 for torch and 0.37 GiB in int8 in the copy that openvino runs" in words
    shape = {"dtype": "bfloat16", "batch_tokens": 8192, "max_length": 8192, "attention": "local"}
    assert estimate_memory(large, backend="openvino", **shape).weights_bytes == 6 * count


def test_masks_and_scores_grow_with_the_square(large):
    """Dense attention costs more the longer the texts are, padding-free attention does not."""

    def activations(attention: str, length: int) -> int:
        return estimate_memory(
            large, dtype="float32", batch_tokens=65536, max_length=length, attention=attention
        ).activation_bytes

    assert activations("varlen", 8192) == pytest.approx(activations("varlen", 512), rel=0.01)
    assert activations("sdpa", 8192) > 1.3 * activations("sdpa", 512)
    assert activations("eager", 8192) > 10 * activations("sdpa", 8192)


def test_a_static_model_takes_its_table(static_folder):
    """A static model only looks vectors up."""
    facts = read_facts(str(static_folder))
    estimate = estimate_memory(facts, dtype="float32", batch_tokens=1000, max_length=10, attention="sdpa")
    assert estimate.weights_bytes == facts.weight_bytes
    assert estimate.activation_bytes == 100 * 8 * 4


def test_an_unknown_dtype(large):
    """The dtypes that are known are named."""
    with pytest.raises(InvalidPreferenceError, match="bfloat16"):
        estimate_memory(large, dtype="fp8", batch_tokens=1, max_length=1, attention="sdpa")


class TestFits:
    """Whether a model fits, before it is loaded."""

    def asked(self, facts: ModelFacts, hardware: Hardware, device: str = "cpu", **arguments):
        settings = {"dtype": "float32", "batch_tokens": 8192, "max_length": 8192, "attention": "local", **arguments}
        return fits(facts, hardware, device=device, **settings)

    def test_enough_memory(self, large):
        """With room to spare it fits, and both sides are said."""
        fit = self.asked(large, Hardware(memory_available=16 * GIBIBYTE))
        assert fit.fits
        assert fit.available_bytes == 16 * GIBIBYTE - LIBRARIES_BYTES
        assert "which fits into the" in fit.message

    def test_too_little_memory(self, large):
        """A machine of 2 GiB is refused."""
        fit = self.asked(large, Hardware(memory_available=2 * GIBIBYTE))
        assert not fit.fits
        assert "which does not fit into the" in fit.message

    def test_a_gpus_memory_counts_for_a_gpu(self, large):
        """What is free on the device asked for decides, not the machine's memory."""
        gpu = Accelerator("cuda", 1, "small", memory_total=8 * GIBIBYTE, memory_free=GIBIBYTE)
        hardware = Hardware(
            memory_available=64 * GIBIBYTE, accelerators=(Accelerator("cuda", 0, "big", 80 * GIBIBYTE), gpu)
        )
        assert not self.asked(large, hardware, "cuda:1").fits
        assert self.asked(large, hardware, "cuda:0").fits

    def test_the_users_limit(self, large):
        """compute.memory_limit counts where it is the tighter one."""
        hardware = Hardware(memory_available=64 * GIBIBYTE)
        fit = self.asked(large, hardware, memory_limit=GIBIBYTE)
        assert not fit.fits
        assert "allowed by compute.memory_limit" in fit.message
        assert (
            self.asked(large, hardware, memory_limit=100 * GIBIBYTE).available_bytes == 64 * GIBIBYTE - LIBRARIES_BYTES
        )

    def test_an_unknown_machine_refuses_nothing(self, large):
        """Where the machine does not say what it has, nothing is refused."""
        fit = self.asked(large, Hardware())
        assert fit.fits
        assert fit.available_bytes is None
        assert "is not known" in fit.message
