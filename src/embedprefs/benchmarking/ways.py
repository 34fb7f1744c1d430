"""What takes turns: the plain host, and the preferences with each of their alternatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.model.tokens import TokenCounter
    from embedprefs.resolve import Resolved

__all__ = ["HOST", "PREFERRED", "Way", "dtype_of", "host_way", "our_way", "token_counter"]

HOST = "host default"
PREFERRED = "as preferred"

Floats = npt.NDArray[np.float32]


@dataclass
class Way:
    """One of those that take turns."""

    name: str
    documents: Callable[[list[str]], Floats]
    query: Callable[[str], Floats]
    backend: str
    precision: str
    attention: str | None
    exactness: str | None = None
    """What `compute.exactness` has to keep; None where the number format was stated, or it is the host."""
    model: PreferredSentenceTransformer | None = None
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    report: dict[str, Any] = field(default_factory=dict)

    def warm_up(self, texts: list[str]) -> None:
        """Embed everything once: compiled, converted and allocated is what it takes, and the vectors are kept."""
        if self.model is None:
            self.vectors = self.documents(texts)
            return
        with self.model.collect_report() as report:
            self.vectors = self.documents(texts)
        self.report = report.to_json()
        self.backend = self.report.get("backend") or self.backend
        self.precision = self.report.get("numerics") or self.precision


def host_way(host: SentenceTransformer, resolved: Resolved) -> Way:
    """Return the plain host as it embeds by itself, told only what decides what the vectors are."""
    from embedprefs.arguments import encode_arguments

    def encode(role: Any) -> Callable[[Any], Floats]:
        # Batch size and number format stay the host's own.
        arguments = {**encode_arguments(resolved, role), "show_progress_bar": False}
        for name in ("batch_size", "precision"):
            arguments.pop(name)
        return lambda texts: np.asarray(host.encode(texts, **arguments))

    transformer = getattr(host[0], "model", None)
    attention = getattr(getattr(transformer, "config", None), "_attn_implementation", None)
    return Way(HOST, encode("document"), encode("query"), "torch", dtype_of(host), attention)


def our_way(name: str, model: PreferredSentenceTransformer) -> Way:
    """Return a model with preferences as it embeds, and what its `compute.exactness` has to keep."""
    resolved = model.resolved
    compute = model.preferences.compute
    stated = compute.dtype != "auto" or compute.weights != "full" or compute.autocast
    return Way(
        name,
        lambda texts: np.asarray(model.encode_document(texts, show_progress_bar=False)),
        lambda text: np.asarray(model.encode_query(text, show_progress_bar=False)),
        resolved["compute.backend"],
        "bfloat16" if resolved["compute.autocast"] else resolved["compute.dtype"],
        resolved["compute.attention"],
        None if stated else resolved["compute.exactness"],
        model,
    )


def dtype_of(host: SentenceTransformer) -> str:
    """Return the number format of a model's first weights: `float32`."""
    return str(next((parameter.dtype for parameter in host.parameters()), "torch.float32")).removeprefix("torch.")


def token_counter(host: SentenceTransformer) -> tuple[TokenCounter | None, float]:
    """Return what counts a model's tokens and how many of a text are read; None where its tokenizer is no fast one."""
    from embedprefs.model.tokens import TokenCounter

    tokenizer = getattr(host[0], "tokenizer", None)
    of_transformer = getattr(tokenizer, "backend_tokenizer", None)
    if of_transformer is not None:
        return TokenCounter(of_transformer), float(host.max_seq_length or "inf")
    if hasattr(tokenizer, "encode_batch_fast"):  # a static model holds the fast tokenizer itself, and reads all
        return TokenCounter(tokenizer, add_special_tokens=False), float("inf")
    return None, float("inf")
