"""One call of `encode`: preferences fill what the caller left open, the engine computes, results are put in place.

Identical texts are computed once, lengths are counted, over-long texts are cut into windows where that is asked for,
int8 and uint8 take the calibrated ranges. What the engine does not know goes to the host's own `encode`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from embedprefs.errors import InputError, InvalidPreferenceError, Problem
from embedprefs.model.batches import Band, bands, estimated_tokens
from embedprefs.model.caching import CallCache, cache_of_call, is_cached
from embedprefs.model.engine_calls import EngineCall, codes_of_call
from embedprefs.model.finite import look_for_broken_vectors
from embedprefs.model.inputs import Inputs, distinct_texts, read_inputs
from embedprefs.model.overlong import report_overlong, warn_of_doubled_prompt
from embedprefs.model.report import EncodeReport, is_unreported
from embedprefs.model.tokens import TokenWindow
from embedprefs.model.windows import pool_windows
from embedprefs.model.workers import why_not_in_workers

if TYPE_CHECKING:
    from embedprefs.engine.backend import Codes
    from embedprefs.model.preferred import PreferredSentenceTransformer

__all__ = ["NOT_STATED", "CallArguments", "NotStated", "encode"]


class NotStated(Enum):
    """The default of an argument, so that "not given" differs from every value a caller may give."""

    NOT_STATED = "not stated"

    def __repr__(self) -> str:
        return "NOT_STATED"


NOT_STATED: Final = NotStated.NOT_STATED


@dataclass(frozen=True)
class CallArguments:
    """The arguments of the host's `encode`, by its names; `NOT_STATED` where the caller gave none."""

    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int | NotStated = NOT_STATED
    show_progress_bar: bool | None = None
    output_value: str | None = "sentence_embedding"
    precision: str | NotStated | None = NOT_STATED
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    device: Any = None
    normalize_embeddings: bool | NotStated = NOT_STATED
    truncate_dim: int | NotStated | None = NOT_STATED
    pool: Any = None
    chunk_size: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


def encode(
    model: PreferredSentenceTransformer, inputs: Any, arguments: CallArguments, *, first_position: int = 0
) -> Any:
    """Embed inputs as the preferences and the caller's arguments say; arguments win.

    Args:
        model: The model, with preferences.
        inputs: What the caller gave.
        arguments: The caller's arguments.
        first_position: Number of the first input in reports and errors, for streams.

    Returns:
        What the host's `encode` returns for these arguments.

    Raises:
        InputError: the inputs are no texts, or `truncate_dim` is no length that a vector can have.
        OverlongTextError: `tokenizer.on_overflow` is "error", and texts are longer than the model reads.
        InvalidPreferenceError: int8 or uint8 is asked for, and there is no calibration.
        ModelFilesError: no vector of the call is finite.
    """
    began = time.perf_counter()
    read = read_inputs(inputs, text_only=model.reads_only_texts)
    report = EncodeReport(calls=1, texts=len(read.items), untrained=model.untrained)
    try:
        call = _Call(model, _filled(model, arguments), report, first_position)
        with model.guarded(arguments.device, arguments.pool):
            result = call.run(read)
        if arguments.output_value == "sentence_embedding":
            look_for_broken_vectors(
                result,
                model=model.resolved.facts.name,
                dtype=model.resolved["compute.dtype"],
                first_position=first_position,
            )
    finally:
        report.seconds = time.perf_counter() - began
        if not is_unreported():
            model.report_book.add(report)
    return result[0] if read.single else result


