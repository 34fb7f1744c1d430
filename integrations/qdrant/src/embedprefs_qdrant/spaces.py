"""The embedding spaces of a collection: which model makes its vectors, loaded only when a vector is needed."""

from __future__ import annotations

import base64
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embedprefs import (
    InvalidPreferenceError,
    PreferenceMismatchError,
    Preferences,
    Problem,
    Record,
    load_preferences,
    resolve,
)
from embedprefs.cache import without_cache
from embedprefs.facts.span_support import objection_to_spans
from embedprefs.layers import preferences_for_model
from embedprefs.model.report import unreported
from embedprefs.preferences import IndexPreferences
from embedprefs.preferences.index_limits import PACKED_PRECISIONS
from embedprefs.record import CANARY_TEXTS, context_fields
from embedprefs.serving import Encoder, find_artefact, load_found
from embedprefs_qdrant.chunking import Chunker
from embedprefs_qdrant.stores.layout import Datatype, Distance
from embedprefs_qdrant.vectors import row_cosines

if TYPE_CHECKING:
    from pathlib import Path

    from embedprefs import PreferredSentenceTransformer, Resolved
    from embedprefs.serving import Artefact

__all__ = [
    "EmbeddingSpace",
    "ModelSpace",
    "check_canaries",
    "decode_vectors",
    "embed_canaries",
    "encode_vectors",
    "further_spaces",
]

#: What a model that states no limit (a static one) is taken to read.
LONGEST_UNLIMITED = 8192

#: Stands between the canary strings where they are one document. Their vectors are stored: it never changes.
_BETWEEN_CANARIES = "\n\n"
#: Stands for an artefact that was not looked for yet; None is one that is not there.
_NOT_LOOKED_FOR = object()

_DISTANCES: Mapping[str, Distance] = {
    "cosine": "cosine",
    "dot": "dot",
    "euclidean": "euclid",
    "manhattan": "manhattan",
}


@runtime_checkable
class EmbeddingSpace(Protocol):
    """What a collection needs to know of whatever makes its vectors."""

    @property
    def record(self) -> Record | None:
        """The identity to record; None for an embedding function that has none."""

    @property
    def description(self) -> Mapping[str, Any]:
        """A readable account of the space, JSON values: recorded beside the identity, or in its place."""

    @property
    def size(self) -> int:
        """Length of its vectors."""

    @property
    def distance(self) -> Distance:
        """How two of its vectors are compared."""

    @property
    def datatype(self) -> Datatype:
        """What the store keeps a value as."""

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of documents, shape (texts, size), float32."""

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, shape (texts, size), float32."""

    def make_chunker(self, index: IndexPreferences) -> Chunker:
        """What cuts documents so that the model reads each chunk whole."""

    def close(self) -> None:
        """Let go of what was loaded here."""


