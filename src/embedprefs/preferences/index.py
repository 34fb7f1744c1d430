"""What is indexed, how it is cut into chunks, and where the vectors are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from embedprefs.preferences.declaration import Kind, Section, preference
from embedprefs.preferences.identity import (
    ModelPreferences,
    NotEmpty,
    PromptsPreferences,
    TokenizerPreferences,
    VectorsPreferences,
)

__all__ = [
    "HnswPreferences",
    "IndexPreferences",
    "NamedVectorPreferences",
    "RerankPreferences",
    "SparsePreferences",
]

MetadataType = Literal["keyword", "integer", "float", "bool", "datetime", "text", "uuid"]


class HnswPreferences(Section):
    """The graph that makes nearest-neighbour search fast."""

    m: Annotated[StrictInt, Field(ge=0)] | None = preference(kind=Kind.INDEX, effective_default="the engine's own")
    """Edges of each node; 0 builds no graph."""
    ef_construct: Annotated[StrictInt, Field(ge=4)] | None = preference(
        kind=Kind.INDEX, effective_default="the engine's own"
    )
    """Neighbours considered while building: more is slower and more accurate."""
    ef: Annotated[StrictInt, Field(ge=1)] | None = preference(kind=Kind.INDEX, effective_default="the engine's own")
    """Neighbours considered while searching."""
    exact: StrictBool | None = preference(kind=Kind.INDEX, effective_default="exact while the collection is small")
    """Compare with every vector instead of walking the graph."""


class NamedVectorPreferences(Section):
    """A further vector for each point, with an identity of its own."""

    model: ModelPreferences = preference(..., kind=Kind.IDENTITY)
    """The model of this vector."""
    tokenizer: TokenizerPreferences = preference(TokenizerPreferences, kind=Kind.IDENTITY)
    """Its tokenizer."""
    prompts: PromptsPreferences = preference(PromptsPreferences, kind=Kind.IDENTITY)
    """Its prompts."""
    vectors: VectorsPreferences = preference(VectorsPreferences, kind=Kind.IDENTITY)
    """The form of its vectors."""


class IndexPreferences(Section):
    """Documents into a vector store."""

    store: NotEmpty = preference("edge:.embedprefs/index", kind=Kind.INDEX, example="http://localhost:6333")
    """Where the vectors are kept: edge:PATH (embedded), http(s)://, grpc(s)://, local:PATH or :memory:."""
    collection: NotEmpty = preference("documents", kind=Kind.INDEX)
    """Name of the collection."""
    root: NotEmpty = preference(".", kind=Kind.INDEX)
    """Folder that source paths are relative to, so that an index can move with its documents."""
    include: list[StrictStr] = preference(list, kind=Kind.INDEX, example=["docs/**", "*.md"])
    """Patterns of files to index; empty means every format that can be read."""
    exclude: list[StrictStr] = preference(list, kind=Kind.INDEX, example=["drafts/**"])
    """Patterns of files to leave out, beside those that .gitignore names."""
    chunk_tokens: Annotated[StrictInt, Field(ge=8)] | None = preference(
        kind=Kind.INDEX, example=200, effective_default="512, or what the model reads if that is less"
    )
    """Tokens of one chunk, at most."""
    chunk_overlap: Annotated[StrictInt, Field(ge=0)] = preference(0, kind=Kind.INDEX)
    """Tokens that neighbouring chunks share."""
    chunk_context: Literal["chunk", "document"] = preference("chunk", kind=Kind.IDENTITY, example="document")
    """What is read for a chunk's vector: the chunk alone, or its whole document (late chunking)."""
    template: StrictStr = preference("{text}", kind=Kind.IDENTITY, example="{headings}\n{text}")
    """The text that is embedded for a chunk, made of {text}, {headings}, {title} and {source}."""
    metadata_fields: dict[NotEmpty, MetadataType] = preference(dict, kind=Kind.INDEX, example={"year": "integer"})
    """Fields of a document's metadata that searches filter on, with their types; each gets an index."""
    tenant_field: NotEmpty | None = preference(kind=Kind.INDEX)
    """Metadata field that separates tenants."""
    two_stage_dims: Annotated[StrictInt, Field(ge=8)] | None = preference(kind=Kind.INDEX, example=64)
    """Search the first dimensions, then score the best hits again on all of them."""
    hybrid: StrictBool = preference(default=False, kind=Kind.INDEX)
    """Keep a sparse vector beside the dense one and fuse both rankings."""
    quantization: Literal["none", "scalar", "product", "binary"] = preference("none", kind=Kind.INDEX)
    """How the store compresses vectors; the full ones are kept for rescoring."""
    hnsw: HnswPreferences = preference(HnswPreferences, kind=Kind.INDEX)
    """The graph that makes search fast."""
    on_disk: StrictBool = preference(default=False, kind=Kind.INDEX)
    """Keep vectors and payloads on disk rather than in memory."""
    vectors: dict[NotEmpty, NamedVectorPreferences] = preference(dict, kind=Kind.IDENTITY)
    """Further named vectors."""

    @property
    def typed_fields(self) -> dict[str, MetadataType]:
        """`metadata_fields`, and the tenant field: a keyword where it is not declared among them."""
        if self.tenant_field is None or self.tenant_field in self.metadata_fields:
            return dict(self.metadata_fields)
        return {**self.metadata_fields, self.tenant_field: "keyword"}


class SparsePreferences(Section):
    """The sparse side of a hybrid search."""

    name: NotEmpty = preference("bm25", kind=Kind.IDENTITY)
    """"bm25", or the hub name or folder of a `SparseEncoder`."""
    revision: NotEmpty | None = preference(kind=Kind.ACCESS)
    """Commit of the encoder on the hub."""
    language: NotEmpty = preference("english", kind=Kind.IDENTITY)
    """Language whose stemming and stop words bm25 uses; "none" uses neither."""
    k: Annotated[StrictFloat, Field(gt=0.0)] = preference(1.2, kind=Kind.IDENTITY)
    """How soon repeated words stop counting, for bm25."""
    b: Annotated[StrictFloat, Field(ge=0.0, le=1.0)] = preference(0.75, kind=Kind.IDENTITY)
    """How much long texts are held back, for bm25."""
    average_words: Annotated[StrictFloat, Field(gt=0.0)] = preference(128.0, kind=Kind.IDENTITY)
    """Words of an average chunk, for bm25."""


class RerankPreferences(Section):
    """A second model that orders the first hits again."""

    name: NotEmpty | None = preference(kind=Kind.INDEX, example="cross-encoder/ms-marco-MiniLM-L6-v2")
    """Hub name or folder of a `CrossEncoder` or `MultiVectorEncoder`."""
    revision: NotEmpty | None = preference(kind=Kind.ACCESS)
    """Its commit on the hub."""
    kind: Literal["cross_encoder", "multi_vector"] = preference("cross_encoder", kind=Kind.INDEX)
    """What kind of model it is."""
    hits: Annotated[StrictInt, Field(ge=1)] = preference(50, kind=Kind.INDEX)
    """How many first hits are ordered again."""
