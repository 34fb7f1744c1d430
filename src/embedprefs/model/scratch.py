"""An untrained model: the architecture that the configuration describes, with random weights."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import InvalidPreferenceError, ModelFilesError, Problem

if TYPE_CHECKING:
    from embedprefs.facts import ModelFacts
    from embedprefs.resolve import Resolved

__all__ = ["untrained_facts", "untrained_modules"]

#: Modules that can be built anew from what the model's files say.
_BUILT = ("Transformer", "Pooling", "Normalize")


def untrained_facts(resolved: Resolved) -> ModelFacts:
    """Return what the files would say of the model that is built: its own configuration, no checkpoint."""
    facts = resolved.facts
    config = {**facts.config, **resolved["model.config"]}
    hidden_size = config.get("hidden_size", facts.hidden_size)
    return replace(
        facts,
        config=config,
        hidden_size=hidden_size,
        embedding_dimension=hidden_size,
        pooling_dimension=hidden_size if facts.pooling_dimension is not None else None,
        max_position_embeddings=config.get("max_position_embeddings", facts.max_position_embeddings),
    )


def untrained_modules(resolved: Resolved, arguments: dict[str, Any]) -> list[Any]:
    """Build the modules of an untrained model: Transformer, Pooling and, where the model has one, Normalize.

    torch's own random generator fills the weights: `torch.manual_seed` beforehand makes them the same every time.

    Args:
        resolved: The effective preferences; `[model.config]` may change the architecture.
        arguments: What `load_arguments` gives.

    Raises:
        InvalidPreferenceError: the chain holds a module that cannot be built untrained.
        ModelFilesError: the files are not here.
    """
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoConfig, AutoModel

    facts = resolved.facts
    foreign = [module.kind for module in facts.modules if module.kind not in _BUILT]
    if foreign or facts.is_static:
        raise InvalidPreferenceError(
            Problem(
                f"the chain holds {', '.join(foreign) or 'a static embedding'}, which cannot be built untrained.",
                key="model.from_scratch",
                value=True,
                allowed=f"chains of {', '.join(_BUILT)}",
            )
        )
    if facts.folder is None:
        raise ModelFilesError(f"{facts.name}: its files are not on this machine.", model=facts.name)
    config = AutoConfig.from_pretrained(str(facts.folder), **arguments["config_kwargs"])
    model = AutoModel.from_config(config, attn_implementation=arguments["model_kwargs"]["attn_implementation"])
    with tempfile.TemporaryDirectory(prefix="embedprefs-") as folder:
        # The host reads its modules from a folder; this one holds the tokenizer and the weights just made.
        for path in facts.folder.iterdir():
            if "token" in path.name or path.name in ("vocab.txt", "vocab.json", "merges.txt"):
                shutil.copy(path, folder)
        model.save_pretrained(folder)
        transformer = Transformer(
            folder,
            model_kwargs=arguments["model_kwargs"],
            processor_kwargs=arguments["processor_kwargs"],
            config_kwargs={},
        )
    transformer.model.name_or_path = str(Path(facts.name))
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), facts.pooling_mode or "mean")]
    if facts.normalizes:
        modules.append(Normalize())
    return modules
