"""The encoder: the vectors of a model, from its compiled artefact, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from embedprefs.model.report import KeepsReport, ReportBook
from embedprefs.model.streaming import stream_chunks
from embedprefs.serving.artefact import Artefact, EncodingSettings, RuntimeSettings
from embedprefs.serving.call import CallArguments, encode
from embedprefs.serving.spans import embed_spans, modules_behind_pooling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from embedprefs.cache import CacheSpace, EmbeddingCache
    from embedprefs.calibration import Calibration
    from embedprefs.engine.backend import Backend
    from embedprefs.engine.numpy_chain import NumpyChain
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.model.tokens import TokenCounter
    from embedprefs.preferences import Preferences
    from embedprefs.record import Record
    from embedprefs.resolve import Resolved

__all__ = ["Encoder", "Role", "served_packages", "text_tokenizer"]

Role = Literal["query", "document"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


class Encoder(KeepsReport):
    """Embeds texts as the model does that it was compiled from, with neither torch nor sentence-transformers.

    `load_encoder` returns one. Prompts, lengths, windows, truncation, normalisation and precision are those of the
    preferences; identical texts of a call are computed once, over-long ones are counted, warned of or refused, and
    kept vectors are looked up where `compute.cache` keeps them. The words of its reports are the model's.

    Calls from several threads may run side by side.
    """

    def __init__(self, artefact: Artefact, backend: Backend, runtime: RuntimeSettings | None = None) -> None:
        """Take an artefact and what computes its vectors; `load_encoder` does so, and verifies them.

        Args:
            artefact: The artefact.
            backend: Its model, loaded.
            runtime: How to compute, and what to say of over-long texts; as the artefact says if not given.
        """
        self._artefact = artefact
        self._backend = backend
        self.runtime = runtime if runtime is not None else artefact.runtime
        self._book = ReportBook()

    # Encoding --------------------------------------------------------------------------------------------------------

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        batch_size: int | None = None,
        precision: Precision | None = None,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
    ) -> Any:
        """Embed texts that are neither queries nor documents; arguments are the model's, and None the preferences'.

        Args:
            inputs: One text, or any ordered iterable of texts: list, tuple, array, Series, column, generator.
            prompt_name: Name of a prompt to put before each text.
            prompt: A prompt to put before each text; wins over `prompt_name`. "" puts none.
            batch_size: Texts of a batch, at most.
            precision: "float32", "int8", "uint8", "binary" or "ubinary".
            convert_to_numpy: True; tensors are torch's, which is not here.
            normalize_embeddings: Scale every vector to length 1.
            truncate_dim: Keep the first dimensions only.

        Returns:
            An array of shape (texts, dimensions), float32 unless `precision` says otherwise, or one of shape
            (dimensions,) for one text. No texts give (0, dimensions).

        Raises:
            InputError: the inputs are no texts, or an argument is not allowed.
            OverlongTextError: `tokenizer.on_overflow` is "error", and texts are longer than the model reads.
            InvalidPreferenceError: int8 or uint8 is asked for, and there is no calibration.
        """
        arguments = CallArguments(
            role="plain",
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )
        return encode(self, inputs, arguments)

    def encode_query(self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **named: Any) -> Any:
        """Embed queries: as `encode`, with the query prompt unless the call names another."""
        return encode(self, inputs, _of_role("query", prompt_name, prompt, named))

    def encode_document(
        self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **named: Any
    ) -> Any:
        """Embed documents: as `encode`, with the document prompt unless the call names another."""
        return encode(self, inputs, _of_role("document", prompt_name, prompt, named))

    def embed_stream(
        self,
        texts: Iterable[str] | Iterable[tuple[Any, str]],
        role: Role = "document",
        chunk_size: int | None = None,
        **named: Any,
    ) -> Iterator[tuple[list[Any], Any]]:
        """Embed a stream of texts of any length in bounded memory.

        Args:
            texts: Texts, or pairs of an id and a text; read as the vectors are taken.
            role: Which prompt they get.
            chunk_size: Texts embedded at a time, at most; fewer where they are long.
            **named: As for `encode`.

        Yields:
            Ids and vectors of one chunk, in order: an array of shape (texts, dimensions). Ids are the texts' positions
            in the stream, or the ids that came with them.

        Raises:
            InputError: as `encode`; positions are those of the stream.
            OverlongTextError: as `encode`.
        """
        arguments = _of_role(role, named.pop("prompt_name", None), named.pop("prompt", None), named)

        def embed(chunk: list[str], start: int) -> Any:
            return encode(self, chunk, arguments, first_position=start)

        return stream_chunks(texts, role, chunk_size, embed)

    def embed_spans(
        self,
        text: str,
        spans: Iterable[Sequence[int]],
        role: Role = "document",
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Any:
        """Embed parts of a text so that each knows its surroundings: one pass over the text, one vector for each part.

        The transformer reads the whole text, and the token vectors of each span are averaged (late chunking). A span
        that holds the whole text gets the vector of `encode_document`. A text longer than the model reads is read in
        overlapping windows, whatever `tokenizer.overflow` says. Normalisation, truncation and precision are those of
        the preferences.

        Args:
            text: The text.
            spans: Pairs of the first character and the one behind the last, from 0; they may overlap.
            role: Which prompt the text gets.
            prompt: A prompt to put before the text instead; "" puts none.
            prompt_name: Name of such a prompt.

        Returns:
            An array of shape (spans, dimensions), in the order of the spans.

        Raises:
            InputError: spans are empty, reach beyond the text or hold no token, which names them; or the model is none
                that averages the token vectors of a transformer.
            InvalidPreferenceError: prompt and overlap leave no room in a window, or int8 and uint8 have no calibration.
            ModelFilesError: the artefact was written before it held what this needs.
        """
        return embed_spans(self, text, spans, role, prompt, prompt_name)

    def encode_uncached(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        """Compute the float32 vectors of texts, whatever is kept of them."""
        arguments = replace(_of_role(role, None, None, {}), precision="float32", use_cache=False)
        vectors: NDArray[np.float32] = encode(self, list(texts), arguments)
        return vectors

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def artefact(self) -> Artefact:
        """The artefact it was loaded from."""
        return self._artefact

    @property
    def folder(self) -> Path:
        """The artefact's folder."""
        return self._artefact.folder

    @property
    def fingerprint(self) -> str:
        """Hash of what the vectors are: that of the model it was compiled from."""
        return self._artefact.fingerprint

    @cached_property
    def record(self) -> Record:
        """Identity and numerics of the vectors, to be kept beside them."""
        record = self._artefact.record
        return replace(record, numerics={**record.numerics, "dtype": self.numerics, "versions": self.versions})

    @cached_property
    def preferences(self) -> Preferences:
        """The preferences it was compiled with."""
        return self._artefact.preferences

    @cached_property
    def resolved(self) -> Resolved:
        """The effective preferences on this machine. No weights are here to be hashed: ask `fingerprint` for that."""
        return self._artefact.resolved

    def is_as_loaded(self) -> bool:
        """Tell whether it still gives the vectors it was loaded with: always, since nothing of it can be changed."""
        return True

    @property
    def encoding(self) -> EncodingSettings:
        """What the vectors are."""
        return self._artefact.encoding

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompts by name."""
        return dict(self.encoding.prompts)

    @property
    def similarity_fn_name(self) -> str | None:
        """How two of its vectors are compared."""
        return self.encoding.similarity_fn_name

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that are read of a document; None for all."""
        return self.encoding.limits["document"]

    @property
    def truncate_dim(self) -> int | None:
        """Dimensions that are kept; None for all."""
        return self.encoding.truncate_dim

    def get_embedding_dimension(self) -> int:
        """Return the length of its vectors, after truncation."""
        return self._artefact.size

    @property
    def numerics(self) -> str:
        """Number format it computes in."""
        return self._backend.numerics

    @property
    def backend(self) -> Backend:
        """What computes."""
        return self._backend

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions here of the packages that can move a vector by rounding."""
        import importlib.metadata

        return {name: importlib.metadata.version(name) for name in served_packages(self._artefact.backend)}

    @cached_property
    def calibration(self) -> Calibration | None:
        """The ranges for int8 and uint8 vectors; None where there are none."""
        from embedprefs.calibration import Calibration

        path = self._artefact.calibration_file
        return Calibration.load(path) if path is not None else None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, which neither pads nor cuts; the encoder itself works on another object."""
        return _read_tokenizer(self._artefact)

    @cached_property
    def modules_behind_pooling(self) -> NumpyChain:
        """What the model does after its transformer, for vectors that are pooled outside the converted model."""
        return modules_behind_pooling(self)

    def text_tokenizer(self, role: str) -> TextTokenizer:
        """Return what turns the texts of a role into tokens."""
        return self._text_tokenizer.with_limit(self.encoding.limits[role])

    @cached_property
    def _text_tokenizer(self) -> TextTokenizer:
        return text_tokenizer(self._artefact)

    @cached_property
    def token_counter(self) -> TokenCounter:
        """Counts tokens, and cuts texts into windows."""
        from embedprefs.model.tokens import TokenCounter

        return TokenCounter(_read_tokenizer(self._artefact), add_special_tokens=self.encoding.add_special_tokens)

    def kept_vectors(self, role: str, prompt: str) -> tuple[EmbeddingCache, CacheSpace]:
        """Return where vectors are kept, and what those of a role with this prompt have in common."""
        from embedprefs.cache import CacheSpace, default_cache_folder, open_cache

        runtime = self.runtime
        folder = default_cache_folder() if runtime.cache is True else self.folder / str(runtime.cache)
        cache = open_cache(folder, size_limit=runtime.cache_size)
        kind: Any = role
        task = (self.encoding.task or role) if role != "plain" else None
        numerics = {**self.record.numerics, "device": "cpu"}
        return cache, CacheSpace(self.fingerprint, numerics, kind, prompt, task)

    def close(self) -> None:
        """Let go of the model's memory; the encoder cannot be used afterwards."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        artefact = self._artefact
        return (
            f"Encoder({artefact.model}, {artefact.size} dimensions, {artefact.backend} {artefact.numerics}, "
            f"fingerprint {self.fingerprint[:12]})"
        )


def _read_tokenizer(artefact: Artefact) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(artefact.tokenizer_file))


def text_tokenizer(artefact: Artefact) -> TextTokenizer:
    """Return what turns an artefact's texts into tokens: documents, unless another limit is asked of it."""
    from embedprefs.engine.tokenising import TextTokenizer

    encoding = artefact.encoding
    return TextTokenizer(
        _read_tokenizer(artefact),
        limit=encoding.limits["document"],
        truncation_side=encoding.truncation_side,
        add_special_tokens=encoding.add_special_tokens,
        pad_id=encoding.pad_id,
        special_ids=frozenset(encoding.special_ids),
        encode_special_tokens=encoding.encode_special_tokens,
        copy=False,
    )


def served_packages(backend: str) -> tuple[str, ...]:
    """Return the packages whose version can move a vector by rounding."""
    return ("numpy", "tokenizers") if backend == "numpy" else ("openvino", "tokenizers")


def _of_role(role: str, prompt_name: str | None, prompt: str | None, named: dict[str, Any]) -> CallArguments:
    if prompt_name is None and prompt is None:
        prompt_name = role
    return CallArguments(role=role, prompt_name=prompt_name, prompt=prompt, **named)
