"""How long the texts are in tokens: a sample is tokenised, the others follow from their characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.training.data import TrainingData

__all__ = ["RoleLengths", "token_lengths"]

#: Texts of each role that are tokenised.
_SAMPLE = 1_000
#: Characters of a token, where there is no tokenizer to ask.
_CHARACTERS = 4.0


@dataclass(frozen=True)
class RoleLengths:
    """Lengths of the texts of one role."""

    tokens: npt.NDArray[np.int64]
    """Tokens of every text as it is read: prompt and special tokens included, cut at the limit; shape (rows,)."""
    mean: float
    median: int
    p99: int
    """Of the sample, before cutting."""
    truncated: float
    """Share of the sample that is longer than the limit."""
    sampled: int
    """Texts that were tokenised; 0 where there is no tokenizer to ask, and characters were counted."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "mean_tokens": round(self.mean, 1),
            "median_tokens": self.median,
            "p99_tokens": self.p99,
            "truncated_share": round(self.truncated, 4),
            "sampled": self.sampled,
        }


def token_lengths(
    data: TrainingData, facts: ModelFacts, prompts: Mapping[str, str], limit: int | None
) -> dict[str, RoleLengths]:
    """Return the lengths of the texts of each role.

    Args:
        data: The rows.
        facts: The model; its tokenizer.json is read.
        prompts: Role -> the prompt that is put before its texts.
        limit: Tokens that are read of one text; None for all.
    """
    tokenizer = _tokenizer(facts)
    return {
        role: _lengths([prompts.get(role, "") + row[role] for row in data.rows], tokenizer, limit)
        for role in data.text_roles
    }


def _tokenizer(facts: ModelFacts) -> Any:
    """Return the model's tokenizer without padding and truncation; None where it has no tokenizer.json here."""
    if facts.folder is None:
        return None
    inner = facts.tokenizer.folder if facts.tokenizer is not None else ""
    path = facts.folder / inner / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        import tokenizers
    except ImportError:
        return None
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _lengths(texts: Sequence[str], tokenizer: Any, limit: int | None) -> RoleLengths:
    characters = np.array([len(text) for text in texts], dtype=np.float64)
    step = max(1, len(texts) // _SAMPLE)
    chosen = np.arange(0, len(texts), step)[:_SAMPLE]
    if tokenizer is None:
        known = np.maximum(1, characters[chosen] / _CHARACTERS).round().astype(np.int64)
    else:
        encoded = tokenizer.encode_batch_fast([texts[index] for index in chosen])
        known = np.array([len(item.ids) for item in encoded], dtype=np.int64)
    ratio = float(known.sum() / max(1.0, characters[chosen].sum()))
    tokens = np.maximum(1, characters * ratio).round().astype(np.int64)
    tokens[chosen] = known
    cut = np.minimum(tokens, limit) if limit is not None else tokens
    return RoleLengths(
        tokens=cut,
        mean=float(cut.mean()),
        median=int(np.median(known)),
        p99=int(np.quantile(known, 0.99)),
        truncated=float((known > limit).mean()) if limit is not None else 0.0,
        sampled=len(chosen) if tokenizer is not None else 0,
    )
