"""LangChain embeddings that obey one preferences file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.load.serializable import Serializable, SerializedConstructor, SerializedNotImplemented
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PrivateAttr

from embedprefs import InputError, InvalidPreferenceError, Preferences, Problem, Record, Resolved, load_preferences
from embedprefs.layers import preferences_for_model
from langchain_embedprefs.arguments import refuse_unknown_arguments, stated_values
from langchain_embedprefs.sharing import ModelHandle

if TYPE_CHECKING:
    from embedprefs import Encoder, PreferredSentenceTransformer
    from embedprefs.model import EncodeReport

__all__ = ["EmbedPrefsEmbeddings"]

Vectors = NDArray[np.float32]


class EmbedPrefsEmbeddings(Serializable, Embeddings):
    """Embeddings of a sentence-transformers model, as its preferences say.

    Documents get the document prompt and queries the query prompt; texts go to the model as they are. The model is
    loaded at the first use, and one model serves everything in the process that asks for the same vectors.

    Setup:
        ```bash
        pip install langchain-embedprefs
        embedprefs init lightonai/modernbert-embed-large
        ```

    Key init args, one of the first two, or neither for the project's own `embedprefs.toml`:
        model: Hub name or folder of a model, or a model that `embedprefs.load_model` returned.
        preferences: A preferences file, `Preferences`, or a mapping of their values.
        overrides: Values that win over every other layer, by dotted key.

    Instantiate:
        ```python
        from langchain_embedprefs import EmbedPrefsEmbeddings

        embeddings = EmbedPrefsEmbeddings(preferences="embedprefs.toml", overrides={"compute.device": "cpu"})
        ```

    Embed single text:
        ```python
        vector = embeddings.embed_query("Which harbour froze over?")
        ```

    Embed multiple texts:
        ```python
        vectors = embeddings.embed_documents(["The harbour froze over twice.", "Both winters are argued about."])
        array = embeddings.embed_documents_array(texts)  # float32, eight times smaller than lists
        ```

    Async:
        ```python
        vector = await embeddings.aembed_query("Which harbour froze over?")
        ```

        Queries that are asked at the same time are embedded together. Neither loading nor embedding occupies the event
        loop's default executor.
    """

    model: Any = None
    """Hub name or folder of a model, or a loaded `PreferredSentenceTransformer`; for a name or folder no preferences
    file is searched."""
    preferences: Any = None
    """A preferences file, `Preferences`, or a mapping of their values, nested or by dotted key."""
    overrides: dict[str, Any] | None = None
    """Values that win over every layer, by dotted key: `{"compute.device": "cpu"}`."""
    expected_fingerprint: str | None = None
    """Refuse to embed with a model of another identity. Pickles and dumps of used embeddings carry it."""
    query_batch_wait: float = Field(default=0.002, ge=0.0, le=1.0)
    """Seconds that an awaited query waits for others, to be embedded together; 0 waits for none."""
    query_batch_size: int = Field(default=64, ge=1)
    """Most awaited queries that are embedded together."""
    document_group_size: int = Field(default=256, ge=1)
    """Documents of `aembed_documents` that are embedded between two looks at whether the task was cancelled."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), arbitrary_types_allowed=True)

    _handle: ModelHandle = PrivateAttr()

    def __init__(
        self,
        *,
        model: PreferredSentenceTransformer | str | os.PathLike[str] | None = None,
        preferences: Preferences | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> None:
        """Load and validate the preferences; the model itself is loaded at the first use.

        Args:
            model: Hub name or folder of a model, or a loaded one.
            preferences: A preferences file, preferences, or a mapping of their values. Without either, the nearest
                preferences file is searched, as `embedprefs.load_preferences()` does.
            overrides: Values that win over every other layer, by dotted key.
            **named: Further fields of this class.

        Raises:
            InvalidPreferenceError: An argument or a preference is not allowed, or both `model` and `preferences` are
                given; every problem is listed.
            PreferencesFileError: The preferences file is absent, unreadable or not TOML.
        """
        refuse_unknown_arguments(type(self), named)
        if isinstance(model, os.PathLike):
            model = os.fspath(model)
        if isinstance(preferences, os.PathLike):
            preferences = os.fspath(preferences)
        overrides = dict(overrides) if overrides is not None else None
        source = _source(model, preferences, overrides)
        super().__init__(model=model, preferences=preferences, overrides=overrides, **named)
        self._handle = ModelHandle(source, expected_fingerprint=self.expected_fingerprint)

    # What LangChain asks for -----------------------------------------------------------------------------------------

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents, in their order, as Python floats.

        Raises:
            InputError: One text is given instead of a list, or something that is no text.
            OverlongTextError: `tokenizer.on_overflow` is "error", and texts are longer than the model reads.
        """
        checked = _listed(texts)
        if not checked:
            return []
        vectors: list[list[float]] = self._handle.get().embed_documents(checked).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Vector of one query, as Python floats.

        Raises:
            InputError: It is no text.
            OverlongTextError: `tokenizer.on_overflow` is "error", and it is longer than the model reads.
        """
        vector: list[float] = self.embed_query_array(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, beside the event loop; a cancelled task stops after the group in hand."""
        checked = _listed(texts)
        if not checked:
            return []
        shared = await self._handle.aget()
        return await shared.documents.embed(checked, self.document_group_size, _gathered_lists)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, beside the event loop, together with others that are asked at the same time."""
        vector: list[float] = (await self.aembed_query_array(text)).tolist()
        return vector

    # Further forms ---------------------------------------------------------------------------------------------------

    def embed_documents_array(self, texts: Iterable[str]) -> Vectors:
        """Vectors of documents as an array of shape (texts, dimensions), float32; errors as `embed_documents`."""
        checked = _listed(texts)
        return self._handle.get().embed_documents(checked) if checked else self._no_vectors()

    def embed_queries_array(self, texts: Iterable[str]) -> Vectors:
        """Vectors of several queries as an array of shape (texts, dimensions), float32, in one call of the model."""
        checked = _listed(texts)
        return self._handle.get().embed_queries(checked) if checked else self._no_vectors()

    def embed_query_array(self, text: str) -> Vectors:
        """Vector of one query as an array of shape (dimensions,), float32; errors as `embed_query`."""
        checked = _one(text)
        vector: Vectors = self._handle.get().embed_queries([checked])[0]
        return vector

    async def aembed_documents_array(self, texts: Iterable[str]) -> Vectors:
        """As `embed_documents_array`, beside the event loop."""
        checked = _listed(texts)
        if not checked:
            return self._no_vectors()
        shared = await self._handle.aget()
        return await shared.documents.embed(checked, self.document_group_size, _gathered_array)

    async def aembed_query_array(self, text: str) -> Vectors:
        """As `embed_query_array`, beside the event loop."""
        checked = _one(text)
        shared = await self._handle.aget()
        return await shared.queries.embed(checked, wait=self.query_batch_wait, most=self.query_batch_size)

    async def aembed_queries_array(self, texts: Iterable[str]) -> Vectors:
        """As `embed_queries_array`, beside the event loop."""
        checked = _listed(texts)
        if not checked:
            return self._no_vectors()
        return np.stack(await asyncio.gather(*(self.aembed_query_array(text) for text in checked)))

    def _no_vectors(self) -> Vectors:
        return np.empty((0, self.dimension or 0), dtype=np.float32)

    # The model -------------------------------------------------------------------------------------------------------

    @property
    def effective_preferences(self) -> Preferences:
        """The preferences, all layers put together."""
        return self._handle.preferences

    @property
    def resolved(self) -> Resolved:
        """The effective values on this machine, with reasons; no weights are read for them."""
        return self._handle.resolved

    @property
    def dimension(self) -> int | None:
        """Length of the vectors; None where neither the model's files nor a loaded model say it."""
        dimension = self.resolved.embedding_dimension
        if dimension is None and self.loaded:
            dimension = self.encoder.get_embedding_dimension()
        return dimension

    @property
    def record(self) -> Record:
        """What the vectors are, to be kept beside them; for a model that is not loaded its files are hashed."""
        if self.loaded or not self.is_loaded_on_demand:
            return self.encoder.record
        return Record.of(self.resolved)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; equal ones, comparable vectors."""
        return self.record.fingerprint

    @property
    def encoder(self) -> PreferredSentenceTransformer | Encoder:
        """What embeds: the model's compiled artefact where one is current, else the model; loaded if it is not."""
        return self._handle.get().model

    @property
    def sentence_transformer(self) -> PreferredSentenceTransformer:
        """The model itself; loaded if it is not, beside the compiled artefact where that embeds."""
        return self._handle.sentence_transformer()

    @property
    def report(self) -> EncodeReport:
        """What the shared model has embedded since it was loaded: texts, tokens, truncated and duplicate texts ..."""
        return self.encoder.report

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory for this object."""
        return self._handle.loaded

    @property
    def is_loaded_on_demand(self) -> bool:
        """Whether preferences name the model; False where a loaded one was handed in."""
        return self._handle.handed_in is None

    def warm_up(self) -> Self:
        """Load the model now, and return these embeddings."""
        self._handle.get()
        return self

    async def awarm_up(self) -> Self:
        """Load the model now, beside the event loop."""
        await self._handle.aget()
        return self

    def close(self) -> None:
        """Let go of the model; when nobody else in the process uses it, its memory is freed. A later use loads it."""
        self._handle.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Copies, pickles and dumps ---------------------------------------------------------------------------------------

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Dumps hold the constructor's arguments. None of them is a secret: preferences refuse secrets."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return the constructor's arguments; a handed-in model becomes its preferences and its fingerprint.

        A model that was changed since it was loaded cannot be described by arguments, and is dumped as LangChain's
        "not implemented".
        """
        model = self._handle.handed_in
        if model is not None and not model.is_as_loaded():
            return self.to_json_not_implemented()
        return {"lc": 1, "type": "constructor", "id": self.lc_id(), "kwargs": self._plain_arguments()}

    def _plain_arguments(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values, those that are at their defaults left out."""
        fields = type(self).model_fields
        arguments = {name: getattr(self, name) for name in fields if getattr(self, name) != fields[name].default}
        if self._handle.handed_in is not None:
            del arguments["model"]
            arguments["preferences"] = stated_values(self.effective_preferences)
        elif isinstance(self.preferences, Preferences):
            arguments["preferences"] = stated_values(self.preferences)
        elif isinstance(self.preferences, Mapping):
            arguments["preferences"] = dict(self.preferences)
        if self.loaded or self._handle.handed_in is not None:
            arguments["expected_fingerprint"] = self.fingerprint
        return arguments

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the arguments; the model is loaded again where they arrive, and refused if it is another one.

        Preferences travel as they are. The weights of a handed-in model travel only where they were changed.
        """
        model = self._handle.handed_in
        if model is not None and not model.is_as_loaded():
            fields = {name: getattr(self, name) for name in type(self).model_fields}
            return _remade, (type(self), fields)
        arguments = self._plain_arguments()
        if "preferences" in arguments and not isinstance(self.preferences, str):
            arguments["preferences"] = self.preferences if model is None else self.effective_preferences
        return _remade, (type(self), arguments)

    def __copy__(self) -> Self:
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the arguments; the model is shared, not copied."""
        return self.__copy__()

    def __eq__(self, other: object) -> bool:
        """Two of them are equal when they were made with the same arguments."""
        if not isinstance(other, EmbedPrefsEmbeddings):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)

    def __hash__(self) -> int:
        return hash((type(self), repr(self.model), repr(self.preferences)))


def _remade(kind: type[EmbedPrefsEmbeddings], arguments: dict[str, Any]) -> EmbedPrefsEmbeddings:
    return kind(**arguments)


def _source(
    model: Any, preferences: Any, overrides: dict[str, Any] | None
) -> Preferences | PreferredSentenceTransformer:
    if model is not None and preferences is not None:
        raise InvalidPreferenceError(
            Problem(
                "Both model and preferences were given, and each names a model.",
                key="model",
                fix='Give one; the model of preferences can be replaced with overrides={"model.name": ...}.',
            )
        )
    if model is None and not isinstance(preferences, (Preferences, Mapping)):
        return load_preferences(preferences, overrides=overrides)
    if isinstance(model, str):
        if model.endswith(".toml"):
            raise InvalidPreferenceError(
                Problem(f"model is {model}, which is a preferences file.", key="model", fix="Write preferences=...")
            )
        return preferences_for_model(model, overrides=overrides)
    if overrides:
        raise InvalidPreferenceError(_without_effect(overrides, of_model=model is not None))
    if isinstance(preferences, Preferences):
        return preferences
    if isinstance(preferences, Mapping):
        return _from_mapping(preferences)
    if not (hasattr(type(model), "record") and hasattr(type(model), "preferences")):
        raise InvalidPreferenceError(
            Problem(
                f"model is a {type(model).__name__}.",
                key="model",
                allowed="a hub name, a folder, or a model that embedprefs.load_model returned",
                fix="Load it with embedprefs.load_model(name); that is a SentenceTransformer too.",
            )
        )
    return model  # type: ignore[no-any-return]  # checked by what it has: its class would import torch


def _without_effect(overrides: Mapping[str, Any], *, of_model: bool) -> list[Problem]:
    what = "The model is loaded already" if of_model else "The preferences are finished"
    fix = "Pass overrides to load_model." if of_model else "Write the value among them, or give the file's path."
    return [
        Problem(f"{what}, so that the override of {key} could not take effect.", key=key, value=value, fix=fix)
        for key, value in overrides.items()
    ]


def _from_mapping(values: Mapping[str, Any]) -> Preferences:
    """Preferences from values by dotted key or nested, as a dump holds them; no file is searched."""
    remaining = {key: value for key, value in values.items() if key != "model.name"}
    name = values.get("model.name")
    if name is None and isinstance(values.get("model"), Mapping):
        inner = dict(values["model"])
        name = inner.pop("name", None)
        remaining["model"] = inner
    if not isinstance(name, str):
        raise InvalidPreferenceError(
            Problem("The preferences name no model.", key="model.name", allowed="hub name or folder of a model")
        )
    return preferences_for_model(name, overrides={key: value for key, value in remaining.items() if value != {}})


def _one(text: Any) -> str:
    if isinstance(text, str):
        return text
    raise InputError(
        f"The query is {_named(text)}, and no text.\n  Give one text; for several, call embed_queries_array."
    )


def _listed(texts: Any) -> list[str]:
    """The texts as a list; one text alone would otherwise be embedded letter by letter."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise InputError(
            f"embed_documents was given {_named(texts)}.\n  Give a list of texts: embed_documents([text])."
        )
    if isinstance(texts, (set, frozenset, Mapping)):
        raise InputError(
            f"embed_documents was given a {type(texts).__name__}, which is no list.\n  Give a list of texts."
        )
    listed = texts.tolist() if isinstance(texts, np.ndarray) else list(texts)
    wrong = [place for place, text in enumerate(listed) if not isinstance(text, str)]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"Input {wrong[0]} is {_named(listed[wrong[0]])}, and no text{more}.\n"
            '  Leave such inputs out, or write "" where an empty text is meant.'
        )
    return listed


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}" if not isinstance(value, str) else "one text"


def _gathered_lists(groups: Iterator[Vectors]) -> list[list[float]]:
    return [vector for vectors in groups for vector in vectors.tolist()]


def _gathered_array(groups: Iterator[Vectors]) -> Vectors:
    return np.concatenate(list(groups))
