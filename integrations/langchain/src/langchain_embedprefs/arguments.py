"""Arguments that other LangChain providers take, and the preference that says the same here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from embedprefs import InvalidPreferenceError, Preferences, Problem

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ELSEWHERE", "refuse_unknown_arguments", "stated_values"]

#: Argument of `HuggingFaceEmbeddings` -> what to write instead.
ELSEWHERE: Mapping[str, str] = {
    "model_name": "Write model=...",
    "cache_folder": 'Write overrides={"model.cache_folder": ...}.',
    "model_kwargs": 'Each has a preference: overrides={"compute.device": ..., "compute.dtype": ..., "model.revision": '
    "...}. What is left goes to model.kwargs.",
    "encode_kwargs": 'Each has a preference: overrides={"vectors.normalize": ..., "vectors.truncate_dim": ..., '
    '"prompts.document": ..., "compute.max_batch_size": ...}.',
    "query_encode_kwargs": 'Queries and documents share everything but the prompt: overrides={"prompts.query": ...}.',
    "multi_process": 'Write overrides={"compute.workers": 2}, or several devices as compute.device.',
    "show_progress": "Leave it out; for many texts use EmbedPrefsVectorStore or `embedprefs embed`, which show it.",
    "query_instruction": 'Write overrides={"prompts.query": ...}.',
    "embed_instruction": 'Write overrides={"prompts.document": ...}.',
    "client": "Write model=load_model(...) to hand in a loaded model.",
}


def refuse_unknown_arguments(kind: type[BaseModel], named: Mapping[str, Any]) -> None:
    """Refuse every argument that the class does not take, at once.

    Raises:
        InvalidPreferenceError: Names what to write instead.
    """
    known = [name for name in kind.model_fields if not name.startswith("_")]
    problems = []
    for name, value in named.items():
        if name in known:
            continue
        near = get_close_matches(name, known, n=1)
        fix = ELSEWHERE.get(name) or (f"Did you mean {near[0]}?" if near else None)
        shown = value if isinstance(value, (bool, int, float)) else None
        problems.append(
            Problem(
                f"{kind.__name__} takes no argument {name}.",
                key=name,
                value=shown,
                allowed=", ".join(known),
                fix=fix,
            )
        )
    if problems:
        raise InvalidPreferenceError(problems)


def stated_values(preferences: Preferences) -> dict[str, Any]:
    """Dotted key -> JSON value of everything that preferences state, paths made independent of the current folder."""
    values = {key: value for key, value in preferences.stated().items() if key not in ("schema_version", "extends")}
    for key in ("model.name", "model.adapter.name", "model.cache_folder", "vectors.calibration", "sparse.name"):
        value = values.get(key)
        if isinstance(value, str) and (path := preferences.folder / value).exists():
            values[key] = str(path.resolve())
    return values
