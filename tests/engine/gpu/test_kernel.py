"""What a GPU would be asked to compute: torch's kernel is called as it is declared, and the whole can be compiled.

On the meta device torch runs the kernel's declaration, shapes and arguments alone, so that this needs no GPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from embedprefs.engine.gpu.architectures import PROVED
from embedprefs.engine.gpu.attention import kernel_problem, packed_attention
from embedprefs.engine.gpu.compiled import CompiledTransformer, token_vectors
from embedprefs.errors import EmbedPrefsWarning
from embedprefs.model.features import hand_on_float32

from .conftest import our_attention

pytestmark = pytest.mark.skipif(kernel_problem() is not None, reason=str(kernel_problem()))


class Calls(TorchDispatchMode):
    """Notes the arguments of every call of the kernel, by the names that torch declares."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[dict[str, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if "_varlen_attn" in str(function):
            names = [argument.name for argument in function._schema.arguments]
            self.arguments.append({**dict(zip(names, arguments, strict=False)), **(named or {})})
        return function(*arguments, **(named or {}))


def on_meta(*lengths: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, positions, where texts begin, and something as long as the longest, without numbers."""
    size = sum(lengths)
    numbers = torch.empty(2, 1, size, dtype=torch.long, device="meta")
    starts = torch.empty(len(lengths) + 1, dtype=torch.int32, device="meta")
    return numbers[0], numbers[1], starts, starts.new_empty(1).expand(max(lengths))


@pytest.mark.parametrize(("sliding_window", "window"), [(None, [-1, -1]), (9, [8, 8])])
def test_the_kernel_is_called_as_it_is_declared(sliding_window: int | None, window: list[int]) -> None:
    """Heads behind tokens, the window to either side without the token itself, one split, the factor of the layer."""
    states = [torch.empty(1, 4, 30, 16, dtype=torch.bfloat16, device="meta") for _ in range(3)]
    starts = torch.empty(4, dtype=torch.int32, device="meta")
    with Calls() as calls:
        found, weights = packed_attention(
            torch.nn.Identity(),
            *states,
            None,
            scaling=0.5,
            sliding_window=sliding_window,
            cu_seq_lens_q=starts,
            max_length_q=17,
        )
    assert (found.shape, found.dtype, weights) == ((1, 30, 4, 16), torch.bfloat16, None)
    (call,) = calls.arguments
    assert call["query"].shape == call["key"].shape == call["value"].shape == (30, 4, 16)
    assert call["query"].stride(-1) == 1
    assert (call["max_q"], call["max_k"], call["scale"], call["num_splits"]) == (17, 17, 0.5, 1)
    assert (call["window_size"], call["is_causal"]) == (window, False)
    assert call["cu_seq_q"] is call["cu_seq_k"] is starts


@pytest.mark.parametrize("model_type", sorted(PROVED))
def test_every_layer_calls_it_once(model_of: Callable[..., Any], model_type: str) -> None:
    """In half precision throughout, as the kernel asks for; local layers with their window, global ones without."""
    model = copy.deepcopy(model_of(model_type)).to("meta").bfloat16()
    with our_attention(model), torch.inference_mode(), Calls() as calls:
        tokens = token_vectors(model[0], *on_meta(20, 9, 3))
    assert tokens.shape == (32, 32)
    dtypes = {call[name].dtype for call in calls.arguments for name in ("query", "key", "value")}
    assert dtypes == {torch.bfloat16}
    assert all(call[name].stride(-1) == 1 for call in calls.arguments for name in ("query", "key", "value"))
    layers = 4 if model_type == "modernbert" else 2
    windows = [call["window_size"] for call in calls.arguments]
    expected = [[-1, -1], [8, 8], [8, 8], [-1, -1]] if model_type == "modernbert" else [[-1, -1]] * layers
    assert windows == expected


@pytest.mark.parametrize("model_type", [pytest.param("bert", marks=pytest.mark.slow), "modernbert"])
def test_one_form_is_compiled_for_each_number_of_tokens(model_of: Callable[..., Any], model_type: str) -> None:
    """The number and the lengths of texts are left open, and nothing breaks the graph."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    model = copy.deepcopy(model_of(model_type)).to("meta").bfloat16()
    model[0].register_forward_hook(hand_on_float32)  # as every model in half precision has it
    counter = CompileCounter()
    run = CompiledTransformer(64, backend=counter)
    with our_attention(model), torch.inference_mode():
        for lengths in [(20, 9, 3), (16, 16), (8, 8, 8, 8), (31, 1)]:
            found = run(model[0], *on_meta(*lengths))
            assert (found.shape, found.dtype) == ((32, 32), torch.float32)
        assert counter.frame_count == 1
        for lengths in [(40, 24), (64,), (32, 30, 2)]:
            assert run(model[0], *on_meta(*lengths)).shape == (64, 32)
        assert counter.frame_count == 2
        assert run(model[0], *on_meta(50)).shape == (50, 32), "what is no fixed number of tokens is not compiled"
        assert counter.frame_count == 2
    assert run.runs


def test_batches_are_filled_up_to_the_next_size() -> None:
    run = CompiledTransformer(64, backend="eager")
    assert [run.size_of(tokens) for tokens in (1, 3, 33, 64, 65)] == [2, 4, 64, 64, 65]


def test_a_model_that_cannot_be_compiled_runs_as_it_is_and_says_so(model_of: Callable[..., Any]) -> None:
    """Said once; from then on nothing is filled up either."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here\nlong explanation")

    torch.compiler.reset()
    model = copy.deepcopy(model_of("bert")).to("meta")
    run = CompiledTransformer(64, backend=broken)
    with our_attention(model), torch.inference_mode():
        with pytest.warns(EmbedPrefsWarning, match=r"(?s)no compiler here.*compile = false"):
            assert run(model[0], *on_meta(32)).shape == (32, 32)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(model[0], *on_meta(32)).shape == (32, 32)
    assert (run.runs, run.size_of(3)) == (False, 3)


def test_a_causal_layer_is_refused() -> None:
    """Looking both ways where a model was trained to look back would be silently wrong."""
    layer = torch.nn.Identity()
    layer.is_causal = True
    states = torch.zeros(1, 2, 5, 8)
    with pytest.raises(ValueError, match='attn_implementation="sdpa"'):
        packed_attention(
            layer, states, states, states, None, cu_seq_lens_q=torch.tensor([0, 5], dtype=torch.int32), max_length_q=5
        )
