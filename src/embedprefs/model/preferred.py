"""A `SentenceTransformer` that obeys its preferences."""

from __future__ import annotations

import copy
import inspect
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util.decorators import deprecated_kwargs

from embedprefs.arguments import multi_process_arguments, torch_dtype
from embedprefs.engine import attention
from embedprefs.model import copies, saving
from embedprefs.model.changes import chain_of
from embedprefs.model.encoding import NOT_STATED, CallArguments, NotStated, encode
from embedprefs.model.features import count_features, hand_on_float32, window_features
from embedprefs.model.frozen_prompts import FrozenPrompts
from embedprefs.model.guard import CallGuard
from embedprefs.model.identity import LoadedIdentity, file_stamps
from embedprefs.model.report import EncodeReport, KeepsReport, ReportBook
from embedprefs.model.running import RunsTexts, is_forked_from_torch
from embedprefs.model.spans import embed_spans
from embedprefs.model.streaming import stream
from embedprefs.model.tokens import TokenCounter, TokenWindow
from embedprefs.model.weights import weights_digest
from embedprefs.model.workers import end_on_sigterm, vectors_in_worker

if TYPE_CHECKING:
    from embedprefs.calibration import Calibration
    from embedprefs.resolve import Resolved

__all__ = ["PreferredSentenceTransformer"]

Role = Literal["query", "document"]


