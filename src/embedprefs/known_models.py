"""What well-known models need and their own files do not always say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts

__all__ = ["KNOWN_MODELS", "KnownModel", "KnownModelMatch", "find_known_model"]

Confidence = Literal["certain", "likely", "possible"]
#: `.../models--ORGANISATION--NAME/snapshots/COMMIT`, the folders of the hub cache.
_CACHE_FOLDER = re.compile(r"models--([^/\\]+?)--([^/\\]+)")


@dataclass(frozen=True)
class KnownModel:
    """What is known of one model. None means not established, never a default."""

    name: str
    """Name on the hub."""
    source: str
    """Where it was read: the model card or the paper."""
    aliases: tuple[str, ...] = ()
    """Other names it goes by."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Role or name -> prompt; `""` means deliberately none. Empty: the model needs none, or has them by task."""
    prompts_required: bool = False
    """True where the vectors are wrong without the prompts; False where they are recommended or there are none."""
    prompts_in_files: bool | None = None
    """True where the model's own files state these prompts by role, so that they are only a fall-back here."""
    matryoshka_dims: tuple[int, ...] | None = None
    """Dimensions it was trained to be truncated to, its full dimension first."""
    matryoshka_range: tuple[int, int] | None = None
    """Smallest and largest dimension, where it was trained for every one between."""
    max_seq_length: int | None = None
    """Tokens of one text that it was made to read."""
    pooling: str | None = None
    """The host's name of its pooling: mean, cls, lasttoken."""
    normalizes: bool | None = None
    """True where its module chain ends in Normalize."""
    similarity: str | None = None
    """How its vectors are compared: cosine or dot."""
    tasks: tuple[str, ...] = ()
    """Its own task names."""
    instruction: bool = False
    """True where the query prompt holds an instruction that should be adapted to the user's own search."""
    custom_code: bool = False
    """True where the hub repository holds Python code that is needed to load it."""
    notes: str = ""
    """What else has to be known, in sentences."""

    @property
    def query_only(self) -> bool:
        """True where queries get a prompt and documents deliberately none."""
        return bool(self.prompts.get("query")) and self.prompts.get("document") == ""

    def supports_dimension(self, dimension: int) -> bool | None:
        """Return whether it was trained to be truncated to a dimension; None where that is not established."""
        if self.matryoshka_range is not None:
            return self.matryoshka_range[0] <= dimension <= self.matryoshka_range[1]
        return dimension in self.matryoshka_dims if self.matryoshka_dims is not None else None


@dataclass(frozen=True)
class KnownModelMatch:
    """A known model that a model is, or was made from."""

    model: KnownModel
    by: Literal["name", "model card", "base model"]
    """Whether it goes by the model's name, has its card, or says that it was made from it."""
    matched: str
    """The name that was recognised."""
    confidence: Confidence
    """certain: its own name; likely: it has that model's card, or says it was made from it; possible: so says a model
    further back."""

    @property
    def reason(self) -> str:
        """Why the known model is taken to apply, as a sentence."""
        if self.by == "name":
            return f"It is {self.model.name}."
        if self.by == "model card":
            return f"Its model card is that of {self.matched}."
        steps = "was made from" if self.confidence == "likely" else "goes back to"
        return f"Its files say that it {steps} {self.matched}."


@cache
def _known_models() -> tuple[KnownModel, ...]:
    text = files("embedprefs").joinpath("known_models.toml").read_text(encoding="utf-8")
    return tuple(model for family in tomllib.loads(text)["family"] for model in _family(family))


def _family(values: Mapping[str, Any]) -> list[KnownModel]:
    shared: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    names: tuple[str, ...] = shared.pop("names")
    aliases: tuple[str, ...] = shared.pop("aliases", ())
    source = str(shared.pop("source", "https://huggingface.co/{name}"))
    return [
        KnownModel(
            name=name,
            source=source.format(name=name),
            aliases=tuple(alias for alias in aliases if alias.rpartition("/")[2] == name.rpartition("/")[2]),
            **shared,
        )
        for name in names
    ]


@cache
def _by_name() -> Mapping[str, KnownModel]:
    found: dict[str, KnownModel] = {}
    for model in _known_models():
        for name in (model.name, *model.aliases):
            found[name.casefold()] = model
        organisation, _, short = model.name.partition("/")
        if organisation == "sentence-transformers":  # the host completes such a name itself
            found.setdefault(short.casefold(), model)
    return found


def _named(name: str) -> KnownModel | None:
    cached = _CACHE_FOLDER.search(name)
    hub_name = f"{cached.group(1)}/{cached.group(2)}" if cached is not None else name
    return _by_name().get(hub_name.strip().rstrip("/").casefold())


def find_known_model(model: ModelFacts | str) -> KnownModelMatch | None:
    """Return what is known of a model: by its name, by its model card, or by the models it says it was made from.

    Args:
        model: A hub name, a folder of the hub cache, or a model's facts.

    Returns:
        The match with its confidence; None where neither the model nor one it was made from is known.
    """
    name = model if isinstance(model, str) else model.name
    known = _named(name)
    if known is not None:
        return KnownModelMatch(known, "name", known.name, "certain")
    if isinstance(model, str):
        return None
    known = _named(model.card_name) if model.card_name is not None else None
    if known is not None:
        return KnownModelMatch(known, "model card", known.name, "likely")
    for place, base in enumerate(model.base_models):
        known = _named(base)
        if known is not None:
            return KnownModelMatch(known, "base model", known.name, "likely" if place == 0 else "possible")
    return None


#: Every model in the table.
KNOWN_MODELS: tuple[KnownModel, ...] = _known_models()
