"""What may be embedded, and what is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedprefs.errors import InputError

__all__ = ["Inputs", "distinct_texts", "read_inputs"]

_ACCEPTED = "a text, or a list, tuple, array, Series, column or generator of texts"


@dataclass(frozen=True)
class Inputs:
    """Inputs of one call, in order."""

    items: list[Any]
    single: bool
    """True where one text was given rather than several: the result is one vector."""
    only_texts: bool
    """True where every item is a text."""


def read_inputs(inputs: Any, *, text_only: bool) -> Inputs:
    """Return the inputs of a call as a list.

    Args:
        inputs: What the caller gave: a text, or any iterable of texts that has an order.
        text_only: True for a model that reads texts alone; False also lets images, audio and messages through.

    Raises:
        InputError: the inputs are no texts; the first that is none is named.
    """
    if isinstance(inputs, str):
        return Inputs([_whole(inputs, 0)], single=True, only_texts=True)
    if not text_only and _is_one_foreign_input(inputs):
        return Inputs([inputs], single=True, only_texts=False)
    items = _listed(inputs)
    only_texts = True
    for position, item in enumerate(items):
        if isinstance(item, str):
            _whole(item, position)
        else:
            _require_foreign(item, position, text_only=text_only)
            only_texts = False
    return Inputs(items, single=False, only_texts=only_texts)


def _listed(inputs: Any) -> list[Any]:
    if isinstance(inputs, (set, frozenset)):
        raise InputError("A set has no order, so its vectors could not be told apart.\n  Give a list.")
    if isinstance(inputs, Mapping):
        raise InputError(
            "One dictionary was given, and this model reads texts.\n"
            f"  Give {_ACCEPTED}; for the values of a dictionary write list(inputs.values())."
        )
    if isinstance(inputs, np.ndarray) and inputs.ndim == 0:
        inputs = inputs.reshape(1)
    if isinstance(inputs, np.ndarray) and inputs.ndim > 1:
        raise InputError(
            f"An array of shape {inputs.shape} was given.\n  Give a one-dimensional array of texts: inputs.ravel()."
        )
    if isinstance(inputs, (bytes, bytearray)) or not isinstance(inputs, Iterable):
        raise InputError(f"{_named(inputs)} was given, and it is no text.\n  Give {_ACCEPTED}.")
    # numpy's own texts and numbers become Python's, which tokenizers accept and messages name.
    return inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)


def _is_one_foreign_input(inputs: Any) -> bool:
    """Tell whether one image, one array of audio, one message ... was given, rather than several inputs."""
    if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
        return True
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind not in "UO"
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Mapping):
        return "role" in inputs[0]
    return type(inputs).__module__.partition(".")[0] in {"PIL", "torch"}


def _require_foreign(item: Any, position: int, *, text_only: bool) -> None:
    """Refuse what no model reads, and what this one does not; a pair of texts is the host's own kind of input."""
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return
    is_number = isinstance(item, (int, float, complex, np.number))
    if item is None or is_number or isinstance(item, (bytes, bytearray)) or text_only:
        missing = " (a missing value)" if item is None or (is_number and item != item) else ""  # noqa: PLR0124 - NaN
        advice = 'Leave such inputs out, or write "" where an empty text is meant.'
        if isinstance(item, (list, tuple)):
            advice = "Give one flat list of texts; a pair is a tuple of two."
        raise InputError(f"Input {position} is {_named(item)}{missing}, and no text.\n  {advice}")


def _whole(text: str, position: int) -> str:
    """Refuse half of a surrogate pair, which no tokenizer reads."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"Input {position} holds {text[error.start]!a} at character {error.start}: half of a surrogate pair, "
                'which is no character.\n  Repair it with text.encode("utf-8", "replace").decode().'
            ) from error
    return text


def _named(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    text = repr(value)
    return f"{text} ({kind})" if len(text) <= 40 else f"a {kind}"


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the distinct texts in order of first appearance, and for every text its place among them."""
    places: dict[str, int] = {}
    order = [places.setdefault(text, len(places)) for text in texts]
    return list(places), order
