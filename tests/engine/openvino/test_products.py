"""Products whose result is split: divided where each part can have its own, left alone elsewhere, equal always."""

from __future__ import annotations

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")

from embedprefs.engine.openvino.products import divide_products, separate_activations  # noqa: E402 - needs openvino
from embedprefs.engine.openvino.telemetry import import_openvino, without_telemetry  # noqa: E402

import_openvino()
with without_telemetry():
    from openvino import opset13 as operations

WIDTH, HEADS, SIZE = 8, 3, 4


@pytest.fixture
def chance():
    return np.random.default_rng(0)


def weights(chance, columns: int) -> np.ndarray:
    return chance.standard_normal((columns, WIDTH)).astype(np.float32)


def product(chance, columns: int):
    entry = operations.parameter([-1, -1, WIDTH], np.float32)
    return entry, operations.matmul(entry, operations.constant(weights(chance, columns)), False, True)


def gated(chance):
    """Half of the columns goes through an activation and is multiplied with the other half."""
    entry, whole = product(chance, 12)
    split = operations.variadic_split(whole, operations.constant(-1), operations.constant([7, 5]))
    kept = operations.slice(
        split.output(0), operations.constant([0]), operations.constant([5]), operations.constant([1]),
        operations.constant([2]),
    )  # fmt: skip
    return entry, operations.multiply(operations.gelu(kept, "erf"), split.output(1)), None


def attention(chance):
    """Query, key and value are laid out side by side."""
    entry, whole = product(chance, 3 * HEADS * SIZE)
    shape = operations.constant(np.array([0, 0, 3, HEADS, SIZE]))
    split = operations.split(operations.reshape(whole, shape, True), operations.constant(2), 3)
    parts = [operations.squeeze(output, operations.constant([2])) for output in split.outputs()]
    return entry, operations.add(operations.multiply(parts[0], parts[1]), parts[2]), None


def looked_at_twice(chance):
    """The product as a whole is wanted as well."""
    entry, whole = product(chance, 12)
    split = operations.split(whole, operations.constant(-1), 2)
    return entry, operations.add(split.output(0), split.output(1)), whole


def other_axis(chance):
    """Texts are split, not columns."""
    entry, whole = product(chance, 12)
    split = operations.split(whole, operations.constant(0), 2)
    return entry, operations.add(split.output(0), split.output(1)), None


def computed_weights(chance):
    """The second factor is no constant."""
    entry = operations.parameter([-1, -1, WIDTH], np.float32)
    whole = operations.matmul(entry, entry, False, True)
    split = operations.split(whole, operations.constant(-1), 2)
    return entry, operations.add(split.output(0), split.output(1)), None


def computed(model, texts):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(value) for value in compiled(texts).values()]


@pytest.mark.parametrize(
    ("make", "divided"),
    [(gated, 1), (attention, 1), (looked_at_twice, 0), (other_axis, 0), (computed_weights, 0)],
)
def test_divided_and_equal(chance, make, divided):
    """What can be divided is, and every model gives the numbers that it gave."""
    entry, result, second = make(chance)
    model = openvino.Model([result] if second is None else [result, second], [entry])
    texts = chance.standard_normal((2, 6, WIDTH)).astype(np.float32)
    before = computed(model.clone(), texts)
    assert divide_products(model) == divided
    for value, expected in zip(computed(model, texts), before, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    splits = [node for node in model.get_ordered_ops() if "Split" in node.get_type_name()]
    assert len(splits) == 1 - divided


def test_a_shape_that_only_splits_read_hinders_nothing(chance):
    """Widths are computed from one product's shape for several splits, as a trace of a `chunk` does."""
    entry, first = product(chance, 12)
    last = operations.gather(operations.shape_of(first), operations.constant([2]), operations.constant(0))
    half = operations.divide(last, operations.constant(np.array([2])))
    widths = operations.concat([half, operations.subtract(last, half)], 0)
    second = operations.matmul(entry, operations.constant(weights(chance, 12)), False, True)
    parts = [
        part
        for whole in (first, second)
        for part in operations.variadic_split(whole, operations.constant(-1), widths).outputs()
    ]
    result = operations.add(operations.multiply(parts[0], parts[1]), operations.multiply(parts[2], parts[3]))
    model = openvino.Model([result], [entry])
    texts = chance.standard_normal((2, 6, WIDTH)).astype(np.float32)
    (before,) = computed(model.clone(), texts)
    assert divide_products(model) == 2
    np.testing.assert_allclose(computed(model, texts)[0], before, rtol=1e-5, atol=1e-6)
    assert not [node for node in model.get_ordered_ops() if "Split" in node.get_type_name()]


@pytest.mark.parametrize(("kind", "gated_layer", "separated"), [("erf", True, 1), ("tanh", True, 0), ("erf", False, 0)])
def test_activations_of_gated_layers_are_separated(chance, kind, gated_layer, separated):
    """The exact activation before a multiplication is computed apart, with the same numbers; any other stays."""
    entry, whole = product(chance, 6)
    active = operations.gelu(whole, kind)
    gate = operations.matmul(entry, operations.constant(weights(chance, 6)), False, True)
    result = operations.multiply(active, gate) if gated_layer else operations.add(active, gate)
    model = openvino.Model([result], [entry])
    texts = 3 * chance.standard_normal((2, 6, WIDTH)).astype(np.float32)
    (before,) = computed(model.clone(), texts)
    assert separate_activations(model) == separated
    np.testing.assert_allclose(computed(model, texts)[0], before, rtol=1e-5, atol=1e-5)
    assert len([node for node in model.get_ordered_ops() if node.get_type_name() == "Gelu"]) == 1 - separated
