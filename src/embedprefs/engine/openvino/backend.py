"""Running a converted model with OpenVINO. Neither torch nor transformers is imported here."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.backend import Finish
from embedprefs.engine.batching import padded, plan_batches
from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.openvino.compiled import compiled_in
from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.products import separate_activations
from embedprefs.engine.openvino.requests import Compiled, Pending
from embedprefs.engine.openvino.telemetry import import_openvino
from embedprefs.errors import ModelFilesError, ResourceError
from embedprefs.hardware.processor import bfloat16_pays_here

__all__ = ["OpenVINOBackend", "native_bfloat16"]

logger = logging.getLogger("embedprefs.engine")

Numerics = Literal["float32", "bfloat16", "int8"]

#: Threads of one stream. A transformer's matrices keep this many busy; more of them compute side by side instead.
_THREADS_OF_A_STREAM = 4
#: A model whose weights take at most so many bytes computes in one stream for each thread, up to four: its operations
#: are too short to be divided. all-MiniLM-L6-v2 in bfloat16 on two Zen 4 cores gains a tenth. Larger ones do not: a
#: single text needs the model compiled for all threads, so that it would stand in memory twice.
_SMALL_MODEL = 256 * 1024**2
_STREAMS_AT_LEAST = 4
#: Rows that are worth a stream of their own, and tokens of a batch that is divided at all.
_ROWS_OF_A_STREAM = 2
_TOKENS_OF_SEVERAL_STREAMS = 512
#: Tokens, padding included, below which a batch takes all threads together; and batches that each stream should have,
#: if the texts suffice for that, so that none waits long for the last one.
_TOKENS_OF_A_STREAM = 256
_BATCHES_OF_A_STREAM = 4
#: What stands where there is no token: the graph puts the model's own number there.
_PADDING = 0
#: What forked processes were born with, kept until they end.
_inherited: list[Any] = []


def native_bfloat16() -> bool:
    """Say whether OpenVINO computes in bfloat16 on this processor; elsewhere it would quietly compute in float32.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class OpenVINOBackend:
    """A converted model, computing vectors on the processor; safe to be called from several threads.

    Batches are computed side by side in as many streams as the threads allow, each stream taking the next one as soon
    as it is done; a single text has all threads to itself. The number format is always set: left alone, OpenVINO takes
    bfloat16 wherever the processor has it.

    Attributes:
        name: "openvino".
        groups_ahead: Groups of texts to tokenise while one is computed.
        finishes: Whether it cuts and scales vectors itself; it does not.
        numerics: "float32", "bfloat16" or "int8".
        dimension: Length of the vectors.
        description: What stands beside the converted model.
    """

    name = "openvino"
    groups_ahead = 1
    finishes = False

    def __init__(
        self,
        folder: Path,
        *,
        numerics: Numerics = "float32",
        threads: int | None = None,
        streams: int | None = None,
        compiled_cache: Path | None = None,
    ) -> None:
        """Read and compile a converted model.

        Args:
            folder: What `convert` or `quantise` wrote.
            numerics: Number format to compute in. "int8" needs a quantised model, whose other operations run in
                bfloat16 where that is faster than float32.
            threads: Threads to compute with, as `compute.threads` says; None for those this process may use.
            streams: Batches computed side by side; None for one for every four threads, and up to four for a small
                model.
            compiled_cache: Folder that keeps the compiled form, from which the next start is faster and which processes
                share; None compiles anew. Whoever can write there can make this program run what they like.

        Raises:
            MissingExtraError: openvino is not installed.
            ModelFilesError: the folder holds no converted model, or a damaged one.
            ResourceError: the processor does not compute in the asked format.
            ValueError: threads or streams are below 1, or the numerics do not fit the model.
        """
        self.description = Description.read(folder)
        self.numerics: Numerics = numerics
        self.dimension = self.description.dimension
        self._folder = folder
        self._compiled_cache = compiled_cache
        self._set_up_threads(threads, streams)
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._core = import_openvino().Core()
        self._precision = self._precision_of(self.numerics)
        #: (output, streams) -> the compiled model.
        self._compiled: dict[tuple[str, int], Compiled] = {}
        self._closed = False
        self._process = os.getpid()
        # What a single text needs; what a batch needs is compiled with the first one.
        self._take("sentence_embedding", 1)

    def _set_up_threads(self, threads: int | None, streams: int | None) -> None:
        if threads is None:
            from embedprefs.hardware.control_groups import control_group_limits
            from embedprefs.hardware.processor import processors_allowed

            threads = processors_allowed(control_group_limits().processors)
        if threads < 1 or (streams is not None and streams < 1):
            raise ValueError(f"threads and streams are at least 1; found {threads} and {streams}.")
        self._threads = threads
        self._streams = min(threads, streams or self._several_streams())
        self._divided_from = 0 if streams else _TOKENS_OF_SEVERAL_STREAMS

    def _several_streams(self) -> int:
        """Return how many batches are computed side by side where nobody says it."""
        weights = (self._folder / Description.MODEL_FILE).with_suffix(".bin")
        is_small = weights.is_file() and weights.stat().st_size <= _SMALL_MODEL
        return max(_STREAMS_AT_LEAST if is_small else 1, self._threads // _THREADS_OF_A_STREAM)

    def _precision_of(self, numerics: Numerics) -> str:
        """Return OpenVINO's word for the format of what is not quantised."""
        if (numerics == "int8") != (self.description.weights == "int8"):
            raise ValueError(f"The model in {self._folder} has {self.description.weights} weights, not {numerics}.")
        native = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if numerics == "bfloat16" and not native:
            raise ResourceError(
                "This processor does not compute in bfloat16, and OpenVINO would quietly compute in float32.\n"
                '  Write compute.dtype = "float32", or "auto".'
            )
        if numerics == "int8":
            return "bf16" if native and bfloat16_pays_here() else "f32"
        return "bf16" if numerics == "bfloat16" else "f32"

    def _compile(self, output: str, streams: int) -> Compiled:
        file = self._folder / Description.MODEL_FILE
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self._threads),
            # Pinned, every process of a machine would take the same first processors.
            "ENABLE_CPU_PINNING": False,
            # Only a model that was quantised on purpose computes in int8.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        try:
            model = self._core.read_model(file)
            for result in list(model.get_results()):
                if output not in result.input_value(0).get_names():
                    model.remove_result(result)
            if self._precision == "f32" and self.description.weights == "full":
                separate_activations(model)
            compiled = compiled_in(self._compiled_cache, self._core, model, settings, output)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError(f"Memory does not suffice for the model in {self._folder}.") from error
            raise ModelFilesError(
                f"OpenVINO cannot run the model in {self._folder}: {str(error).strip().splitlines()[-1]}\n"
                "  Remove this folder, so that the model is converted again.",
                file=file,
            ) from error
        return Compiled(compiled, output)

    # Computing -------------------------------------------------------------------------------------------------------

    def vectors(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> NDArray[np.float32]:
        """Return one vector for each row.

        Args:
            ids: Token ids, shape (texts, length), padded on the right.
            mask: 1 for tokens and 0 for padding, same shape.
            prompt_tokens: Leading tokens that pooling leaves out, where the model does so.

        Returns:
            Shape (texts, dimension), float32; the caller's own.

        Raises:
            ResourceError: the backend is closed.
            RuntimeError: OpenVINO's own, where memory runs out or ids and mask do not fit together.
        """
        if len(ids) == 0:
            return np.empty((0, self.dimension), dtype=np.float32)
        # One text alone, or a few short ones, get every thread.
        is_divided = len(ids) >= _ROWS_OF_A_STREAM and ids.size >= self._divided_from
        streams = self._streams if is_divided else 1
        return self._run("sentence_embedding", streams, self._inputs(ids, mask, prompt_tokens), (self.dimension,))

    @property
    def in_flight(self) -> int:
        """Batches that may be under way at a time: with several streams, one more for each than it computes."""
        return 2 * self._streams if self._streams > 1 else 1

    def plan(
        self, lengths: NDArray[np.int64], *, batch_tokens: int | None, max_batch_size: int
    ) -> list[NDArray[np.intp]]:
        """Divide texts into batches, as `plan_batches` does; into smaller ones where some streams would have none."""
        if self._streams > 1:
            if batch_tokens is None:
                max_batch_size = min(max_batch_size, max(_ROWS_OF_A_STREAM, -(-len(lengths) // self._streams)))
            else:
                share = -(-int(lengths.sum()) // (self._streams * _BATCHES_OF_A_STREAM))
                batch_tokens = min(batch_tokens, max(share, _TOKENS_OF_A_STREAM))
        return plan_batches(lengths, batch_tokens=batch_tokens, max_batch_size=max_batch_size)

    def submit(
        self, rows: Sequence[NDArray[np.int32]], *, prompt_tokens: int = 0, finish: Finish | None = None
    ) -> _Submitted:
        """Begin to compute a batch, as `Overlapping.submit` says.

        Args:
            rows: Token ids of each text.
            prompt_tokens: As for `vectors`.
            finish: None: vectors are given whole.

        Raises:
            ResourceError: the backend is closed.
            ValueError: vectors are to be finished.
        """
        if finish is not None:
            raise ValueError("The OpenVINO backend gives whole vectors; cut and scale them afterwards.")
        ids, mask = padded(rows, _PADDING)
        padding = ids.size - int(mask.sum())
        result = np.empty((len(rows), self.dimension), dtype=np.float32)
        if not result.size:
            return _Submitted(None, result, padding, lambda: None)
        streams = self._streams if ids.size >= _TOKENS_OF_A_STREAM else 1
        compiled = self._take("sentence_embedding", streams)
        try:
            pending = compiled.begin(self._inputs(ids, mask, prompt_tokens), result)
        except RuntimeError:
            self._give_up(compiled)
            raise
        return _Submitted(pending, result, padding, functools.partial(self._give_up, compiled))

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the last hidden state.

        Args:
            ids: Token ids, shape (texts, length), padded on the right.
            mask: 1 for tokens and 0 for padding, same shape.

        Returns:
            Shape (texts, length, hidden size), float32; the caller's own. Rows of padding hold no meaning.

        Raises:
            ResourceError: the backend is closed.
        """
        shape = (ids.shape[1], self.description.hidden_size)
        if len(ids) == 0:
            return np.empty((0, *shape), dtype=np.float32)
        inputs = {name: value for name, value in self._inputs(ids, mask, 0).items() if name != "pooling_mask"}
        return self._run("token_embeddings", 1, inputs, shape)

    def close(self) -> None:
        """Give the compiled models' memory back; the backend computes nothing afterwards."""
        with self._lock:
            self._closed = True
            self._compiled.clear()

    def _take(self, output: str, streams: int) -> Compiled:
        """Return the compiled model for an output, compiled now where it is not yet, or no longer."""
        if not self._closed and self._process != os.getpid():
            # OpenVINO's threads, and whoever held the lock, stayed behind in the process that was forked. What was
            # inherited cannot even be given back: that would wait for those threads.
            _inherited.append((self._core, self._compiled))
            self._open()
        with self._lock:
            if self._closed:
                raise ResourceError("The OpenVINO backend is closed. Load the model again.")
            if (output, streams) not in self._compiled:
                self._compiled[output, streams] = self._compile(output, streams)
            return self._compiled[output, streams]

    def _give_up(self, compiled: Compiled) -> None:
        """Let a compiled model go after an error.

        It keeps the sizes at which it failed, and where memory ran out it asks for them again with every later batch,
        however small. The next call compiles anew.
        """
        with self._lock:
            self._compiled = {key: other for key, other in self._compiled.items() if other is not compiled}

    def _inputs(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], prompt_tokens: int
    ) -> dict[str, NDArray[np.int64]]:
        ids, mask = np.ascontiguousarray(ids, dtype=np.int64), np.ascontiguousarray(mask, dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.description.excludes_prompt:
            pooling = mask.copy()
            pooling[:, :prompt_tokens] = 0
            inputs["pooling_mask"] = pooling
        return inputs

    def _run(
        self, output: str, streams: int, inputs: dict[str, NDArray[np.int64]], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Compute a batch, divided among the streams."""
        rows = len(inputs["input_ids"])
        compiled = self._take(output, streams)
        result = np.empty((rows, *shape), dtype=np.float32)
        count = min(compiled.streams, rows // _ROWS_OF_A_STREAM)
        try:
            if count <= 1:
                compiled.computed(inputs, result)
            else:
                edges = [rows * number // count for number in range(count + 1)]
                _side_by_side(compiled, inputs, result, [slice(*pair) for pair in itertools.pairwise(edges)])
        except RuntimeError:
            self._give_up(compiled)
            raise
        return result


def _side_by_side(
    compiled: Compiled, inputs: dict[str, NDArray[np.int64]], result: NDArray[np.float32], parts: list[slice]
) -> None:
    """Compute parts of a batch; all are waited for even where one fails, so that no request is lent again at work."""
    errors: list[RuntimeError] = []
    begun: list[Pending] = []
    for part in parts:
        try:
            begun.append(compiled.begin({name: value[part] for name, value in inputs.items()}, result[part]))
        except RuntimeError as error:
            errors.append(error)
    for pending in begun:
        try:
            pending.wait()
        except RuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@dataclass(eq=False)
class _Submitted:
    """A batch under way; None is pending where there was no text."""

    pending: Pending | None
    vectors: NDArray[np.float32]
    padding: int
    failed: Callable[[], None]
    clipped: int = 0

    def result(self) -> NDArray[np.float32]:
        """Wait for the vectors, and return them: shape (texts, dimension)."""
        if self.pending is not None:
            try:
                self.pending.wait()
            except RuntimeError:
                self.failed()
                raise
        return self.vectors
