"""`load_model`: check, resolve, load, verify."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.calibration import Calibration
from embedprefs.errors import (
    CheckFailedError,
    EmbedPrefsWarning,
    InvalidPreferenceError,
    MissingExtraError,
    ModelFilesError,
    PreferenceMismatchError,
    Problem,
    ResourceError,
)
from embedprefs.preferences import Preferences

if TYPE_CHECKING:
    from embedprefs.checks import Finding
    from embedprefs.facts import ModelFacts
    from embedprefs.hardware import Hardware
    from embedprefs.model.preferred import PreferredSentenceTransformer
    from embedprefs.resolve import Resolved

__all__ = ["load_model"]

logger = logging.getLogger("embedprefs.model")

#: Findings about this machine, which another machine would not have.
_RESOURCE_CODES = frozenset({"device-not-available", "cuda-driver-too-old", "memory-exceeded"})


def load_model(
    preferences: Preferences | str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    facts: ModelFacts | None = None,
    hardware: Hardware | None = None,
) -> PreferredSentenceTransformer:
    """Load a model that computes what its preferences say.

    Everything that can be known beforehand is checked before torch is imported and before weights are read; what only
    the loaded model can show is checked afterwards.

    Args:
        preferences: Preferences, or the hub name or folder of a model; for a name or folder no file is searched.
        overrides: Values that win over every layer, by dotted key: `{"compute.device": "cpu"}`.
        facts: What the model's files say; read if not given.
        hardware: The machine; this one if not given.

    Returns:
        A `SentenceTransformer` with preferences, in evaluation mode.

    Raises:
        InvalidPreferenceError: a preference is not allowed, or this version cannot do what it asks for.
        CheckFailedError: the checks found errors; every one is listed.
        ResourceError: only this machine is at fault: the device is not there, or the memory does not suffice.
        ModelFilesError: files are absent, damaged or do not fit together.
        UnavailableError: the files are on the hub, and it does not answer.
        PreferenceMismatchError: the calibration belongs to other vectors.
        MissingExtraError: sentence-transformers or peft is not installed.

    Warns:
        EmbedPrefsWarning: for each finding that is likely unwanted.
    """
    from embedprefs.checks import check
    from embedprefs.facts import facts_for
    from embedprefs.hardware import detect_hardware
    from embedprefs.resolve import resolve

    preferences = _as_preferences(preferences, overrides)
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError("sentence-transformers", extra="sentence-transformers", needed_for="Loading a model")
    facts = facts if facts is not None else facts_for(preferences)
    hardware = hardware if hardware is not None else detect_hardware()
    resolved = resolve(preferences, facts, hardware)
    _act_on(check(preferences, facts, hardware, resolved=resolved, purpose="load"))
    if resolved["model.from_scratch"]:
        from embedprefs.model.scratch import untrained_facts

        resolved = replace(resolved, facts=untrained_facts(resolved))
    calibration = _calibration(resolved)
    model = _loaded(resolved, calibration)
    _verify(model, resolved, calibration)
    return model


def _as_preferences(preferences: Preferences | str | Path, overrides: Mapping[str, Any] | None) -> Preferences:
    from embedprefs.layers import preferences_for_model, with_overrides

    if isinstance(preferences, Preferences):
        return with_overrides(preferences, overrides) if overrides else preferences
    if not isinstance(preferences, (str, os.PathLike)):
        raise InvalidPreferenceError(
            Problem(
                f"load_model was given a {type(preferences).__name__}.",
                allowed="preferences, or the hub name or folder of a model",
                fix="Load preferences with load_preferences(path).",
            )
        )
    name = os.fspath(preferences)
    if name.endswith(".toml") or Path(name).is_file():
        raise InvalidPreferenceError(
            Problem(
                f"{name} is a file, not a model.",
                key="model.name",
                value=name,
                allowed="a hub name such as owner/name, or a folder",
                fix=f'For a preferences file write load_model(load_preferences("{name}")).',
            )
        )
    return preferences_for_model(name, overrides)


def _act_on(findings: Iterable[Finding]) -> None:
    """Raise on errors, warn of warnings, log notes."""
    findings = list(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors and all(finding.code in _RESOURCE_CODES for finding in errors):
        raise ResourceError("\n".join(str(finding) for finding in errors))
    if errors:
        raise CheckFailedError(errors)
    for finding in findings:
        if finding.severity == "warning":
            warnings.warn(str(finding), EmbedPrefsWarning, stacklevel=3)
        else:
            logger.info("%s", finding)


def _calibration(resolved: Resolved) -> Calibration | None:
    path = resolved.calibration_file
    return Calibration.load(path) if path is not None else None


# Loading -------------------------------------------------------------------------------------------------------------


def _loaded(resolved: Resolved, calibration: Calibration | None) -> PreferredSentenceTransformer:
    from embedprefs.arguments import load_arguments, torch_dtype
    from embedprefs.engine.attention import register_attention
    from embedprefs.model.additions import lay_adapter, set_pooling, without_weights_bar
    from embedprefs.model.preferred import PreferredSentenceTransformer
    from embedprefs.model.scratch import untrained_modules

    arguments = load_arguments(resolved)
    register_attention(resolved["compute.attention"])
    batch_tokens = _batch_tokens(resolved)
    _require_device(resolved)
    _limit_memory(resolved)
    untrained: bool = resolved["model.from_scratch"]
    if untrained:
        modules = untrained_modules(resolved, arguments)
        kept = ("device", "prompts", "similarity_fn_name", "truncate_dim", "trust_remote_code", "local_files_only")
        model = PreferredSentenceTransformer(modules=modules, **{name: arguments[name] for name in kept})
    else:
        with without_weights_bar():
            model = PreferredSentenceTransformer(**arguments)
    set_pooling(model, resolved)
    _set_special_tokens(model, resolved)
    if lay_adapter(model, resolved):
        model.to(dtype=_torch_dtype(torch_dtype(resolved)))
    if resolved.facts.is_static and torch_dtype(resolved) != "float32":
        model.to(dtype=_torch_dtype(torch_dtype(resolved)))
    if resolved["compute.compile"] and resolved["compute.attention"] != "varlen":
        model.compile()  # the engine compiles by itself what computes without padding
    model.adopt(resolved, calibration, batch_tokens=batch_tokens, untrained=untrained)
    return model


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _require_device(resolved: Resolved) -> None:
    """Ask torch itself for the devices, before any weights are read: it never falls back to another one."""
    import torch

    missing = []
    for name in dict.fromkeys(resolved.devices):
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            missing.append(f"{name}: {str(error).splitlines()[0]}")
    if missing:
        raise ResourceError(
            "compute.device names what torch cannot use here.\n  "
            + "\n  ".join(missing)
            + '\n  Name a device that is there, or write device = "auto"; embedprefs doctor says what there is.'
        )


def _limit_memory(resolved: Resolved) -> None:
    """Hold torch to a stated `compute.memory_limit` on CUDA; on a CPU the batch is bounded by the estimate instead.

    torch keeps one such share for each device and process. It bounds what torch's allocator takes, not the few hundred
    megabytes of the CUDA context.
    """
    import torch

    if resolved.preferences.compute.memory_limit == "auto":
        return
    for name in resolved.devices:
        device = torch.device(name)
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, resolved["compute.memory_limit"] / total), device)


def _batch_tokens(resolved: Resolved) -> int:
    """Return the token budget that keeps a CPU within `compute.memory_limit`, by the estimate.

    Raises:
        ResourceError: the limit is stated, and one text of the full length does not fit into it.
    """
    from embedprefs.facts.memory import estimate_memory

    tokens: int = resolved["compute.batch_tokens"]
    limit: int | None = resolved["compute.memory_limit"]
    if limit is None or set(resolved.devices) != {"cpu"}:
        return tokens
    longest: int = resolved["tokenizer.max_seq_length"] or resolved.facts.max_position_embeddings or 512
    shape = {
        "dtype": resolved["compute.dtype"],
        "max_length": longest,
        "attention": resolved["compute.attention"] or "sdpa",
        "backend": resolved["compute.backend"],
        "weights": resolved["compute.weights"],
    }
    smallest = estimate_memory(resolved.facts, batch_tokens=longest, **shape)
    if smallest.total_bytes > limit and resolved.preferences.compute.memory_limit != "auto":
        raise ResourceError(
            f"compute.memory_limit is {limit / 1024**3:.2f} GiB. {smallest.explanation}.\n"
            "  Raise compute.memory_limit, lower tokenizer.max_seq_length, or use a smaller dtype."
        )
    while tokens > longest and estimate_memory(resolved.facts, batch_tokens=tokens, **shape).total_bytes > limit:
        tokens //= 2
    return tokens


def _set_special_tokens(model: PreferredSentenceTransformer, resolved: Resolved) -> None:
    """Refuse special tokens that the vocabulary does not hold: they would have no vector."""
    stated: Mapping[str, Any] = resolved["tokenizer.special_tokens"]
    transformer = model.transformers_model
    if not stated or transformer is None:
        return
    rows = transformer.get_input_embeddings().num_embeddings
    if len(model.tokenizer) > rows:
        raise ModelFilesError(
            f"With tokenizer.special_tokens the tokenizer has {len(model.tokenizer)} tokens, and the model has vectors "
            f"for {rows}.\n  Name tokens that are in the vocabulary: {dict(stated)} holds one that is not.",
            model=resolved.facts.name,
        )


def _verify(model: PreferredSentenceTransformer, resolved: Resolved, calibration: Calibration | None) -> None:
    """Compare the loaded model with what was asked for."""
    from embedprefs.cache import without_cache
    from embedprefs.checks import check_loaded

    with without_cache():  # kept vectors would hide what the model does now
        _act_on(check_loaded(model, resolved))
    if calibration is not None and resolved["vectors.precision"] in ("int8", "uint8"):
        measured = model.float32_fingerprint
        if calibration.fingerprint != measured:
            raise PreferenceMismatchError(
                f"The ranges in {resolved.calibration_file} were measured on other vectors than these preferences "
                "give.\n  Calibrate again with these preferences: embedprefs calibrate TEXTS.",
                left={"calibration": calibration.fingerprint},
                right={"model": measured},
                differences=["calibration"],
            )
    model.forget_report()
