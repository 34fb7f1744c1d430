"""What a rule looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from embedprefs.engine.attention import ATTENTION as LOCAL_ATTENTION
from embedprefs.errors import EmbedPrefsError
from embedprefs.preferences import Layer, Preferences

if TYPE_CHECKING:
    from embedprefs.facts.model_facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.known_models import KnownModel
    from embedprefs.resolve import Resolved

__all__ = ["SHORT_TEXT", "LoadedSubject", "Subject", "TrainingSubject", "evaluation_mode"]

#: The text that probes a loaded model; short, so that it costs little beside loading.
SHORT_TEXT = "a"


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Switch dropout off, and put every module back into the mode it was in; the host's `encode` does not."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class Subject:
    """Preferences together with the model's facts, the machine and what "auto" became.

    Only `preferences` is always there. A rule names what else it needs, and is not asked where that is missing; it
    then reads it through `model`, `machine` and `choices`, which are never None.
    """

    preferences: Preferences
    facts: ModelFacts | None = None
    hardware: Hardware | None = None
    resolved: Resolved | None = None
    facts_problem: EmbedPrefsError | None = None
    """Why there are no facts, where reading them failed."""

    @property
    def training_arguments(self) -> Mapping[str, Any]:
        """What `[training.arguments]` says."""
        return self.preferences.training.arguments

    @property
    def model(self) -> ModelFacts:
        """What the model's files say."""
        if self.facts is None:
            raise LookupError('A rule that reads the model\'s facts must declare needs="facts".')
        return self.facts

    @property
    def machine(self) -> Hardware:
        """What this machine can do."""
        if self.hardware is None:
            raise LookupError('A rule that reads the hardware must declare needs="hardware".')
        return self.hardware

    @property
    def choices(self) -> Resolved:
        """The effective values."""
        if self.resolved is None:
            raise LookupError('A rule that reads effective values must declare needs="resolved".')
        return self.resolved

    @property
    def known_model(self) -> KnownModel | None:
        """The entry of the known-model table, where the model or its base is in it."""
        match = self.resolved.known_model if self.resolved is not None else None
        return match.model if match is not None else None

    @property
    def known_by_name(self) -> bool:
        """True where the table knows the model itself, not only one it was made from."""
        match = self.resolved.known_model if self.resolved is not None else None
        return match is not None and match.by == "name"

    def has(self, need: str) -> bool:
        """Return whether a part a rule needs is there: "facts", "hardware" or "resolved"."""
        return getattr(self, need) is not None

    def is_stated(self, key: str) -> bool:
        """Return whether a layer of the user's states a dotted key."""
        return key in self.preferences.stated()

    def origin(self, key: str | None) -> str | None:
        """Return where a dotted key's value was written, in words; None where nothing states it.

        A key within a table, `model.config.hidden_size`, falls back to where the table was written.
        """
        if key is None:
            return None
        origins = self.preferences.origins
        candidate = key
        while candidate:
            if candidate in origins:
                return str(origins[candidate])
            candidate = candidate.rpartition(".")[0]
        if self.resolved is not None and key in self.resolved.choices:
            origin = self.resolved.choices[key].origin
            if origin.layer is not Layer.DEFAULT:
                return str(origin)
        return None


