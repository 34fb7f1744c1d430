"""The module chain of a model, and what follows from it by the host's own rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from embedprefs.facts.model_facts import ModuleFacts, TensorFacts
from embedprefs.facts.sources import SourceReader

__all__ = [
    "TRANSFORMER_CONFIGS",
    "chain_dimension",
    "default_pooling",
    "is_host_module",
    "pooling_modes",
    "read_modules",
    "route_modules",
    "static_embedding_shape",
]

#: Where the host looks for the Transformer module's own settings, in its order.
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

#: Older switches of Pooling -> today's name, in the order in which the host joins the pooled vectors.
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

#: Module -> files that hold its own settings; every other module has config.json.
_CONFIG_FILES: dict[str, tuple[str, ...]] = {
    "Transformer": TRANSFORMER_CONFIGS,
    "MLMTransformer": TRANSFORMER_CONFIGS,
    "Router": ("router_config.json", "config.json"),
    "Asym": ("router_config.json", "config.json"),
    "WordEmbeddings": ("wordembedding_config.json",),
    "CNN": ("cnn_config.json",),
    "LSTM": ("lstm_config.json",),
    "StaticEmbedding": (),
    "Normalize": (),
    "CLIPModel": (),
}


def is_host_module(module_type: str) -> bool:
    """Say whether a module class is the host's own; any other one runs code that came with the model."""
    return module_type.startswith("sentence_transformers.")


def _module_config(reader: SourceReader, kind: str, path: str) -> dict[str, Any]:
    for file in _CONFIG_FILES.get(kind, ("config.json",)):
        config = reader.json_object((PurePosixPath(path) / file).as_posix())
        if config:
            return config
    return {}


def read_modules(reader: SourceReader) -> tuple[ModuleFacts, ...]:
    """Read modules.json and each module's own file; () where modules.json is absent.

    A module whose folder should hold a configuration and does not is noted as a problem.
    """
    modules = []
    for position, entry in enumerate(reader.json_list("modules.json")):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            reader.note(f'modules.json: entry {position} has no "type". Restore the file from the model\'s source.')
            continue
        path = entry.get("path", "")
        if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            reader.note(f"modules.json: entry {position} has the path {path!r}, which leaves the model's folder.")
            continue
        kind = entry["type"].rpartition(".")[2]
        config = _module_config(reader, kind, path)
        if not config and kind in ("Pooling", "Dense", "LayerNorm", "Router", "Asym", "CNN", "LSTM"):
            wanted = (PurePosixPath(path) / _CONFIG_FILES.get(kind, ("config.json",))[0]).as_posix()
            reader.note(f"{wanted} is absent, and the module {kind} cannot be built without it. Copy or download it.")
        index = entry.get("idx", position)
        modules.append(
            ModuleFacts(
                index=index if isinstance(index, int) else position,
                name=str(entry.get("name", position)),
                path=path,
                type=entry["type"],
                config=config,
            )
        )
    return tuple(modules)


def route_modules(router: ModuleFacts, reader: SourceReader) -> dict[str, tuple[ModuleFacts, ...]]:
    """Return a Router's routes: name -> its modules."""
    types = router.config.get("types")
    structure = router.config.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        return {}
    routes = {}
    for route, names in structure.items():
        modules = []
        for index, name in enumerate(names if isinstance(names, list) else ()):
            module_type = types.get(name)
            if not isinstance(module_type, str) or ".." in PurePosixPath(str(name)).parts:
                reader.note(f"router_config.json: the module {name!r} of route {route!r} has no type.")
                continue
            path = (PurePosixPath(router.path) / name).as_posix()
            kind = module_type.rpartition(".")[2]
            modules.append(ModuleFacts(index, str(name), path, module_type, _module_config(reader, kind, path)))
        routes[str(route)] = tuple(modules)
    return routes


def pooling_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modes of a Pooling module in the order of the parts of its vector; mean where none is on."""
    stated = config.get("pooling_mode")
    if isinstance(stated, str):
        return (stated,)
    if isinstance(stated, list | tuple) and stated:
        return tuple(str(mode) for mode in stated)
    modes = tuple(mode for key, mode in _LEGACY_POOLING.items() if config.get(key))
    return modes or ("mean",)


def default_pooling(config: Mapping[str, Any]) -> str:
    """Return the pooling that the host adds to a checkpoint without modules.json.

    Mean; the last token for a causal language model, unless `is_causal` is false.
    """
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    causal = str(first).endswith("ForCausalLM") and config.get("is_causal", True)
    return "lasttoken" if causal else "mean"


def _length(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def static_embedding_shape(tensors: Mapping[str, TensorFacts]) -> tuple[int, ...] | None:
    """Return the shape (tokens, dimensions) of a StaticEmbedding's table; model2vec calls it `embeddings`."""
    for name in ("embedding.weight", "embeddings"):
        if name in tensors and len(tensors[name].shape) == 2:
            return tensors[name].shape
    return None


def _module_dimension(
    module: ModuleFacts, hidden_size: int | None, tensors: Mapping[str, Mapping[str, TensorFacts]]
) -> int | None:
    """Return the length of the vectors that leave a module; None where it passes on what it gets."""
    config = module.config
    kind = module.kind
    if kind == "Pooling":
        width = _length(config, "embedding_dimension", "word_embedding_dimension")
        return None if width is None else width * len(pooling_modes(config))
    if kind == "Dense":
        return _length(config, "out_features")
    if kind == "LayerNorm":
        return _length(config, "dimension")
    if kind == "WeightedLayerPooling":
        return _length(config, "embedding_dimension", "word_embedding_dimension")
    if kind == "CNN":
        width, kernels = _length(config, "out_channels"), config.get("kernel_sizes")
        return width * len(kernels) if width is not None and isinstance(kernels, list) else None
    if kind == "LSTM":
        width = _length(config, "hidden_dim")
        return width * (2 if config.get("bidirectional", True) else 1) if width is not None else None
    if kind == "BoW":
        vocabulary = config.get("vocab")
        return len(vocabulary) if isinstance(vocabulary, list) else None
    if kind == "StaticEmbedding":
        shape = static_embedding_shape(tensors.get(module.path, {}))
        return shape[1] if shape else None
    if kind == "WordEmbeddings":
        table = tensors.get(module.path, {}).get("emb_layer.weight")
        return table.shape[1] if table is not None and len(table.shape) == 2 else None
    return hidden_size if kind in ("Transformer", "CLIPModel") or not is_host_module(module.type) else None


def chain_dimension(
    modules: Sequence[ModuleFacts],
    hidden_size: int | None,
    tensors: Mapping[str, Mapping[str, TensorFacts]],
    routes: Mapping[str, Iterable[ModuleFacts]] | None = None,
) -> int | None:
    """Return the length of the vectors that leave a chain: what the last module that has a say gives.

    Args:
        modules: The chain.
        hidden_size: Width of the transformer's token vectors.
        tensors: Module path -> tensors.
        routes: A Router's routes, where the chain has one.
    """
    for module in reversed(modules):
        if module.kind in ("Router", "Asym"):
            found = [chain_dimension(list(chain), hidden_size, tensors) for chain in (routes or {}).values()]
            # Where routes differ, the host reports the first one's.
            return next((length for length in found if length is not None), None)
        length = _module_dimension(module, hidden_size, tensors)
        if length is not None:
            return length
    return None
