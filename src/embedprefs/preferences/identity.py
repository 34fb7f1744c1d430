"""What the vectors are: the model, its tokenizer, its prompts and the form of its vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from embedprefs.preferences.declaration import Kind, Section, preference

__all__ = [
    "AdapterPreferences",
    "ModelPreferences",
    "Precision",
    "PromptsPreferences",
    "SimilarityName",
    "TokenizerPreferences",
    "VectorsPreferences",
]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
Pooling = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
NotEmpty = Annotated[StrictStr, Field(min_length=1)]


class AdapterPreferences(Section):
    """A PEFT adapter laid over the model's weights."""

    name: NotEmpty = preference(..., kind=Kind.IDENTITY, example="your-name/your-adapter")
    """Folder or hub name of the adapter."""
    revision: NotEmpty | None = preference(kind=Kind.IDENTITY)
    """Commit of the adapter on the hub."""


class ModelPreferences(Section):
    """Which model, and how its files are read."""

    name: NotEmpty = preference(..., kind=Kind.IDENTITY, example="lightonai/modernbert-embed-large")
    """Hub name or folder of a sentence-transformers model. A relative folder is relative to the preferences file."""
    revision: NotEmpty | None = preference(kind=Kind.ACCESS, effective_default="the newest, with a warning")
    """Commit, tag or branch on the hub. A commit pins the weights; `init` writes it. It has no meaning for a folder."""
    adapter: AdapterPreferences | None = preference(kind=Kind.IDENTITY)
    """A PEFT adapter laid over the model."""
    trust_remote_code: StrictBool = preference(default=False, kind=Kind.ACCESS)
    """Run Python code that comes with the model. Reported whenever it is on; no file of a model can set it."""
    local_files_only: StrictBool = preference(default=False, kind=Kind.ACCESS)
    """Use the local cache alone; never ask the hub."""
    cache_folder: NotEmpty | None = preference(kind=Kind.ACCESS, effective_default="the hub cache")
    """Where downloaded models are kept."""
    from_scratch: StrictBool = preference(default=False, kind=Kind.IDENTITY)
    """Build an untrained model with random weights from the configuration. Every report says so."""
    allow_pickle: StrictBool = preference(default=False, kind=Kind.ACCESS)
    """Read weights from a pickle checkpoint, which can run code, where no safetensors file exists."""
    pooling: Pooling | None = preference(kind=Kind.IDENTITY, effective_default="the model's own")
    """How token vectors become one vector. Only for a checkpoint that has no pooling module of its own."""
    onnx_file: NotEmpty | None = preference(kind=Kind.COMPUTE, example="onnx/model.onnx")
    """Which of the model's published ONNX files the onnx backend runs."""
    kwargs: dict[str, Any] = preference(dict, kind=Kind.ACCESS)
    """Further keyword arguments for the host's `model_kwargs`; those that a preference covers are refused."""
    config: dict[str, Any] = preference(dict, kind=Kind.IDENTITY, example={"attention_dropout": 0.0})
    """Overrides of the model's configuration that keep the checkpoint's meaning. Others need `from_scratch`."""


class TokenizerPreferences(Section):
    """How texts become tokens, and what happens to texts that are too long."""

    max_seq_length: Annotated[StrictInt, Field(ge=1)] | None = preference(
        kind=Kind.IDENTITY, example=512, effective_default="the model's own"
    )
    """The most tokens of one text that the model reads, prompt and special tokens included."""
    padding_side: Literal["left", "right"] | None = preference(kind=Kind.IDENTITY, effective_default="the model's own")
    """On which side short texts are padded. Encoders with absolute positions need "right"."""
    truncation_side: Literal["left", "right"] | None = preference(
        kind=Kind.IDENTITY, effective_default="the model's own"
    )
    """On which side over-long texts are cut."""
    special_tokens: dict[NotEmpty, StrictStr | list[StrictStr]] = preference(
        dict, kind=Kind.IDENTITY, example={"pad_token": "[PAD]"}
    )
    """Special tokens by the host's names (`pad_token`, `cls_token`, `additional_special_tokens` ...)."""
    overflow: Literal["truncate", "window"] = preference("truncate", kind=Kind.IDENTITY)
    """What becomes of a text longer than `max_seq_length`: cut it, or embed overlapping windows and pool them."""
    window_overlap: Annotated[StrictInt, Field(ge=0)] = preference(32, kind=Kind.IDENTITY)
    """Tokens that neighbouring windows share, with `overflow = "window"`."""
    window_pooling: Literal["mean", "weighted", "max", "first"] = preference("weighted", kind=Kind.IDENTITY)
    """How the windows' vectors become one: their mean, the mean weighted by tokens, the maximum, or the first."""
    on_overflow: Literal["count", "warn", "error"] = preference("count", kind=Kind.REPORT)
    """What is said of an over-long text: count it in the report, warn once a call, or refuse the call."""
    kwargs: dict[str, Any] = preference(dict, kind=Kind.IDENTITY)
    """Further keyword arguments for the host's `processor_kwargs`; each must take effect, or loading fails."""


class PromptsPreferences(Section):
    """What is written before a text. Absent means not stated; "" means deliberately none."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StrictStr]

    query: StrictStr | None = preference(
        kind=Kind.IDENTITY, example="search_query: ", effective_default="the model's own"
    )
    """Put before every query."""
    document: StrictStr | None = preference(
        kind=Kind.IDENTITY, example="search_document: ", effective_default="the model's own"
    )
    """Put before every document."""
    task: NotEmpty | None = preference(kind=Kind.IDENTITY, example="retrieval")
    """The model's own task name, for models that have tasks."""

    @model_validator(mode="after")
    def _document_by_its_name(self) -> Self:
        for alias in ("passage", "corpus"):
            if alias in self.named:
                raise ValueError(
                    f'sentence-transformers finds "document" first and would never apply "{alias}". '
                    'Write it as "document".'
                )
        return self

    @property
    def named(self) -> dict[str, str]:
        """The further prompts, by the names the user chose."""
        return dict(self.__pydantic_extra__ or {})

    def stated(self) -> dict[str, str]:
        """Every prompt that is stated, by name; `""` is stated, None is not."""
        pairs = {"query": self.query, "document": self.document, **self.named}
        return {name: prompt for name, prompt in pairs.items() if prompt is not None}


class VectorsPreferences(Section):
    """The form of the vectors that come out."""

    normalize: StrictBool | None = preference(kind=Kind.IDENTITY, effective_default="the model's own")
    """Scale every vector to length 1. After truncation too, where the full vector had length 1."""
    truncate_dim: Annotated[StrictInt, Field(ge=1)] | None = preference(
        kind=Kind.IDENTITY, example=256, effective_default="all dimensions"
    )
    """Keep the first dimensions only; for models trained so that these suffice (Matryoshka)."""
    similarity_fn_name: SimilarityName | None = preference(kind=Kind.IDENTITY, effective_default="the model's own")
    """How two vectors are compared."""
    precision: Precision = preference("float32", kind=Kind.IDENTITY)
    """The numbers a vector is made of. int8 and uint8 need `calibration`; binary ones keep one bit a dimension."""
    calibration: NotEmpty | None = preference(kind=Kind.IDENTITY, example="calibration.json")
    """File with the ranges for int8 and uint8, made by `embedprefs calibrate TEXTS`."""
