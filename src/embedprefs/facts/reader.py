"""Reading everything a model's files say, without its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.errors import ModelFilesError, UnavailableError
from embedprefs.facts.architectures import (
    absolute_positions,
    architecture_of,
    max_position_embeddings,
    position_limit,
)
from embedprefs.facts.architectures import (
    hidden_size as width_of,
)
from embedprefs.facts.checkpoint import Checkpoint, read_checkpoint, tensor_bytes
from embedprefs.facts.locate import locate
from embedprefs.facts.model_card import base_models, card_name, read_card
from embedprefs.facts.model_facts import ModelFacts, ModuleFacts, TensorFacts, TokenizerFacts
from embedprefs.facts.module_chain import (
    chain_dimension,
    default_pooling,
    is_host_module,
    pooling_modes,
    read_modules,
    route_modules,
)
from embedprefs.facts.sources import ModelSource, SourceReader
from embedprefs.facts.tokenizer_files import read_tokenizer

if TYPE_CHECKING:
    from embedprefs.preferences import Preferences

__all__ = ["facts_for", "read_facts"]

#: Header's dtype -> torch's name, for the dtypes a model can run in.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WITH_WEIGHTS = (
    "Transformer",
    "MLMTransformer",
    "Dense",
    "LayerNorm",
    "CNN",
    "LSTM",
    "WeightedLayerPooling",
    "StaticEmbedding",
    "WordEmbeddings",
)


def read_facts(
    name: str,
    *,
    revision: str | None = None,
    cache_folder: str | Path | None = None,
    local_files_only: bool = False,
    base: Path | None = None,
) -> ModelFacts:
    """Read what a model's files say; no weights, no torch, no transformers.

    Damaged files are described in `problems` and everything else is still read.

    Args:
        name: Folder, or name on the hub. It is a folder where one exists, or where it is written as a path.
        revision: Commit, branch or tag on the hub; without meaning for a folder.
        cache_folder: Another cache than the hub's own.
        local_files_only: Never ask the hub.
        base: Folder that a relative folder is relative to; None for the current one.

    Raises:
        ModelFilesError: The folder does not exist or is no model.
        UnavailableError: The model is not here and the hub cannot be asked, or does not have it.
    """
    return _read(name, revision, cache_folder, local_files_only, base, ())


def _read(
    name: str,
    revision: str | None,
    cache_folder: str | Path | None,
    local_files_only: bool,
    base: Path | None,
    adapters: tuple[str, ...],
) -> ModelFacts:
    """Read a model; `adapters` are those whose base it is, so that a circle of adapters ends."""
    source = locate(name, revision=revision, cache_folder=cache_folder, local_files_only=local_files_only, base=base)

    def read_base(base_name: str) -> ModelFacts:
        if base_name in (*adapters, name):
            raise ModelFilesError(f"it leads back to the adapter {base_name!r}. Name a model that is no adapter.")
        # The host looks for the base from the current folder, wherever the adapter lies.
        return _read(base_name, None, cache_folder, local_files_only, None, (*adapters, name))

    return _describe(name, source, read_base)


def facts_for(preferences: Preferences) -> ModelFacts:
    """Read the facts of the model that preferences name, with those of its adapter.

    A relative folder is relative to the preferences file's folder.

    Raises:
        ModelFilesError: The folder does not exist or is no model, or the adapter is none.
        UnavailableError: The model or the adapter is not here and the hub cannot be asked, or does not have it.
    """
    model = preferences.model
    cache_folder = preferences.folder / Path(model.cache_folder).expanduser() if model.cache_folder else None
    facts = read_facts(
        model.name,
        revision=model.revision,
        cache_folder=cache_folder,
        local_files_only=model.local_files_only,
        base=preferences.folder,
    )
    if model.adapter is None:
        return facts
    adapter = read_facts(
        model.adapter.name,
        revision=model.adapter.revision,
        cache_folder=cache_folder,
        local_files_only=model.local_files_only,
        base=preferences.folder,
    )
    if not adapter.adapter_config:
        raise ModelFilesError(
            f"model.adapter.name is {model.adapter.name!r}, which is no PEFT adapter: it has no usable "
            "adapter_config.json. Name the adapter's folder, or load the model itself as model.name.",
            model=model.adapter.name,
            file=adapter.folder,
        )
    return replace(facts, adapter=adapter)


def _prompts(config: Mapping[str, Any], reader: SourceReader) -> dict[str, str]:
    """Return the prompts that a model's file states; "" and null are placeholders there."""
    stated = config.get("prompts") or {}
    if not isinstance(stated, dict):
        reader.note(
            'config_sentence_transformers.json: "prompts" is no object. Restore the file from the model\'s source.'
        )
        return {}
    wrong = [name for name, prompt in stated.items() if prompt is not None and not isinstance(prompt, str)]
    if wrong:
        reader.note(f"config_sentence_transformers.json: the prompt {wrong[0]!r} is no text. Restore or correct it.")
    return {name: prompt for name, prompt in stated.items() if isinstance(prompt, str) and prompt}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _config_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that config.json states; today's `dtype` wins over the older `torch_dtype`."""
    for source in (config, config.get("text_config")):
        if isinstance(source, Mapping):
            stated = source.get("dtype") or source.get("torch_dtype")
            if isinstance(stated, str):
                return stated.removeprefix("torch.")
    return None


