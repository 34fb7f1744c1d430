"""What a model's files say: configuration, tokenizer, modules, prompts, tensors. No weights are read.

Neither torch nor transformers is imported; a model of any size is described in milliseconds.
"""

from __future__ import annotations

from embedprefs.facts.model_facts import ModelFacts, ModuleFacts, TensorFacts, TokenizerFacts
from embedprefs.facts.reader import facts_for, read_facts

__all__ = ["ModelFacts", "ModuleFacts", "TensorFacts", "TokenizerFacts", "facts_for", "read_facts"]
