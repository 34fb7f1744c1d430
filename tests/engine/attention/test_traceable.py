"""A traced ModernBERT holds for every batch and every length, also through OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from embedprefs.engine.attention import traceable_attention

LENGTHS = (
    (1,),
    (5, 2),
    (63,),
    (64, 64),
    (65,),
    (127, 3),
    (128,),
    (129,),
    (130, 130, 7),
    (256, 3),
    (257,),
    (300, 130, 64, 5),
    (1000,),
)
Batch = Callable[..., tuple[Any, Any]]


class _Tokens(torch.nn.Module):
    """A model as tensors in, one tensor out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def _differences(model: Any, converted: Callable[[Any, Any], Any], batch: Batch) -> dict[tuple[int, ...], float]:
    """Return the largest difference to the host for every batch where it is above 1e-5."""
    found = {}
    for lengths in LENGTHS:
        ids, mask = batch(*lengths)
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        difference = float(((converted(ids, mask) - expected).abs() * mask[..., None]).max())
        if not difference <= 1e-5:
            found[lengths] = difference
    return found


@pytest.mark.parametrize("window", [128, 16])
def test_a_trace_of_one_length_holds_for_all(modernbert: Any, batch: Batch, window: int) -> None:
    """The sizes of the example leave no mark in the trace."""
    model = modernbert(window)
    with torch.inference_mode(), traceable_attention(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(_Tokens(model).eval(), batch(23, 19), check_trace=False)
    with torch.inference_mode():
        assert _differences(model, traced, batch) == {}


def _openvino(model: Any, batch: Batch) -> Callable[[Any, Any], Any]:
    from embedprefs.engine.openvino.telemetry import import_openvino, without_telemetry

    openvino = import_openvino()
    with torch.inference_mode(), traceable_attention(model), without_telemetry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(_Tokens(model).eval(), example_input=batch(23, 19))
        kinds = [node.get_type_name() for node in converted.get_ops()]
        assert kinds.count("ScaledDotProductAttention") == model.config.num_hidden_layers
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()

    def computed(ids: Any, mask: Any) -> Any:
        return torch.from_numpy(request.infer([ids.numpy(), mask.numpy()])[0].copy())

    return computed


@pytest.mark.parametrize("window", [128, 16])
def test_openvino_computes_what_the_host_computes(modernbert: Any, batch: Batch, window: int) -> None:
    """Float32, lengths around windows and blocks, padded batches; attention stays one operation a layer."""
    pytest.importorskip("openvino")
    model = modernbert(window, initializer_range=0.3)
    assert _differences(model, _openvino(model, batch), batch) == {}


@pytest.mark.slow
def test_openvino_holds_at_the_width_of_the_published_base_model(modernbert: Any, batch: Batch) -> None:
    """768 wide, 12 heads, four layers, random weights."""
    pytest.importorskip("openvino")
    model = modernbert(
        hidden_size=768, intermediate_size=1152, num_attention_heads=12, vocab_size=1000, initializer_range=0.02
    )
    assert _differences(model, _openvino(model, batch), batch) == {}


def test_the_model_is_afterwards_as_it_was(modernbert: Any, batch: Batch) -> None:
    """Its attention comes back, after an error too, and its vectors with it."""
    model = modernbert()
    model.set_attn_implementation("eager")
    with traceable_attention(model):
        assert model.config._attn_implementation != "eager"
    assert model.config._attn_implementation == "eager"
    wrong = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(RuntimeError), traceable_attention(model):
        model(input_ids=wrong, attention_mask=torch.ones(1, 5))
    assert model.config._attn_implementation == "eager"


def test_without_a_trace_it_computes_the_same(modernbert: Any, batch: Batch) -> None:
    """Within the block the model can be called as ever; a converter compares its result with that."""
    model = modernbert()
    ids, mask = batch(300, 70)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        with traceable_attention(model):
            found = model(input_ids=ids, attention_mask=mask).last_hidden_state
            unmasked = model(input_ids=ids[:1]).last_hidden_state
    assert float(((found - expected).abs() * mask[..., None]).max()) <= 1e-5
    assert float((unmasked[0] - expected[0]).abs().max()) <= 1e-5


def test_models_of_other_types_are_left_alone(tmp_path: Any) -> None:
    """A BERT has no local layers, and is traced as it is."""
    from transformers import BertConfig, BertModel

    model = BertModel(
        BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    before = model.config._attn_implementation
    with traceable_attention(model):
        assert model.config._attn_implementation == before
