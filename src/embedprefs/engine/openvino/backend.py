"""Running a converted model with OpenVINO. Neither torch nor transformers is imported here."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.memory import is_out_of_memory
from embedprefs.engine.openvino.compiled import compiled_in
from embedprefs.engine.openvino.description import Description
from embedprefs.engine.openvino.telemetry import import_openvino
from embedprefs.errors import ModelFilesError, ResourceError

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
#: Bits of a number that no computation gives: what stands where OpenVINO has not written. As a float it is NaN.
_NOT_WRITTEN = 0x7FC0_51DE
#: What forked processes were born with, kept until they end.
_inherited: list[Any] = []


def native_bfloat16() -> bool:
    """Say whether OpenVINO computes in bfloat16 on this processor; elsewhere it would quietly compute in float32.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class _Compiled:
    """A compiled model and its requests: as many as it has streams, each used by one caller at a time."""

    def __init__(self, model: Any, output: str) -> None:
        self.model = model
        self.streams = max(1, int(model.get_property("NUM_STREAMS")))
        self.threads = int(model.get_property("INFERENCE_NUM_THREADS"))
        self.output = model.output(output)
        self.tensor = functools.partial(import_openvino().Tensor, shared_memory=True)
        self._requests: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(self.streams):
            self._requests.put(model.create_infer_request())

    @contextlib.contextmanager
    def requests(self, count: int) -> Iterator[list[Any]]:
        """Lend requests, at least one and at most `count`; wait for one where all are lent."""
        lent = [self._requests.get()]
        try:
            with contextlib.suppress(queue.Empty):
                while len(lent) < count:
                    lent.append(self._requests.get_nowait())
            yield lent
        finally:
            for request in lent:
                self._requests.put(request)


class OpenVINOBackend:
    """A converted model, computing vectors on the processor; safe to be called from several threads.

    Batches are divided among as many streams as the threads allow; a single text has all threads to itself. The number
    format is always set: left alone, OpenVINO takes bfloat16 wherever the processor has it.

    Attributes:
        name: "openvino".
        numerics: "float32", "bfloat16" or "int8".
        dimension: Length of the vectors.
        description: What stands beside the converted model.
    """

    name = "openvino"

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
                bfloat16 where that is native.
            threads: Threads to compute with, as `compute.threads` says; None for those this process may use.
            streams: Parts of a batch computed side by side; None for one for every four threads, and up to four for a
                small model.
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
        self._compiled: dict[tuple[str, int], _Compiled] = {}
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
        return "bf16" if native and numerics != "float32" else "f32"

    def _compile(self, output: str, streams: int) -> _Compiled:
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
            compiled = compiled_in(self._compiled_cache, self._core, model, settings, output)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError(f"Memory does not suffice for the model in {self._folder}.") from error
            raise ModelFilesError(
                f"OpenVINO cannot run the model in {self._folder}: {str(error).strip().splitlines()[-1]}\n"
                "  Remove this folder, so that the model is converted again.",
                file=file,
            ) from error
        return _Compiled(compiled, output)

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

    def _take(self, output: str, streams: int) -> _Compiled:
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

    def _give_up(self, compiled: _Compiled) -> None:
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
        compiled = self._take(output, streams)
        try:
            return _computed(compiled, inputs, shape)
        except RuntimeError:
            self._give_up(compiled)
            raise


def _computed(compiled: _Compiled, inputs: dict[str, NDArray[np.int64]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the output for every row; a batch is divided among the streams that are free.

    With a single thread OpenVINO 2026.4 loses the errors of `infer`: where memory runs out it returns, its own output
    tensor still holds an earlier batch, and the next call ends the process. `start_async` raises them. That the result
    is handed over and looked at afterwards is for whatever else may end without having written it.
    """
    rows = len(inputs["input_ids"])
    result = np.full((rows, *shape), _NOT_WRITTEN, dtype=np.uint32).view(np.float32)
    with compiled.requests(min(compiled.streams, rows // _ROWS_OF_A_STREAM)) as requests:
        edges = [rows * number // len(requests) for number in range(len(requests) + 1)]
        parts = [slice(*pair) for pair in itertools.pairwise(edges)]
        for request, part in zip(requests, parts, strict=True):
            request.set_tensor(compiled.output, compiled.tensor(result[part]))
        if len(requests) == 1 and compiled.threads > 1:
            requests[0].infer(inputs, share_inputs=True, share_outputs=True)
        else:
            _wait_for_all(requests, [{name: value[part] for name, value in inputs.items()} for part in parts])
    written = result.view(np.uint32).reshape(rows, -1)
    if (written[:, 0] == _NOT_WRITTEN).any() or (written[:, -1] == _NOT_WRITTEN).any():
        raise RuntimeError(f"OpenVINO failed to allocate memory for {rows} texts and said nothing.")
    return result


def _wait_for_all(requests: list[Any], inputs: list[dict[str, NDArray[np.int64]]]) -> None:
    """Run requests side by side. All are waited for even where one fails, so that none is lent again at work."""
    errors: list[RuntimeError] = []
    for request, values in zip(requests, inputs, strict=True):
        request.start_async(values, share_inputs=False)
    for request in requests:
        try:
            request.wait()
        except RuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]
