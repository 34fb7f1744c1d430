"""Blocked local attention computes what the host's dense masks compute."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from embedprefs.engine.attention import ATTENTION, SUPPORTED, register

LENGTHS = (1, 5, 63, 64, 65, 66, 127, 128, 129, 130, 191, 192, 193, 300, 1000)
Batch = Callable[..., tuple[Any, Any]]


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def _computed(model: Any, attention: str, ids: Any, mask: Any) -> Any:
    model.set_attn_implementation(attention)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state


def _difference(model: Any, ids: Any, mask: Any, *, against: str = "sdpa") -> float:
    """Return the largest difference over all tokens; padding does not count."""
    theirs, ours = (_computed(model, name, ids, mask) for name in (against, ATTENTION))
    assert bool(torch.isfinite(ours).all())
    return float(((theirs - ours).float().abs() * mask[..., None]).max())


@pytest.mark.parametrize("window", [128, 16])
def test_texts_of_any_length_are_computed_as_by_the_host(modernbert: Any, batch: Batch, window: int) -> None:
    """Lengths around the window, around a block and around both together, alone in their batch."""
    model = modernbert(window)
    assert {length: d for length in LENGTHS if (d := _difference(model, *batch(length))) > 1e-5} == {}


@pytest.mark.parametrize("window", [128, 16])
@pytest.mark.parametrize("lengths", [(300, 130, 64, 5, 1), (517, 517, 193), (66, 1), (1000, 1)])
def test_padded_batches_are_computed_as_by_the_host(
    modernbert: Any, batch: Batch, window: int, lengths: tuple[int, ...]
) -> None:
    """Padding that begins inside a window, at its edge, and long before the end."""
    assert _difference(modernbert(window), *batch(*lengths)) <= 1e-5


def test_a_text_is_computed_alike_whatever_its_batch_mates(modernbert: Any, batch: Batch) -> None:
    """A short text among long ones sees none of its padding."""
    model = modernbert()
    ids, mask = batch(90, 700)
    together = _computed(model, ATTENTION, ids, mask)[0, :90]
    alone = _computed(model, ATTENTION, ids[:1, :90], mask[:1, :90])[0]
    assert float((together - alone).abs().max()) <= 1e-5


def test_padding_on_the_left_is_hidden_as_well(modernbert: Any, batch: Batch) -> None:
    """The mask is read token by token, not as a length."""
    ids, mask = batch(400, 150)
    assert _difference(modernbert(), ids.flip(1), mask.flip(1)) <= 1e-5


def test_a_mask_of_the_callers_own_is_obeyed(modernbert: Any, batch: Batch) -> None:
    """Four dimensions are handed through by transformers as they are."""
    ids, mask = batch(300, 200)
    model = modernbert()
    own = (mask[:, None, None, :] * torch.ones(1, 1, 300, 1)).bool()
    own[..., 17] = False
    theirs = _computed(model, "sdpa", ids, own)
    ours = _computed(model, ATTENTION, ids, own)
    assert float(((theirs - ours).abs() * mask[..., None]).max()) <= 1e-5


def test_bfloat16_is_as_close_to_float32_as_the_hosts_bfloat16(modernbert: Any, batch: Batch) -> None:
    """Lower precision rounds; the blocks add nothing to it."""
    ids, mask = batch(600, 250)
    exact = _computed(modernbert(initializer_range=0.1), "sdpa", ids, mask)
    model = modernbert(initializer_range=0.1).bfloat16()
    errors = [
        float(((_computed(model, name, ids, mask).float() - exact) * mask[..., None]).square().mean().sqrt())
        for name in ("sdpa", ATTENTION)
    ]
    assert errors[1] <= 1.2 * errors[0]


def test_gradients_are_those_of_the_host(modernbert: Any, batch: Batch) -> None:
    """It serves training too: every weight gets the same gradient."""
    ids, mask = batch(300, 100)
    found = []
    for attention in ("sdpa", ATTENTION):
        model = modernbert(initializer_range=0.05).train()
        model.set_attn_implementation(attention)
        model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].square().mean().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    theirs, ours = found
    assert theirs.keys() == ours.keys()
    assert len(ours) > 10
    for name, gradient in theirs.items():
        assert torch.allclose(gradient, ours[name], rtol=1e-4, atol=1e-6), name


def test_long_texts_hold_no_mask_of_length_times_length(
    modernbert: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added to the scores grows with the length; the host's masks grow with its square."""
    from embedprefs.engine.attention import local

    seen: list[int] = []
    fused = local.scaled_dot_product_attention

    def watched(*arguments: Any, **named: Any) -> Any:
        mask = named["attn_mask"]
        seen.append(0 if mask is None else mask.numel())
        return fused(*arguments, **named)

    monkeypatch.setattr(local, "scaled_dot_product_attention", watched)
    model = modernbert()
    _computed(model, ATTENTION, *batch(3000))
    assert seen.count(0) == 2, "global layers of a text without padding have no mask"
    assert 0 < max(seen) <= 3072 * 192
    seen.clear()
    _computed(model, ATTENTION, *batch(3000, 10))
    assert min(seen) == 2 * 3000, "global layers of a padded batch have one number for each token"
    assert max(seen) <= 2 * 3072 * 192


def test_a_causal_layer_is_refused(modernbert: Any, batch: Batch) -> None:
    """Looking both ways where a model was trained to look back would be silently wrong."""
    model = modernbert()
    for layer in model.layers:
        layer.attn.is_causal = True
    with pytest.raises(ValueError, match='attn_implementation="sdpa"'):
        _computed(model, ATTENTION, *batch(10))


def test_scores_are_scaled_as_the_layer_says(batch: Batch) -> None:
    """The function is told the factor, and takes torch's own where it is told none."""
    from embedprefs.engine.attention.local import local_attention

    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, 2, 300, 8, generator=generator) for _ in range(3))
    layer = torch.nn.Identity()
    plain, _ = local_attention(layer, query, key, value, None, sliding_window=65)
    stated, _ = local_attention(layer, query, key, value, None, sliding_window=65, scaling=1 / math.sqrt(8))
    doubled, _ = local_attention(layer, 2 * query, key, value, None, sliding_window=65, scaling=0.5 / math.sqrt(8))
    assert torch.allclose(plain, stated, atol=1e-6)
    assert torch.allclose(plain, doubled, atol=1e-6)


def test_the_host_loads_and_copies_a_model_with_it(modernbert: Any, batch: Batch) -> None:
    """Copies and pickles keep the attention's name."""
    model = modernbert()
    ids, mask = batch(200, 30)
    expected = _computed(model, ATTENTION, ids, mask)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.config._attn_implementation == ATTENTION
        with torch.inference_mode():
            assert torch.equal(other(input_ids=ids, attention_mask=mask).last_hidden_state, expected)


def test_every_supported_type_is_tested_here() -> None:
    """Adding a type to the table needs a test of that type."""
    assert {"modernbert"} == SUPPORTED


def test_importing_the_package_imports_no_torch() -> None:
    """Preferences are resolved by these names, without weights in sight."""
    code = "import sys, embedprefs.engine.attention; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
