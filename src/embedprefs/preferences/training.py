"""How the model is fine-tuned: what is ours here, the host's arguments verbatim."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from embedprefs.preferences.declaration import Kind, Section, preference
from embedprefs.preferences.identity import NotEmpty

__all__ = [
    "EarlyStoppingPreferences",
    "LoraPreferences",
    "NegativesPreferences",
    "SplitPreferences",
    "TrainingPreferences",
]

Share = Annotated[StrictFloat, Field(ge=0.0, lt=1.0)]
ColumnNames = NotEmpty | list[NotEmpty]


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
    merge: StrictBool = preference(True, kind=Kind.TRAINING)
    """Add the matrices to the weights at the end, so that the result is an ordinary model. It is verified."""


class SplitPreferences(Section):
    """How the data is divided. Always by source document, never by row."""

    development: Share = preference(0.1, kind=Kind.TRAINING)
    """Share of the documents that choose the best checkpoint."""
    test: Share = preference(0.1, kind=Kind.TRAINING)
    """Share of the documents that are used once, for the verdict. Not taken where `evaluation_data` is the test."""
    document_column: NotEmpty | None = preference(kind=Kind.TRAINING, effective_default="the passage's own column")
    """Column that names a row's source document."""
    near_duplicates: Literal["together", "ignore"] = preference("together", kind=Kind.TRAINING)
    """Whether documents whose passages are nearly the same are kept in one part."""
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


class EarlyStoppingPreferences(Section):
    """When training ends before its last step."""

    patience: Annotated[StrictInt, Field(ge=1)] | None = preference(
        kind=Kind.TRAINING, example=3, effective_default="never stop early"
    )
    """Stop after this many evaluations in a row that did not improve."""
    threshold: Annotated[StrictFloat, Field(ge=0.0)] = preference(0.0, kind=Kind.TRAINING)
    """A better metric counts as an improvement from this difference on."""


class TrainingPreferences(Section):
    """Fine-tuning on sentence-transformers' own trainer."""

    data: NotEmpty | None = preference(kind=Kind.TRAINING, example="pairs.jsonl")
    """File or folder with the training examples: .jsonl, .csv, .parquet, or a folder with corpus, queries and qrels."""
    columns: dict[StrictStr, ColumnNames] = preference(
        dict,
        kind=Kind.TRAINING,
        example={"anchor": "question", "positive": "context"},
        effective_default="found by their names",
    )
    """Role to column: anchor, positive, negative, text_a, text_b, score, text, label, document. Others are left out."""
    evaluation_data: NotEmpty | None = preference(kind=Kind.TRAINING)
    """Folder with corpus, queries and judgements, where evaluation has data of its own."""
    evaluation_split: NotEmpty | None = preference(kind=Kind.TRAINING, example="test")
    """Which of the folder's judgements: qrels/NAME.tsv or qrels_NAME.tsv, where there are several."""
    guard_data: NotEmpty | None = preference(kind=Kind.TRAINING)
    """Folder with a second evaluation set, on other matters, which must not get worse."""
    metric: NotEmpty = preference("ndcg@10", kind=Kind.TRAINING)
    """What chooses the best checkpoint and the verdict is about: ndcg@K, mrr@K, recall@K or map@K."""
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
    early_stopping: EarlyStoppingPreferences = preference(EarlyStoppingPreferences, kind=Kind.TRAINING)
    """When training ends before its last step."""
    resume: Literal["auto", "never"] = preference("auto", kind=Kind.TRAINING)
    """Whether an interrupted run continues from its last checkpoint, where data and preferences are the same."""
    model_card_texts: StrictBool = preference(False, kind=Kind.TRAINING)
    """Whether the model card may show texts of the training data."""
    margin: Annotated[StrictFloat, Field(ge=0.0, le=1.0)] = preference(0.01, kind=Kind.TRAINING)
    """A difference of the metric up to this counts as equivalent in the verdict."""
    arguments: dict[str, Any] = preference(
        dict, kind=Kind.TRAINING, example={"learning_rate": 2e-5, "num_train_epochs": 1}
    )
    """Arguments of `SentenceTransformerTrainingArguments`, by the host's names of today."""