@dataclass(frozen=True)
class LoadedSubject:
    """A model that has been loaded, and what it was asked to be."""

    model: Any
    """The host's `SentenceTransformer`."""
    resolved: Resolved

    @property
    def preferences(self) -> Preferences:
        """The preferences that were resolved."""
        return self.resolved.preferences

    @property
    def is_verified(self) -> bool:
        """True where the host's own transformer runs as its files were checked: running it would show nothing more.

        Every tensor has the name and shape that its architecture asks for, the host's own attention keeps padding out,
        and the dtype has the range of float32, so that nothing overflows.
        """
        tokenizer = getattr(self.model, "tokenizer", None)
        config = getattr(getattr(self.model[0], "model", None), "config", None)
        return (
            self.resolved.facts.tensors_verified
            and self.resolved["compute.dtype"] in ("float32", "bfloat16")
            and getattr(tokenizer, "padding_side", None) == "right"
            and getattr(config, "_attn_implementation", None) in ("eager", "sdpa", LOCAL_ATTENTION)
        )

    @cached_property
    def probe(self) -> Any:
        """The vector of `SHORT_TEXT` as a document, float64, shape (dimensions,); or the error that it raised.

        Where the transformer is verified, stand-in token vectors go through the modules behind it instead. Computed
        once for all rules: running the model is what a check of a loaded model costs.
        """
        import numpy as np

        try:
            with evaluation_mode(self.model):
                if self.is_verified:
                    return self._vector_of_stand_in()
                vectors = self.model.encode_document([SHORT_TEXT], precision="float32", show_progress_bar=False)
            return np.asarray(vectors, dtype=np.float64)[0]
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises is what a rule has to report
            return error

    def _vector_of_stand_in(self) -> Any:
        """Run the modules behind the transformer on token vectors of its width, cut and scaled as `encode` does."""
        import torch

        modules = list(self.model)
        width = modules[0].model.config.hidden_size
        tokens = torch.linspace(-1.0, 1.0, 3 * width, device=self.model.device).reshape(1, 3, width)
        features = {
            "token_embeddings": tokens,
            "attention_mask": torch.ones(1, 3, dtype=torch.long, device=self.model.device),
        }
        with torch.inference_mode():
            for module in modules[1:]:
                features = module(features)
        vector = features["sentence_embedding"][0].double().cpu()
        cut = self.model.truncate_dim
        if cut is not None and cut < len(vector):
            vector = vector[:cut]
        is_ours = getattr(self.model, "chain_normalizes", None) is not None
        if is_ours and self.resolved["vectors.normalize"]:  # our `encode` scales what the chain left unscaled
            vector = torch.nn.functional.normalize(vector, dim=0)
        return vector.numpy()

    def origin(self, key: str | None) -> str | None:
        """Return where a dotted key's value was written, in words; None where nothing states it."""
        return Subject(self.preferences, self.resolved.facts, self.resolved.hardware, self.resolved).origin(key)


@dataclass(frozen=True)
class TrainingSubject:
    """Preferences together with the training data, and what a plan found out about them."""

    preferences: Preferences
    name: str
    """What the data are called."""
    kind: str
    """`pairs`, `triplets`, `tuples`, `scored_pairs`, `labelled` or `texts`."""
    rows: Sequence[Mapping[str, Any]]
    """The rows that are trained on, by role."""
    text_roles: tuple[str, ...] = ()
    label_roles: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Columns that are not trained on."""
    rejected: int = 0
    """Rows that cannot be used."""
    loss: str | None = None
    """Class of the loss; None where none could be chosen."""
    loss_problem: tuple[str, str] | None = None
    """Why the loss cannot take the data, and what to do."""
    refused: tuple[tuple[str, str, str], ...] = ()
    """Preferences that a run refuses: key, why, and what to do."""
    batch_size: int = 0
    """Rows of a batch, as asked for."""
    sampler: str = ""
    """Name of the sampler: `covering`, or one of the host's."""
    batch_sizes: tuple[int, ...] = ()
    """Rows of each batch of the first epoch."""
    rows_lost: int = 0
    """Rows that the first epoch does not see."""
    false_negatives: int = 0
    """Rows that have a text of their own as a negative."""
    steps: int = 0
    """Optimizer steps of the whole run."""
    truncated: Mapping[str, float] = field(default_factory=dict)
    """Role -> share of its texts that are longer than what is read."""
    length: int | None = None
    """Tokens of one text that are read."""
    leakage: Mapping[str, str] = field(default_factory=dict)
    """Part that is evaluated on -> what it shares with training, in words."""
    queries: Mapping[str, int] = field(default_factory=dict)
    """Part that is evaluated on -> its queries."""
    memory_needed: int | None = None
    """Bytes."""
    memory_free: int | None = None
    """Bytes on the device."""
    device: str = "cpu"
    needs_teacher: bool = False
    """Whether the loss learns what `training.distill_from` says of the texts."""
    uses_metric: bool = True
    """Whether some set is judged by `training.metric`; scored pairs are judged by their order."""

    def is_stated(self, key: str) -> bool:
        """Return whether a layer of the user's states a dotted key."""
        return key in self.preferences.stated()

    def origin(self, key: str | None) -> str | None:
        """Return where a dotted key's value was written, in words; None where nothing states it."""
        return Subject(self.preferences).origin(key)
