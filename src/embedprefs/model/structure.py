"""Whether a loaded model is still made of the parts it had: in microseconds, so that every call can ask."""

from __future__ import annotations

import operator
from itertools import chain
from typing import Any

import torch

from embedprefs.model.changes import optimizer_steps

__all__ = ["Structure"]

#: Kinds of values that settings of a module have.
_SETTINGS = (str, int, float, list, tuple)


class Structure:
    """The modules and tensors of a model as they were, to be compared with what they are now.

    Walking a model with `modules()` costs a millisecond for six layers; comparing the parts of a list that was made
    once costs a tenth. What it cannot see is a change of a tensor's values through `.data` in place.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Note the parts of a model."""
        self.modules: tuple[torch.nn.Module, ...] = tuple(model.modules())
        tables: list[dict[Any, Any]] = [
            table
            for module in self.modules
            for table in (module._modules, module._parameters, module._buffers)  # noqa: SLF001 - what modules() walks
            if table
        ]
        # Hooks may be laid around any module, also where there was none.
        for module in self.modules:
            tables += (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001 - torch names no reader
        self._tables: tuple[dict[str, Any], ...] = tuple(tables)
        #: Held, so that no other object can take the place of one of them in memory.
        self._parts: list[Any] = [part for table in tables for part in table.values()]
        self._tensors: tuple[torch.Tensor, ...] = tuple(part for part in self._parts if isinstance(part, torch.Tensor))
        #: Tensors made in inference mode do not count their changes.
        self._counting = tuple(tensor for tensor in self._tensors if not tensor.is_inference())
        #: What follows the transformer: how it pools is a setting, and no tensor.
        self._settings = [vars(module) for module in list(model.children())[1:]]
        #: The stamps as they were.
        self.first_stamps = self.stamps()

    def has_same_modules(self) -> bool:
        """Tell whether no module, parameter, buffer or forward hook was added, removed or replaced."""
        # Comparing the tables themselves would compare the values of tensors.
        now = chain.from_iterable(map(dict.values, self._tables))
        return sum(map(len, self._tables)) == len(self._parts) and all(map(operator.is_, now, self._parts))

    def in_training(self) -> list[torch.nn.Module]:
        """Return the modules that are in training mode."""
        return [module for module in self.modules if module.training]

    def stamps(self) -> tuple[Any, ...]:
        """Return what stays equal while nobody sets a tensor or a setting, and no optimizer of this process steps."""
        # A fused optimizer does not raise the count of changes of the tensors it changes.
        places = list(map(torch.Tensor.data_ptr, self._tensors))
        changes = [tensor._version for tensor in self._counting]  # noqa: SLF001 - torch's documentation names it
        settings = [
            (name, value)
            for values in self._settings
            for name, value in values.items()
            if name != "training" and isinstance(value, _SETTINGS)
        ]
        return optimizer_steps(), places, changes, settings