class PreferredSentenceTransformer(LoadedIdentity, RunsTexts, KeepsReport, SentenceTransformer):  # type: ignore[misc]  # untyped host
    """A `SentenceTransformer` whose vectors are what its preferences say, whoever calls it.

    `load_model` returns one. Constructed directly, with the host's arguments, it has no preferences and behaves as the
    host does in every respect; trainers do so when they load a checkpoint.

    With preferences, an argument of a call wins over the preference, and a preference over the host's default:

    - `encode_query` and `encode_document` put the role's prompt before each text. Plain `encode` knows no role: it puts
      none, unless `prompt` or `prompt_name` asks for one or the model has a default prompt, as with the host.
    - Normalisation, truncation (scaled to length 1 again where the full vector was) and precision hold in all three.
    - Vectors are float32 whatever the weights are in: pooling and everything behind the transformer compute in float32.
    - Identical texts of a call are computed once. Over-long ones are counted, and cut or embedded in windows.
    - Training mode, device and the number of torch's threads are afterwards what they were before.
    - Calls from several threads may run side by side; one that moves the model to another device waits for the others.

    int8 and uint8 take the ranges of `vectors.calibration`; without it they are refused.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._start_transient_state()
        self._resolved: Resolved | None = None
        self._calibration: Calibration | None = None
        self._loaded_weights: dict[str, tuple[Any, ...]] | None = None
        self._loaded_files: dict[str, tuple[int, int]] = {}
        self._untrained = False
        #: What the modules computed when the model was loaded, beside the weights.
        self.loaded_chain: tuple[str, ...] = ()
        #: Tokens of a batch, at most: `compute.batch_tokens`, or less where `compute.memory_limit` asks for it.
        self.batch_tokens = 0
        self._prompts: dict[str, str] = {}
        super().__init__(*arguments, **named)

    def _start_transient_state(self) -> None:
        """Set up what is never copied, pickled or saved: locks, counts, worker processes."""
        self._guard = CallGuard()
        self._book = ReportBook()
        self._local = threading.local()
        self._tokenizing = threading.RLock()
        self._counter: tuple[Any, TokenCounter] | None = None
        self._pool: Any = None
        self._is_worker = False
        self._identity_cache: dict[str, Any] = {}
        self.start_engine()

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name. They are frozen in a model with preferences."""
        return self._prompts

    @prompts.setter
    def prompts(self, value: dict[str, str]) -> None:
        # The host sets it while it constructs the model; afterwards only what is there may be set again.
        if isinstance(self._prompts, FrozenPrompts) and value != self._prompts:
            self._prompts.refuse()
        if not isinstance(self._prompts, FrozenPrompts):
            self._prompts = value

    def adopt(self, resolved: Resolved, calibration: Calibration | None, *, batch_tokens: int, untrained: bool) -> None:
        """Make a model that was loaded with these preferences obey them; `load_model` calls it once."""
        prompts = {**self._prompts, **resolved.prompts}
        self._resolved, self._calibration, self._untrained = resolved, calibration, untrained
        self._prompts = FrozenPrompts(prompts)
        self.batch_tokens = batch_tokens
        if torch_dtype(resolved) != "float32" or resolved["compute.autocast"]:
            self[0].register_forward_hook(hand_on_float32)
            for module in list(self)[1:]:
                module.float()
        self._loaded_weights, self._loaded_files = weights_digest(self), file_stamps(resolved)
        self.loaded_chain = chain_of(self)
        self.eval()

    # Encoding --------------------------------------------------------------------------------------------------------

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | NotStated = NOT_STATED,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | NotStated | None = NOT_STATED,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool | NotStated = NOT_STATED,
        truncate_dim: int | NotStated | None = NOT_STATED,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts; the arguments and results are the host's, and those not given are the preferences'.

        Args:
            inputs: One text, or any ordered iterable of texts: list, tuple, array, Series, column, generator.
            prompt_name: Name of a prompt to put before each text.
            prompt: A prompt to put before each text; wins over `prompt_name`. "" puts none.
            batch_size: Texts of a batch. Left out, batches keep to `compute.batch_tokens` and `compute.max_batch_size`.
            show_progress_bar: Show how far it is.
            output_value: "sentence_embedding", "token_embeddings", or None for everything the model computes.
            precision: "float32", "int8", "uint8", "binary" or "ubinary".
            convert_to_numpy: Return an array of shape (texts, dimensions), float32 unless `precision` says otherwise.
            convert_to_tensor: Return a tensor instead.
            device: Compute on this device, or on a list of devices, one process each; the model is put back afterwards.
            normalize_embeddings: Scale every vector to length 1.
            truncate_dim: Keep the first dimensions only.
            pool: Worker processes from `start_multi_process_pool`.
            chunk_size: Texts sent to a worker at a time.
            **kwargs: Passed to the host: `processing_kwargs`, `task`, and what the model's own modules take.

        Returns:
            An array of shape (texts, dimensions), or one of shape (dimensions,) for one text; a tensor, or a list of
            tensors, where that is asked for. No texts give (0, dimensions), as the host documents; its own is (0,).

        Raises:
            InputError: the inputs are no texts, or `truncate_dim` is no length that a vector can have.
            OverlongTextError: `tokenizer.on_overflow` is "error", and texts are longer than the model reads.
            InvalidPreferenceError: int8 or uint8 is asked for, and there is no calibration.
        """
        arguments = CallArguments(
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            kwargs=kwargs,
        )
        if self._resolved is None:
            stated = {name: value for name, value in vars(arguments).items() if value is not NOT_STATED}
            further = stated.pop("kwargs")
            return super().encode(inputs, **stated, **further)
        return encode(self, inputs, arguments)

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]
    def encode_query(self, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """Embed queries: as `encode`, with the query prompt unless the call names another."""
        return self._encode_role("query", inputs, *arguments, **named)

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]
    def encode_document(self, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """Embed documents: as `encode`, with the document prompt unless the call names another."""
        return self._encode_role("document", inputs, *arguments, **named)

    encode_query.__signature__ = encode_document.__signature__ = inspect.signature(encode)

    def _encode_role(self, role: Role, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if self._resolved is None:
            method = super().encode_query if role == "query" else super().encode_document
            return method(inputs, *arguments, **named)
        names = ("prompt_name", "prompt")
        given = {**dict(zip(names, arguments, strict=False)), **named}
        if given.get("prompt_name") is None and given.get("prompt") is None:
            arguments = (role, *arguments[1:]) if arguments else ()
            named = named if arguments else {**named, "prompt_name": role}
        return self.encode(inputs, *arguments, **{"task": self._resolved["prompts.task"] or role, **named})

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
            chunk_size: Texts embedded at a time, at most; fewer where they are long. Identical texts are recognised,
                and lengths sorted, within a chunk.
            **named: As for `encode`.

        Yields:
            Ids and vectors of one chunk, in order: an array of shape (texts, dimensions). Ids are the texts' positions
            in the stream, or the ids that came with them.

        Raises:
            InputError: as `encode`; positions are those of the stream.
            OverlongTextError: as `encode`.
        """
        return stream(self, texts, role, chunk_size, named)

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
        """
        return embed_spans(self, text, spans, role, prompt, prompt_name)

    # What the call needs ---------------------------------------------------------------------------------------------

    @property
    def reads_only_texts(self) -> bool:
        """True for a model that reads neither images nor audio nor messages."""
        return set(self.modalities) <= {"text"}

    @property
    def chain_normalizes(self) -> bool:
        """True where the last module scales vectors to length 1."""
        return isinstance(self[-1], Normalize)

    @property
    def full_dimension(self) -> int | None:
        """Length of the vectors before truncation; None where no module says it."""
        for module in reversed(list(self)):
            dimension = getattr(module, "get_embedding_dimension", lambda: None)()
            if dimension is not None:
                return int(dimension)
        return None

    @property
    def counts_tokens(self) -> bool:
        """True where lengths are known: a transformer on plain texts with a fast tokenizer."""
        first = self[0]
        if not isinstance(first, Transformer) or "message" in self.modalities:
            return False
        return hasattr(first.tokenizer, "backend_tokenizer")

    @property
    def token_counter(self) -> TokenCounter:
        """Counts tokens of this model's tokenizer as it is now."""
        first = self[0]
        tokenizer = first.tokenizer if isinstance(first, StaticEmbedding) else first.tokenizer.backend_tokenizer
        key = (id(tokenizer), tokenizer.get_vocab_size())
        with self._tokenizing:
            if self._counter is None or self._counter[0] != key:
                self._counter = (key, TokenCounter(tokenizer, add_special_tokens=isinstance(first, Transformer)))
            return self._counter[1]

    def token_limit(self, kwargs: dict[str, Any]) -> float:
        """Return how many tokens of a text are read in a call with these further arguments; infinity for all."""
        if not self.counts_tokens:
            return float("inf")
        first = self[0]
        text = dict((getattr(first, "processing_kwargs", None) or {}).get("text") or {})
        text |= (kwargs.get("processing_kwargs") or {}).get("text") or {}
        if not text.get("truncation", True):
            return float("inf")
        task = kwargs.get("task")
        by_task = getattr(first, f"{task}_length", None) if task in ("query", "document") else None
        limit = text.get("max_length") or by_task or self.max_seq_length
        return float("inf") if limit is None or limit > 1_000_000_000 else float(limit)

    def prompt_of_call(self, prompt: str | None, prompt_name: str | None) -> str | None:
        """Return the prompt that the host would put for these arguments."""
        resolved: str | None = self._resolve_prompt(prompt, prompt_name)
        return resolved

    @contextmanager
    def guarded(self, device: Any, pool: Any) -> Iterator[None]:
        """Run one call beside others, or alone where it moves the model or shares worker processes."""
        elsewhere = device is not None and (isinstance(device, list) or torch.device(device) != self.device)
        alone = elsewhere or pool is not None or self._uses_workers
        threads = self.resolved["compute.threads"]
        if is_forked_from_torch() and self.device.type == "cpu" and threads != 1:
            threads = self.one_thread()
        with self._guard.call(self, alone=alone, threads=threads):
            yield

    def host_encode(self, items: list[Any], *, report: EncodeReport, **arguments: Any) -> Any:
        """Run the host's own `encode`, counting what it reads."""
        outer = getattr(self._local, "report", None)
        self._local.report = report
        try:
            return super().encode(items, **arguments)
        finally:
            self._local.report = outer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the module chain as the host does, with lower precision where `compute.autocast` asks for it."""
        with self._autocast():
            return super().forward(*inputs, **named)

    def _autocast(self) -> AbstractContextManager[Any]:
        # While training, the host's trainer decides.
        if self._resolved is None or self.training or not self._resolved["compute.autocast"]:
            return nullcontext()
        kind = self.device.type
        half = kind == "cuda" and not torch.cuda.is_bf16_supported()
        return torch.autocast(kind, dtype=torch.float16 if half else torch.bfloat16)

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **kwargs: Any) -> Any:
        """Turn inputs into what the model reads: as the host does, one thread at a time, and windows too.

        A tokenizer's padding and truncation are settings of the object, so that two threads would disturb each other.
        """
        if self._resolved is None:
            return super().preprocess(inputs, prompt=prompt, **kwargs)
        with self._tokenizing:
            if inputs and isinstance(inputs[0], TokenWindow):
                features = window_features(self[0], inputs, prompt)
            else:
                features = super().preprocess(inputs, prompt=prompt, **kwargs)
        report = getattr(self._local, "report", None)
        if report is not None:
            count_features(report, features)
        return features

    @staticmethod
    def _input_length(sample: Any) -> int:
        if isinstance(sample, TokenWindow):
            return len(sample)
        length: int = SentenceTransformer._input_length(sample)  # noqa: SLF001 - the host's own, overridden here
        return length

    # Worker processes ------------------------------------------------------------------------------------------------

    @property
    def _uses_workers(self) -> bool:
        return len(self.resolved.devices) > 1 or self.resolved["compute.workers"] > 1

    def worker_pool(self) -> Any:
        """Return this model's own worker processes, started at the first call; None where one process is enough."""
        if not self._uses_workers:
            return None
        if self._pool is None:
            devices = multi_process_arguments(self.resolved, "document")["device"]
            self._pool = self.start_multi_process_pool(devices)
            weakref.finalize(self, SentenceTransformer.stop_multi_process_pool, self._pool)
        return self._pool

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """Start worker processes, as the host does; the model itself stays on its device."""
        device = self.device
        with copies.weights_travel():
            pool: dict[str, Any] = super().start_multi_process_pool(target_devices)
        if self.device != device:
            self.to(device)
        return pool

    def _inference(self, inputs: list[Any], **arguments: Any) -> Any:
        found = vectors_in_worker(self, inputs, arguments) if self._is_worker else None
        return super()._inference(inputs, **arguments) if found is None else found

    @classmethod
    def _multi_process_worker(cls, target_device: str, model: Any, input_queue: Any, results_queue: Any) -> None:
        if model._resolved is not None:  # noqa: SLF001 - the same class
            torch.set_num_threads(model.resolved["compute.threads"])
            model._is_worker = True  # noqa: SLF001
        end_on_sigterm()
        super()._multi_process_worker(target_device, model, input_queue, results_queue)

    # Saving and copying ----------------------------------------------------------------------------------------------

    def save(self, path: str, *arguments: Any, **named: Any) -> None:
        """Save the model: what the host's files can hold goes into them, the rest into `config_embedprefs.json`.

        Prompts, similarity and truncation are the host's own settings; where vectors are normalised and the chain has
        no Normalize module, the saved copy gets one. A plain `SentenceTransformer` that loads the folder computes the
        same vectors (tell it to normalise where `truncate_dim` is set), and `load_model` restores the preferences.
        """
        super().save(path, *arguments, **named)
        if self._resolved is not None and path is not None:
            saving.save_beside(self, path)

    def __getstate__(self) -> dict[str, Any]:
        transient = {"_guard", "_book", "_local", "_tokenizing", "_counter", "_pool", "_is_worker"}
        transient |= {"_identity_cache", "_running"}
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._resolved is not None:
            attention.register_attention(self._resolved["compute.attention"])  # a worker has not loaded the model
        self._start_transient_state()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the preferences instead of the weights while these are as they were loaded, else everything."""
        return copies.reduced(self) or super().__reduce_ex__(protocol)

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        for shared in (self._resolved, self._calibration, self._loaded_weights):
            memo[id(shared)] = shared  # never changed, so that copies share them
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other
