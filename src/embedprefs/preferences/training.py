"""How the model is fine-tuned: what is ours here, the host's arguments verbatim."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from embedprefs.preferences.declaration import Kind, Section, preference
from embedprefs.preferences.identity import NotEmpty

__all__ = ["LoraPreferences", "NegativesPreferences", "SplitPreferences", "TrainingPreferences"]

Share = Annotated[StrictFloat, Field(ge=0.0, lt=1.0)]


class LoraPreferences(Section):
    """Low-rank adaptation: train small added matrices instead of all weights."""

    r: Annotated[StrictInt, Field(ge=1)] = preference(16, kind=Kind.TRAINING)
    """Rank of the added matrices."""
    lora_alpha: Annotated[StrictInt, Field(ge=1)] = preference(32, kind=Kind.TRAINING)
    """Scale of the added matrices."""
    lora_dropout: Share = preference(0.0, kind=Kind.TRAINING)
    """Dropout before the added matrices."""
    target_modules: list[StrictStr] | None = preference(
        kind=Kind.TRAINING, example=["Wqkv", "Wo", "Wi"], effective_default="the architecture's linear layers"
    )
    """Names of the layers that get them."""


class SplitPreferences(Section):
    """How the data is divided. Always by source document, never by row."""

    development: Share = preference(0.1, kind=Kind.TRAINING)
    """Share of the documents that choose the best checkpoint."""
    test: Share = preference(0.1, kind=Kind.TRAINING)
    """Share of the documents that are used once, for the verdict."""
    document_column: NotEmpty | None = preference(kind=Kind.TRAINING)
    """Column that names a row's source document."""
    seed: StrictInt = preference(42, kind=Kind.TRAINING)
    """Seed of the division."""


class NegativesPreferences(Section):
    """Mining of hard negatives."""

    count: Annotated[StrictInt, Field(ge=0)] = preference(0, kind=Kind.TRAINING)
    """Hard negatives for each pair; 0 mines none."""
    relative_margin: Share = preference(0.05, kind=Kind.TRAINING)
    """A negative must score this share below its positive, or it may be a right answer."""
    range_min: Annotated[StrictInt, Field(ge=0)] = preference(0, kind=Kind.TRAINING)
    """Skip this many of the nearest passages."""
    range_max: Annotated[StrictInt, Field(ge=1)] | None = preference(kind=Kind.TRAINING, example=100)
    """Look no further than this many of the nearest passages."""


class TrainingPreferences(Section):
    """Fine-tuning on sentence-transformers' own trainer."""

    data: NotEmpty | None = preference(kind=Kind.TRAINING, example="pairs.jsonl")
    """File, folder or data set with the training examples."""
    evaluation_data: NotEmpty | None = preference(kind=Kind.TRAINING)
    """Folder with corpus, queries and judgements, where evaluation has data of its own."""
    loss: NotEmpty | None = preference(
        kind=Kind.TRAINING, example="CachedMultipleNegativesRankingLoss", effective_default="chosen for the data"
    )
    """The host's loss, by its class name."""
    loss_parameters: dict[str, Any] = preference(dict, kind=Kind.TRAINING)
    """Parameters of the loss, by the host's names."""
    split: SplitPreferences = preference(SplitPreferences, kind=Kind.TRAINING)
    """How the data is divided."""
    negatives: NegativesPreferences = preference(NegativesPreferences, kind=Kind.TRAINING)
    """Mining of hard negatives."""
    matryoshka_dims: list[Annotated[StrictInt, Field(ge=1)]] | None = preference(
        kind=Kind.TRAINING, example=[1024, 512, 256]
    )
    """Train so that these first dimensions alone are good vectors too."""
    lora: LoraPreferences | None = preference(kind=Kind.TRAINING)
    """Train with low-rank adaptation."""
    max_seq_length: Annotated[StrictInt, Field(ge=1)] | None = preference(
        kind=Kind.TRAINING, example=512, effective_default="tokenizer.max_seq_length"
    )
    """Tokens of one text read while training; serving keeps its own."""
    freeze: list[StrictStr] = preference(list, kind=Kind.TRAINING)
    """Patterns of parameter names that are not trained."""
    distill_from: NotEmpty | None = preference(kind=Kind.TRAINING)
    """A larger model to learn from."""
    activation_checkpointing: Literal["auto", "on", "off"] = preference("auto", kind=Kind.TRAINING)
    """Save memory by computing activations again in the backward pass."""
    margin: Annotated[StrictFloat, Field(ge=0.0, le=1.0)] = preference(0.01, kind=Kind.TRAINING)
    """A difference of the metric up to this counts as equivalent in the verdict."""
    arguments: dict[str, Any] = preference(
        dict, kind=Kind.TRAINING, example={"learning_rate": 2e-5, "num_train_epochs": 1}
    )
    """Arguments of `SentenceTransformerTrainingArguments`, by the host's names of today."""