def _processor_limit(settings: Mapping[str, Any]) -> int | None:
    """Return a `model_max_length` that the Transformer module's file hands to the tokenizer."""
    for name in ("processor_kwargs", "tokenizer_args"):
        arguments = settings.get(name)
        if isinstance(arguments, dict) and _whole_number(arguments.get("model_max_length")) is not None:
            return _whole_number(arguments["model_max_length"])
    return None


def _dtype_of_most(tensors: list[TensorFacts]) -> str | None:
    counts: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.dtype in _DTYPES:
            counts[_DTYPES[tensor.dtype]] += tensor.elements
    return counts.most_common(1)[0][0] if counts else None


def _module_checkpoints(
    reader: SourceReader, modules: tuple[ModuleFacts, ...], transformer_path: str | None
) -> dict[str, Checkpoint]:
    checkpoints = {}
    for module in modules:
        if module.path == transformer_path or (module.kind not in _WITH_WEIGHTS and is_host_module(module.type)):
            continue
        checkpoint = read_checkpoint(reader, module.path)
        if checkpoint.weight_files:
            checkpoints[module.path] = checkpoint
        elif module.kind in ("Dense", "LayerNorm", "StaticEmbedding"):
            place = module.path or "the model's folder"
            reader.note(
                f"{place} holds no weights for the module {module.kind}. Copy or download model.safetensors there."
            )
    return checkpoints


def _transformer(modules: tuple[ModuleFacts, ...], routes: Mapping[str, tuple[ModuleFacts, ...]]) -> ModuleFacts | None:
    """Return the module that holds the transformer: the first of the chain or of a Router's routes that is one."""
    for module in (*modules, *(part for chain in routes.values() for part in chain)):
        if module.kind in ("Transformer", "MLMTransformer", "CLIPModel") or not is_host_module(module.type):
            return module
    return None


@dataclass(frozen=True)
class _Chain:
    """The module chain, and where in the model's folder its transformer lies."""

    modules: tuple[ModuleFacts, ...]
    routes: dict[str, tuple[ModuleFacts, ...]]
    transformer: ModuleFacts | None
    path: str | None
    """Folder of the transformer; None where the chain has none."""

    @property
    def every_module(self) -> tuple[ModuleFacts, ...]:
        """The modules, a Router's routes included."""
        return (*self.modules, *(part for chain in self.routes.values() for part in chain))

    @property
    def is_static(self) -> bool:
        """True where vectors are looked up and no transformer runs."""
        return self.path is None and any(module.kind == "StaticEmbedding" for module in self.every_module)


def _read_chain(reader: SourceReader) -> _Chain:
    modules = read_modules(reader)
    routes: dict[str, tuple[ModuleFacts, ...]] = {}
    for module in modules:
        if module.kind in ("Router", "Asym"):
            routes.update(route_modules(module, reader))
    transformer = _transformer(modules, routes)
    without_chain = "" if not modules else None
    return _Chain(modules, routes, transformer, transformer.path if transformer is not None else without_chain)


