"""One call of an encoder: texts become vectors as the preferences say, in the order of the inputs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import InputError, InvalidPreferenceError, Problem
from embedprefs.model.finite import look_for_broken_vectors
from embedprefs.model.inputs import Inputs, distinct_texts, read_inputs
from embedprefs.model.overlong import report_overlong, warn_of_doubled_prompt
from embedprefs.model.report import EncodeReport, is_unreported

if TYPE_CHECKING:
    from embedprefs.engine.pipeline import Settings
    from embedprefs.engine.tokenising import TokenisedTexts
    from embedprefs.model.tokens import TokenWindow
    from embedprefs.serving.artefact import EncodingSettings
    from embedprefs.serving.encoder import Encoder

__all__ = ["CallArguments", "encode", "in_precision", "prompt_of", "require_calibration"]

Floats = NDArray[np.float32]

_PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


@dataclass(frozen=True)
class CallArguments:
    """The arguments of one call; None where the preferences decide."""

    role: str
    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int | None = None
    precision: str | None = None
    convert_to_numpy: bool = True
    normalize_embeddings: bool | None = None
    truncate_dim: int | None = None
    use_cache: bool = True
    """False computes every vector, and keeps none."""


def encode(encoder: Encoder, inputs: Any, arguments: CallArguments, *, first_position: int = 0) -> Any:
    """Embed inputs as the preferences and the caller's arguments say; arguments win.

    Args:
        encoder: What embeds.
        inputs: What the caller gave.
        arguments: The caller's arguments.
        first_position: Number of the first input in reports and errors, for streams.

    Raises:
        InputError: the inputs are no texts, or an argument is not allowed.
        OverlongTextError: `tokenizer.on_overflow` is "error", and texts are longer than the model reads.
        InvalidPreferenceError: int8 or uint8 is asked for, and there is no calibration.
    """
    began = time.perf_counter()
    read = read_inputs(inputs, text_only=True)
    report = EncodeReport(
        calls=1, texts=len(read.items), backend=encoder.backend.name, numerics=encoder.backend.numerics
    )
    try:
        call = _Call(encoder, _filled(encoder, arguments), report, first_position)
        result = call.run(read)
        look_for_broken_vectors(
            result, model=encoder.artefact.model, dtype=encoder.numerics, first_position=first_position
        )
    finally:
        report.seconds = time.perf_counter() - began
        if not is_unreported():
            encoder.report_book.add(report)
    return result[0] if read.single else result


def _filled(encoder: Encoder, arguments: CallArguments) -> CallArguments:
    """Fill what the caller left open from the preferences, and refuse what is not allowed."""
    encoding = encoder.encoding
    full = encoding.dimension
    if not arguments.convert_to_numpy:
        raise InputError(
            "convert_to_numpy=False asks for tensors of torch, which an encoder does without.\n"
            "  Leave it out, or use load_model."
        )
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise InputError(f"batch_size is {arguments.batch_size!r}.\n  Give a whole number of texts, at least 1.")
    precision = arguments.precision or encoding.precision
    if precision not in _PRECISIONS:
        raise InputError(f"precision is {precision!r}.\n  Allowed: {', '.join(_PRECISIONS)}.")
    truncate_dim = arguments.truncate_dim if arguments.truncate_dim is not None else encoding.truncate_dim
    if truncate_dim is not None and not (isinstance(truncate_dim, (int, np.integer)) and 0 < truncate_dim <= full):
        raise InputError(
            f"truncate_dim is {truncate_dim!r}, and the vectors have {full} dimensions.\n"
            f"  Give a whole number from 1 to {full}; leave it out to keep what the preferences say."
        )
    if truncate_dim == full:
        truncate_dim = None
    normalize = arguments.normalize_embeddings
    if normalize is None:
        normalize = encoding.normalize
    return replace(arguments, precision=precision, truncate_dim=truncate_dim, normalize_embeddings=normalize)


@dataclass
class _Call:
    """One call under way."""

    encoder: Encoder
    arguments: CallArguments
    report: EncodeReport
    first_position: int
    overlong: dict[int, int] = field(default_factory=dict)
    """Position among the distinct texts -> tokens, of those that were cut while they were computed."""
    at_least: set[int] = field(default_factory=set)
    """Those of them that were not tokenised to their end."""

    def run(self, read: Inputs) -> NDArray[Any]:
        """Return the vectors in the order of the inputs."""
        self._require_calibration()
        if not read.items:
            self._prompt()  # an unknown name is refused whatever it would stand before
            return self._finished(np.empty((0, self._dimension), dtype=np.float32))
        texts, order = distinct_texts(read.items)
        self.report.duplicates = len(read.items) - len(texts)
        prompt = self._prompt()
        if not is_unreported():
            warn_of_doubled_prompt(texts, prompt)
        # Where nothing has to be known beforehand, lengths are counted while texts are tokenised to be computed.
        windows = self.encoder.encoding.overflow == "window"
        first = windows or self.encoder.runtime.on_overflow == "error" or self._is_cached()
        overlong = self._overlong(texts, prompt) if first else {}
        if overlong:
            self._report_overlong(overlong, order)
        rows = self._looked_up(texts, prompt, overlong if windows else {})
        if not first and self.overlong:
            self._report_overlong(self.overlong, order)
        return self._finished(rows if len(texts) == len(order) else rows[np.asarray(order, dtype=np.intp)])

    def _prompt(self) -> str:
        """Return the prompt for these arguments: as the host resolves them."""
        return prompt_of(self.encoder.encoding, self.arguments.prompt, self.arguments.prompt_name)

    def _overlong(self, texts: Sequence[str], prompt: str) -> dict[int, int]:
        """Return position among the distinct texts -> tokens, for those that are too long."""
        limit = self.encoder.encoding.limits[self.arguments.role]
        return self.encoder.token_counter.longer_than(texts, limit, prompt) if limit is not None else {}

    def _report_overlong(self, overlong: Mapping[int, int], order: Sequence[int]) -> None:
        encoder = self.encoder
        if not is_unreported():
            report_overlong(
                self.report,
                overlong,
                order,
                limit=encoder.encoding.limits[self.arguments.role] or 0,
                on_overflow=encoder.runtime.on_overflow,
                windows=encoder.encoding.overflow == "window",
                first_position=self.first_position,
                at_least=frozenset(self.at_least),
            )

    def _note_overlong(self, start: int, tokenised: TokenisedTexts) -> None:
        limit = self.encoder.encoding.limits[self.arguments.role]
        for position in np.flatnonzero(tokenised.lengths > limit) if limit is not None else ():
            self.overlong[start + int(position)] = int(tokenised.lengths[position])
        self.at_least |= {start + position for position in tokenised.at_least}

    # What is kept ----------------------------------------------------------------------------------------------------

    def _looked_up(self, texts: Sequence[str], prompt: str, windowed: Mapping[int, int]) -> Floats:
        """Return the float vectors of distinct texts: those that are kept, and the others computed and kept."""
        encoder = self.encoder
        if not self._is_cached():
            return self._embedded(texts, prompt, windowed)
        if not self._is_as_preferred():
            self.report.cache_bypassed += len(texts)
            return self._embedded(texts, prompt, windowed)
        cache, space = encoder.kept_vectors(self.arguments.role, prompt)
        dimension = self._dimension
        known = cache.get(space, texts, dimension=dimension)
        self.report.cached += len(known)
        rows = np.empty((len(texts), dimension), dtype=np.float32)
        for at, vector in known.items():
            rows[at] = vector
        missing = [at for at in range(len(texts)) if at not in known]
        if missing:
            left = [texts[at] for at in missing]
            overlong = {place: windowed[at] for place, at in enumerate(missing) if at in windowed}
            computed = self._embedded(left, prompt, overlong)
            cache.put(space, left, computed)
            rows[missing] = computed
        return rows

    def _is_cached(self) -> bool:
        if self.encoder.runtime.cache is False or not self.arguments.use_cache:
            return False
        from embedprefs.cache import is_suspended

        return not is_suspended()

    def _is_as_preferred(self) -> bool:
        """Tell whether the call asks for the float vectors that the preferences describe."""
        encoding, arguments = self.encoder.encoding, self.arguments
        preferred = encoding.truncate_dim if encoding.truncate_dim != encoding.dimension else None
        return arguments.truncate_dim == preferred and arguments.normalize_embeddings == encoding.normalize

    # What is computed ------------------------------------------------------------------------------------------------

    def _embedded(self, texts: Sequence[str], prompt: str, windowed: Mapping[int, int]) -> Floats:
        """Return the finished float vectors of distinct texts."""
        from embedprefs.engine.pipeline import embed

        encoder = self.encoder
        whole = [at for at in range(len(texts)) if at not in windowed] if windowed else range(len(texts))
        rows = np.empty((len(texts), self._dimension), dtype=np.float32)
        if whole:
            found = embed(
                [texts[at] for at in whole] if windowed else texts,
                tokenizer=encoder.text_tokenizer(self.arguments.role),
                backend=encoder.backend,
                settings=self._finishing(self._settings()),
                prompt=prompt,
                out=None if windowed else rows,
                report=self.report,
                on_tokenised=self._note_overlong,
            )
            if windowed:
                rows[list(whole)] = found
        if windowed:
            rows[list(windowed)] = self._windowed([texts[at] for at in windowed], prompt)
        return rows

    def _windowed(self, texts: Sequence[str], prompt: str) -> Floats:
        """Return one finished vector for each over-long text, from the vectors of its windows."""
        from embedprefs.engine.pipeline import embed_rows, finished
        from embedprefs.model.windows import pool_windows

        encoder, encoding = self.encoder, self.encoder.encoding
        tokenizer = encoder.text_tokenizer(self.arguments.role)
        windows: list[TokenWindow] = []
        counts: list[int] = []
        for text in texts:
            cut = encoder.token_counter.windows(
                text, tokenizer.limit or 0, overlap=encoding.window_overlap or 0, prompt=prompt
            )
            windows.extend(cut)
            counts.append(len(cut))
        self.report.windowed += len(texts)
        self.report.windows += len(windows)
        vectors = embed_rows(
            [np.array(window.ids, dtype=np.int32) for window in windows],
            pad_id=tokenizer.pad_id,
            backend=encoder.backend,
            settings=self._settings(),
            prompt_tokens=tokenizer.prompt_tokens(prompt) if prompt else 0,
            report=self.report,
        )
        pooled = pool_windows(
            vectors, counts, [window.content for window in windows], encoding.window_pooling or "mean"
        )
        settings = self._finishing(self._settings())
        # A pooled vector takes the last step of the model once more, unless it is cut.
        settings.normalize |= encoding.chain_normalizes and settings.truncate_dim is None
        return finished(pooled, settings)

    def _settings(self) -> Settings:
        """Return how texts are batched: as the call states it, else by the token budget."""
        from embedprefs.engine.pipeline import Settings

        runtime, stated = self.encoder.runtime, self.arguments.batch_size
        return Settings(
            # A stated number of texts holds, however long they are, as with the host.
            batch_tokens=runtime.batch_tokens if stated is None else None,
            max_batch_size=runtime.max_batch_size if stated is None else stated,
            leaves_prompt_out=not self.encoder.encoding.include_prompt,
        )

    def _finishing(self, settings: Settings) -> Settings:
        """Have vectors cut and scaled as the call asks for."""
        settings.truncate_dim = self.arguments.truncate_dim
        done = self.encoder.encoding.chain_normalizes and settings.truncate_dim is None
        settings.normalize = bool(self.arguments.normalize_embeddings) and not done
        return settings

    @property
    def _dimension(self) -> int:
        return self.arguments.truncate_dim or self.encoder.encoding.dimension

    # What the caller gets --------------------------------------------------------------------------------------------

    def _require_calibration(self) -> None:
        require_calibration(self.encoder, self.arguments.precision)

    def _finished(self, rows: Floats) -> NDArray[Any]:
        return in_precision(self.encoder, rows, self.arguments.precision, self.report)


def prompt_of(encoding: EncodingSettings, prompt: str | None, prompt_name: str | None) -> str:
    """Return the prompt of a call, as the host resolves it.

    Raises:
        InputError: there is no prompt of that name.
    """
    if prompt is not None:
        return prompt
    name = prompt_name if prompt_name is not None else encoding.default_prompt_name
    if name is None:
        return ""
    if name not in encoding.prompts:
        raise InputError(
            f"prompt_name is {name!r}, and there is no prompt of that name.\n"
            f"  Allowed: {', '.join(sorted(encoding.prompts))}."
        )
    return encoding.prompts[name]


def require_calibration(encoder: Encoder, precision: str | None) -> None:
    """Refuse codes from calibrated ranges where there are no ranges.

    Raises:
        InvalidPreferenceError: int8 or uint8 is asked for, and there are none.
    """
    if precision in ("int8", "uint8") and encoder.calibration is None:
        raise InvalidPreferenceError(
            Problem(
                f'precision "{precision}" needs ranges, and vectors.calibration names none.',
                key="vectors.calibration",
                fix="Run embedprefs calibrate TEXTS, name its file in vectors.calibration, and compile again.",
            )
        )


def in_precision(encoder: Encoder, rows: Floats, precision: str | None, report: EncodeReport) -> NDArray[Any]:
    """Quantise where it is asked for; what lies outside the calibrated ranges is counted in the report."""
    calibration = encoder.calibration if precision in ("int8", "uint8") else None
    if calibration is not None and len(rows):
        codes, clipped = calibration.quantize(rows, "int8" if precision == "int8" else "uint8")
        report.clipped += clipped
        return codes
    if precision in ("binary", "ubinary"):
        bits = np.packbits(rows > 0, axis=1)
        # int8 is the same bits moved by 128, as the host does.
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if precision in ("int8", "uint8"):
        return rows.astype(precision)
    return rows
