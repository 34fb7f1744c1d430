"""Prompts that stay what the preferences say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self

from embedprefs.errors import PreferenceMismatchError

__all__ = ["FrozenPrompts"]


class FrozenPrompts(dict[str, str]):
    """Prompts by name, which cannot be changed: they are part of what the vectors are."""

    def refuse(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Say why, and what to do instead."""
        raise PreferenceMismatchError(
            "The prompts belong to this model's identity and cannot be changed on the loaded model.\n"
            '  Load it with others: load_model(preferences, overrides={"prompts.query": "..."}); '
            'for one call, pass prompt="...".'
        )

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = refuse

    def __reduce__(self) -> tuple[Callable[..., FrozenPrompts], tuple[dict[str, str]]]:
        return FrozenPrompts, (dict(self),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
