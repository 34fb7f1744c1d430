"""Dividing products whose result is taken apart at once, in a converted model.

ModernBERT computes query, key and value with one matrix, and both halves of its gated layer with another; what comes
out is copied apart. With a matrix for each part nothing is copied, and what follows one part alone, an activation, is
computed within its product. The numbers are the same: each column of a product depends on its own weights alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.openvino.telemetry import import_openvino, without_telemetry

__all__ = ["divide_products", "separate_activations"]


def divide_products(model: Any) -> int:
    """Give each part of a product that is split into parts a product of its own, in place.

    Args:
        model: OpenVINO's model, in float32.

    Returns:
        How many products were divided.
    """
    operations = _operations()
    divided, before = 0, -1
    # More than once: the widths of several splits may be computed from one product's shape, which is read until the
    # others are divided.
    while divided > before:
        before = divided
        divided += _divide_each(model, operations)
    if divided:
        model.validate_nodes_and_infer_types()
    return divided


def separate_activations(model: Any) -> int:
    """Compute the activation of a gated layer apart from the product before it, in place; for float32 alone.

    OpenVINO 2026.4 computes a float32 product without an activation from the weights as they are. With one it packs the
    weights first, once for very short inputs and once for all others: 77 MB more for a model of ModernBERT-base's size,
    and no time saved. In bfloat16 all products pack their weights, and one with its activation is faster.

    Args:
        model: OpenVINO's model, in float32.

    Returns:
        How many activations were separated.
    """
    operations = _operations()
    separated = 0
    for gelu in model.get_ordered_ops():
        if gelu.get_type_name() != "Gelu" or gelu.get_attributes()["approximation_mode"].lower() != "erf":
            continue
        before = gelu.input_value(0)
        readers = list(gelu.output(0).get_target_inputs())
        if _product(before, gelu) is None or any(reader.get_node().get_type_name() != "Multiply" for reader in readers):
            continue
        # x/2 + x/2 erf(x / sqrt(2)), in an order that OpenVINO does not take for its own operation.
        half = operations.multiply(before, operations.constant(np.float32(0.5)))
        error = operations.erf(operations.multiply(before, operations.constant(np.float32(0.5**0.5))))
        apart = operations.add(operations.multiply(half, error), half)
        for reader in readers:
            reader.replace_source_output(apart.output(0))
        separated += 1
    if separated:
        model.validate_nodes_and_infer_types()
    return separated


def _operations() -> Any:
    """Return OpenVINO's operations."""
    import_openvino()
    with without_telemetry():
        from openvino import opset13

    return opset13


def _divide_each(model: Any, operations: Any) -> int:
    """Divide what can be divided at this moment; return how many products that were."""
    divided = 0
    for split in model.get_ordered_ops():
        if split.get_type_name() not in ("Split", "VariadicSplit"):
            continue
        found = _last_axis(split) or _axis_of_heads(split)
        if found is None:
            continue
        product, weights, places, shape = found
        begin = 0
        for number, (targets, width) in enumerate(places):
            part = np.ascontiguousarray(weights[begin : begin + width])
            begin += width
            own = operations.matmul(
                product.input_value(0), operations.constant(part), transpose_a=False, transpose_b=True
            )
            own.set_friendly_name(f"{product.get_friendly_name()}/part_{number}")
            result = own if shape is None else operations.reshape(own, operations.constant(shape), special_zero=True)
            for target in targets:
                target.replace_source_output(result.output(0))
        divided += 1
    return divided


#: A product, its weights of shape (columns, inner), who reads each part with the part's number of columns, and the
#: shape that a part is brought into.
_Found = tuple[Any, NDArray[np.float32], list[tuple[list[Any], int]], NDArray[np.int64] | None]


def _last_axis(split: Any) -> _Found | None:
    """Return what to divide where the columns of a product are split as they are."""
    whole = split.input_value(0)
    product = _product(whole, split)
    if product is None or _axis(split) != whole.get_partial_shape().rank.get_length() - 1:
        return None
    widths = [output.get_partial_shape()[_axis(split)] for output in split.outputs()]
    if not all(width.is_static for width in widths):
        return None
    places = [
        (list(output.get_target_inputs()), width.get_length())
        for output, width in zip(split.outputs(), widths, strict=True)
    ]
    return _checked(product, places, None)


def _axis_of_heads(split: Any) -> _Found | None:
    """Return what to divide where the columns are laid out as (parts, heads, head size) and the parts are unpacked."""
    laid_out = split.input_value(0)
    shape = laid_out.get_partial_shape()
    if laid_out.get_node().get_type_name() != "Reshape" or shape.rank.is_dynamic or shape.rank.get_length() != 5:
        return None
    if _axis(split) != 2 or not all(shape[place].is_static for place in (2, 3, 4)):
        return None
    if _is_read_elsewhere(laid_out, split):
        return None
    parts, heads, size = (shape[place].get_length() for place in (2, 3, 4))
    product = _product(laid_out.get_node().input_value(0), laid_out.get_node())
    unpacked = [[target.get_node() for target in output.get_target_inputs()] for output in split.outputs()]
    if product is None or len(unpacked) != parts:
        return None
    if any(node.get_type_name() != "Squeeze" for nodes in unpacked for node in nodes):
        return None
    places = [
        ([target for node in nodes for target in node.output(0).get_target_inputs()], heads * size)
        for nodes in unpacked
    ]
    # Zero keeps what comes in: texts and length.
    return _checked(product, places, np.array([0, 0, heads, size], dtype=np.int64))


def _checked(product: Any, places: list[tuple[list[Any], int]], shape: NDArray[np.int64] | None) -> _Found | None:
    weights = product.input_value(1).get_node().get_data()
    return (product, weights, places, shape) if sum(width for _, width in places) == len(weights) else None


def _axis(split: Any) -> int | None:
    """Return the axis that is split, counted from the front; None where it is computed."""
    node = split.input_value(1).get_node()
    rank = split.input_value(0).get_partial_shape().rank
    if node.get_type_name() != "Constant" or rank.is_dynamic:
        return None
    return int(node.get_data().reshape(-1)[0]) % int(rank.get_length())


def _product(output: Any, reader: Any) -> Any | None:
    """Return the product with constant weights that an output is, if nobody but `reader` needs it."""
    node = output.get_node()
    if node.get_type_name() != "MatMul" or _is_read_elsewhere(output, reader):
        return None
    weights = node.input_value(1).get_node()
    attributes = node.get_attributes()
    is_linear = weights.get_type_name() == "Constant" and attributes["transpose_b"] and not attributes["transpose_a"]
    is_matrix = is_linear and len(weights.get_output_shape(0)) == 2
    return node if is_matrix else None


def _is_read_elsewhere(output: Any, reader: Any) -> bool:
    """Tell whether a result of the model depends on an output other than through `reader`."""
    seen = {reader.get_instance_id()}
    waiting = [output]
    while waiting:
        for target in waiting.pop().get_target_inputs():
            node = target.get_node()
            if node.get_instance_id() in seen:
                continue
            if node.get_type_name() == "Result":
                return True
            seen.add(node.get_instance_id())
            waiting.extend(node.outputs())
    return False
