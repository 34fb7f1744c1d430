"""Whether a batch fits into memory as a whole: a bound from the model's configuration alone, without torch.

What a transformer keeps of a layer for the backward pass is, for each token of texts of L tokens, with width h, inner
width i and a heads: 11 h + 2 i numbers in BERT and its kin, 9 h + 4 i in gated models (ModernBERT, and language
models); and, where the attention keeps its scores, a L more, or 3 a L with dropout on them. Counts were taken from
BertModel and ModernBertModel of transformers 5.23 on the meta device; a test counts them again.
`embedprefs.training.memory` measures instead of bounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedprefs.facts.architectures import with_defaults
from embedprefs.facts.memory import GATED

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved
    from embedprefs.training.data import TrainingData

__all__ = ["activation_bound", "attention_dropout", "batch_fits", "keeps_scores", "longest_tokens", "memory_of"]

#: Share of a device's whole memory that one batch may take. Not of what is free just now: a run that continues tomorrow
#: has to choose the same.
_SHARE = 0.4
#: Characters a token has, at least, in texts of European languages: a bound on the number of tokens.
_CHARACTERS_PER_TOKEN = 3.0
_SAMPLE = 1_000
#: What embeddings, pooling and an architecture's own habits may add.
_SLACK = 1.1
_DEFAULT_BATCH = 64


def attention_dropout(facts: ModelFacts) -> float:
    """Return the dropout on attention scores."""
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        value = facts.config.get(name)
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0


def keeps_scores(facts: ModelFacts, *, device: str, attention: str | None) -> bool:
    """Say whether the scores of attention are kept for the backward pass.

    "eager" keeps them. So does a processor with dropout on them: its fast kernel has no dropout.
    """
    return attention == "eager" or (device.startswith("cpu") and attention_dropout(facts) > 0)


def activation_bound(facts: ModelFacts, tokens: int, length: int, *, scores: bool = False) -> int:
    """Return the bytes in float32 that a forward pass keeps for the backward pass, rather too many than too few.

    Args:
        facts: The model.
        tokens: Tokens of the batch, padding included.
        length: Tokens of its longest text.
        scores: Whether the attention keeps its scores.
    """
    values: dict[str, Any] = with_defaults(facts.config)
    width = facts.hidden_size or facts.embedding_dimension or 0
    layers = _whole(values.get("num_hidden_layers"), 12)
    heads = _whole(values.get("num_attention_heads"), max(1, width // 64))
    inner = _whole(values.get("intermediate_size"), 4 * width)
    per_token = 9 * width + 4 * inner if facts.model_type in GATED else 11 * width + 2 * inner
    if scores:
        per_token += (3 if attention_dropout(facts) > 0 else 1) * heads * length
    return int(4 * tokens * layers * per_token * _SLACK)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def longest_tokens(data: TrainingData, limit: int | None) -> dict[str, int]:
    """Return, for each role, a bound on the tokens of its longest texts (of the first thousand rows)."""
    found = {}
    for role in data.text_roles:
        longest = max(len(row[role]) for row in data.rows[:_SAMPLE])
        tokens = int(longest / _CHARACTERS_PER_TOKEN) + 2
        found[role] = min(tokens, limit) if limit is not None else tokens
    return found


def memory_of(hardware: Hardware, device: str, *, whole: bool = False) -> int | None:
    """Return the bytes that are free on a device, or all it has; None where the machine does not say."""
    if device.startswith(("cpu", "mps")):
        return hardware.memory_limit if whole else hardware.memory_available
    kind, _, number = device.partition(":")
    index = int(number) if number.isdigit() else 0
    for accelerator in hardware.accelerators:
        if accelerator.kind == kind and accelerator.index == index:
            free = accelerator.memory_free
            return accelerator.memory_total if whole or free is None else free
    return None


def batch_fits(data: TrainingData, preferences: Preferences, resolved: Resolved) -> tuple[bool, str]:
    """Say whether one batch fits into memory as a whole, and why, in words.

    The batch is `per_device_train_batch_size` where that is stated, else 64 rows (128 on a GPU).
    """
    device = resolved.devices[0]
    stated = preferences.training.arguments.get("per_device_train_batch_size")
    size = stated if isinstance(stated, int) else _DEFAULT_BATCH * (1 if device == "cpu" else 2)
    size = min(size, len(data))
    limit = preferences.training.max_seq_length or resolved["tokenizer.max_seq_length"]
    scores = keeps_scores(resolved.facts, device=device, attention=resolved["compute.attention"])
    needed = sum(
        activation_bound(resolved.facts, size * length, length, scores=scores)
        for length in longest_tokens(data, limit).values()
    )
    memory = memory_of(resolved.hardware, device, whole=True)
    shown = f"{needed / 1024**3:.1f} GiB"
    if memory is None:
        return False, f"a batch of {size} takes up to {shown}, and the memory of {device} is not known"
    has = f"{device} has {memory / 1024**3:.1f} GiB"
    if needed <= _SHARE * memory:
        return True, f"a batch of {size} takes at most {shown}, and {has}"
    return False, f"a batch of {size} may take {shown}, and {has}"
