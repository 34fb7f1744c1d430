"""What a model's files say, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["ModelFacts", "ModuleFacts", "TensorFacts", "TokenizerFacts"]


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a checkpoint, from the header of its safetensors file."""

    name: str
    dtype: str
    """As the header spells it: F32, F16, BF16, I64 ..."""
    shape: tuple[int, ...]
    file: str
    """Name of the file that holds it, relative to the model's folder."""

    @property
    def elements(self) -> int:
        """Number of values in it."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True)
class ModuleFacts:
    """One module of the chain that `modules.json` names."""

    index: int
    name: str
    path: str
    """Folder of the module, relative to the model's folder; "" for the folder itself."""
    type: str
    """Its class as written: `sentence_transformers.models.Pooling`."""
    config: Mapping[str, Any]
    """Its own config file; empty where it has none."""

    @property
    def kind(self) -> str:
        """The class's last name: Transformer, Pooling, Dense, Normalize, StaticEmbedding, Router ..."""
        return self.type.rpartition(".")[2]


@dataclass(frozen=True)
class TokenizerFacts:
    """What the tokenizer's files say."""

    config: Mapping[str, Any]
    """tokenizer_config.json."""
    size: int | None
    """Number of tokens, added ones included; None where no tokenizer.json says it."""
    largest_id: int | None
    model_max_length: int | None
    """As written; None where absent or a placeholder for "no limit" (above a billion)."""
    padding_side: Literal["left", "right"]
    truncation_side: Literal["left", "right"]
    special_tokens: Mapping[str, str]
    """pad_token, cls_token ... -> the token."""
    special_ids: Mapping[str, int]
    """pad_token, cls_token ... -> its id."""
    byte_level: bool
    """True for byte-level BPE, where the space after a prompt changes the tokens."""
    specials_per_text: int
    """Special tokens that the post-processor adds to a single text."""
    folder: str = ""
    """Folder of its files, relative to the model's; "" for the model's own."""


@dataclass(frozen=True)
class ModelFacts:
    """Everything a model's files say without its weights being read.

    Values the files do not state are None, so that a default is never mistaken for a statement.
    """

    name: str
    """As asked for: a hub name or a folder."""
    folder: Path | None
    """Where the files lie here; None where they were read from the hub without being kept."""
    revision: str | None
    """Commit the files are from; None for a plain folder."""
    source: Literal["folder", "cache", "hub"]
    files: tuple[str, ...]
    """Every file's path relative to the folder, sorted."""
    config: Mapping[str, Any]
    """config.json; empty where there is none (a static model)."""
    sentence_transformers_config: Mapping[str, Any]
    """config_sentence_transformers.json."""
    sentence_bert_config: Mapping[str, Any]
    """sentence_bert_config.json."""
    modules: tuple[ModuleFacts, ...]
    """The module chain; empty where modules.json is absent."""
    tokenizer: TokenizerFacts | None
    tensors: Mapping[str, TensorFacts]
    """Tensors of the transformer's checkpoint by name; empty where only a pickle exists."""
    other_tensors: Mapping[str, Mapping[str, TensorFacts]] = field(default_factory=dict)
    """Module path -> its tensors, for Dense and other modules with weights."""
    missing_tensors: tuple[str, ...] = ()
    """Names that the architecture needs and the checkpoint lacks."""
    unexpected_tensors: tuple[str, ...] = ()
    """Names in the checkpoint that the architecture does not know (harmless buffers left out)."""
    mismatched_tensors: tuple[str, ...] = ()
    """`name: shape in the file, shape the configuration needs`."""
    tensors_verified: bool = False
    """True where the architecture is known here, so that the three lists above mean something."""
    weight_files: tuple[str, ...] = ()
    pickle_files: tuple[str, ...] = ()
    onnx_files: tuple[str, ...] = ()
    saved_preferences: Mapping[str, Any] = field(default_factory=dict)
    """config_embedprefs.json as saved beside the model; identity only."""
    base_models: tuple[str, ...] = ()
    """Hub names this model says it was made from, nearest first (config `_name_or_path`, adapter, model card)."""
    card_name: str | None = None
    """Hub name of the model that the model card here is about; None where the card does not say so plainly."""
    adapter_config: Mapping[str, Any] = field(default_factory=dict)
    """adapter_config.json where the folder is a PEFT adapter."""
    custom_code: tuple[str, ...] = ()
    """Python files of the model, and module classes that are not the host's."""
    problems: tuple[str, ...] = ()
    """What is wrong with the files, in sentences: damaged JSON, a truncated file, an absent module folder."""

    # Derived, by the rules the host itself follows.
    model_type: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Prompts as the model's own file states them; empty texts left out, since there they mean "not stated"."""
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    """Tokens the host would read of one text."""
    max_position_embeddings: int | None = None
    position_limit: int | None = None
    """The most tokens of one text that have a position: `max_position_embeddings`, less the places that RoBERTa and its
    kin keep free (padding_idx + 1)."""
    absolute_positions: bool | None = None
    """True where positions are learned (BERT and its kin): longer texts cannot be read at all."""
    hidden_size: int | None = None
    embedding_dimension: int | None = None
    """Length of the vectors that leave the module chain."""
    pooling_mode: str | None = None
    """Name of the pooling: mean, cls ...; joined by + where several are on."""
    pooling_dimension: int | None = None
    normalizes: bool = False
    """True where the chain ends in a Normalize module."""
    is_static: bool = False
    weights_dtype: str | None = None
    """The dtype most of the weights are stored in: float32, bfloat16, float16."""
    config_dtype: str | None = None
    """What config.json says (`dtype` or `torch_dtype`), which the host obeys."""
    parameter_count: int = 0
    """Floating-point values in the checkpoint that the model loads, further modules included."""
    weight_bytes: int = 0
    """Bytes of these parameters in the dtype they are stored in."""

    content_hashes: Mapping[str, str] = field(default_factory=dict)
    """File -> sha256 of its content, where the hub or its cache states it; nothing is read for it."""
    downloaded_to: Path | None = None
    """Where the small files of a model read from the hub are kept; its weights are not there."""
    base: ModelFacts | None = None
    """Facts of the base model, where the folder is a PEFT adapter."""
    adapter: ModelFacts | None = None
    """Facts of the adapter that the preferences lay over the model."""
    routes: Mapping[str, tuple[ModuleFacts, ...]] = field(default_factory=dict)
    """A Router's routes: name -> the modules of that route."""
