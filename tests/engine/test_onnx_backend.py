"""Running a published ONNX file with ONNX Runtime, and pooling behind it in numpy."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from embedprefs import testing
from embedprefs.engine.backend import Backend
from embedprefs.engine.onnx_backend import OnnxBackend, published_file
from embedprefs.errors import ModelFilesError, ResourceError, UnavailableError
from embedprefs.facts import read_facts

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx, which exports the files of these tests, is not installed")

POOLINGS = ("mean", "mean_sqrt_len_tokens", "cls", "max", "lasttoken", "weightedmean")


def export(model, file):
    """Write a model's transformer as ONNX files are published: ids, mask and segments in, last hidden state out."""
    import torch

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model[0].auto_model

        def forward(self, input_ids, attention_mask, token_type_ids):
            mask = (attention_mask > 0)[:, None, None, :]
            found = self.model(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids)
            return found.last_hidden_state

    ids = torch.arange(3 * 11).reshape(3, 11) % 7 + 5
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in [*names, "last_hidden_state"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Inner().eval(),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            file,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a small BERT with every pooling, dense layers and LayerNorm, saved with an ONNX file; and its folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

    root = tmp_path_factory.mktemp("onnx")
    bare = SentenceTransformer(str(testing.tiny_bert_folder(root / "bare", pooling=None)), device="cpu")
    torch.manual_seed(5)
    width = 32 * len(POOLINGS)
    chain = [
        bare[0],
        Pooling(32, POOLINGS),
        LayerNorm(width),
        Dense(width, 24),
        Dropout(0.3),
        Dense(24, 24, activation_function=torch.nn.GELU(), use_residual=True),
        Dense(24, 16, bias=False, activation_function=torch.nn.SiLU(), use_residual=True),
        Dense(16, 16, activation_function=None),
        Normalize(),
    ]
    with torch.no_grad():
        chain[2].norm.weight.add_(torch.randn(width) * 0.2)
        chain[2].norm.bias.add_(torch.randn(width) * 0.2)
    whole = SentenceTransformer(modules=chain, device="cpu").eval()
    whole.save_pretrained(str(root / "model"))
    export(whole, root / "model" / "onnx" / "model.onnx")
    return whole, root / "model"


@pytest.fixture(scope="module")
def facts(model):
    """Return what the files say."""
    return read_facts(str(model[1]))


@pytest.fixture(scope="module")
def backend(facts):
    """Return the backend on one thread."""
    return OnnxBackend(facts, threads=1)


def batch(lengths, seed=0):
    """Return random ids and mask, padded on the right."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = generator.integers(5, 60, length)
        mask[row, :length] = 1
    return ids, mask


def host(model, ids, mask, **features):
    """Return what the host's own modules make of token ids."""
    import torch

    with torch.no_grad():
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), **features}
        return model(inputs)["sentence_embedding"].numpy()


@pytest.mark.parametrize("lengths", [(7,), (20, 20), (64, 31, 9, 2)])
def test_vectors_equal_the_hosts(model, backend, lengths):
    """Every pooling, dense layers with and without shortcut, LayerNorm and normalisation are the host's within 1e-5."""
    ids, mask = batch(lengths)
    vectors = backend.vectors(ids, mask)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, host(model[0], ids, mask), rtol=0, atol=1e-5)


def test_prompt_is_left_out_of_pooling(model, facts):
    """With include_prompt off the prompt's tokens are left out as the host does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = Pooling(32, "mean", include_prompt=False)
    chain = SentenceTransformer(modules=[model[0][0], pooling, Normalize()], device="cpu").eval()
    modules = (facts.modules[0], replace(facts.modules[1], config=pooling.get_config_dict()))
    short = replace(facts, modules=(*modules, facts.modules[-1]), pooling_mode="mean", embedding_dimension=32)
    backend = OnnxBackend(short, threads=1)
    ids, mask = batch((20, 9, 6))
    expected = host(chain, ids, mask, prompt_length=4)
    np.testing.assert_allclose(backend.vectors(ids, mask, prompt_tokens=4), expected, rtol=0, atol=1e-5)
    assert not np.allclose(backend.vectors(ids, mask), expected, rtol=0, atol=1e-3)


def test_it_is_a_backend(backend):
    """It has every attribute and method of the protocol, and says what it runs."""
    assert isinstance(backend, Backend)
    assert (backend.name, backend.numerics, backend.dimension) == ("onnx", "float32", 16)
    assert backend.file.name == "model.onnx"
    assert backend.vectors(np.empty((0, 3), dtype=np.int64), np.empty((0, 3), dtype=np.int64)).shape == (0, 16)


def test_provider_and_threads_are_stated(backend):
    """The provider is the one that was asked for and no other, with the threads that were asked for."""
    assert backend._session.get_providers() == ["CPUExecutionProvider"]
    assert backend._session.get_session_options().intra_op_num_threads == 1


def test_a_provider_that_is_not_there_is_refused(facts):
    """A GPU that this build cannot use is an error, not a quiet run on the processor."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has CUDA")
    with pytest.raises(ResourceError, match="no CUDAExecutionProvider"):
        OnnxBackend(facts, device="cuda:0")
    with pytest.raises(ResourceError, match="runs on cpu and cuda"):
        OnnxBackend(facts, device="mps")


