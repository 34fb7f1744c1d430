"""Whether a model can give vectors of parts of a text that know the rest of it, by what its files say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["objection_to_spans"]


def objection_to_spans(facts: ModelFacts, pooling: str | None = None) -> str | None:
    """Return why a model has no vectors of parts of a text, as a clause; None where nothing speaks against it.

    A part's vector is the mean of its token vectors, so the model has to be one that averages them. The loaded model is
    asked once more: its modules may have been changed since.

    Args:
        facts: What the model's files say.
        pooling: As `model.pooling` states it.
    """
    if facts.is_static:
        return "a static model looks up each token by itself, so that none knows its surroundings"
    if facts.routes:
        return "a Router chooses between chains by the input"
    kinds = [module.kind for module in facts.modules]
    if kinds and kinds[:2] != ["Transformer", "Pooling"]:
        return f"its modules are {', '.join(kinds)}, and not a Transformer with a Pooling behind it"
    mode = pooling or facts.pooling_mode or "mean"
    return f'its pooling is "{mode}", not "mean"' if mode != "mean" else None