def _filled(model: PreferredSentenceTransformer, arguments: CallArguments) -> CallArguments:
    """Fill what the caller left open from the preferences."""
    resolved = model.resolved
    is_embedding = arguments.output_value == "sentence_embedding"
    precision = arguments.precision
    if precision is NOT_STATED:
        precision = resolved["vectors.precision"] if is_embedding else "float32"
    truncate_dim = arguments.truncate_dim
    if truncate_dim is NOT_STATED or truncate_dim is None:  # None is the host's word for "the model's own"
        truncate_dim = model.truncate_dim
    full = model.full_dimension
    if truncate_dim is not None and not (
        isinstance(truncate_dim, (int, np.integer)) and 0 < truncate_dim <= (full or truncate_dim)
    ):
        raise InputError(
            f"truncate_dim is {truncate_dim!r}, and the vectors have {full} dimensions.\n"
            f"  Give a whole number from 1 to {full}; leave it out to keep what the preferences say."
        )
    if truncate_dim == full:
        truncate_dim = None
    normalize = arguments.normalize_embeddings
    if normalize is NOT_STATED:
        # A Normalize module has done it already, unless the vectors are cut behind it.
        done = model.chain_normalizes and truncate_dim is None
        normalize = bool(resolved["vectors.normalize"]) and not done
    return replace(
        arguments, precision=precision or "float32", truncate_dim=truncate_dim, normalize_embeddings=normalize
    )


