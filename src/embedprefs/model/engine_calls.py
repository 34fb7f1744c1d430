"""One call of `encode`, as the engine computes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.engine.backend import Codes, Overlapping
from embedprefs.engine.pipeline import Settings, embed, embed_rows
from embedprefs.engine.tokenising import TokenisedTexts
from embedprefs.model.report import EncodeReport
from embedprefs.model.tokens import TokenWindow

if TYPE_CHECKING:
    from embedprefs.model.encoding import CallArguments
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["EngineCall", "codes_of_call"]


def codes_of_call(model: PreferredSentenceTransformer, arguments: CallArguments) -> Codes | None:
    """Return what the vectors of a call become; None where they stay floats, or their ranges do not fit them.

    Args:
        model: The model, with the ranges of int8 and uint8.
        arguments: The call's, filled from the preferences.
    """
    precision: Any = arguments.precision  # the host's words by now
    calibration = model.calibration
    if precision in ("binary", "ubinary"):
        return Codes(precision, np.empty(0, np.float32), np.empty(0, np.float32))
    if precision in ("int8", "uint8") and calibration is not None:
        fits = calibration.dimensions == (arguments.truncate_dim or model.full_dimension)
        return calibration.codes(precision) if fits else None
    return None


@dataclass
class EngineCall:
    """The texts of one call on their way through the engine."""

    model: PreferredSentenceTransformer
    arguments: CallArguments
    report: EncodeReport
    limit: float
    """Tokens that are read of a text; infinity for all."""
    prompt: str
    codes: Codes | None = None
    """What vectors are turned into, by a backend that does so before it copies them; others give floats."""
    overlong: dict[int, int] = field(default_factory=dict)
    """Position -> tokens of the texts that were cut."""
    at_least: frozenset[int] = frozenset()
    """Those of them that were not tokenised to their end."""

    def vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the finished vectors of texts, cut and scaled as the call asks for; or their codes."""
        arguments = self.arguments
        settings = self._settings()
        # A number or None by now; numpy's own numbers are numbers too.
        truncate_dim: Any = arguments.truncate_dim
        settings.truncate_dim = None if truncate_dim is None else int(truncate_dim)
        settings.normalize = bool(arguments.normalize_embeddings)
        backend = self.model.backend_of_call(len(texts))
        tokenizer = self.model.text_tokenizer(None if self.limit == float("inf") else int(self.limit))
        self.report.backend, self.report.numerics = backend.name, backend.numerics
        if self.codes is not None and isinstance(backend, Overlapping) and backend.finishes:
            settings.codes = self.codes
        with self._progress(len(texts)) as on_computed:
            rows = embed(
                texts,
                tokenizer=tokenizer,
                backend=backend,
                settings=settings,
                prompt=self.prompt,
                report=self.report,
                on_tokenised=self._note_overlong if tokenizer.limit is not None else None,
                on_computed=on_computed,
            )
        self._remember(settings)
        self.report.clipped += settings.clipped
        return rows

    def vectors_of_windows(self, windows: Sequence[TokenWindow]) -> NDArray[np.float32]:
        """Return the vectors of windows as the chain gives them: whole, and scaled only where the chain does it."""
        settings = self._settings()
        backend = self.model.backend_of_call(len(windows))
        tokenizer = self.model.text_tokenizer(int(self.limit))
        self.report.backend, self.report.numerics = backend.name, backend.numerics
        with self._progress(len(windows)) as on_computed:
            rows = embed_rows(
                [np.array(window.ids, dtype=np.int32) for window in windows],
                pad_id=tokenizer.pad_id,
                backend=backend,
                settings=settings,
                prompt_tokens=tokenizer.prompt_tokens(self.prompt) if self.prompt else 0,
                report=self.report,
                on_computed=on_computed,
            )
        self._remember(settings)
        return rows

    def _settings(self) -> Settings:
        """Return how texts are batched: as the call states it, else by the token budget."""
        model, stated = self.model, self.arguments.batch_size
        leaves_out = bool(self.prompt) and model.pooling_leaves_prompt_out
        if isinstance(stated, (int, np.integer)):
            return Settings(None, int(stated), leaves_prompt_out=leaves_out)
        most: int = model.resolved["compute.max_batch_size"]
        return Settings(model.batch_tokens, most, leaves_prompt_out=leaves_out)

    def _remember(self, settings: Settings) -> None:
        """Keep to a budget that fits into memory in later calls too."""
        if settings.batch_tokens is not None:
            self.model.batch_tokens = min(self.model.batch_tokens, settings.batch_tokens)

    def _note_overlong(self, start: int, tokenised: TokenisedTexts) -> None:
        for position in np.flatnonzero(tokenised.lengths > self.limit):
            self.overlong[start + int(position)] = int(tokenised.lengths[position])
        self.at_least |= {start + position for position in tokenised.at_least}

    @contextmanager
    def _progress(self, count: int) -> Iterator[Any]:
        """Show how far it is, where the host would."""
        shown = self.arguments.show_progress_bar
        if shown is None:
            host = logging.getLogger("sentence_transformers.sentence_transformer.model")
            shown = host.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        if not shown:
            yield None
            return
        from tqdm.autonotebook import tqdm  # the host's own bar

        with tqdm(total=count, desc="Texts") as bar:
            yield bar.update
