"""Cheap signs that a loaded model may no longer compute what it did."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["chain_of", "optimizer_steps", "signs_of_change"]

#: Values of each tensor that are looked at.
_PROBES = 8

_optimizer_steps = itertools.count(1)
_last_step = 0


def _count_step(*_arguments: Any) -> None:
    global _last_step  # noqa: PLW0603 - torch calls this after every step of every optimizer of the process
    _last_step = next(_optimizer_steps)


register_optimizer_step_post_hook(_count_step)


def optimizer_steps() -> int:
    """Return how many steps the optimizers of this process have made."""
    return _last_step


def chain_of(model: torch.nn.Module) -> tuple[str, ...]:
    """Describe what a model computes beside its weights: modules, settings, attention, adapters, hooks, vocabulary."""
    described = []
    for module in model.children():
        settings: Any = getattr(module, "get_config_dict", dict)()
        inner = getattr(getattr(module, "auto_model", None), "config", None)
        attention = getattr(inner, "_attn_implementation", None)
        described.append(f"{type(module).__module__}.{type(module).__qualname__} {settings!r} {attention}")
        tokenizer = getattr(module, "tokenizer", None)
        if tokenizer is not None:
            words = getattr(tokenizer, "backend_tokenizer", tokenizer)
            described.append(f"{getattr(words, 'get_vocab_size', lambda: None)()}")
    for module in model.modules():
        # peft keeps in every layer which adapter is laid over it, and whether it is; weights do not tell.
        disabled = module.__dict__.get("_disable_adapters")
        if disabled is not None:
            described.append(f"{disabled} {module.__dict__.get('_active_adapter')}")
        described += [
            f"{type(module).__qualname__} {list(map(_name_of, hooks.values()))}"
            for hooks in (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001 - torch names no reader
            if hooks
        ]
    return tuple(described)


def _name_of(hook: Any) -> str:
    return f"{getattr(hook, '__module__', None)}.{getattr(hook, '__qualname__', type(hook).__qualname__)}"


def signs_of_change(model: torch.nn.Module) -> tuple[Any, ...]:
    """Return what stays equal while nobody touches a model; it takes about a millisecond.

    Every tensor's place, form and count of changes; how many steps the optimizers of this process have made, because
    fused ones do not count their changes; and a few values of every tensor, because changes through `.data` are not
    counted either. What this cannot see is a change through `.data` that leaves all these values alone.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    places = tuple(
        (tensor.data_ptr(), tensor.shape, tensor.dtype, tensor.device, 0 if tensor.is_inference() else tensor._version)  # noqa: SLF001 - torch's own documentation names it
        for tensor in tensors
    )
    return places, _probed(tensors), _last_step, chain_of(model)


def _probed(tensors: list[torch.Tensor]) -> tuple[bytes, ...]:
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            if tensor.device.type != "meta" and tensor.numel():
                flat = tensor.detach().reshape(-1)
                by_device.setdefault(tensor.device, []).append(flat[:: -(-len(flat) // _PROBES)].double())
        # One transfer for each device.
        return tuple(torch.cat(values).cpu().numpy().tobytes() for values in by_device.values())