class ModelSpace:
    """The space of a sentence-transformers model under its preferences.

    Made from a loaded model, or from preferences, a preferences file or a model's name or folder; then the model is
    loaded when the first vector is needed, and a run that finds nothing to embed never imports torch.
    """

    def __init__(
        self,
        model: PreferredSentenceTransformer | Encoder | Preferences | str | Path,
        *,
        overrides: Mapping[str, Any] | None = None,
        template: str | None = None,
        chunk_context: str | None = None,
    ) -> None:
        """Take a model or what names it.

        Args:
            model: A loaded model, preferences, a `.toml` file, or a model's name or folder.
            overrides: Preferences that win over the file's, by dotted key; only with a file, name or folder.
            template: What makes the embedded text of a chunk, part of the identity; None takes that of the preferences.
            chunk_context: What is read for a chunk's vector, "chunk" or "document", part of it too; None takes that of
                the preferences.

        Raises:
            InvalidPreferenceError: overrides were given for preferences or a model, where they can no longer take
                effect.
        """
        self._lock = threading.Lock()
        self._model: PreferredSentenceTransformer | Encoder | None = None
        self._found: Any = _NOT_LOOKED_FOR
        self._owned = True
        self._template = template
        self._chunk_context = chunk_context
        self._resolved: Resolved | None = None
        self._record: Record | None = None
        if isinstance(model, Preferences):
            _refuse(overrides, "Preferences are a finished value.", "Pass the overrides to load_preferences.")
            self.preferences = model
        elif hasattr(model, "encode_document") and hasattr(model, "preferences"):
            _refuse(overrides, "The model is loaded already.", "Load it with these overrides.")
            loaded: Any = model
            self._model = loaded
            self._owned = False
            self.preferences = loaded.preferences
            self._resolved = loaded.resolved
        elif str(model).endswith(".toml"):
            self.preferences = load_preferences(model, overrides=overrides)
        else:
            self.preferences = preferences_for_model(str(model), overrides=overrides)

    @property
    def resolved(self) -> Resolved:
        """The effective preferences on this machine."""
        if self._resolved is None:
            self._resolved = resolve(self.preferences)
        return self._resolved

    @property
    def record(self) -> Record:
        """The identity, with the template that makes the embedded text.

        Raises:
            PreferenceMismatchError: A model that was handed in was changed since it was loaded, so that its files no
                longer say what it is.
        """
        if self._record is None:
            if self._model is not None and not self._owned:
                self._model.record  # noqa: B018 - raises where the model is no longer what was loaded
            self._record = self._record_of_collection()
        return self._record

    def _record_of_collection(self) -> Record:
        artefact = self._artefact()
        if artefact is None:
            return Record.for_collection(self.resolved, template=self._template, chunk_context=self.chunk_context)
        # The artefact was found by its identity, so that no file of the model has to be hashed again.
        template = self._template if self._template is not None else self.resolved["index.template"]
        record = artefact.record
        further = {"template": template, **context_fields(self.chunk_context, self.resolved)}
        return replace(record, identity={**record.identity, **further})

    def _artefact(self) -> Artefact | None:
        """The compiled artefact that gives these vectors without torch; None where a model gives them."""
        if self._found is _NOT_LOOKED_FOR:
            here = self._model
            if here is None:
                self._found = find_artefact(self.resolved)
            else:
                self._found = here.artefact if isinstance(here, Encoder) else None
        found: Artefact | None = self._found
        return found

    def use_index(self, index: IndexPreferences) -> None:
        """Count template and chunk context of this index as part of the identity, in place of the preferences'."""
        if (index.template, index.chunk_context) != (self._template, self._chunk_context):
            self._template, self._chunk_context, self._record = index.template, index.chunk_context, None

    @property
    def chunk_context(self) -> str:
        """What is read for a chunk's vector: "chunk" or "document"."""
        return self._chunk_context if self._chunk_context is not None else self.resolved["index.chunk_context"]

    def require_spans(self) -> None:
        """Refuse a model of which a part of a text has no vector; its weights are not read for it.

        Raises:
            InvalidPreferenceError: It does not average token vectors.
        """
        reason = objection_to_spans(self.resolved.facts, self.resolved["model.pooling"])
        if reason is not None:
            raise InvalidPreferenceError(
                Problem(
                    f'index.chunk_context is "document", and {reason}.',
                    key="index.chunk_context",
                    value="document",
                    allowed='"chunk" for this model',
                    fix='Leave index.chunk_context out, or use a model whose pooling is "mean".',
                )
            )

    @property
    def description(self) -> Mapping[str, Any]:
        """Name and commit of the model, for people to read."""
        facts = self.resolved.facts
        return {"model": facts.name if facts else self.preferences.model.name, "revision": facts and facts.revision}

    @property
    def size(self) -> int:
        """Length of the vectors, after truncation."""
        size = self.resolved.embedding_dimension
        if size is None:
            size = self.model.get_embedding_dimension()
        if size is None:
            raise InvalidPreferenceError(
                Problem(
                    f"The model {self.preferences.model.name} does not say how long its vectors are.",
                    key="model.name",
                    fix="Use a model whose last module has a fixed output dimension.",
                )
            )
        return int(size)

    @property
    def distance(self) -> Distance:
        """The store's word for the similarity of the preferences."""
        return _DISTANCES[self.resolved["vectors.similarity_fn_name"] or "cosine"]

    @property
    def datatype(self) -> Datatype:
        """uint8 vectors are kept as bytes, all others as float32."""
        precision = self.resolved["vectors.precision"]
        if precision in PACKED_PRECISIONS:
            raise InvalidPreferenceError(
                Problem(
                    f'vectors.precision is "{precision}", which packs eight dimensions into a number; '
                    "Qdrant would compare these numbers as if they were dimensions.",
                    key="vectors.precision",
                    value=precision,
                    allowed="float32, int8 or uint8 for a collection",
                    fix='Leave the precision at float32 and write quantization = "binary" in [index]: the engine packs '
                    "the bits itself and can rescore.",
                )
            )
        return "uint8" if precision == "uint8" else "float32"

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    @property
    def model(self) -> PreferredSentenceTransformer | Encoder:
        """What embeds: the model's compiled artefact where it is current, else the model; loaded at the first use."""
        with self._lock:
            if self._model is None:
                artefact = self._artefact()
                self._model = load_found(artefact, self.resolved) if artefact is not None else None
            if self._model is None:
                # Imported here: it loads torch, which a run that finds nothing to embed does without.
                from embedprefs import load_model

                self._found = None
                self._record = None
                self._model = load_model(self.preferences)
            return self._model

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of documents, with the document prompt; shape (texts, size), float32."""
        return np.asarray(self.model.encode_document(list(texts), convert_to_numpy=True), dtype=np.float32)

    def embed_passages(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """Vectors of parts of a document that know the rest of it; shape (spans, size), float32.

        Args:
            text: The document.
            spans: First character of each part, and the one behind its last.

        Raises:
            InputError: A span holds no token, or the model is none that averages token vectors.
        """
        return np.asarray(self.model.embed_spans(text, spans), dtype=np.float32)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, with the query prompt; shape (texts, size), float32."""
        return np.asarray(self.model.encode_query(list(texts), convert_to_numpy=True), dtype=np.float32)

    @property
    def longest(self) -> int:
        """Tokens that the model reads of a text."""
        return int(self.resolved["tokenizer.max_seq_length"] or LONGEST_UNLIMITED)

    def make_chunker(self, index: IndexPreferences, *, longest: int | None = None) -> Chunker:
        """What cuts documents by this model's own tokenizer; its weights are not read for it.

        Args:
            index: Sizes, overlap and template.
            longest: Tokens of a whole embedded text; None takes what the model reads.
        """
        return Chunker(
            self._tokenizer(),
            max_seq_length=self._longest_chunk(index, longest or self.longest),
            chunk_tokens=index.chunk_tokens,
            chunk_overlap=index.chunk_overlap,
            prompt=self.resolved.prompts.get("document", ""),
            template=index.template,
        )

    def _longest_chunk(self, index: IndexPreferences, reads: int) -> int:
        """Tokens of a whole embedded text; one that is asked to be longer than a window is embedded in several."""
        is_windowed = self.resolved["tokenizer.overflow"] == "window"
        return max(reads, LONGEST_UNLIMITED) if is_windowed and index.chunk_tokens is not None else reads

    def _tokenizer(self) -> Any:
        facts = self.resolved.facts
        if facts is not None and facts.folder is not None:
            from tokenizers import Tokenizer

            for name in ("tokenizer.json", *(f"{module.path}/tokenizer.json" for module in facts.modules)):
                file = facts.folder / name
                if file.is_file():
                    return Tokenizer.from_file(str(file))
        return self.model.tokenizer

    def close(self) -> None:
        """Let go of a model that was loaded here; one that was handed in stays."""
        with self._lock:
            if self._owned:
                self._model = None