@dataclass
class _Call:
    """One call under way."""

    model: PreferredSentenceTransformer
    arguments: CallArguments
    report: EncodeReport
    first_position: int
    runs_here: bool = False
    """Whether the engine computes it, and not the host's own loop."""

    def run(self, read: Inputs) -> Any:
        """Return the results in the order of the inputs, in the form the caller asked for."""
        model, arguments = self.model, self.arguments
        pool = stated_pool = arguments.pool
        if pool is None and arguments.device is None:
            pool = model.worker_pool()
        self.arguments = arguments = replace(arguments, pool=pool)
        if pool is not None or (isinstance(arguments.device, list) and arguments.device):
            self.report.in_workers = len(read.items)
        quantizes = self._require_calibration()
        items: list[Any] = read.items
        self.runs_here = bool(items) and read.only_texts and self._why_host() is None
        if not self.runs_here and not self.report.in_workers:
            self.report.handed_over = len(items)
        if not items or not read.only_texts or arguments.output_value != "sentence_embedding":
            if read.only_texts:
                self._look_at_texts(items, range(len(items)))
            rows = self._host(
                items, replace(arguments, convert_to_numpy=True, convert_to_tensor=False) if quantizes else arguments
            )
            return self._finished(rows) if items else self._nothing(rows)
        texts, order = distinct_texts(items)
        self.report.duplicates = len(items) - len(texts)
        cache = self._cache(len(texts), is_own_pool=stated_pool is None)
        windows = model.resolved["tokenizer.overflow"] == "window"
        first = windows or model.resolved["tokenizer.on_overflow"] == "error" or cache is not None
        overlong = self._look_at_texts(texts, order) if first or not self.runs_here else None
        windowed = overlong if windows and overlong is not None else {}
        if cache is not None:
            rows = self._looked_up(cache, texts, windowed)
        elif self.runs_here:
            if overlong is None:
                self._look_for_prompts(texts)
            # Values that are clipped are counted for every input, so that identical ones are quantised after all.
            codes = codes_of_call(self.model, self.arguments) if not windowed and len(texts) == len(items) else None
            rows = self._computed_here(texts, windowed, order if overlong is None else None, codes)
        else:
            parts = self._bands(texts, windowed)
            plain = arguments.precision in ("float32", "binary", "ubinary")
            if len(parts) == 1 and not windowed and len(texts) == len(items) and plain:
                return self._host(items, arguments, parts[0].batch_size)  # nothing to put together
            rows = self._embedded(texts, parts, windowed)
        return self._finished(rows if len(texts) == len(items) else rows[_index(order, rows)])

    def _why_host(self) -> str | None:
        """Say why the host's own loop computes this call, if it does."""
        arguments = self.arguments
        size = arguments.batch_size
        if arguments.output_value != "sentence_embedding":
            return f"output_value is {arguments.output_value!r}"
        if arguments.pool is not None or arguments.device is not None:
            return "another process or device computes"
        if further := set(arguments.kwargs) - {"task"}:
            return f"the call passes {', '.join(sorted(further))}"
        if size is not NOT_STATED and not (isinstance(size, (int, np.integer)) and size > 0):
            return "the host says what is wrong with batch_size"
        if self._limit() <= self.model.special_tokens:
            return "no text fits beside the special tokens"
        return self.model.why_not_here()

    # What is kept ----------------------------------------------------------------------------------------------------

    def _cache(self, texts: int, *, is_own_pool: bool) -> CallCache | None:
        """Return where the vectors of this call are kept; None where there is no cache, or it holds other vectors."""
        if not is_cached(self.model):
            return None
        preferred = _filled(self.model, CallArguments())
        cache = None
        if is_own_pool:
            cache = cache_of_call(self.model, self.arguments, preferred, prompt=self._prompt or "", texts=texts)
        if cache is None:
            self.report.cache_bypassed += texts
        return cache

    def _looked_up(self, cache: CallCache, texts: Sequence[str], windowed: dict[int, int]) -> Any:
        """Return the float vectors of distinct texts: those that are kept, and the others computed and kept."""
        known = cache.get(texts)
        self.report.cached += len(known)
        missing = [at for at in range(len(texts)) if at not in known]
        computed = None
        if missing:
            left = [texts[at] for at in missing]
            overlong = {place: windowed[at] for place, at in enumerate(missing) if at in windowed}
            if self.runs_here:
                computed = self._computed_here(left, overlong)
            else:
                computed = self._embedded(left, self._bands(left, overlong), overlong)
            cache.put(left, computed)
            if not known:
                return computed
        kept = np.stack(list(known.values()))
        parts = [(list(known), kept if self._wants_numpy else torch.from_numpy(kept).to(self.model.device))]
        return _put_together(len(texts), parts if computed is None else [*parts, (missing, computed)])

    # What is computed ------------------------------------------------------------------------------------------------

    def _computed_here(
        self,
        texts: Sequence[str],
        windowed: dict[int, int],
        order: Sequence[int] | None = None,
        codes: Codes | None = None,
    ) -> Any:
        """Return the float vectors of distinct texts from the engine.

        Args:
            texts: The texts.
            windowed: Those that are embedded in windows.
            order: For every input its place among the texts, where over-long ones are yet to be reported.
            codes: What may be returned instead, where a backend makes it before it copies vectors.
        """
        call = EngineCall(self.model, self.arguments, self.report, self._limit(), self._prompt or "", codes)
        whole = [at for at in range(len(texts)) if at not in windowed] if windowed else None
        if whole is None:
            rows = call.vectors(texts)
        else:
            parts = [(tuple(windowed), self._windowed([texts[at] for at in windowed], call=call))]
            if whole:
                parts.append((tuple(whole), call.vectors([texts[at] for at in whole])))
            rows = _put_together(len(texts), parts)
        if order is not None and call.overlong and not is_unreported():
            self._report_overlong(call.overlong, order, call.at_least)
        return rows if self._wants_numpy else torch.from_numpy(rows).to(self.model.device)

    def _embedded(self, texts: Sequence[str], parts: Sequence[Band], windowed: dict[int, int]) -> Any:
        """Return the float vectors of distinct texts, one row each: an array, or a tensor where one is asked for."""
        whole = replace(
            self.arguments,
            precision="float32",
            convert_to_numpy=self._wants_numpy,
            convert_to_tensor=not self._wants_numpy,
        )
        found: list[tuple[Sequence[int], Any]] = [
            (part.positions, self._host([texts[at] for at in part.positions], whole, part.batch_size)) for part in parts
        ]
        if windowed:
            found.append((tuple(windowed), self._windowed([texts[at] for at in windowed], whole=whole)))
        return _put_together(len(texts), found)

    def _windowed(
        self, texts: Sequence[str], *, whole: CallArguments | None = None, call: EngineCall | None = None
    ) -> Any:
        """Return one vector for each over-long text from those of its windows: the engine's (`call`), or the host's."""
        model, resolved = self.model, self.model.resolved
        limit = int(self._limit())
        windows: list[TokenWindow] = []
        counts: list[int] = []
        for text in texts:
            cut = model.token_counter.windows(
                text, limit, overlap=resolved["tokenizer.window_overlap"], prompt=self._prompt or ""
            )
            windows.extend(cut)
            counts.append(len(cut))
        self.report.windowed += len(texts)
        self.report.windows += len(windows)
        # The windows' own vectors are whole and as the chain gives them; cutting and scaling follow the pooling.
        if call is not None:
            vectors: Any = call.vectors_of_windows(windows)
        else:
            plain = replace(whole or self.arguments, truncate_dim=model.full_dimension, normalize_embeddings=False)
            vectors = self._host(windows, plain, self._batch_size(limit))
        pooled = pool_windows(
            vectors, counts, [window.content for window in windows], resolved["tokenizer.window_pooling"]
        )
        pooled = pooled[:, : self.arguments.truncate_dim]
        if self.arguments.normalize_embeddings or (model.chain_normalizes and self.arguments.truncate_dim is None):
            is_array = isinstance(pooled, np.ndarray)
            pooled = torch.nn.functional.normalize(torch.as_tensor(pooled), p=2, dim=1)
            pooled = pooled.numpy() if is_array else pooled
        return pooled

    def _host(self, items: Sequence[Any], arguments: CallArguments, batch_size: int | None = None) -> Any:
        """Run the host's own `encode`."""
        self.report.backend, self.report.numerics = "torch", self.model.torch_numerics
        stated = arguments.batch_size
        if stated is not NOT_STATED:
            batch_size = stated
        elif batch_size is None:
            batch_size = self._batch_size(int(min(self._limit(), self.model.batch_tokens)))
        return self.model.host_encode(
            list(items),
            report=self.report,
            prompt=self._prompt,
            batch_size=batch_size,
            show_progress_bar=arguments.show_progress_bar,
            output_value=arguments.output_value,
            precision=arguments.precision if arguments.precision in ("binary", "ubinary") else "float32",
            convert_to_numpy=arguments.convert_to_numpy,
            convert_to_tensor=arguments.convert_to_tensor,
            device=arguments.device,
            normalize_embeddings=arguments.normalize_embeddings,
            truncate_dim=arguments.truncate_dim,
            pool=arguments.pool,
            chunk_size=arguments.chunk_size,
            **arguments.kwargs,
        )

    @property
    def _prompt(self) -> str | None:
        prompt: str | None = self.model.prompt_of_call(self.arguments.prompt, self.arguments.prompt_name)
        return prompt

    @property
    def _wants_numpy(self) -> bool:
        """Whether vectors are put together as an array: what numpy is asked for, and what is quantised."""
        arguments = self.arguments
        return (arguments.convert_to_numpy and not arguments.convert_to_tensor) or arguments.precision != "float32"

    # What is known about the texts -----------------------------------------------------------------------------------

    def _limit(self) -> float:
        """Return the tokens of one text that are read in this call, prompt and special tokens included."""
        return self.model.token_limit(self.arguments.kwargs)

    def _look_at_texts(self, texts: Sequence[str], order: Sequence[int]) -> dict[int, int]:
        """Count and report over-long texts, and prompts that are written into the texts already.

        Returns:
            Position among the distinct texts -> tokens, for those that are too long.
        """
        model, prompt = self.model, self._prompt or ""
        self._look_for_prompts(texts)
        limit = self._limit()
        if not model.counts_tokens or limit == float("inf"):
            return {}
        overlong = model.token_counter.longer_than(texts, int(limit), prompt)
        if overlong and not is_unreported():
            self._report_overlong(overlong, order)
        return overlong

    def _look_for_prompts(self, texts: Sequence[str]) -> None:
        """Warn of texts that begin with the prompt already."""
        if not is_unreported():
            warn_of_doubled_prompt(texts, self._prompt or "")

    def _report_overlong(
        self, overlong: dict[int, int], order: Sequence[int], at_least: frozenset[int] = frozenset()
    ) -> None:
        resolved = self.model.resolved
        is_embedding = self.arguments.output_value == "sentence_embedding"
        report_overlong(
            self.report,
            overlong,
            order,
            limit=int(self._limit()),
            on_overflow=resolved["tokenizer.on_overflow"],
            windows=resolved["tokenizer.overflow"] == "window" and is_embedding,
            first_position=self.first_position,
            at_least=at_least,
        )

    def _bands(self, texts: Sequence[str], windowed: dict[int, int]) -> list[Band]:
        """Divide the texts that are embedded whole into bands of one batch size each."""
        whole = [at for at in range(len(texts)) if at not in windowed] if windowed else range(len(texts))
        if not whole:
            return []
        if self.arguments.batch_size is not NOT_STATED:
            return [Band(tuple(whole), self.arguments.batch_size)]
        limit = self._limit()
        before = estimated_tokens(self._prompt or "", limit)
        lengths = [min(estimated_tokens(texts[at], limit) + before, limit) for at in whole]
        resolved = self.model.resolved
        if self.arguments.pool is not None or isinstance(self.arguments.device, list):
            # Workers share one queue. Those that run the engine keep to the token budget by themselves.
            most: int = resolved["compute.max_batch_size"]
            budgeted = why_not_in_workers(self.model, self.arguments.kwargs) is None
            return [Band(tuple(whole), most if budgeted else self._batch_size(int(max(lengths))))]
        found = bands([int(length) for length in lengths], self.model.batch_tokens, resolved["compute.max_batch_size"])
        return [Band(tuple(whole[at] for at in band.positions), band.batch_size) for band in found]

    def _batch_size(self, tokens: int) -> int:
        resolved = self.model.resolved
        fitting: int = self.model.batch_tokens // max(1, tokens)
        most: int = resolved["compute.max_batch_size"]
        return max(1, min(most, fitting))

    # What the caller gets --------------------------------------------------------------------------------------------

    def _require_calibration(self) -> bool:
        """Tell whether codes from calibrated ranges are asked for, and refuse them where there are no ranges."""
        precision = self.arguments.precision
        if precision not in ("int8", "uint8") or self.arguments.output_value != "sentence_embedding":
            return False
        if self.model.calibration is None:
            raise InvalidPreferenceError(
                Problem(
                    f'precision "{precision}" needs ranges, and vectors.calibration names none. The host would take '
                    "them from the texts of each call, so that codes of two calls could not be compared.",
                    key="vectors.calibration",
                    fix="Run embedprefs calibrate TEXTS, and name its file in vectors.calibration.",
                )
            )
        return True

    def _nothing(self, rows: Any) -> Any:
        """Return what the host gives for no inputs, in the shape that it documents; its own is (0,)."""
        arguments, full = self.arguments, self.model.full_dimension
        is_listed = not (arguments.convert_to_numpy or arguments.convert_to_tensor)
        if arguments.output_value != "sentence_embedding" or is_listed or full is None:
            return rows
        stated, kind = arguments.truncate_dim, str(arguments.precision)
        width = full if stated is None or stated is NOT_STATED else int(stated)
        if kind in ("binary", "ubinary"):
            width, kind = -(-width // 8), "int8" if kind == "binary" else "uint8"
        empty = np.empty((0, width), dtype=kind)
        if not arguments.convert_to_tensor:
            return empty
        return torch.from_numpy(empty).to(self.model.device if kind == "float32" else "cpu")

    def _finished(self, rows: Any) -> Any:
        """Quantise, and return what the caller asked for: array, tensor, or a list of tensors."""
        arguments = self.arguments
        if arguments.output_value != "sentence_embedding":
            return rows
        precision = arguments.precision
        calibration = self.model.calibration
        if precision in ("int8", "uint8") and calibration is not None and rows.dtype.kind == "f":
            rows, clipped = calibration.quantize(rows, "int8" if precision == "int8" else "uint8")
            self.report.clipped += clipped
        elif precision in ("binary", "ubinary") and not isinstance(rows, list) and rows.dtype.kind == "f":
            from sentence_transformers.util.quantization import quantize_embeddings

            rows = quantize_embeddings(rows, precision=precision)
        if arguments.convert_to_tensor:
            return torch.as_tensor(rows)
        if arguments.convert_to_numpy:
            return rows
        return list(torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows)


def _put_together(count: int, found: Sequence[tuple[Sequence[int], Any]]) -> Any:
    """Return `count` rows from parts with their positions: an array for arrays, a tensor for tensors."""
    first = found[0][1]
    shape = (count, first.shape[1])
    rows = first.new_empty(shape) if isinstance(first, torch.Tensor) else np.empty(shape, first.dtype)
    for positions, vectors in found:
        rows[_index(positions, rows)] = vectors
    return rows


def _index(positions: Sequence[int], like: Any) -> Any:
    """Return positions as an index for an array or a tensor."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(positions, dtype=torch.long, device=like.device)
    return np.asarray(positions, dtype=np.intp)