@dataclass(frozen=True)
class _Encoder:
    """The transformer's own files, or those of a static model."""

    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] = field(default_factory=dict)
    adapter_files: tuple[str, ...] = ()
    tokenizer: TokenizerFacts | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    base: ModelFacts | None = None

    @property
    def tensors(self) -> Mapping[str, TensorFacts]:
        """Tensors of the transformer; of an adapter's base where the folder holds the adapter alone."""
        if self.base is not None and not self.checkpoint.tensors:
            return self.base.tensors
        return self.checkpoint.tensors


def _read_encoder(reader: SourceReader, chain: _Chain, read_base: Callable[[str], ModelFacts]) -> _Encoder:
    if chain.path is None:
        static = next((module for module in chain.every_module if module.kind == "StaticEmbedding"), None)
        return _Encoder(tokenizer=read_tokenizer(reader, static.path) if static is not None else None)
    prefix = f"{chain.path}/" if chain.path else ""
    config = reader.json_object(f"{prefix}config.json")
    adapter_config = reader.json_object(f"{prefix}adapter_config.json")
    checkpoint = read_checkpoint(reader, chain.path, _text(config.get("transformers_weights")))
    base = _read_adapters_base(reader, adapter_config, read_base)
    if base is not None:
        config = {**base.config, **config}
    if not adapter_config and reader.source.size(f"{prefix}config.json") is None:
        reader.note(
            f"{prefix}config.json is absent, and the host cannot build the model without it. Copy or download it."
        )
    if not adapter_config and not checkpoint.weight_files:
        reader.note(
            f"{chain.path or 'The folder'} holds no weights: neither model.safetensors nor "
            "model.safetensors.index.json nor pytorch_model.bin. Copy or download them."
        )
    adapter_files = [f"{prefix}adapter_model.safetensors", f"{prefix}adapter_model.bin"]
    present = [file for file in adapter_files if adapter_config and reader.source.size(file) is not None]
    return _Encoder(
        config=config,
        settings=chain.transformer.config if chain.transformer is not None else {},
        adapter_config=adapter_config,
        adapter_files=tuple(present[:1]),
        tokenizer=read_tokenizer(reader, chain.path),
        checkpoint=checkpoint,
        base=base,
    )


def _read_adapters_base(
    reader: SourceReader, adapter_config: Mapping[str, Any], read_base: Callable[[str], ModelFacts]
) -> ModelFacts | None:
    name = _text(adapter_config.get("base_model_name_or_path"))
    if name is None:
        return None
    try:
        return read_base(name)
    except (ModelFilesError, UnavailableError) as error:
        reader.note(f"adapter_config.json names the base model {name!r}, which cannot be read: {error}")
        return None


def _max_seq_length(encoder: _Encoder) -> int | None:
    """Return how many tokens of one text the host reads.

    The Transformer module's own `max_seq_length` holds uncapped; otherwise the tokenizer's `model_max_length`, cut to
    the number of positions in config.json (sentence-transformers 6.2, `base/modules/transformer.py`).
    """
    stated = _processor_limit(encoder.settings) or _whole_number(encoder.settings.get("max_seq_length"))
    if stated is not None:
        return stated
    limit = encoder.tokenizer.model_max_length if encoder.tokenizer is not None else None
    positions = max_position_embeddings(encoder.config)
    if positions is None or positions == -1:
        return limit
    return positions if limit is None else min(limit, positions)