def _refuse(overrides: Mapping[str, Any] | None, found: str, fix: str) -> None:
    if overrides:
        key = next(iter(overrides))
        raise InvalidPreferenceError(
            Problem(f"{found} The override of {key} could not take effect.", key=key, value=overrides[key], fix=fix)
        )


def further_spaces(index: IndexPreferences, preferences: Preferences | None) -> dict[str, EmbeddingSpace]:
    """The spaces of the further named vectors, by name; `[compute]` and the template are those of the preferences."""
    found: dict[str, EmbeddingSpace] = {}
    for name, named in index.vectors.items():
        values = named.model_dump(exclude_unset=True)
        if preferences is not None:
            values["compute"] = preferences.compute.model_dump(exclude_unset=True)
            values["index"] = {"template": preferences.index.template}
        own = Preferences.model_validate(values).with_origins({}, preferences.file if preferences is not None else None)
        found[name] = ModelSpace(own, template=index.template, chunk_context="chunk")
    return found


def encode_vectors(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Vectors as a JSON value: shape, and the float32 values in little-endian order as base64."""
    array = np.ascontiguousarray(vectors, dtype="<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def decode_vectors(value: Mapping[str, Any]) -> NDArray[np.float32]:
    """The vectors that `encode_vectors` wrote."""
    raw = base64.b64decode(value["float32"])
    return np.frombuffer(raw, dtype="<f4").reshape(value["shape"]).astype(np.float32)


def embed_canaries(space: EmbeddingSpace) -> NDArray[np.float32]:
    """Vectors of `CANARY_TEXTS`, computed anew; shape (texts, size), float32.

    They are made as those of the collection's chunks are: where chunks are read in their documents, the canary strings
    are the parts of one document. They are not the user's texts: a preference about over-long texts does not speak of
    them, and no report counts them.
    """
    with without_cache(), unreported():  # a kept vector would say what the model did once
        if isinstance(space, ModelSpace) and space.chunk_context == "document":
            return space.embed_passages(*_canary_document())
        return space.embed_documents(CANARY_TEXTS)


def _canary_document() -> tuple[str, list[tuple[int, int]]]:
    """The canary strings as one document, and where each stands in it."""
    ends = list(itertools.accumulate(len(text) + len(_BETWEEN_CANARIES) for text in CANARY_TEXTS))
    starts = [0, *ends[:-1]]
    spans = [(start, start + len(text)) for start, text in zip(starts, CANARY_TEXTS, strict=True)]
    return _BETWEEN_CANARIES.join(CANARY_TEXTS), spans


def check_canaries(space: EmbeddingSpace, stored: NDArray[np.float32], bound: float, collection: str) -> float:
    """Embed the canary strings again and compare them with the stored vectors.

    What names and hashes cannot see shows here: changed weights under an unchanged name, another backend, a library
    that pools otherwise.

    Args:
        space: What embeds now.
        stored: Vectors of `CANARY_TEXTS` when the collection was made, shape (texts, size).
        bound: The least cosine that both sides' numerics allow.
        collection: Its name, for the message.

    Returns:
        The least cosine seen.

    Raises:
        PreferenceMismatchError: A canary moved further than the bound allows.
    """
    now = embed_canaries(space)
    if now.shape != stored.shape:
        raise PreferenceMismatchError(
            f"The collection {collection} was made by a model whose vectors have another length than those of the one "
            f"loaded now: {stored.shape[1]}, not {now.shape[1]}.\n"
            "  Load the model that the record names, or index into a new collection.",
            left={"size": stored.shape[1]},
            right={"size": now.shape[1]},
            differences=("size",),
        )
    cosines = row_cosines(now, stored)
    worst = float(cosines.min())
    if worst < bound:
        text = CANARY_TEXTS[int(cosines.argmin())]
        raise PreferenceMismatchError(
            f"The collection {collection} was made by a model that gives other vectors than the one loaded now, though "
            f"all recorded preferences agree.\n"
            f"  The canary text {text[:40]!r} has a cosine of {worst:.5f} to its stored vector; at least {bound:.5f} "
            f"is allowed between these number formats.\n"
            f"  Load the model with the library versions the record names, or index into a new collection.",
            left={"canary": "stored"},
            right={"canary": "now", "cosine": worst},
            differences=("canary",),
        )
    return worst
