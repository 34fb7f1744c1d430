"""What follows the transformer, in numpy: pooling, dense layers, normalisation, from a model's own files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import MissingExtraError, ModelFilesError

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts, ModuleFacts

__all__ = ["NumpyChain"]

Vectors = NDArray[np.float32]
Step = Callable[[Vectors], Vectors]
#: Weights of a module by their names, float32.
Tensors = Callable[["ModuleFacts"], Mapping[str, Vectors]]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(values: Vectors) -> Vectors:
    scaled: Vectors = (values * 0.5 * (1.0 + _erf(values / math.sqrt(2.0)))).astype(np.float32)
    return scaled


def _sigmoid(values: Vectors) -> Vectors:
    return (1.0 / (1.0 + np.exp(-values.astype(np.float64)))).astype(np.float32)


#: Last name of torch's class -> the same function; with the class's default arguments, as the host constructs it.
_ACTIVATIONS: Mapping[str, Step] = {
    "GELU": _gelu,
    "Identity": lambda values: values,
    "ReLU": lambda values: np.maximum(values, 0),
    "SiLU": lambda values: values * _sigmoid(values),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
}


@dataclass(frozen=True)
class NumpyChain:
    """The modules behind the transformer: token vectors in, vectors out, float32."""

    poolings: tuple[str, ...]
    """The host's names of the poolings, in the order in which they are joined."""
    excludes_prompt: bool = False
    """True where pooling leaves out the tokens of a prompt."""
    steps: tuple[Step, ...] = field(default_factory=tuple)
    """What follows the pooling, in order."""

    @classmethod
    def from_facts(cls, facts: ModelFacts, tensors: Tensors | None = None) -> NumpyChain:
        """Read the chain of a model.

        Args:
            facts: What the model's files say.
            tensors: Gives the weights of a module, float32, by their names; None reads them from the model's files.

        Raises:
            ModelFilesError: a module is not known here, or its weights are absent.
            MissingExtraError: safetensors is not installed, and a module has weights.
        """
        modules = facts.modules
        if not modules:
            return cls((facts.pooling_mode or "mean",))
        kinds = [module.kind for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise ModelFilesError(
                f"{facts.name} has the modules {', '.join(kinds)}; the onnx backend runs those that begin with "
                'Transformer, Pooling.\n  Write compute.backend = "torch".',
                model=facts.name,
            )
        return cls(
            tuple((facts.pooling_mode or "mean").split("+")),
            excludes_prompt=modules[1].config.get("include_prompt") is False,
            steps=tuple(
                step for module in modules[2:] if (step := _step(facts, module, tensors or _read(facts))) is not None
            ),
        )

    def __call__(self, tokens: Vectors, mask: NDArray[np.int64], *, prompt_tokens: int = 0) -> Vectors:
        """Return one vector for each row.

        Args:
            tokens: The last hidden state, shape (texts, length, hidden size), float32.
            mask: 1 for tokens and 0 for the padding on the right, shape (texts, length).
            prompt_tokens: Leading tokens that pooling leaves out, where the model does so.

        Returns:
            Shape (texts, dimension), float32.
        """
        if self.excludes_prompt and prompt_tokens:
            mask = mask.copy()
            mask[:, :prompt_tokens] = 0
        vectors = np.concatenate([_pooled(name, tokens, mask) for name in self.poolings], axis=1)
        for step in self.steps:
            vectors = step(vectors)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _pooled(name: str, tokens: Vectors, mask: NDArray[np.int64]) -> Vectors:
    """Pool as the host does, for rows that are padded on the right."""
    rows = np.arange(len(tokens))
    pooled: Vectors
    if name == "cls":
        pooled = tokens[rows, mask.argmax(axis=1)]
        return pooled
    if name == "lasttoken":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        empty = mask.sum(axis=1) == 0
        return np.where(empty[:, None], np.float32(0), tokens[rows, last])
    if name == "max":
        pooled = np.where(mask[:, :, None] > 0, tokens, -np.inf).max(axis=1).astype(np.float32)
        return pooled
    weights = mask.astype(np.float32)
    if name == "weightedmean":
        weights = weights * np.arange(1, mask.shape[1] + 1, dtype=np.float32)
    total = np.einsum("tlh,tl->th", tokens, weights)
    count = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    pooled = (total / (np.sqrt(count) if name == "mean_sqrt_len_tokens" else count)).astype(np.float32)
    return pooled


def _step(facts: ModelFacts, module: ModuleFacts, weights: Tensors) -> Step | None:
    """Return what a module computes; None for one that computes nothing outside training."""
    config = module.config
    if module.kind == "Dropout":
        return None
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ModelFilesError(
            f"The module {module.kind} in {module.path} of {facts.name} works on {config['module_input_name']}, which "
            'the onnx backend does not.\n  Write compute.backend = "torch".',
            model=facts.name,
        )
    if module.kind == "Normalize":
        return _normalized
    if module.kind == "LayerNorm":
        tensors = weights(module)
        return _LayerNorm(tensors["norm.weight"], tensors["norm.bias"])
    if module.kind == "Dense":
        return _Dense.of(facts, module, weights(module))
    raise ModelFilesError(
        f"{facts.name} has the module {module.kind}, which the onnx backend does not run.\n"
        '  Write compute.backend = "torch".',
        model=facts.name,
    )


def _normalized(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(lengths, 1e-12)
    return scaled


@dataclass(frozen=True)
class _LayerNorm:
    weight: Vectors
    bias: Vectors

    def __call__(self, vectors: Vectors) -> Vectors:
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        # torch's LayerNorm divides by the root of the biased variance plus 1e-5.
        spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
        normed: Vectors = centred / spread * self.weight + self.bias
        return normed


@dataclass(frozen=True)
class _Dense:
    weight: Vectors
    bias: Vectors | None
    activation: Step
    residual: Callable[[Vectors], Vectors] | None

    @classmethod
    def of(cls, facts: ModelFacts, module: ModuleFacts, tensors: Mapping[str, Vectors]) -> _Dense:
        stated = str(module.config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        activation = _ACTIVATIONS.get(stated.rpartition(".")[2])
        if activation is None or not stated.startswith("torch.nn."):
            raise ModelFilesError(
                f"The Dense module of {facts.name} has the activation {stated}, which the onnx backend does not run "
                f'(it runs {", ".join(_ACTIVATIONS)}).\n  Write compute.backend = "torch".',
                model=facts.name,
            )
        residual: Callable[[Vectors], Vectors] | None = None
        if module.config.get("use_residual"):
            shortcut = tensors.get("residual.weight")
            residual = (lambda values: values) if shortcut is None else (lambda values: values @ shortcut.T)
        return cls(tensors["linear.weight"], tensors.get("linear.bias"), activation, residual)

    def __call__(self, vectors: Vectors) -> Vectors:
        linear = vectors @ self.weight.T
        computed = self.activation(linear if self.bias is None else linear + self.bias)
        return computed if self.residual is None else computed + self.residual(vectors)


def _read(facts: ModelFacts) -> Tensors:
    """Return what reads the weights of a model's modules from its files."""
    return lambda module: _tensors(facts, module)


def _tensors(facts: ModelFacts, module: ModuleFacts) -> dict[str, Any]:
    folder = facts.folder
    file = folder / module.path / "model.safetensors" if folder is not None else None
    if file is None or not file.is_file():
        raise ModelFilesError(
            f"The weights of {module.kind} in {module.path} of {facts.name} are not there as model.safetensors.\n"
            '  Write compute.backend = "torch".',
            model=facts.name,
            file=file,
        )
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", extra="onnx", needed_for='compute.backend = "onnx"') from error
    return {name: np.asarray(value, dtype=np.float32) for name, value in load_file(file).items()}