def _pooling(chain: _Chain, config: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Return the pooling's name and the length of its vectors."""
    if not chain.modules:
        return (default_pooling(config), width_of(config)) if config else (None, None)
    pooling = next((module for module in reversed(chain.every_module) if module.kind == "Pooling"), None)
    if pooling is None or not pooling.config:
        return None, None
    return "+".join(pooling_modes(pooling.config)), chain_dimension([pooling], None, {})


def _custom_code(source: ModelSource, chain: _Chain, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the Python files of a model, its foreign module classes, and classes in other repositories."""
    files = [file for file in source.files if file.endswith(".py")]
    foreign = [module.type for module in chain.every_module if not is_host_module(module.type)]
    stated = config.get("auto_map")
    references = stated.values() if isinstance(stated, Mapping) else ()
    elsewhere = [reference for reference in references if isinstance(reference, str) and "--" in reference]
    return tuple(dict.fromkeys([*files, *foreign, *elsewhere]))


def _describe(name: str, source: ModelSource, read_base: Callable[[str], ModelFacts]) -> ModelFacts:
    reader = SourceReader(source)
    chain = _read_chain(reader)
    encoder = _read_encoder(reader, chain, read_base)
    config, card = encoder.config, read_card(reader)
    checkpoints = _module_checkpoints(reader, chain.every_module, chain.path)
    other = {place: found.tensors for place, found in checkpoints.items()}
    architecture = architecture_of(config)
    comparison = architecture.compare(encoder.tensors) if architecture is not None and encoder.tensors else None
    stated = reader.json_object("config_sentence_transformers.json")
    # Without modules.json the host does not look at that file.
    effective = stated if chain.modules else {}
    pooling_mode, pooling_dimension = _pooling(chain, config)
    dimension = pooling_dimension
    if chain.modules:
        dimension = chain_dimension(chain.modules, width_of(config), other, chain.routes)
    counted = _counted(encoder.tensors, comparison.harmless if comparison is not None else frozenset(), other)
    facts = ModelFacts(
        name=name,
        folder=source.folder,
        revision=source.revision,
        source=source.kind,
        files=source.files,
        config=config,
        sentence_transformers_config=stated,
        sentence_bert_config=encoder.settings,
        modules=chain.modules,
        tokenizer=encoder.tokenizer,
        tensors=encoder.tensors,
        other_tensors=other,
        missing_tensors=comparison.missing if comparison is not None else (),
        unexpected_tensors=comparison.unexpected if comparison is not None else (),
        mismatched_tensors=comparison.mismatched if comparison is not None else (),
        tensors_verified=comparison is not None,
        weight_files=(
            *encoder.checkpoint.weight_files,
            *(file for found in checkpoints.values() for file in found.weight_files),
            *encoder.adapter_files,
        ),
        pickle_files=tuple(file for file in source.files if file.endswith(_PICKLE_ENDINGS) and _is_weights(file)),
        onnx_files=tuple(file for file in source.files if file.endswith(".onnx")),
        saved_preferences=reader.json_object("config_embedprefs.json"),
        base_models=base_models(card, config, encoder.adapter_config, name),
        card_name=card_name(card),
        adapter_config=encoder.adapter_config,
        custom_code=_custom_code(source, chain, config),
        model_type=_text(config.get("model_type")),
        prompts=_prompts(effective, reader),
        default_prompt_name=_text(effective.get("default_prompt_name")),
        similarity_fn_name=_text(effective.get("similarity_fn_name")),
        truncate_dim=_whole_number(effective.get("truncate_dim")),
        max_seq_length=None if chain.is_static else _max_seq_length(encoder),
        max_position_embeddings=max_position_embeddings(config),
        position_limit=position_limit(config),
        absolute_positions=absolute_positions(config),
        hidden_size=width_of(config),
        embedding_dimension=dimension,
        pooling_mode=pooling_mode,
        pooling_dimension=pooling_dimension,
        normalizes=bool(chain.modules) and chain.modules[-1].kind == "Normalize",
        is_static=chain.is_static,
        weights_dtype=_dtype_of_most(counted),
        config_dtype=_config_dtype(config),
        parameter_count=sum(tensor.elements for tensor in counted),
        weight_bytes=sum(tensor_bytes(tensor) for tensor in counted),
        content_hashes=source.content_hashes,
        downloaded_to=source.downloaded_to,
        base=encoder.base,
        routes=chain.routes,
    )
    # Last, since reading any of the files above may have noted something.
    return replace(facts, problems=tuple(reader.problems))


def _is_weights(file: str) -> bool:
    name = file.rpartition("/")[2]
    return name not in (
        "training_args.bin",
        "optimizer.pt",
        "optimizer.bin",
        "scheduler.pt",
        "rng_state.pth",
        "scaler.pt",
    )


def _counted(
    tensors: Mapping[str, TensorFacts], harmless: frozenset[str], other: Mapping[str, Mapping[str, TensorFacts]]
) -> list[TensorFacts]:
    """Return the tensors that become parameters: floating point, and not a task head that the host leaves out."""
    mine = [tensor for name, tensor in tensors.items() if name not in harmless]
    mine.extend(tensor for found in other.values() for tensor in found.values())
    return [tensor for tensor in mine if tensor.dtype not in ("I64", "I32", "BOOL")]