def test_calls_from_several_threads(backend):
    """Calls side by side get their own vectors."""
    batches = [batch((5 + number, 3), seed=number) for number in range(12)]
    expected = [backend.vectors(*each) for each in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: backend.vectors(*each), batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_process_computes(facts):
    """A process that was forked after loading computes the same vectors."""
    backend = OnnxBackend(facts, threads=2)
    ids, mask = batch((30, 20, 12, 5))
    expected = backend.vectors(ids, mask)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(backend.vectors(ids, mask)))
    process.start()
    process.join(60)
    hung = process.is_alive()
    process.kill()
    assert not hung
    np.testing.assert_allclose(queue.get(), expected, rtol=0, atol=1e-6)


def test_closed_backend_says_so(facts):
    """After `close` a call names the reason."""
    backend = OnnxBackend(facts, threads=1)
    backend.close()
    with pytest.raises(ResourceError, match="closed"):
        backend.vectors(*batch((4,)))


def test_quantised_file_is_called_int8(model, facts, backend, tmp_path):
    """A file that was quantised, as they are published beside the full one, is told by its operators."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = "onnx/model_qint8.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(model[1] / "onnx" / "model.onnx", model[1] / file, weight_type=QuantType.QInt8)
    small = OnnxBackend(replace(facts, onnx_files=(*facts.onnx_files, file)), file=file, threads=1)
    ids, mask = batch((20, 9))
    cosines = (small.vectors(ids, mask) * backend.vectors(ids, mask)).sum(axis=1)
    assert small.numerics == "int8"
    assert cosines.min() > 0.9


def test_running_needs_no_torch(model):
    """Reading and running an ONNX file imports neither torch nor transformers nor sentence-transformers."""
    program = (
        "import sys, numpy as np; from embedprefs.facts import read_facts;"
        "from embedprefs.engine.onnx_backend import OnnxBackend;"
        "backend = OnnxBackend(read_facts(sys.argv[1]), threads=1);"
        "ids = np.array([[5, 6, 7]]); print(backend.vectors(ids, np.ones_like(ids)).shape);"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(model[1])], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == ["(1, 16)", "[]"]


# Which file, and what is refused --------------------------------------------------------------------------------------


def test_the_usual_file_is_taken(model, facts):
    """Where none is stated, onnx/model.onnx is taken, or the only one; a stated one wins."""
    several = replace(facts, onnx_files=("onnx/model.onnx", "onnx/model_O4.onnx"))
    assert published_file(several) == model[1] / "onnx" / "model.onnx"
    with pytest.raises(UnavailableError, match=r"hf download .* onnx/model_O4\.onnx"):
        published_file(several, "onnx/model_O4.onnx")
    with pytest.raises(ModelFilesError, match=r"a\.onnx, b\.onnx"):
        published_file(replace(facts, onnx_files=("a.onnx", "b.onnx")))
    with pytest.raises(ModelFilesError, match=r"ONNX files: none"):
        published_file(replace(facts, onnx_files=()))
    with pytest.raises(ModelFilesError, match=r"model.onnx_file is c.onnx"):
        published_file(facts, "c.onnx")


def test_damaged_file_is_refused(facts, tmp_path):
    """A file that ONNX Runtime cannot read is refused by its name."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFilesError, match=r"cannot run .*model\.onnx"):
        OnnxBackend(replace(facts, folder=tmp_path, modules=()), threads=1)


def test_unknown_modules_are_refused(facts):
    """What numpy does not compute here is refused by name, never left out."""
    cnn = replace(facts.modules[-1], type="sentence_transformers.models.CNN")
    with pytest.raises(ModelFilesError, match="has the module CNN"):
        OnnxBackend(replace(facts, modules=(*facts.modules, cnn)), threads=1)
    with pytest.raises(ModelFilesError, match="has the modules Transformer, CNN"):
        OnnxBackend(replace(facts, modules=(facts.modules[0], cnn)), threads=1)
    dense = next(module for module in facts.modules if module.kind == "Dense")
    other = replace(dense, config={**dense.config, "activation_function": "torch.nn.modules.activation.Mish"})
    with pytest.raises(ModelFilesError, match=r"activation torch\.nn\.modules\.activation\.Mish"):
        OnnxBackend(replace(facts, modules=(*facts.modules[:2], other)), threads=1)
    tokens = replace(facts.modules[-1], config={"module_input_name": "token_embeddings"})
    with pytest.raises(ModelFilesError, match="works on token_embeddings"):
        OnnxBackend(replace(facts, modules=(*facts.modules[:2], tokens)), threads=1)


def test_absent_weights_are_refused(facts):
    """A dense layer without its weights is an error."""
    dense = next(module for module in facts.modules if module.kind == "Dense")
    with pytest.raises(ModelFilesError, match=r"are not there as model\.safetensors"):
        OnnxBackend(replace(facts, modules=(*facts.modules[:2], replace(dense, path="9_Dense"))), threads=1)


def test_description_of_the_chain_is_the_published_one(model):
    """The chain of these tests is what the host wrote, not what a test made up."""
    written = json.loads((model[1] / "modules.json").read_text(encoding="utf-8"))
    kinds = [module["type"].rpartition(".")[2] for module in written]
    assert kinds == ["Transformer", "Pooling", "LayerNorm", "Dense", "Dropout", "Dense", "Dense", "Dense", "Normalize"]
