"""A compiled model and its requests: what is begun, what is under way, and what OpenVINO lost on the way."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.openvino.telemetry import import_openvino

__all__ = ["Compiled", "Pending"]

#: Bits of a number that no computation gives: what stands where OpenVINO has not written. As a float it is NaN.
_NOT_WRITTEN = 0x7FC0_51DE


class Compiled:
    """A compiled model with one output; its streams share what is begun."""

    def __init__(self, model: Any, output: str) -> None:
        """Take a compiled model.

        Args:
            model: OpenVINO's compiled model.
            output: Name of its output.
        """
        self.model = model
        self.streams = max(1, int(model.get_property("NUM_STREAMS")))
        self.threads = int(model.get_property("INFERENCE_NUM_THREADS"))
        self._output = model.output(output)
        self._tensor = functools.partial(import_openvino().Tensor, shared_memory=True)
        #: Requests at rest. There are as many as were ever under way at a time: callers who each hold some and wait
        #: for more would wait for one another.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()

    def computed(self, inputs: Mapping[str, NDArray[np.int64]], result: NDArray[np.float32]) -> None:
        """Compute a batch, and return when it is done.

        Args:
            inputs: Arrays by the names of the model's inputs, one row for each text.
            result: Where the output is written: one row for each text, float32, contiguous.

        Raises:
            RuntimeError: OpenVINO's own.
        """
        if self.threads > 1:
            request = self._take(result)
            try:
                request.infer(inputs, share_inputs=True, share_outputs=True)
                _check_written(result)
            finally:
                self._free.put(request)
            return
        # With a single thread OpenVINO 2026.4 loses the errors of `infer`: where memory runs out it returns, its own
        # output tensor still holds an earlier batch, and the next call ends the process. `start_async` raises them.
        self.begin(inputs, result).wait()

    def begin(self, inputs: Mapping[str, NDArray[np.int64]], result: NDArray[np.float32]) -> Pending:
        """Begin to compute a batch on the next stream that has nothing to do; arguments are those of `computed`."""
        request = self._take(result)
        try:
            request.start_async(inputs, share_inputs=True)
        except BaseException:
            self._free.put(request)
            raise
        return Pending(request, inputs, result, self._free.put)

    def _take(self, result: NDArray[np.float32]) -> Any:
        """Return a request at rest that will write there."""
        try:
            request = self._free.get_nowait()
        except queue.Empty:
            request = self.model.create_infer_request()
        result.view(np.uint32)[:] = _NOT_WRITTEN
        request.set_tensor(self._output, self._tensor(result))
        return request


class Pending:
    """A batch under way. It holds on to the arrays that OpenVINO reads and writes."""

    def __init__(
        self,
        request: Any,
        inputs: Mapping[str, NDArray[np.int64]],
        result: NDArray[np.float32],
        give_back: Callable[[Any], None],
    ) -> None:
        self._request = request
        self._inputs = inputs
        self._result = result
        self._give_back = give_back

    def wait(self) -> NDArray[np.float32]:
        """Wait until the batch is computed, and return where it was written; to be called once.

        Raises:
            RuntimeError: OpenVINO's own, or memory ran out and it said nothing.
        """
        try:
            self._request.wait()
        finally:
            self._give_back(self._request)
        _check_written(self._result)
        return self._result


def _check_written(result: NDArray[np.float32]) -> None:
    """Raise where a computation ended without having written its result.

    The result is handed over and looked at afterwards because OpenVINO may end without an error when memory runs out.
    """
    written = result.view(np.uint32).reshape(len(result), -1)
    if (written[:, 0] == _NOT_WRITTEN).any() or (written[:, -1] == _NOT_WRITTEN).any():
        raise RuntimeError(f"OpenVINO failed to allocate memory for {len(result)} texts and said nothing.")
