"""How many floating-point operations some texts need at least, whoever computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["ModelShape", "attended_pairs", "shape_of"]

#: What torch calls a product of matrices; attention's own products are counted by `attended_pairs`.
_PRODUCTS = ("aten.mm", "aten.addmm", "aten.linear")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer that decide how much there is to compute."""

    hidden_size: int
    intermediate_size: int
    attention_width: int
    """Heads times the length of one head."""
    windows: tuple[int | None, ...]
    """For each layer how far a token sees to both sides together; None where it sees every token."""
    causal: bool
    """True where a token sees only those before it."""
    operations_per_token: float
    """Of the linear layers."""
    operations_per_text: float
    """Of what is computed once a text: a pooler, a Dense module behind the pooling."""

    def operations(self, lengths: Sequence[int]) -> float:
        """Return what texts of these true lengths need: linear layers and attention, padding left out.

        Activations, normalisation and softmax are not counted: they are no products of matrices.

        Args:
            lengths: Tokens of each text, special tokens included.
        """
        linear = sum(self.operations_per_text + self.operations_per_token * length for length in lengths)
        # Scores and weighted sum, each a multiplication and an addition for every pair and every value.
        pairs = sum(attended_pairs(length, window, causal=self.causal) for length in lengths for window in self.windows)
        return linear + 4 * self.attention_width * pairs


def attended_pairs(length: int, window: int | None, *, causal: bool = False) -> int:
    """Return how many pairs of tokens one layer's attention looks at in a text.

    Args:
        length: Tokens of the text.
        window: How far a token sees, both sides together (with `causal`: backwards); None for every token.
        causal: Whether a token sees only those before it, and itself.
    """
    before = length - 1 if window is None else min(length - 1, window if causal else window // 2)
    one_side = before * length - before * (before + 1) // 2
    return length + (one_side if causal else 2 * one_side)


def shape_of(host: SentenceTransformer, lengths: Sequence[tuple[str, int]]) -> ModelShape | None:
    """Return the sizes of a loaded model; None where it is no transformer whose configuration says them.

    What its linear layers need is counted by torch while two texts of different lengths are embedded: it grows with the
    tokens by a straight line.

    Args:
        host: The plain model.
        lengths: Two texts and their lengths in tokens.
    """
    transformer = getattr(host[0], "model", None) or getattr(host[0], "auto_model", None)
    config = getattr(transformer, "config", None)
    config = getattr(config, "text_config", None) or config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]
    if transformer is None or len(sizes) < len(names):
        return None
    hidden, layers, heads = sizes
    (short, fewer), (long, more) = lengths
    if more <= fewer:
        return None
    least, most = _products(host, short), _products(host, long)
    per_token = (most - least) / (more - fewer)
    if per_token <= 0:
        return None
    intermediate = getattr(config, "intermediate_size", None)
    return ModelShape(
        hidden_size=hidden,
        intermediate_size=intermediate if isinstance(intermediate, int) and intermediate > 0 else 4 * hidden,
        attention_width=heads * (getattr(config, "head_dim", None) or hidden // heads),
        windows=_windows(config, layers),
        causal=any(getattr(module, "is_causal", False) is True for module in transformer.modules()),
        operations_per_token=per_token,
        operations_per_text=max(0.0, least - per_token * fewer),
    )


def _products(host: SentenceTransformer, text: str) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        host.encode([text], show_progress_bar=False)
    counts = counter.get_flop_counts().get("Global", {})
    return sum(count for operation, count in counts.items() if str(operation) in _PRODUCTS)


def _windows(config: Any, layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "local_attention", None) or getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
