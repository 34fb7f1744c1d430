"""Running an ONNX file that was published with a model, with ONNX Runtime itself."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.numpy_chain import NumpyChain
from embedprefs.errors import MissingExtraError, ModelFilesError, ResourceError, UnavailableError

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["OnnxBackend", "published_file"]

#: Where the hosts that export models put them, the likeliest first.
_USUAL_FILES = ("onnx/model.onnx", "model.onnx")
#: What exports call the last hidden state; `sentence_embedding` beside it is left alone, for not every export pools as
#: the model does today.
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
#: Operators of a quantised graph, as they stand in the file.
_INT8_OPERATORS = (b"DynamicQuantizeLinear", b"MatMulInteger", b"QLinearMatMul", b"DequantizeLinear")
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
#: What forked processes were born with, kept until they end.
_inherited: list[Any] = []


def published_file(facts: ModelFacts, stated: str | None = None) -> Path:
    """Return the ONNX file of a model.

    Args:
        facts: What the model's files say.
        stated: `model.onnx_file`; None takes `onnx/model.onnx`, or the only one there is.

    Raises:
        ModelFilesError: there is none, or there are several and none is stated.
        UnavailableError: it is published, and not on this machine.
    """
    files = facts.onnx_files
    usual = next((file for file in _USUAL_FILES if file in files), None)
    chosen = stated or usual or (files[0] if len(files) == 1 else None)
    if chosen is None or chosen not in files:
        found = ", ".join(files) or "none"
        what = f"model.onnx_file is {stated}" if stated else "model.onnx_file is not stated"
        raise ModelFilesError(
            f"{what}, and {facts.name} has the ONNX files: {found}.\n"
            + ("  Name one of them." if files else '  Write compute.backend = "auto".'),
            model=facts.name,
        )
    path = facts.folder / chosen if facts.folder is not None else None
    if path is None or not path.is_file():
        raise UnavailableError(
            f"{chosen} of {facts.name} is not on this machine.\n  Download it with `hf download {facts.name} {chosen}`."
        )
    return path


class OnnxBackend:
    """A published ONNX file and the model's own pooling behind it; safe to be called from several threads.

    Attributes:
        name: "onnx".
        numerics: "float32", "float16" or "int8", as the file is.
        dimension: Length of the vectors.
        file: The file that runs.
    """

    name = "onnx"

    def __init__(
        self, facts: ModelFacts, *, file: str | None = None, threads: int | None = None, device: str = "cpu"
    ) -> None:
        """Open a model's ONNX file.

        Args:
            facts: What the model's files say.
            file: `model.onnx_file`; None takes the usual one.
            threads: Threads to compute with; None for those this process may use.
            device: cpu, cuda or cuda:N. The provider is stated; ONNX Runtime would quietly take another one.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelFilesError: the file is absent, damaged, or asks for inputs that texts do not give.
            ResourceError: this build of onnxruntime cannot use the device.
            UnavailableError: the file is not on this machine.
        """
        self.file = published_file(facts, file)
        self._chain = NumpyChain.from_facts(facts)
        self._device = device
        if threads is None:
            from embedprefs.hardware.control_groups import control_group_limits
            from embedprefs.hardware.processor import processors_allowed

            threads = processors_allowed(control_group_limits().processors)
        self._threads = threads
        self._open()
        self._tokens = self._token_output()
        self.numerics: Literal["float32", "float16", "int8"] = _numerics_of(self.file, self._tokens.type, facts)
        if facts.embedding_dimension is None:
            raise ModelFilesError(f"The files of {facts.name} do not say how long its vectors are.", model=facts.name)
        self.dimension = facts.embedding_dimension

    def _open(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", extra="onnx", needed_for='compute.backend = "onnx"') from error
        onnxruntime.disable_telemetry_events()
        provider, options = _provider(self._device)
        if provider not in onnxruntime.get_available_providers():
            raise ResourceError(
                f"compute.device is {self._device}, and the installed onnxruntime {onnxruntime.__version__} has no "
                f'{provider}.\n  Install onnxruntime-gpu in its place, or write compute.device = "cpu".'
            )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors; those are raised as well
        try:
            session = onnxruntime.InferenceSession(str(self.file), settings, providers=[(provider, options)])
        except Exception as error:  # its errors have no common class
            raise ModelFilesError(
                f"ONNX Runtime cannot run {self.file}: {str(error).strip().splitlines()[0]}", file=self.file
            ) from error
        if session.get_providers()[0] != provider:
            raise ResourceError(
                f"compute.device is {self._device}, and ONNX Runtime could not start {provider}: "
                f'it would run on {session.get_providers()[0]}.\n  Write compute.device = "cpu", or repair CUDA.'
            )
        self._inputs = {place.name: place.type for place in session.get_inputs()}
        unknown = sorted(set(self._inputs) - _INPUTS)
        if unknown or not {"input_ids", "attention_mask"} <= set(self._inputs):
            raise ModelFilesError(
                f"{self.file} asks for the inputs {', '.join(self._inputs)}; the onnx backend gives "
                f"{', '.join(sorted(_INPUTS))}.",
                file=self.file,
            )
        self._session: Any = session
        self._process = os.getpid()

    def _token_output(self) -> Any:
        outputs = {place.name: place for place in self._session.get_outputs()}
        for name in _TOKEN_OUTPUTS:
            if name in outputs:
                return outputs[name]
        raise ModelFilesError(
            f"{self.file} gives {', '.join(outputs)}, and none of {', '.join(_TOKEN_OUTPUTS)}.", file=self.file
        )

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
        """
        if len(ids) == 0:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._chain(self.token_vectors(ids, mask), mask, prompt_tokens=prompt_tokens)

    def token_vectors(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the last hidden state.

        Args:
            ids: Token ids, shape (texts, length), padded on the right.
            mask: 1 for tokens and 0 for padding, same shape.

        Returns:
            Shape (texts, length, hidden size), float32; the caller's own.

        Raises:
            ResourceError: the backend is closed.
        """
        if self._session is not None and self._process != os.getpid():
            # ONNX Runtime's threads stayed behind in the process that was forked.
            _inherited.append(self._session)
            self._open()
        session = self._session
        if session is None:
            raise ResourceError("The ONNX backend is closed. Load the model again.")
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: values[name].astype(_INTEGERS[kind], copy=False) for name, kind in self._inputs.items()}
        tokens = session.run([self._tokens.name], feed)[0]
        return np.asarray(tokens, dtype=np.float32)

    def close(self) -> None:
        """Give the memory back; the backend computes nothing afterwards."""
        self._session = None


def _provider(device: str) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return "CUDAExecutionProvider", {"device_id": number or "0"}
    if kind == "cpu":
        return "CPUExecutionProvider", {}
    raise ResourceError(
        f'compute.device is {device}, and the onnx backend runs on cpu and cuda.\n  Write compute.device = "cpu".'
    )


def _numerics_of(file: Path, output_type: str, facts: ModelFacts) -> Literal["float32", "float16", "int8"]:
    """Say which numbers a file holds: by its operators, by its outputs, and by its size."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if any(content.find(operator) >= 0 for operator in _INT8_OPERATORS):
            return "int8"
    if output_type == "tensor(float16)":
        return "float16"
    # Exports in half precision may still take and give float32. Weights that do not fit into the file lie beside it.
    beside = (file.with_name(file.name + ending) for ending in ("_data", ".data"))
    size = file.stat().st_size + sum(path.stat().st_size for path in beside if path.is_file())
    halved = facts.parameter_count and size < 0.75 * 4 * facts.parameter_count
    return "float16" if halved else "float32"
